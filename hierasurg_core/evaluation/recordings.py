"""What an evaluation looks at: recordings on disk, the clips that are cut of them, and what is known of both.

Owns the forms that a side of an evaluation has, whatever kind of folder it is, and the cutting. Nothing is
decoded before `Clip.read`.

Legend: F frames, H rows, W columns, C the three channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierasurg_core import taxonomy
from hierasurg_core.datasets.manifest import Manifest
from hierasurg_core.maps import PanopticClip

Read = Callable[[Sequence[int]], "NDArray[np.uint8]"]


@dataclass(frozen=True)
class Labels:
    """What is done in a clip.

    Attributes:
        phase: Id; None where it is not known.
        triplet: Id of what is done most of the time; None as for the phase.
        triplets: Ids of all that is done in it.
    """

    phase: int | None = None
    triplet: int | None = None
    triplets: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Recording:
    """A stretch of frames on disk, of which a clip is cut or several are.

    Attributes:
        name: "0000" of a sample, "video01/000480" of a data set's clip, the file's or folder's name else.
        operation: What clips that resemble each other have in common.
        digest: Of its content.
        num_frames: How many.
        fps: Frames a second; None where nobody says.
        size_hw: Pixels.
        read: Gives frames by their rising numbers, uint8 (F, H, W, 3).
        many: Whether it may be cut into several clips.
        black: Frames outside the body.
        labels: What is done in it.
        maps: Gives its maps, one a second, or those it was made of.
        maps_video: The same as a coloured video, where there is a file.
        seed: Of a sample.
        start: Of a sample, its record's "source" or "start": what it began with.
        made_by: Of a sample, its record's "model".
    """

    name: str
    operation: str
    digest: str
    num_frames: int
    fps: float | None
    size_hw: tuple[int, int]
    read: Read
    many: bool = False
    black: frozenset[int] = frozenset()
    labels: Labels = field(default_factory=Labels)
    maps: Callable[[], PanopticClip] | None = None
    maps_video: Path | None = None
    seed: int | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    """A file that was left out."""

    file: str
    why: str


@dataclass(frozen=True, eq=False)
class Side:
    """All that a folder holds.

    Attributes:
        path: The folder.
        kind: "samples", "dataset", "videos" or "frames".
        recordings: In the order of their names.
        unreadable: What was left out.
        notes: What was chosen for the user.
        find: Gives the recording of this name, also of another split.
        manifest: Of a data set.
    """

    path: Path
    kind: str
    recordings: tuple[Recording, ...]
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]
    find: Callable[[str], Recording | None]
    manifest: Manifest | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a recording that are measured together.

    Attributes:
        name: The recording's, with the first frame where it has several clips.
        recording: Where they are.
        frames: Their numbers, rising.
        lead: Frames that are passed over before the first of them, because it does not count.
    """

    name: str
    recording: Recording
    frames: tuple[int, ...]
    lead: int = 0

    @property
    def digest(self) -> str:
        """Tells this clip's pixels from all others'."""
        text = f"{self.recording.digest} {self.frames} {self.lead} {self.recording.size_hw}"
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self) -> NDArray[np.uint8]:
        """Decodes the frames, uint8 (F, H, W, 3).

        Raises:
            DataError: A frame is missing or damaged.
        """
        return self.recording.read(self.frames)

    def read_with_start(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Decodes the frames and, uint8 (H, W, 3), the one that the clip begins with, counting or not.

        Raises:
            DataError: As `read`.
        """
        if not self.lead:
            video_FHWC = self.read()
            return video_FHWC, video_FHWC[0]
        whole_FHWC = self.recording.read((self.frames[0] - self.lead, *self.frames))
        return whole_FHWC[1:], whole_FHWC[0]


def nearest_frames(count: int, *, stride: float, skip: float) -> tuple[int, ...]:
    """Returns the numbers of `count` frames from `skip` on, one every `stride`, each rounded to the nearest.

    Example:
        >>> nearest_frames(4, stride=25 / 8, skip=0)
        (0, 3, 6, 9)
    """
    return tuple(math.floor(skip + index * stride + 0.5) for index in range(count))


def cut(
    side: Side, *, frames: int, stride: float, skip: float, num: int | None
) -> tuple[list[Clip], list[Unreadable]]:
    """Cuts a side into clips.

    A sample, a data set's clip and a video file give one clip, from their start; a frame folder as many as
    fit without overlap and without a black frame.

    Args:
        side: The folder.
        frames: Of a clip.
        stride: From one frame of a clip to the next; where it is no whole number, the nearest frames are
            taken.
        skip: Frames of each clip that are passed over first.
        num: At most so many, spread evenly over the side.

    Returns:
        The clips, and what is too short for one.
    """
    clips: list[Clip] = []
    short: list[Unreadable] = []
    offsets = nearest_frames(frames, stride=stride, skip=skip)
    span = offsets[-1] + 1
    for recording in side.recordings:
        found = list(_cut(recording, offsets))
        clips += found
        if not found:
            why = f"it has {recording.num_frames} frames, and a clip takes {span}"
            short.append(
                Unreadable(recording.name, why if not recording.black else f"{why} that are not black")
            )
    if num is not None and len(clips) > num:
        clips = [clips[index * len(clips) // num] for index in range(num)]
    return clips, short


def _cut(recording: Recording, offsets: Sequence[int]) -> Iterator[Clip]:
    start, span = 0, offsets[-1] + 1
    while start + span <= recording.num_frames:
        black = [frame for frame in range(start, start + span) if frame in recording.black]
        if black:
            start = black[-1] + 1
            continue
        numbers = tuple(start + offset for offset in offsets)
        name = f"{recording.name}/{start:06d}" if recording.many else recording.name
        yield Clip(name, recording, numbers, offsets[0])
        if not recording.many:
            return
        start += span


def phase_name(phase: int | None) -> str | None:
    """A phase's name in the data set's own spelling."""
    return None if phase is None else taxonomy.PHASES[phase]


def triplet_name(triplet: int | None) -> str | None:
    """A triplet's name, "grasper,retract,gallbladder"."""
    return None if triplet is None else taxonomy.TRIPLETS[triplet].name
