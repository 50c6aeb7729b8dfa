"""The map of a single photograph, for whoever has one and no video.

Finds automatic masks, cleans them by `refine`'s rules and calls the rest background.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.labeling.refine import BACKGROUND, BORDER, Rules, clean, cull_automatic, paint
from hierasurg_core.labeling.segmenter import load_segmenter
from hierasurg_core.labeling.windows import Segmenting
from hierasurg_core.maps import PanopticClip

_LEAST_SIDE = 32


def map_of_image(
    photo_HWC: NDArray[np.uint8], segmenter_name: str = "mini", *, device: torch.device | None = None
) -> PanopticClip:
    """Makes the panoptic map of a photograph.

    Args:
        photo_HWC: uint8 RGB.
        segmenter_name: As `--sam`.
        device: Where to compute; None: the CPU.

    Returns:
        A clip of one frame of the photograph's size.

    Raises:
        DataError: The photograph is too small.
        WeightsError: The segmenter is not to be had.
    """
    where = torch.device("cpu") if device is None else device
    segmenter = load_segmenter(
        segmenter_name,
        checkpoint=None,
        weights_dir=None,
        device=where,
        dtype=torch.float32,
        compile=False,
    )
    return map_by(segmenter, photo_HWC)


@torch.inference_mode()
def map_by(segmenter: Segmenting, photo_HWC: NDArray[np.uint8]) -> PanopticClip:
    """The same with a segmenter at hand."""
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
