"""What surgeons said of an operation: CholecT50's JSON, and Cholec80's text files of phases and tools.

Owns the names of operations ("VID01", "Video01" and "video01" are one) and the reading of labels, checked
number by number. It refuses a file whose numbers mean nothing in the taxonomy, and says which file, frame
and number. Frames are counted at the labels' own rate: one a second in CholecT50, 25 in Cholec80's phases.

Legend: F frames of the labels.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.artifacts import read_json
from hierasurg_core.errors import DataError, UsageError, shown
from hierasurg_core.taxonomy import INSTRUMENTS, PHASES, TARGETS, TRIPLETS, VERBS, parse_phase
from hierasurg_core.text_files import read_text

ABSENT = -1
CHOLEC80_FPS = 25
CHOLEC80_TOOLS: tuple[str, ...] = (
    "Grasper",
    "Bipolar",
    "Hook",
    "Scissors",
    "Clipper",
    "Irrigator",
    "SpecimenBag",
)

_NAME = re.compile(r"(?:vid(?:eo)?)?[-_ ]?(\d{1,4})", re.IGNORECASE)
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
_Labels = TypeVar("_Labels")


@dataclass(frozen=True)
class Instance:
    """One instrument in one frame; -1 is what the annotators left out.

    Attributes:
        triplet: Position in `TRIPLETS`.
        instrument: Position in `INSTRUMENTS`.
        verb: Position in `VERBS`.
        target: Position in `TARGETS`.
        phase: Position in `PHASES`.
        box: Of the instrument: left, top, width, height, as fractions of the frame; None without one.
        target_box: The same for the target.
    """

    triplet: int
    instrument: int
    verb: int
    target: int
    phase: int
    box: tuple[float, float, float, float] | None = None
    target_box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class OperationLabels:
    """The labels of one operation.

    Attributes:
        name: "videoNN".
        fps: Labels a second; an index of F is at this rate.
        num_frames: Length of F.
        phase_F: int16 positions in `PHASES`, -1 where unknown.
        triplets_F: Triplet ids of all of a frame's instances, in order, without the absent ones.
        instances_F: All of a frame's instances.
        source: The file.
        missing: Frames below `num_frames` of which the file says nothing.
    """

    name: str
    fps: float
    num_frames: int
    phase_F: NDArray[np.int16]
    triplets_F: tuple[tuple[int, ...], ...] = field(repr=False)
    instances_F: tuple[tuple[Instance, ...], ...] = field(repr=False)
    source: Path
    missing: tuple[int, ...] = field(default=(), repr=False)

    def at_second(self, second: float) -> tuple[int, tuple[int, ...]]:
        """The phase and the triplets that hold at a time; (-1, ()) outside the labels."""
        index = int(second * self.fps + 1e-6)  # 0.28 s at 25 fps is index 7
        if not 0 <= second < self.num_frames / self.fps or index >= self.num_frames:
            return ABSENT, ()
        return int(self.phase_F[index]), self.triplets_F[index]


def canonical_name(text: str) -> str:
    """Returns the one name of an operation.

    Raises:
        DataError: The text names none.

    Example:
        >>> canonical_name("VID01"), canonical_name("Video1"), canonical_name("111")
        ('video01', 'video01', 'video111')
    """
    match = _NAME.fullmatch(text.strip())
    if match is None:
        raise DataError(f"{text!r} names no operation: operations are called video01 (or VID01, Video01)")
    return f"video{int(match[1]):02d}"


def load_labels(folder: Path) -> dict[str, OperationLabels]:
    """Reads all labels of a folder: `VIDnn.json` and `videoNN-phase.txt`, by canonical name, sorted.

    Where an operation has both, the JSON wins, and the text file says the phases that the JSON leaves out.

    Raises:
        DataError: The folder is missing or holds no labels, two files are of one operation, or one is not
            valid.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of labels: it does not exist")
    jsons = _by_name(folder, ".json", load_cholect50)
    phases = _by_name(folder, "-phase.txt", load_cholec80_phases)
    if not jsons and not phases:
        raise DataError(f"{folder} holds no labels: neither VIDnn.json nor videoNN-phase.txt")
    labels = {**phases, **jsons}
    for name in jsons.keys() & phases.keys():
        labels[name] = _with_phases_of(jsons[name], phases[name])
    return dict(sorted(labels.items()))


def load_cholect50(path: Path) -> OperationLabels:
    """Reads a JSON of CholecT50, in which a frame has instances of 15 numbers each.

    0 triplet, 1 instrument, 2 its score, 3-6 its box, 7 verb, 8 target, 9 its score, 10-13 its box,
    14 phase; -1 means absent. Frames the file does not list are missing, not empty.
    Source: reference-model.md section 1.

    Raises:
        DataError: Not such a file; the message names file, frame, instance and number.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), dict):
        raise DataError(f"{path} is no CholecT50 label file: it has no 'annotations'")
    name = canonical_name(path.stem)
    fps, num_frames = _positive(path, content, "fps"), _positive(path, content, "num_frames")
    if num_frames != int(num_frames) or num_frames > _LONGEST_S * fps:
        raise DataError(f"{path}: 'num_frames' is {content['num_frames']!r}, not a number of frames")
    _check_categories(path, content.get("categories"))
    instances: list[tuple[Instance, ...]] = [()] * int(num_frames)
    seen: set[int] = set()
    for key, rows in content["annotations"].items():
        index = int(key) if re.fullmatch(r"[0-9]{1,12}", key) else None
        if index is None:
            raise DataError(f"{path}: {shown(key)} is no number of a frame")
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


def load_cholec80_phases(path: Path) -> OperationLabels:
    """Reads Cholec80's `videoNN-phase.txt`: a head, then "frame<TAB>phase" for every frame at 25 fps.

    Raises:
        DataError: Not such a file; the message names file and line.
    """
    rows = _table(path, columns=2)
    known: dict[str, int] = {}
    phases: dict[int, int] = {}
    for line, (frame, phase) in rows:
        if phase not in known:
            try:
                known[phase] = parse_phase(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", phase))
            except UsageError as error:
                raise DataError(f"{path}: line {line}: {error}") from error
        phases[_frame(path, line, frame, phases)] = known[phase]
    phase_F = np.full(max(phases) + 1, ABSENT, np.int16)
    phase_F[list(phases)] = list(phases.values())
    nothing: tuple[tuple[()], ...] = ((),) * len(phase_F)
    return OperationLabels(
        name=canonical_name(path.name.removesuffix("-phase.txt")),
        fps=CHOLEC80_FPS,
        num_frames=len(phase_F),
        phase_F=phase_F,
        triplets_F=nothing,
        instances_F=nothing,
        source=path,
        missing=tuple(np.flatnonzero(phase_F == ABSENT).tolist()),
    )


def load_cholec80_tools(path: Path) -> dict[int, tuple[int, ...]]:
    """Reads Cholec80's `videoNN-tool.txt`: which tools are seen, by number of the frame at 25 fps.

    Returns:
        Positions in `CHOLEC80_TOOLS` (the first six are `INSTRUMENTS`) for every 25th frame.

    Raises:
        DataError: Not such a file; the message names file and line.
    """
    tools: dict[int, tuple[int, ...]] = {}
    for line, (frame, *flags) in _table(path, columns=1 + len(CHOLEC80_TOOLS)):
        if any(flag not in ("0", "1") for flag in flags):
            raise DataError(f"{path}: line {line}: a tool is 0 or 1, not {' '.join(flags)}")
        tools[_frame(path, line, frame, tools)] = tuple(i for i, flag in enumerate(flags) if flag == "1")
    return tools


def _by_name(
    folder: Path, ending: str, load: Callable[[Path], OperationLabels]
) -> dict[str, OperationLabels]:
    found: dict[str, OperationLabels] = {}
    for path in sorted(folder.iterdir()):
        stem = path.name.removesuffix(ending)
        if stem == path.name or path.name.startswith(".") or _NAME.fullmatch(stem) is None:
            continue
        labels = load(path)
        if labels.name in found:
            raise DataError(f"{found[labels.name].source} and {path} are both of {labels.name}: keep one")
        found[labels.name] = labels
    return found


def _with_phases_of(labels: OperationLabels, phases: OperationLabels) -> OperationLabels:
    phase_F = labels.phase_F.copy()
    for index in np.flatnonzero(phase_F == ABSENT).tolist():
        phase_F[index] = phases.at_second(index / labels.fps)[0]
    return replace(labels, phase_F=phase_F)


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
        for key, name in (categories.get(kind) or {}).items():
            number = int(key) if re.fullmatch(r"-?[0-9]{1,12}", key) else len(names)
            if number != ABSENT and (not 0 <= number < len(names) or _plain(name) != _plain(names[number])):
                own = repr(names[number]) if 0 <= number < len(names) else "no such id"
                raise DataError(f"{path}: categories: {kind} {key} is {name!r}, but {own} in CholecT50")


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


def _table(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """The lines of a text file after its head, with their numbers from 1."""
    lines = read_text(path, form="text file of labels").splitlines()
    head = 1 if lines and not lines[0].split("\t")[0].strip().isdigit() else 0
    rows = [(i, line.split()) for i, line in enumerate(lines[head:], start=head + 1) if line.strip()]
    for line, cells in rows:
        if len(cells) != columns:
            raise DataError(f"{path}: line {line} has {len(cells)} columns, not {columns}")
    if not rows:
        raise DataError(f"{path} holds no labels")
    return rows


def _frame(path: Path, line: int, text: str, seen: Mapping[int, _Labels]) -> int:
    number = int(text) if re.fullmatch(r"[0-9]{1,12}", text) else -1
    if not 0 <= number < _LONGEST_S * CHOLEC80_FPS:
        raise DataError(f"{path}: line {line}: {shown(text)} is no number of a frame")
    if number in seen:
        raise DataError(f"{path}: line {line}: frame {number} is listed twice")
    return number
