"""Masks become maps: what is too small or too large goes, holes close, duplicates merge, the rest is ground.

Owns the published rules, in pixels of a frame's size. A cleaned mask is a `Piece`, its box and the pixels in
it, so that all work is in proportion to what the object covers. Where two entities still cover a pixel the
smaller one has it: an instrument lies on an organ, not under it. It knows neither features nor a video's ids.

Legend: F frames, N masks or objects, H W pixels; a and b are two masks.

Source: HieraSurg (arXiv 2506.21287) and its public code, whose steps these are: areas kept between 1000 and
100000 px, duplicates of 80 % overlap merged, holes of at most 20 % filled, black border below 30.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_MEASURED_PX = 480 * 854  # the frame size at which the limits are stated
_LEAST_PX, _MOST_PX = 1000, 100_000
_PART_PX = 1000
_BORDER_PX = 100
_BLACK_BELOW = 30  # in all channels
_HOLES = 0.2  # of a mask's area, which filling its holes may add
_CONTAINED = 0.8  # of the smaller mask's area
_SAME = 0.8  # IoU

BACKGROUND, BORDER = 254, 255
"""Codes of ground in maps whose number of entities is not known yet."""


@dataclass(frozen=True)
class Rules:
    """Section 2's limits at one frame size.

    Attributes:
        least_px: Area that a mask must have more than.
        most_px: Area that it must have less than.
        part_px: Components smaller than this are dropped.
        border_px: The same for components of the black border.
    """

    least_px: int
    most_px: int
    part_px: int
    border_px: int

    @classmethod
    def for_size(cls, size_hw: tuple[int, int]) -> Rules:
        """Scales the limits by the frame's area.

        Example:
            >>> Rules.for_size((480, 854)).least_px, Rules.for_size((240, 427)).least_px
            (1000, 250)
        """
        share = size_hw[0] * size_hw[1] / _MEASURED_PX
        least, most, part, border = (
            max(1, round(share * px)) for px in (_LEAST_PX, _MOST_PX, _PART_PX, _BORDER_PX)
        )
        return cls(least, most, part, border)

    def admits(self, area_px: int) -> bool:
        """Whether an object may have this area."""
        return self.least_px < area_px < self.most_px


@dataclass(frozen=True, eq=False)
class Piece:
    """A cleaned mask in its box.

    Attributes:
        top: First row of the box.
        left: First column.
        mask_hw: bool, the box's pixels.
        area_px: How many are True.
    """

    top: int
    left: int
    mask_hw: NDArray[np.bool_]
    area_px: int

    def shared_px(self, other: Piece) -> int:
        """How many pixels two masks have in common."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.mask_hw.shape[0], other.top + other.mask_hw.shape[0])
        right = min(self.left + self.mask_hw.shape[1], other.left + other.mask_hw.shape[1])
        if bottom <= top or right <= left:
            return 0
        return int(
            np.count_nonzero(
                self.mask_hw[top - self.top : bottom - self.top, left - self.left : right - self.left]
                & other.mask_hw[top - other.top : bottom - other.top, left - other.left : right - other.left]
            )
        )

    def iou(self, other: Piece) -> float:
        """Intersection over union."""
        shared = self.shared_px(other)
        return shared / (self.area_px + other.area_px - shared)

    def whole(self, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask at the frame's size, bool (H, W)."""
        mask_HW = np.zeros(size_hw, np.bool_)
        height, width = self.mask_hw.shape
        mask_HW[self.top : self.top + height, self.left : self.left + width] = self.mask_hw
        return mask_HW


def clean(mask_HW: NDArray[np.bool_], rules: Rules, *, largest_only: bool = False) -> Piece | None:
    """Drops small components, fills holes where that adds little, and holds the area to its limits.

    Args:
        mask_HW: bool, of the frame's size.
        rules: For that size.
        largest_only: Keep the largest component alone, whatever its size, and its holes.

    Returns:
        What is left; None where nothing is, or too little or too much.
    """
    rows = np.flatnonzero(mask_HW.any(axis=1))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask_HW[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    crop_hw = np.ascontiguousarray(mask_HW[top:bottom, left:right])
    count, label_hw, stats, _ = cv2.connectedComponentsWithStats(crop_hw.view(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = areas == areas.max() if largest_only else areas >= rules.part_px
    if largest_only:
        kept &= np.cumsum(kept) == 1
    if not kept.any():
        return None
    if not kept.all() or count > 2:
        crop_hw = np.concatenate([[False], kept])[np.asarray(label_hw, np.intp)]
    area = int(areas[kept].sum())
    if not largest_only:
        crop_hw, area = _fill_holes(crop_hw, area)
    return Piece(top, left, crop_hw, area) if rules.admits(area) else None


def cull_automatic(mask_NHW: NDArray[np.bool_], rules: Rules) -> tuple[list[int], list[Piece]]:
    """Chooses among the automatic masks of one frame, by their largest components.

    Returns:
        The chosen masks' indices, rising, and their largest components. Of two of which one holds 80 % of
        the smaller the smaller is not among them.
    """
    pieces = [clean(mask_HW, rules, largest_only=True) for mask_HW in mask_NHW]
    found = [(index, piece) for index, piece in enumerate(pieces) if piece is not None]
    found.sort(key=lambda pair: -pair[1].area_px)
    chosen: list[tuple[int, Piece]] = []
    for index, piece in found:
        if all(piece.shared_px(larger) < _CONTAINED * piece.area_px for _, larger in chosen):
            chosen.append((index, piece))
    chosen.sort(key=lambda pair: pair[0])
    return [index for index, _ in chosen], [piece for _, piece in chosen]


def merge_objects(
    pieces: Sequence[Sequence[Piece | None]], entity_N: Sequence[int], rules: Rules
) -> tuple[list[list[Piece | None]], list[int]]:
    """Overrides and merges objects that turn out to be one.

    Two of which the IoU in a frame is 0.8 or more are the same there, and the smaller gives way. One that
    gives way in more than half of the frames where it exists becomes part of the one to which it gave way
    most, unless their union would be too large in some frame.

    Args:
        pieces: For each frame the N objects' masks.
        entity_N: Which objects are one entity from the start (prompted again when it came back).
        rules: For the frames' size.

    Returns:
        The masks that stay, and each object's entity after merging.
    """
    count = len(entity_N)
    gave_way = np.zeros((count, count), np.int64)
    exists_N = np.zeros(count, np.int64)
    staying: list[list[Piece | None]] = []
    for frame in pieces:
        present = [index for index, piece in enumerate(frame) if piece is not None]
        exists_N[present] += 1
        kept = list(frame)
        for small, large in _twins(frame, present):
            kept[small] = None
            gave_way[small, large] += 1
        staying.append(kept)
    root = list(range(count))
    for entity in set(entity_N):
        members = [index for index in range(count) if entity_N[index] == entity]
        for index in members:
            root[index] = members[0]

    def root_of(index: int) -> int:
        while root[index] != index:
            index = root[index]
        return index

    for index in range(count):
        if 2 * gave_way[index].sum() <= exists_N[index]:
            continue
        target = int(gave_way[index].argmax())
        one, other = root_of(index), root_of(target)
        if one != other and _union_fits(staying, index, target, rules):
            root[one] = other
    entities = [entity_N[root_of(index)] for index in range(count)]
    return staying, entities


def paint(
    pieces: Sequence[Piece | None], id_N: Sequence[int], frame_HWC: NDArray[np.uint8], rules: Rules
) -> NDArray[np.uint8]:
    """Makes the map of one frame: objects, the smaller over the larger, then background and black border.

    Args:
        pieces: The objects' masks.
        id_N: Their ids, below `BACKGROUND`.
        frame_HWC: The frame, uint8 RGB.
        rules: For its size.

    Returns:
        uint8 ids (H, W); what no object covers is `BACKGROUND`, and `BORDER` where it is black.
    """
    map_HW = np.full(frame_HWC.shape[:2], BACKGROUND, np.uint8)
    order = sorted(
        ((piece, identity) for piece, identity in zip(pieces, id_N, strict=True) if piece is not None),
        key=lambda pair: (-pair[0].area_px, pair[1]),
    )
    for piece, identity in order:
        height, width = piece.mask_hw.shape
        box = map_HW[piece.top : piece.top + height, piece.left : piece.left + width]
        box[piece.mask_hw] = identity
    np.putmask(map_HW, _border(map_HW, frame_HWC, rules), BORDER)
    return map_HW


def _border(map_HW: NDArray[np.uint8], frame_HWC: NDArray[np.uint8], rules: Rules) -> NDArray[np.bool_]:
    """The black part of the background, without small components."""
    red_HW, green_HW, blue_HW = frame_HWC[..., 0], frame_HWC[..., 1], frame_HWC[..., 2]
    brightest_HW = np.maximum(np.maximum(red_HW, green_HW), blue_HW)
    dark_HW = (brightest_HW < _BLACK_BELOW) & (map_HW == BACKGROUND)
    _, label_HW = cv2.connectedComponents(dark_HW.view(np.uint8), connectivity=8)
    kept = np.bincount(label_HW.ravel()) >= rules.border_px
    kept[0] = False
    return kept.take(label_HW)


def _fill_holes(crop_hw: NDArray[np.bool_], area: int) -> tuple[NDArray[np.bool_], int]:
    """Fills what no path along the mask's outside reaches, if that is not too much."""
    outside_hw = np.zeros((crop_hw.shape[0] + 2, crop_hw.shape[1] + 2), np.uint8)
    outside_hw[1:-1, 1:-1] = crop_hw
    cv2.floodFill(outside_hw, None, (0, 0), 2)  # pyright: ignore[reportCallIssue, reportArgumentType]
    filled_hw = outside_hw[1:-1, 1:-1] != 2
    whole = int(np.count_nonzero(filled_hw))
    if not area < whole <= (1 + _HOLES) * area:
        return crop_hw, area
    return filled_hw, whole


def _twins(frame: Sequence[Piece | None], present: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (smaller, larger) of objects that are the same in this frame; equals give way to the earlier."""
    pairs: list[tuple[int, int]] = []
    for first, second in itertools.combinations(present, 2):
        a, b = frame[first], frame[second]
        assert a is not None
        assert b is not None
        if min(a.area_px, b.area_px) < _SAME * max(a.area_px, b.area_px):
            continue
        if a.iou(b) >= _SAME:
            pairs.append((first, second) if a.area_px < b.area_px else (second, first))
    return pairs


def _union_fits(staying: Sequence[Sequence[Piece | None]], one: int, other: int, rules: Rules) -> bool:
    for frame in staying:
        a, b = frame[one], frame[other]
        if a is not None and b is not None and a.area_px + b.area_px - a.shared_px(b) >= rules.most_px:
            return False
    return True
