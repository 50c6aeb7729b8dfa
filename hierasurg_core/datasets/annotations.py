"""What surgeons said of operations: finds the files of labels in a folder and puts them together.

Owns which files are labels, and which says what where an operation has several. What they hold is read by
`cholect50` and `cholec80`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hierasurg_core.datasets.cholec80 import FILE_NAME, load_cholec80_phases, load_cholec80_tools
from hierasurg_core.datasets.cholect50 import load_cholect50
from hierasurg_core.datasets.numbering import Skipped, is_clutter
from hierasurg_core.datasets.operation_labels import (
    ABSENT,
    CHOLEC80_FPS,
    CHOLEC80_TOOLS,
    Instance,
    OperationLabels,
    canonical_name,
    is_canonical,
    operation_name,
    rate_in_words,
    with_rate_of,
)
from hierasurg_core.errors import DataError

__all__ = [
    "ABSENT",
    "CHOLEC80_FPS",
    "CHOLEC80_TOOLS",
    "Instance",
    "LabelsFound",
    "OperationLabels",
    "canonical_name",
    "find_labels",
    "is_canonical",
    "load_cholec80_phases",
    "load_cholec80_tools",
    "load_cholect50",
    "load_labels",
    "operation_name",
    "rate_in_words",
    "with_rate_of",
]

_PARTS = ("phase_annotations", "tool_annotations")  # of Cholec80


@dataclass(frozen=True)
class LabelsFound:
    """What a folder of labels holds.

    Attributes:
        labels: By operation, sorted.
        faults: Why the labels of an operation cannot be used, by its name.
        skipped: Files that are no labels.
    """

    labels: dict[str, OperationLabels]
    faults: dict[str, str]
    skipped: tuple[Skipped, ...]


def load_labels(folder: Path, names: Collection[str] = ()) -> dict[str, OperationLabels]:
    """Reads all labels of a folder, see `find_labels`.

    Raises:
        DataError: The folder is missing or holds no labels, two files are of one operation, or one is not
            valid.
    """
    found = find_labels(folder, names)
    for fault in found.faults.values():
        raise DataError(fault)
    return found.labels


def find_labels(folder: Path, names: Collection[str] = ()) -> LabelsFound:
    """Reads the labels of a folder: `VIDnn.json`, `videoNN-phase.txt` and `videoNN-tool.txt`.

    They may also lie in its `phase_annotations` and `tool_annotations`. Where an operation has several, the
    JSON wins, and the text file says the phases that the JSON leaves out. A file that is not valid costs its
    operation.

    Args:
        folder: Where to look.
        names: Operations whose names are of another form than "videoNN".

    Raises:
        DataError: The folder is missing or holds no labels.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of labels: it does not exist")
    files: dict[str, dict[str, list[Path]]] = {}
    skipped: list[Skipped] = []
    for path in _files_of(folder):
        if is_clutter(path) or (path.is_dir() and path.name in _PARTS):
            continue
        kind, name = _kind_and_name(path, names)
        if kind is None or name is None:
            wanted = "labels are VIDnn.json, videoNN-phase.txt or videoNN-tool.txt"
            skipped.append(Skipped(path, f"no file of labels: {wanted}"))
        else:
            files.setdefault(name, {}).setdefault(kind, []).append(path)
    if not files:
        raise DataError(f"{folder} holds no labels: neither VIDnn.json nor videoNN-phase.txt")
    labels: dict[str, OperationLabels] = {}
    faults: dict[str, str] = {}
    for name, kinds in sorted(files.items()):
        try:
            labels[name] = _of_operation(name, kinds)
        except DataError as error:
            faults[name] = str(error)
    return LabelsFound(labels, faults, tuple(skipped))


def _files_of(folder: Path) -> list[Path]:
    """All that lies in a folder of labels and in Cholec80's parts of it."""
    try:
        inside = [file for part in _PARTS if (folder / part).is_dir() for file in (folder / part).iterdir()]
        return sorted([*folder.iterdir(), *inside])
    except OSError as error:
        raise DataError(f"cannot read the folder {error.filename or folder}: {error.strerror}") from error


def _kind_and_name(path: Path, names: Collection[str]) -> tuple[str | None, str | None]:
    """What of an operation a file says ("json", "phase" or "tool"), and of which; None where nothing does."""
    table = FILE_NAME.fullmatch(path.name)
    kind = table[2].lower() if table else "json" if path.suffix.lower() == ".json" else None
    name = operation_name(table[1] if table else path.stem)
    known = name in names or is_canonical(name)
    return (kind, name) if known and path.is_file() else (kind, None)


def _of_operation(name: str, kinds: Mapping[str, list[Path]]) -> OperationLabels:
    """The labels of one operation out of all its files."""
    for paths in kinds.values():
        if len(paths) > 1:
            raise DataError(f"{paths[0]} and {paths[1]} are both of {name}: keep one")
    tools: dict[int, tuple[int, ...]] = {}
    if "tool" in kinds:
        of_frame = load_cholec80_tools(kinds["tool"][0])
        step = CHOLEC80_FPS if all(index % CHOLEC80_FPS == 0 for index in of_frame) else 1
        tools = {index // step: seen for index, seen in of_frame.items()}
    phases = load_cholec80_phases(kinds["phase"][0], name) if "phase" in kinds else None
    if "json" in kinds:
        labels = load_cholect50(kinds["json"][0], name)
        if phases is not None:
            labels = _with_phases_of(labels, with_rate_of(phases, labels.seconds))
    elif phases is not None:
        labels = phases
    else:
        labels = _of_tools(name, tools, kinds["tool"][0])
    return replace(labels, tools=tools)


def _of_tools(name: str, tools: Mapping[int, tuple[int, ...]], path: Path) -> OperationLabels:
    """Labels without any phase, as long as the tools are."""
    count = max(tools) + 1
    nothing: tuple[tuple[()], ...] = ((),) * count
    return OperationLabels(
        name=name,
        fps=1.0,
        num_frames=count,
        phase_F=np.full(count, ABSENT, np.int16),
        triplets_F=nothing,
        instances_F=nothing,
        source=path,
        missing=tuple(second for second in range(count) if second not in tools),
    )


def _with_phases_of(labels: OperationLabels, phases: OperationLabels) -> OperationLabels:
    phase_F = labels.phase_F.copy()
    for index in np.flatnonzero(phase_F == ABSENT).tolist():
        phase_F[index] = phases.at_second(index / labels.fps)[0]
    return replace(labels, phase_F=phase_F)
