"""What is known of an operation, second by second, whatever file said it.

Owns the names of operations ("VID01", "Video01" and "video01" are one), and which rate labels are in where
their file does not say it. It reads no file.

Legend: F frames of the labels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError

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
RateSource = Literal["file", "numbers", "frames", "assumed"]

_NAME = re.compile(r"(?:vid(?:eo)?)?[-_ ]?(\d{1,4})", re.IGNORECASE)
_SECONDS_APART = 2  # by which labels and frames of one recording may differ in length


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
        fps_from: How `fps` is known: the file says it, its frames' numbers rise by 25, or the number of the
            operation's frames fits no other; "assumed" where nothing tells it yet.
        tools: Positions in `CHOLEC80_TOOLS` of the tools in view, by second.
    """

    name: str
    fps: float
    num_frames: int
    phase_F: NDArray[np.int16]
    triplets_F: tuple[tuple[int, ...], ...] = field(repr=False)
    instances_F: tuple[tuple[Instance, ...], ...] = field(repr=False)
    source: Path
    missing: tuple[int, ...] = field(default=(), repr=False)
    fps_from: RateSource = "file"
    tools: Mapping[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]], repr=False)

    @property
    def num_unlabelled(self) -> int:
        """How many labels name no phase (-1); those that are missing do not count."""
        return int((self.phase_F == ABSENT).sum()) - len(set(self.missing))

    @property
    def seconds(self) -> float:
        """How long the labelled operation is."""
        return self.num_frames / self.fps

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


def operation_name(text: str) -> str:
    """Returns the one name of an operation; a name of another form stays as it is.

    Example:
        >>> operation_name("VID01"), operation_name("seq_1")
        ('video01', 'seq_1')
    """
    return canonical_name(text) if is_canonical(text) else text


def is_canonical(text: str) -> bool:
    """Whether a text names an operation by its number."""
    return _NAME.fullmatch(text.strip()) is not None


def rate_in_words(fps: float, fps_from: RateSource) -> str:
    """Says the rate of labels and how it is known."""
    how = {
        "file": "as the file says",
        "numbers": "numbered by every 25th frame",
        "frames": "by the number of frames",
        "assumed": "assumed: the number of frames fits neither 25 nor 1",
    }
    return f"{fps:g} labels a second ({how[fps_from]})"


def with_rate_of(labels: OperationLabels, seconds: float) -> OperationLabels:
    """Settles the rate of labels whose file does not say it by the length of the operation's frames.

    Args:
        labels: As they were read.
        seconds: When the last frame ends.

    Returns:
        The labels at 25 or 1 a second, whichever is as long; as they are where neither is, or the file says
        its rate.
    """
    if labels.fps_from != "assumed":
        return labels
    for fps in (CHOLEC80_FPS, 1):
        if abs(labels.num_frames / fps - seconds) <= _SECONDS_APART:
            return replace(labels, fps=float(fps), fps_from="frames")
    return labels
