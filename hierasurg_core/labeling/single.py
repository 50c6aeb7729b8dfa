"""The map of a single photograph, where there is no video to follow entities through.

Owns the steps: SAM 2's automatic masks, the rules for masks, what is left as background and border.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.labeling.refine import BACKGROUND, BORDER, Rules, clean, cull_automatic, paint
from hierasurg_core.labeling.windows import Segmenting
from hierasurg_core.maps import PanopticClip

_LEAST_SIDE = 32


@torch.inference_mode()
def map_by(segmenter: Segmenting, photo_HWC: NDArray[np.uint8]) -> PanopticClip:
    """Make the panoptic map of a photograph.

    Args:
        segmenter: A loaded SAM 2; load it once for all photographs.
        photo_HWC: uint8 RGB.

    Returns:
        A clip of one frame of the photograph's size.

    Raises:
        DataError: The photograph is too small.
    """
    size_hw = (photo_HWC.shape[0], photo_HWC.shape[1])
    if min(size_hw) < _LEAST_SIDE:
        raise DataError(f"a photograph of {size_hw[0]}x{size_hw[1]} is too small to find anything in it")
    rules = Rules.for_size(size_hw)
    pixels = torch.from_numpy(np.ascontiguousarray(photo_HWC)[None])
    seen = segmenter.automatic(segmenter.encode(pixels), pixels)[0]
    _, largest = cull_automatic(seen.mask_NHW.cpu().numpy(), rules)
    pieces = [clean(piece.whole(size_hw), rules) for piece in largest]
    code_HW = paint(pieces, range(len(pieces)), photo_HWC, rules)
    present = [code for code in np.unique(code_HW).tolist() if code < BACKGROUND]
    ids = np.zeros(256, np.uint8)
    ids[present] = np.arange(len(present))
    ids[BACKGROUND], ids[BORDER] = len(present), len(present) + 1
    return PanopticClip(ids[code_HW][None], len(present))
