"""Connected pieces of a mask, and what whole and seen mean of an instrument.

Owns these two words for all measures of maps. Legend: H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WHOLE_SHARE = 0.95
"""Of an instrument's pixels lie in its largest piece, where it is whole."""
SEEN_PIXELS = 60
"""An entity of so many pixels is seen."""


def largest_piece(mask_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the largest 8-connected piece of a mask; nothing where there is nothing."""
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros_like(mask_HW)
    return labels_HW == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def pieces_of(mask_HW: NDArray[np.bool_]) -> tuple[int, float]:
    """Returns a mask's pixels, and the share of them in its largest piece (0 without any)."""
    area = int(mask_HW.sum())
    return (area, float(largest_piece(mask_HW).sum()) / area) if area else (0, 0.0)


def is_whole(mask_HW: NDArray[np.bool_]) -> bool:
    """Whether a mask is there in one piece, but for a twentieth of it."""
    return pieces_of(mask_HW)[1] >= WHOLE_SHARE
