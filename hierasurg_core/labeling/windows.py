"""Along a video in overlapping windows: see each frame once, follow entities through each window.

Every clip of 16 frames lies inside one window, so its ids are consistent, and each frame of the video is
propagated less than four times: windows of 47 frames begin every 32, and are gone through once forwards and
once backwards. What is seen in a frame (features, automatic masks, descriptors) is computed in blocks that
begin at fixed frames, once, and is forgotten when no later window needs it: memory does not grow with the
video, and a run that begins in the middle computes the same numbers.

Legend: F frames, N objects, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.errors import ResourceError
from hierasurg_core.labeling.features import Backbone, describe
from hierasurg_core.labeling.frames import SecondFrames
from hierasurg_core.labeling.propagation import MaskPrompt
from hierasurg_core.labeling.refine import Piece, Rules, clean, cull_automatic, merge_objects, paint
from hierasurg_core.labeling.sam_network import FrameFeatures
from hierasurg_core.labeling.tracker import Sighting, find_entities
from hierasurg_core.progress import Progress

CLIP_FRAMES = 16
STRIDE = 32
LENGTH = STRIDE + CLIP_FRAMES - 1
_REFINERS = 4  # threads
_LEAST_SEEN = 2  # frames of a window


class SeenMasks(Protocol):
    """Automatic masks of one frame."""

    @property
    def mask_NHW(self) -> torch.Tensor:
        """Bool (N, H, W), of the frame's size."""
        ...


class Segmenting(Protocol):
    """What is asked of a segmenter; `segmenter.Segmenter` is one."""

    @property
    def name(self) -> str:
        """What the user is told."""
        ...

    @property
    def digest(self) -> str:
        """Of its weights."""
        ...

    def encode(self, frames_FHWC: torch.Tensor) -> FrameFeatures:
        """Image features of frames, uint8."""
        ...

    def automatic(self, features: FrameFeatures, frames_FHWC: torch.Tensor) -> Sequence[SeenMasks]:
        """Masks of everything in each frame."""
        ...

    def propagate(
        self,
        features: FrameFeatures,
        prompts: Sequence[MaskPrompt],
        *,
        reverse: bool,
        max_frames: int | None,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Frame index and logits (N, H, W) of the prompted objects."""
        ...


@dataclass(frozen=True)
class WindowPlan:
    """The windows of a video.

    Attributes:
        num_frames: Of the video.
    """

    num_frames: int

    @property
    def count(self) -> int:
        """How many windows."""
        return 1 + max(0, -(-(self.num_frames - LENGTH) // STRIDE))

    def span(self, window: int) -> range:
        """Frames that a window holds."""
        return range(window * STRIDE, min(window * STRIDE + LENGTH, self.num_frames))

    def owned(self, window: int) -> range:
        """Frames whose one map is this window's: those that no window before it holds."""
        first = 0 if window == 0 else min((window - 1) * STRIDE + LENGTH, self.num_frames)
        return range(first, self.span(window).stop)

    def clips(self, window: int) -> range:
        """First frames of the clips that lie in this window and in none before it."""
        last = max(0, self.num_frames - CLIP_FRAMES + 1)
        stop = last if window == self.count - 1 else min(last, (window + 1) * STRIDE)
        return range(window * STRIDE, stop)


@dataclass(frozen=True, eq=False)
class WindowMaps:
    """What a window shows.

    Attributes:
        span: Its frames in the video.
        map_FHW: uint8: numbers of entities, 0 to len(looks) - 1, and the codes of ground (see `refine`).
        looks: The entities' descriptors.
        occurs: First and last frame of each in the video.
        channels: Of descriptors, also where there is no entity.
    """

    span: range
    map_FHW: NDArray[np.uint8]
    looks: tuple[NDArray[np.float32], ...]
    occurs: tuple[tuple[int, int], ...]
    channels: int


@dataclass(frozen=True, eq=False)
class FollowedWindow:
    """A window whose objects were followed; the GPU's part of the work is over.

    Attributes:
        span: Its frames in the video.
        channels: Of descriptors, also where there is no entity.
    """

    span: range
    channels: int
    _frames_FHWC: NDArray[np.uint8]
    _pieces: list[list[Piece | None]]
    _entity_N: list[int]
    _looks: list[NDArray[np.float32]]
    _rules: Rules

    def maps(self) -> WindowMaps:
        """Merges and paints what was found; needs no GPU, so the next window may be seen meanwhile."""
        staying, merged_N = merge_objects(self._pieces, self._entity_N, self._rules)
        with ThreadPoolExecutor(_REFINERS) as pool:
            map_FHW = np.stack(
                list(
                    pool.map(
                        lambda pair: paint(pair[0], merged_N, pair[1], self._rules),
                        zip(staying, self._frames_FHWC, strict=True),
                    )
                )
            )
        return _numbered(self.span, map_FHW, self._looks, self.channels)


@dataclass(frozen=True, eq=False)
class _Block:
    frames_FHWC: NDArray[np.uint8]
    features: FrameFeatures
    sightings: tuple[Future[Sighting], ...]


class VideoLabeller:
    """Labels the windows of one video, in order.

    Attributes:
        plan: The windows.
        propagated: Frames that the tracker has gone through so far.
    """

    def __init__(
        self,
        frames: SecondFrames,
        segmenter: Segmenting,
        backbone: Backbone,
        *,
        same_below: float | None,
        batch: int,
        max_objects: int,
        progress: Progress,
    ) -> None:
        """Prepares; nothing is read yet.

        Args:
            frames: The video.
            segmenter: What finds masks and follows them.
            backbone: What tells them apart.
            same_below: Mean squared error for one entity; None: the backbone's own.
            batch: Frames seen at once.
            max_objects: Most objects followed at once.
            progress: Told of each frame seen.
        """
        self.plan = WindowPlan(frames.num_frames)
        self.propagated = 0
        self._frames, self._segmenter, self._backbone = frames, segmenter, backbone
        self._same_below, self._max_objects = same_below, max_objects
        self._grid, self._batch, self._halved = batch, batch, False
        self._rules = Rules.for_size(frames.size_hw)
        self._progress = progress
        self._helpers = ThreadPoolExecutor(_REFINERS)  # describe frames while the next ones are seen
        self._blocks: dict[int, _Block] = {}
        self._seen_until = 0

    def skip(self, window: int) -> None:
        """Says that all windows before this one are done."""
        self._seen_until = 0 if window == 0 else self.plan.span(window - 1).stop
        self._progress.advance(self._seen_until)

    def same_below(self, channels: int) -> float:
        """Mean squared error below which two masks are of one entity."""
        return self._backbone.same_below(channels) if self._same_below is None else self._same_below

    def label(self, window: int) -> WindowMaps:
        """Sees the frames of a window, follows what is in them, and makes maps; raises what `follow` does."""
        return self.follow(window).maps()

    @torch.inference_mode()
    def follow(self, window: int) -> FollowedWindow:
        """Sees the frames of a window and follows what is in them.

        Raises:
            DataError: A frame is bad.
            ResourceError: The device's memory is too small, also for half the batch.
        """
        span = self.plan.span(window)
        blocks = self._blocks_of(span)
        frames_FHWC = np.concatenate([self._part(block.frames_FHWC, start, span) for start, block in blocks])
        sightings = [s.result() for start, block in blocks for s in self._part(block.sightings, start, span)]
        channels = sightings[0].described_NC.shape[1]
        entities = find_entities(
            sightings, self.same_below(channels), self._max_objects, min(_LEAST_SEEN, len(span))
        )
        entity_N = [number for number, entity in enumerate(entities) for _ in entity.prompts]
        prompts = [
            self._prompt(number, frame, sightings[frame].pieces[index])
            for number, (frame, index) in enumerate(
                prompt for entity in entities for prompt in entity.prompts
            )
        ]
        features = self._joined(blocks, span)
        pieces = self._follow(features, prompts, len(span))
        looks = [entity.look_C for entity in entities]
        return FollowedWindow(span, channels, frames_FHWC, pieces, entity_N, looks, self._rules)

    def _prompt(self, number: int, frame: int, piece: Piece) -> MaskPrompt:
        return MaskPrompt(frame, number, torch.from_numpy(piece.whole(self._frames.size_hw)))

    def _joined(self, blocks: list[tuple[int, _Block]], span: range) -> FrameFeatures:
        return FrameFeatures.join([self._part(block.features, start, span) for start, block in blocks])

    def _blocks_of(self, span: range) -> list[tuple[int, _Block]]:
        """The blocks that a window needs, by their first frames; forgets those before it."""
        starts = range(span.start // self._grid * self._grid, span.stop, self._grid)
        self._blocks = {start: block for start, block in self._blocks.items() if start in starts}
        for start in starts:
            if start not in self._blocks:
                stop = min(start + self._grid, self._frames.num_frames)
                self._blocks[start] = self._see(self._frames.read(range(start, stop)))
                self._progress.advance(max(0, stop - max(start, self._seen_until)))
                self._seen_until = max(self._seen_until, stop)
        return [(start, self._blocks[start]) for start in starts]

    @staticmethod
    def _part(items: Any, start: int, span: range) -> Any:
        """Those of a block's frames that lie in a window."""
        return items[max(0, span.start - start) : span.stop - start]

    def _see(self, frames_FHWC: NDArray[np.uint8]) -> _Block:
        while True:
            parts: list[_Block] = []
            try:
                for first in range(0, len(frames_FHWC), self._batch):
                    parts.append(self._see_at_once(frames_FHWC[first : first + self._batch]))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._halved or self._batch == 1:
                    raise ResourceError(
                        f"the memory is too small for {self._batch} frames at once: give a --batch below "
                        f"{self._batch}, a smaller model with --sam, or another --device"
                        if self._batch > 1
                        else "the memory is too small for one frame: use a smaller model with --sam"
                    ) from error
            else:
                break
            self._halved, self._batch = True, max(1, self._batch // 2)
            self._progress.note(f"out of memory: going on with --batch {self._batch}")
        return _Block(
            frames_FHWC,
            FrameFeatures.join([part.features for part in parts]),
            tuple(sighting for part in parts for sighting in part.sightings),
        )

    def _see_at_once(self, frames_FHWC: NDArray[np.uint8]) -> _Block:
        pixels = torch.from_numpy(frames_FHWC)
        features = self._segmenter.encode(pixels)
        masks = self._segmenter.automatic(features, pixels)
        patches_FChw = self._backbone.patches(pixels, features)
        sightings = [
            self._helpers.submit(self._sighting, frame_HWC, seen.mask_NHW, patches_Chw)
            for frame_HWC, seen, patches_Chw in zip(frames_FHWC, masks, patches_FChw, strict=True)
        ]
        return _Block(frames_FHWC, features, tuple(sightings))

    def _sighting(
        self, frame_HWC: NDArray[np.uint8], mask_NHW: torch.Tensor, patches_Chw: torch.Tensor
    ) -> Sighting:
        _, pieces = cull_automatic(mask_NHW.cpu().numpy(), self._rules)
        described_NC, has_N = describe(patches_Chw, frame_HWC, pieces, unit=self._backbone.unit)
        return Sighting(
            tuple(piece for piece, has in zip(pieces, has_N, strict=True) if has), described_NC[has_N]
        )

    def _follow(
        self, features: FrameFeatures, prompts: Sequence[MaskPrompt], num_frames: int
    ) -> list[list[Piece | None]]:
        """The objects' masks in each frame: after their prompts going forwards, before them backwards."""
        pieces: list[list[Piece | None]] = [[None] * len(prompts) for _ in range(num_frames)]
        pending: list[tuple[int, list[int], Future[list[Piece | None]]]] = []
        earlier = [prompt for prompt in prompts if prompt.frame > 0]
        try:
            with ThreadPoolExecutor(_REFINERS) as pool:
                for reverse, objects in ((False, prompts), (True, earlier)):
                    if not objects:
                        continue
                    for frame, logits_NHW in self._segmenter.propagate(
                        features, objects, reverse=reverse, max_frames=None
                    ):
                        self.propagated += 1
                        rows = [
                            row
                            for row, prompt in enumerate(objects)
                            if (frame < prompt.frame if reverse else frame >= prompt.frame)
                        ]
                        if rows:
                            mask_NHW = (logits_NHW[rows] > 0).cpu().numpy()
                            numbers = [objects[row].object for row in rows]
                            pending.append((frame, numbers, pool.submit(self._cleaned, mask_NHW)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"the memory is too small to follow {len(prompts)} objects at once: give a --max-objects "
                f"below {len(prompts)}, or a smaller model with --sam"
            ) from error
        for frame, numbers, future in pending:
            for number, piece in zip(numbers, future.result(), strict=True):
                pieces[frame][number] = piece
        return pieces

    def _cleaned(self, mask_NHW: NDArray[np.bool_]) -> list[Piece | None]:
        return [clean(mask_HW, self._rules) for mask_HW in mask_NHW]


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error is about the memory of a GPU or of the machine."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def _numbered(
    span: range, map_FHW: NDArray[np.uint8], looks: list[NDArray[np.float32]], channels: int
) -> WindowMaps:
    """Gives the entities that occur numbers without gaps."""
    present_FE = np.stack([np.bincount(map_HW.ravel(), minlength=256) > 0 for map_HW in map_FHW])
    present_FE = present_FE[:, : len(looks)]
    occurring = np.flatnonzero(present_FE.any(axis=0))
    number = np.arange(256, dtype=np.uint8)
    number[occurring] = np.arange(len(occurring))
    occurs: list[tuple[int, int]] = []
    for entity in occurring:
        at = np.flatnonzero(present_FE[:, entity])
        occurs.append((span.start + int(at[0]), span.start + int(at[-1])))
    found = tuple(looks[entity] for entity in occurring)
    return WindowMaps(span, number[map_FHW], found, tuple(occurs), channels)
