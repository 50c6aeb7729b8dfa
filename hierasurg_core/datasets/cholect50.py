"""CholecT50's labels: a JSON for each operation, in which a frame has instances of 15 numbers each.

It refuses a file whose numbers mean nothing in the taxonomy, and says which file, frame and number.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hierasurg_core.datasets.label_text import read_label_json
from hierasurg_core.datasets.operation_labels import ABSENT, Instance, OperationLabels, canonical_name
from hierasurg_core.errors import DataError
from hierasurg_core.taxonomy import INSTRUMENTS, PHASES, TARGETS, TRIPLETS, VERBS

_NUMBERS = 15
_LONGEST_S = 24 * 3600
# Position of each id among an instance's numbers, and how many there are of its kind.
_IDS: Mapping[str, tuple[int, int]] = {
    "triplet": (0, len(TRIPLETS)),
    "instrument": (1, len(INSTRUMENTS)),
    "verb": (7, len(VERBS)),
    "target": (8, len(TARGETS)),
    "phase": (14, len(PHASES)),
}
_CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "triplet": tuple(triplet.name for triplet in TRIPLETS),
    "instrument": INSTRUMENTS,
    "verb": VERBS,
    "target": TARGETS,
    "phase": PHASES,
}


def load_cholect50(path: Path, name: str | None = None) -> OperationLabels:
    """Reads a JSON of CholecT50, in which a frame has instances of 15 numbers each.

    0 triplet, 1 instrument, 2 its score, 3-6 its box, 7 verb, 8 target, 9 its score, 10-13 its box,
    14 phase; -1 means absent. Frames the file does not list are missing, not empty.

    Args:
        path: The file.
        name: The operation's; None: by the name of the file.

    Raises:
        DataError: Not such a file; the message names file, frame, instance and number.
    """
    content = read_label_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), dict):
        raise DataError(f"{path} is no CholecT50 label file: it has no 'annotations'")
    name = name or canonical_name(path.stem)
    fps, num_frames = _positive(path, content, "fps"), _positive(path, content, "num_frames")
    if num_frames != int(num_frames) or num_frames > _LONGEST_S * fps:
        raise DataError(f"{path}: 'num_frames' is {content['num_frames']!r}, not a number of frames")
    _check_categories(path, content.get("categories"))
    instances: list[tuple[Instance, ...]] = [()] * int(num_frames)
    seen: set[int] = set()
    for key, rows in content["annotations"].items():
        index = int(key) if re.fullmatch(r"[0-9]{1,9}", key) else None
        if index is None:
            raise DataError(f"{path}: {key[:40]!r} is no number of a frame")
        if index >= len(instances):
            raise DataError(f"{path}: frame {index} lies behind the {len(instances)} frames of 'num_frames'")
        if index in seen:
            raise DataError(f"{path}: frame {index} is listed twice")
        if not isinstance(rows, list):
            raise DataError(f"{path}: frame {index}: {rows!r:.40} is no list of instances")
        seen.add(index)
        instances[index] = tuple(
            _instance(f"{path}: frame {index}: instance {i}", row) for i, row in enumerate(rows)
        )
    return OperationLabels(
        name=name,
        fps=fps,
        num_frames=len(instances),
        phase_F=np.array([_phase(path, i, of) for i, of in enumerate(instances)], np.int16),
        triplets_F=tuple(tuple(one.triplet for one in of if one.triplet != ABSENT) for of in instances),
        instances_F=tuple(instances),
        source=path,
        missing=tuple(index for index in range(len(instances)) if index not in seen),
    )


def _positive(path: Path, content: Mapping[str, Any], key: str) -> float:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise DataError(f"{path}: {key!r} is {value!r}, not a number above 0")
    return float(value)


def _check_categories(path: Path, categories: object) -> None:
    """Refuses a file that numbers things otherwise than the taxonomy; one without categories is believed."""
    if categories is None:
        return
    if not isinstance(categories, dict):
        raise DataError(f"{path}: 'categories' is {categories!r:.40}, not names by id")
    for kind, names in _CATEGORIES.items():
        said = categories.get(kind) or {}
        if not isinstance(said, dict):
            raise DataError(f"{path}: categories: {kind} is {said!r:.40}, not names by id")
        for key, name in said.items():
            number = int(key) if re.fullmatch(r"-?[0-9]{1,9}", key) else len(names)
            if number != ABSENT and (not 0 <= number < len(names) or _plain(name) != _plain(names[number])):
                own = repr(names[number]) if 0 <= number < len(names) else "no such id"
                raise DataError(
                    f"{path}: categories: {kind} {key[:40]} is {name!r:.40}, but {own} in CholecT50"
                )


def _plain(name: object) -> str:
    """A name without the marks in which releases of the data set differ ("calot" and "carlot" too)."""
    return re.sub(r"[^a-z]", "", str(name).lower()).replace("carlot", "calot")


def _instance(where: str, row: object) -> Instance:
    if not isinstance(row, list) or len(row) != _NUMBERS:
        count = f"{len(row)} numbers" if isinstance(row, list) else repr(row)[:40]
        raise DataError(f"{where} is {count}, not {_NUMBERS} numbers")
    for position, value in enumerate(row):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not -float("inf") < value < float("inf"):
            raise DataError(f"{where}: number {position} is {value!r}, not a number")
    ids: dict[str, int] = {}
    for kind, (position, count) in _IDS.items():
        value = row[position]
        if value != int(value) or not ABSENT <= value < count:
            raise DataError(
                f"{where}: number {position}, the {kind}, is {value:g}: ids go from 0 to {count - 1}, or -1"
            )
        ids[kind] = int(value)
    return Instance(**ids, box=_box(where, row, 3), target_box=_box(where, row, 10))


def _box(where: str, row: list[float], first: int) -> tuple[float, float, float, float] | None:
    left, top, width, height = (float(value) for value in row[first : first + 4])
    if ABSENT in (left, top, width, height):
        return None
    if not (width >= 0 and height >= 0 and max(map(abs, (left, top, width, height))) <= 2):
        raise DataError(
            f"{where}: numbers {first} to {first + 3}, a box, are {left:g} {top:g} {width:g} {height:g}: "
            "left, top, width and height are fractions of the frame, or -1"
        )
    return left, top, width, height


def _phase(path: Path, index: int, instances: tuple[Instance, ...]) -> int:
    phases = {one.phase for one in instances} - {ABSENT}
    if len(phases) > 1:
        several = " and ".join(map(str, sorted(phases)))
        raise DataError(f"{path}: frame {index}: its instances are of phases {several}; a frame has one")
    return phases.pop() if phases else ABSENT
