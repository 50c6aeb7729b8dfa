"""Cholec80's labels: text files of phases and tools, `videoNN-phase.txt` and `videoNN-tool.txt`.

It refuses a file that is no such table, and says which file and line.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hierasurg_core.datasets.label_text import read_table
from hierasurg_core.datasets.operation_labels import (
    ABSENT,
    CHOLEC80_FPS,
    CHOLEC80_TOOLS,
    OperationLabels,
    canonical_name,
)
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.taxonomy import parse_phase

FILE_NAME = re.compile(r"(.+?)[-_ .]?(phase|tool)s?\.(?:txt|csv|tsv)", re.IGNORECASE)
_LONGEST_S = 24 * 3600
_NO_PHASE = frozenset({"-1", "-1.0", "nan", "none"})


def load_cholec80_phases(path: Path, name: str | None = None) -> OperationLabels:
    """Reads Cholec80's `videoNN-phase.txt`: a head or none, then the frame's number and its phase.

    Frames numbered 0, 25, 50, ... are one a second. Others count as 25 a second, as Cholec80's own, which is
    an assumption until `with_rate_of` has seen how long the operation is. A phase of -1 is none.

    Args:
        path: The file.
        name: The operation's; None: by the name of the file.

    Raises:
        DataError: Not such a file; the message names file and line.
    """
    known: dict[str, int] = {}
    phases: dict[int, int] = {}
    for line, (frame, phase) in read_table(path, columns=2):
        if phase not in known:
            try:
                known[phase] = ABSENT if phase.lower() in _NO_PHASE else parse_phase(phase)
            except UsageError as error:
                raise DataError(f"{path}: line {line}: {error}") from error
        phases[_frame(path, line, frame, phases)] = known[phase]
    every_25th = len(phases) > 1 and all(index % CHOLEC80_FPS == 0 for index in phases)
    if every_25th:
        phases = {index // CHOLEC80_FPS: phase for index, phase in phases.items()}
    phase_F = np.full(max(phases) + 1, ABSENT, np.int16)
    phase_F[list(phases)] = list(phases.values())
    nothing: tuple[tuple[()], ...] = ((),) * len(phase_F)
    return OperationLabels(
        name=name or canonical_name(FILE_NAME.sub(r"\1", path.name)),
        fps=1.0 if every_25th else float(CHOLEC80_FPS),
        num_frames=len(phase_F),
        phase_F=phase_F,
        triplets_F=nothing,
        instances_F=nothing,
        source=path,
        missing=tuple(index for index in range(len(phase_F)) if index not in phases),
        fps_from="numbers" if every_25th else "assumed",
    )


def load_cholec80_tools(path: Path) -> dict[int, tuple[int, ...]]:
    """Reads Cholec80's `videoNN-tool.txt`: which tools are seen, by number of the frame at 25 fps.

    Returns:
        Positions in `CHOLEC80_TOOLS` (the first six are `INSTRUMENTS`) for every 25th frame.

    Raises:
        DataError: Not such a file; the message names file and line.
    """
    tools: dict[int, tuple[int, ...]] = {}
    for line, (frame, *flags) in read_table(path, columns=1 + len(CHOLEC80_TOOLS)):
        if any(flag not in ("0", "1") for flag in flags):
            raise DataError(f"{path}: line {line}: a tool is 0 or 1, not {' '.join(flags)[:60]}")
        tools[_frame(path, line, frame, tools)] = tuple(i for i, flag in enumerate(flags) if flag == "1")
    return tools


def _frame(path: Path, line: int, text: str, seen: Mapping[int, object]) -> int:
    number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
    if not 0 <= number < _LONGEST_S * CHOLEC80_FPS:
        raise DataError(f"{path}: line {line}: {text[:40]!r} is no number of a frame")
    if number in seen:
        raise DataError(f"{path}: line {line}: frame {number} is listed twice")
    return number
