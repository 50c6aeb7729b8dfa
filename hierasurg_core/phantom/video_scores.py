"""What an eye sees in videos of the phantom: the instruments, what moves, sharp edges, and what is done.

Owns the definitions of PSNR over parts of a clip, of the sharpness of edges, and of triplet agreement by the
bundled classifier, which is mini. Videos are uint8 RGB. Legend: B clips, F frames, H W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.evaluation.mini import MINI_CLASSIFIER, load_mini
from hierasurg_core.phantom.held_out import HeldOutClip

BAND_PX = 2
"""An instrument counts with so many pixels around it."""
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # of BT.601


@dataclasses.dataclass(frozen=True)
class VideoFigures:
    """A video beside a true clip, over all frames but the first; None where the clip has no such pixels.

    Attributes:
        db: PSNR.
        instruments_db: PSNR of the instruments with a band around them.
        moved_db: PSNR where the map is another than in the first frame.
        edges: Mean gradient along the instruments' outlines over the truth's: less than 1 is blurred.
        edges_in_place: The same, but a gradient counts as far as it is the truth's: 1 is the same edge, 0
            none or another one.
    """

    db: float
    instruments_db: float | None
    moved_db: float | None
    edges: float | None
    edges_in_place: float | None


def score_video(video_FHWC: NDArray[np.uint8], clip: HeldOutClip) -> VideoFigures:
    """Measures a video that was made in place of a clip's own."""
    made, true = video_FHWC[1:], clip.video_FHWC[1:]
    mask_FHW = np.isin(clip.maps.map_FHW, clip.instruments)
    edges, edges_in_place = edges_of(made, true, outline_of(mask_FHW[1:]))
    return VideoFigures(
        db=psnr(made, true),
        instruments_db=psnr_where(made, true, widened(mask_FHW[1:], BAND_PX)),
        moved_db=psnr_where(made, true, moved_of(clip.maps.map_FHW)[1:]),
        edges=edges,
        edges_in_place=edges_in_place,
    )


def psnr(a_FHWC: NDArray[np.uint8], b_FHWC: NDArray[np.uint8]) -> float:
    """PSNR in dB of uint8 videos."""
    error = np.mean((a_FHWC.astype(np.float64) - b_FHWC.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def psnr_where(
    a_FHWC: NDArray[np.uint8], b_FHWC: NDArray[np.uint8], where_FHW: NDArray[np.bool_]
) -> float | None:
    """PSNR in dB of some pixels of uint8 videos; None where there are none."""
    return psnr(a_FHWC[where_FHW], b_FHWC[where_FHW]) if where_FHW.any() else None


def moved_of(map_FHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where maps hold another id than the first of them, (F, H, W)."""
    return map_FHW != map_FHW[:1]


def widened(mask_FHW: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Masks with a band of so many pixels around them, corners included, (F, H, W)."""
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return np.stack([cv2.dilate(mask.astype(np.uint8), kernel) > 0 for mask in mask_FHW])


def outline_of(mask_FHW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels on both sides of the masks' borders, (F, H, W)."""
    return widened(mask_FHW, 1) & widened(~mask_FHW, 1)


def edges_of(
    made_FHWC: NDArray[np.uint8], true_FHWC: NDArray[np.uint8], where_FHW: NDArray[np.bool_]
) -> tuple[float, float] | tuple[None, None]:
    """Compares the gradients of luma at some pixels; see `VideoFigures`. (None, None) without any."""
    made, true = _gradients(made_FHWC)[:, where_FHW], _gradients(true_FHWC)[:, where_FHW]
    length = float(np.linalg.norm(true, axis=0).sum())
    if not length:
        return None, None
    sharp = float(np.linalg.norm(made, axis=0).sum()) / length
    return sharp, float((made * true).sum() / (true * true).sum())


def _gradients(video_FHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Central differences of luma down and across, (2, F, H, W)."""
    luma_FHW = video_FHWC.astype(np.float32) @ _LUMA
    return np.stack([np.gradient(luma_FHW, axis=1), np.gradient(luma_FHW, axis=2)])


@torch.inference_mode()
def triplets_seen(videos_FHWC: Sequence[NDArray[np.uint8]], device: torch.device, batch: int) -> list[int]:
    """Returns the triplet that the bundled classifier sees in each video of one size and length."""
    net = load_mini(MINI_CLASSIFIER, device)
    seen: list[int] = []
    for first in range(0, len(videos_FHWC), batch):
        video_BFHWC = torch.from_numpy(np.stack(videos_FHWC[first : first + batch])).to(device)
        seen += net(video_BFHWC.permute(0, 1, 4, 2, 3).float() / 255).triplet_BN.argmax(1).tolist()
    return seen
