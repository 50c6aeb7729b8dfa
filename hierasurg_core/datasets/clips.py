"""Which clips a video has, and the pixels, maps and labels of one of them.

A clip is 16 s at 1 fps or 6 s at 8 fps, inside one video; it starts on a whole second, and on every second
unless told otherwise. Frame k shows second k // fps, and each second has one map and one set of labels. A
clip with a black (out-of-body) frame is dropped, and so may be one without maps.

Legend: F frames, S seconds (maps) of a clip, K variants of the first frame, H W rows and columns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.datasets.annotations import OperationLabels
from hierasurg_core.datasets.augment import (
    Augmentation,
    clip_draws,
    draw_augmentation,
    first_frame_variants,
    inpaint_entity,
    without_entity,
)
from hierasurg_core.datasets.frames import FrameFolder
from hierasurg_core.datasets.mapfiles import VideoMaps
from hierasurg_core.errors import DataError
from hierasurg_core.maps import PanopticClip, colour_map, fit_maps, palette_levels
from hierasurg_core.pictures import fit_image, read_image

CLIP_FRAMES = {1: 16, 8: 48}  # by frames a second
UNKNOWN = -1
_SHAPE_TOLERANCE = 0.02  # by which the proportions of maps and frames may differ
_LONGEST_UNLABELLED_END = 2  # seconds of frames behind the last label that rounding explains


@dataclass(frozen=True)
class ClipForm:
    """What all clips of a data set have in common.

    Attributes:
        fps: 1 or 8.
        step: Frames between the starts of clips, whole seconds.
        size_hw: Pixels of video and maps (M2V).
        map_size_hw: Pixels of coloured maps and of their photo (S2M).
        first_frames: K.
        seed: Of flips, dropout and noise.
    """

    fps: int
    step: int
    size_hw: tuple[int, int]
    map_size_hw: tuple[int, int]
    first_frames: int
    seed: int

    @property
    def num_frames(self) -> int:
        """Frames of a clip, without padding."""
        return CLIP_FRAMES[self.fps]

    @property
    def seconds(self) -> int:
        """Seconds, maps and label sets of a clip."""
        return self.num_frames // self.fps

    @property
    def padded_frames(self) -> int:
        """Frames that CogVideoX encodes, 4k + 1: one more than there are."""
        return self.num_frames + 1


@dataclass(frozen=True)
class ClipStarts:
    """The clips of one video by their first frame, and how many were dropped.

    Attributes:
        starts: First frames, rising.
        black: Clips dropped for a black frame.
        unlabelled: Seconds at which clips without maps start.
    """

    starts: tuple[int, ...]
    black: int
    unlabelled: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ClipPixels:
    """One clip before encoding.

    Attributes:
        id: "video01/000480", video and first frame.
        start: First frame.
        frames_FHWC: uint8 RGB, padded at the end with black to 4k + 1 frames.
        first_KHWC: The first frame in K variants, float32 in about [-1, 1].
        photo_HWC: The first frame at S2M's size, uint8.
        map_SHW: uint8 ids at the video's size.
        max_id: Highest id of the clip, its black border.
        coloured_SHWC: S2M's maps as colours, uint8; None where more than 20 ids occur.
        phase_S: int16, -1 where unknown.
        triplets_S: All triplet ids of each second.
    """

    id: str
    start: int
    frames_FHWC: NDArray[np.uint8]
    first_KHWC: NDArray[np.float32]
    photo_HWC: NDArray[np.uint8]
    map_SHW: NDArray[np.uint8]
    max_id: int
    coloured_SHWC: NDArray[np.uint8] | None
    phase_S: NDArray[np.int16]
    triplets_S: tuple[tuple[int, ...], ...]


def list_clips(folder: FrameFolder, maps: VideoMaps, form: ClipForm) -> ClipStarts:
    """Returns the clips of a video.

    Example: 40 frames at 1 fps, of which frame 3 is black, have clips from 4 to 24.
    """
    starts: list[int] = []
    unlabelled: list[int] = []
    black = 0
    for start in range(0, folder.num_frames - form.num_frames + 1, form.step):
        if any(frame in folder.black for frame in range(start, start + form.num_frames)):
            black += 1
        elif not maps.has(start // form.fps, form.seconds):
            unlabelled.append(start // form.fps)
        else:
            starts.append(start)
    return ClipStarts(tuple(starts), black, tuple(unlabelled))


class ClipReader:
    """Reads the clips of one video; threads may share it.

    Frames that neighbouring clips share are decoded once while they are near.
    """

    def __init__(
        self,
        folder: FrameFolder,
        maps: VideoMaps,
        labels: OperationLabels | None,
        form: ClipForm,
        *,
        flip: float,
        dropout: float,
        kept_frames: int = 0,
    ) -> None:
        """Takes what belongs to one video.

        Args:
            folder: Frames.
            maps: Maps.
            labels: Phases and triplets; None: all unknown.
            form: What clips look like.
            flip: Probability of either flip.
            dropout: Probability that an object is taken away.
            kept_frames: Decoded frames that are kept for clips nearby.

        Raises:
            DataError: The folder is of another rate, or the labels end before the frames.
        """
        if folder.fps is not None and folder.fps != form.fps:
            other = f"give --fps {folder.fps:g}, or " if folder.fps in (1, 8) else ""
            raise DataError(
                f"{folder.name} was extracted at {folder.fps:g} fps, not {form.fps}: {other}extract the "
                f"videos into another folder with --fps {form.fps}"
            )
        end = folder.start + folder.num_frames / form.fps
        if labels is not None and labels.num_frames / labels.fps < end - _LONGEST_UNLABELLED_END:
            raise DataError(
                f"the labels of {folder.name} end at {labels.num_frames / labels.fps:.0f} s, but its frames "
                f"at {end:.0f} s: they are not of the same recording"
            )
        self.folder, self.maps, self._labels, self._form = folder, maps, labels, form
        self._flip, self._dropout, self._kept_frames = flip, dropout, kept_frames
        self._frames: OrderedDict[int, tuple[NDArray[np.uint8], NDArray[np.uint8] | None]] = OrderedDict()
        self._lock = threading.Lock()

    def labels(self, start: int) -> tuple[NDArray[np.int16], tuple[tuple[int, ...], ...]]:
        """Returns phase and triplets of each second of the clip that starts at a frame."""
        form = self._form
        if self._labels is None:
            return np.full(form.seconds, UNKNOWN, np.int16), ((),) * form.seconds
        first = self.folder.start + start // form.fps
        said = [self._labels.at_second(first + second) for second in range(form.seconds)]
        return np.array([phase for phase, _ in said], np.int16), tuple(tuple(ids) for _, ids in said)

    def paintable(self, start: int) -> bool:
        """Tells whether the clip that starts at a frame has few enough ids for S2M's colours."""
        return self.maps.paintable(start // self._form.fps, self._form.seconds)

    def read(self, start: int, epoch: int = 0) -> ClipPixels:
        """Reads the clip that starts at a frame.

        Args:
            start: First frame.
            epoch: Another one draws other flips, dropout and noise.

        Raises:
            DataError: A frame or map is missing, damaged, or of another size than the others.
        """
        form = self._form
        name = f"{self.folder.name}/{start:06d}"
        whole = self.maps.clip(start // form.fps, form.seconds)
        self._check_shape(whole)
        draws = clip_draws(form.seed, name, epoch, "augmentation")
        change = draw_augmentation(draws, whole, flip=self._flip, dropout=self._dropout)
        frames_FHWC = np.zeros((form.padded_frames, *form.size_hw, 3), np.uint8)
        frames_FHWC[0], photo_HWC = self._frame(start)
        assert photo_HWC is not None  # clips start on whole seconds, for which it is made
        for index in range(1, form.num_frames):
            frames_FHWC[index], _ = self._frame(start + index)
        map_SHW = fit_maps(whole.map_FHW, form.size_hw)
        small_SHW = fit_maps(whole.map_FHW, form.map_size_hw)
        if change.dropped is not None:
            holes = map_SHW == change.dropped
            for index in range(form.num_frames):
                frames_FHWC[index] = inpaint_entity(frames_FHWC[index], holes[index // form.fps])
            photo_HWC = inpaint_entity(photo_HWC, small_SHW[0] == change.dropped)
            map_SHW, small_SHW = (
                without_entity(PanopticClip(ids, whole.num_entities), change.dropped).map_FHW
                for ids in (map_SHW, small_SHW)
            )
        frames_FHWC = change.flip(frames_FHWC)
        noise = clip_draws(form.seed, name, epoch, "noise")
        levels = palette_levels(whole)
        phase_S, triplets_S = self.labels(start)
        return ClipPixels(
            id=name,
            start=start,
            frames_FHWC=frames_FHWC,
            first_KHWC=first_frame_variants(noise, frames_FHWC[0], form.first_frames),
            photo_HWC=change.flip(photo_HWC[None])[0],
            map_SHW=change.flip(map_SHW),
            max_id=whole.max_id,
            coloured_SHWC=_coloured(small_SHW, whole, levels, change),
            phase_S=phase_S,
            triplets_S=triplets_S,
        )

    def forget(self) -> None:
        """Lets go of the frames and maps that are kept."""
        with self._lock:
            self._frames.clear()
        self.maps.forget()

    def _frame(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Returns a frame at the video's size and, where clips may start, at S2M's."""
        with self._lock:
            if index in self._frames:
                self._frames.move_to_end(index)
                return self._frames[index]
        path = self.folder.frame_path(index)
        image_HWC = read_image(path)
        if image_HWC.shape[:2] != tuple(self.folder.size_hw):
            (height, width), (rows, columns) = image_HWC.shape[:2], self.folder.size_hw
            raise DataError(
                f"{path} is {width}x{height}, but the other frames are {columns}x{rows}: extract it again"
            )
        form = self._form
        photo_HWC = fit_image(image_HWC, form.map_size_hw) if index % form.fps == 0 else None
        entry = fit_image(image_HWC, form.size_hw), photo_HWC
        with self._lock:
            self._frames[index] = entry
            while len(self._frames) > self._kept_frames:
                self._frames.popitem(last=False)
        return entry

    def _check_shape(self, maps: PanopticClip) -> None:
        (rows, columns), (height, width) = maps.map_FHW.shape[1:], self.folder.size_hw
        if abs(rows * width / (columns * height) - 1) > _SHAPE_TOLERANCE:
            raise DataError(
                f"the maps in {self.maps.folder} are {columns}x{rows}, which is not the shape of the frames "
                f"in {self.folder.folder}, {width}x{height}: label these frames"
            )


def require_maps(found: Iterable[tuple[VideoMaps, ClipStarts]]) -> None:
    """Refuses videos whose labelling was not finished.

    Raises:
        DataError: Clips of a video have no maps; the message names the first.
    """
    for maps, clips in found:
        if clips.unlabelled:
            raise DataError(
                f"{len(clips.unlabelled)} clips of {maps.folder.name.removesuffix('_masks')} have no maps, "
                f"the first is {maps.file(clips.unlabelled[0])}: run 'hierasurg label' to its end, or leave "
                "these clips out with --drop-unlabelled"
            )


def _coloured(
    map_SHW: NDArray[np.uint8], whole: PanopticClip, levels: tuple[int, ...] | None, change: Augmentation
) -> NDArray[np.uint8] | None:
    if levels is None:
        return None
    if change.dropped is not None and whole.num_entities not in levels:
        levels = palette_levels(PanopticClip(map_SHW, whole.num_entities))
    return None if levels is None else change.flip(colour_map(map_SHW, levels))
