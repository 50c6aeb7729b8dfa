"""Whether the tips of instruments stay thin and open, where a coarse model makes them blunt.

Owns two numbers about the end of an instrument: how thick its parts are, and how much gap lies between them
(between two jaws, or under a hook's foot). Both are compared with the truth's. The tip is the pixel farthest
from where the instrument comes in through the view's edge, so no trocar has to be known. Legend: F frames,
H W pixels.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.phantom.held_out import BORDER
from hierasurg_core.phantom.pieces import SEEN_PIXELS, largest_piece

WINDOW_SHARE = 0.094
"""Radius about the tip in heights of the frame: 12 pixels of 128, two thirds of a jaw's length."""
OPEN_SHARE = 0.05
"""A tip is open where its gap is so large a share of the window's disc."""


@dataclasses.dataclass(frozen=True)
class Tip:
    """The end of an instrument in one frame.

    Attributes:
        thickness_px: Mean thickness of its parts within the window.
        gap: Pixels of their convex hull that they leave free, as a share of the window's disc.
    """

    thickness_px: float
    gap: float


@dataclasses.dataclass(frozen=True)
class TipFigures:
    """The tip of an instrument over a clip's last half, beside the truth's.

    Attributes:
        thickness: Mean thickness over the truth's: 1 is right, more is blunt.
        gap: Mean gap over the truth's, at most 1: less is closed; None where the truth's is closed too.
    """

    thickness: float | None
    gap: float | None


def find_tip(mask_HW: NDArray[np.bool_], border_HW: NDArray[np.bool_]) -> Tip | None:
    """Looks at the end of an instrument.

    Args:
        mask_HW: The instrument; of several pieces the largest counts.
        border_HW: The black border.

    Returns:
        None where there is no instrument, or none that touches the border or the frame's edge.
    """
    piece_HW = largest_piece(mask_HW).astype(np.uint8)
    outside_HW = np.pad(border_HW, 1, constant_values=True).astype(np.uint8)
    beside_HW = cv2.dilate(outside_HW, np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    entry_rows, entry_columns = np.nonzero((piece_HW > 0) & beside_HW)
    if not len(entry_rows):
        return None
    rows, columns = np.nonzero(piece_HW)
    from_entry = (rows - entry_rows.mean()) ** 2 + (columns - entry_columns.mean()) ** 2
    far = int(np.argmax(from_entry))
    radius = WINDOW_SHARE * mask_HW.shape[0]
    near = (rows - rows[far]) ** 2 + (columns - columns[far]) ** 2 <= radius**2
    depth_HW = cv2.distanceTransform(np.pad(piece_HW, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # The mean depth of a strip is a quarter of its thickness; the outermost pixels lie half a pixel deep.
    thickness_px = 4 * float(np.mean(depth_HW[rows[near], columns[near]] - 0.5))
    points = np.stack([columns[near], rows[near]], axis=1).astype(np.int32)
    hull_HW = np.zeros_like(piece_HW)
    cv2.fillConvexPoly(hull_HW, cv2.convexHull(points), 1)
    free = int((hull_HW & (1 - piece_HW)).sum())
    return Tip(thickness_px, free / (np.pi * radius**2))


def compare_tips(map_FHW: NDArray[np.uint8], truth_FHW: NDArray[np.uint8], identity: int) -> TipFigures:
    """Compares an instrument's tip with the truth's over the last half, in frames in which both show it.

    Args:
        map_FHW: What was made, in comparable ids (`held_out.comparable`).
        truth_FHW: The truth.
        identity: The instrument.
    """
    made: list[Tip] = []
    true: list[Tip] = []
    for frame in range(len(truth_FHW) // 2, len(truth_FHW)):
        pair = [_seen_tip(maps_HW[frame], identity) for maps_HW in (map_FHW, truth_FHW)]
        if pair[0] is not None and pair[1] is not None:
            made.append(pair[0])
            true.append(pair[1])
    if not made:
        return TipFigures(None, None)
    thickness = np.mean([tip.thickness_px for tip in made]) / np.mean([tip.thickness_px for tip in true])
    gap, true_gap = np.mean([tip.gap for tip in made]), np.mean([tip.gap for tip in true])
    return TipFigures(float(thickness), float(min(1.0, gap / true_gap)) if true_gap >= OPEN_SHARE else None)


def _seen_tip(map_HW: NDArray[np.uint8], identity: int) -> Tip | None:
    mask_HW = map_HW == identity
    return find_tip(mask_HW, map_HW == BORDER) if mask_HW.sum() >= SEEN_PIXELS else None
