"""Pictures beside pictures, and frames beside the next: PSNR, SSIM, first-frame fidelity, warp error.

Owns the definitions, which differ between libraries by more than models do; each function states its own.
It works on uint8 RGB as `video` reads it and refuses anything else.

Frames are independent of each other, so whoever has several cores may pass a thread pool's `map` as `each`;
numbers are the same with any.

Legend: F frames, P pairs of consecutive frames, H rows, W columns, C the three channels.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError

PSNR_CEILING_DB = 100.0  # of equal pictures, whose PSNR is infinite: JSON has no infinity
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_LEAST_FLOW_PX = 16

Each = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""`map`, or one that does the same with several threads."""


@dataclass(frozen=True)
class FirstFrameFidelity:
    """How well a video begins with the frame it was given."""

    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class WarpError:
    """How well each frame of a video is explained by moving the pixels of the one before.

    Attributes:
        error: Mean squared difference over all pixels that are seen in both frames, of values in [0, 1].
        visible: Share of the pixels that are seen in both.
        motion_px: Mean length of their motion from frame to frame. A still video has no error: an error
            means something only beside this.
    """

    error: float
    visible: float
    motion_px: float


def psnr_F(a_FHWC: NDArray[np.uint8], b_FHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the PSNR of each frame in dB: 10 log10(255^2 / mean squared error), at most 100.

    Raises:
        DataError: The videos are no uint8 (F, H, W, 3) of one size and length.
    """
    _check_pair(a_FHWC, b_FHWC)
    floor = 255**2 / 10 ** (PSNR_CEILING_DB / 10)
    errors = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(a_FHWC, b_FHWC, strict=True)]
    return 10 * np.log10(255**2 / np.maximum(errors, floor))


def ssim_F(a_FHWC: NDArray[np.uint8], b_FHWC: NDArray[np.uint8], *, each: Each = map) -> NDArray[np.float64]:
    """Returns the structural similarity of each frame, 1 where they are equal.

    Gaussian window of 11 x 11 px and sigma 1.5, K1 = 0.01, K2 = 0.03, range 255, variances weighted by the
    window (not unbiased), only where the whole window lies inside, each RGB channel alone, then the mean.
    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.

    Raises:
        DataError: As `psnr_F`, or the frames are smaller than the window.
    """
    _check_pair(a_FHWC, b_FHWC)
    if min(a_FHWC.shape[1:3]) < _WINDOW:
        raise DataError(f"SSIM needs frames of {_WINDOW} x {_WINDOW} px or more, not {a_FHWC.shape[1:3]}")
    return np.array(list(each(lambda frame: _ssim(a_FHWC[frame], b_FHWC[frame]), range(len(a_FHWC)))))


def first_frame_fidelity(video_FHWC: NDArray[np.uint8], given_HWC: NDArray[np.uint8]) -> FirstFrameFidelity:
    """Compares a video's first frame with the one that it was asked to begin with.

    Raises:
        DataError: As `ssim_F`.
    """
    first_FHWC, given_FHWC = video_FHWC[:1], given_HWC[None]
    return FirstFrameFidelity(
        float(psnr_F(first_FHWC, given_FHWC)[0]), float(ssim_F(first_FHWC, given_FHWC)[0])
    )


def warp_error(video_FHWC: NDArray[np.uint8], *, each: Each = map) -> WarpError:
    """Returns the warp error of a video, over all its pairs of consecutive frames.

    The flow from each frame to the next and back is OpenCV's DIS (preset medium) on grey values; the next
    frame is drawn back along it, bilinear. A pixel counts where it stays in the picture and the two flows
    cancel: |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5 (Sundaram, Brox and Keutzer, "Dense point trajectories by
    GPU-accelerated large displacement optical flow", 2010). Where no pixel does, the error is that of the
    unmoved frames, for a broken video must not score as a perfect one.

    Raises:
        DataError: The video is no uint8 (F, H, W, 3) with at least two frames of 16 x 16 px.
    """
    _check_video(video_FHWC)
    if len(video_FHWC) < 2 or min(video_FHWC.shape[1:3]) < _LEAST_FLOW_PX:
        raise DataError(
            f"warp error needs two frames of {_LEAST_FLOW_PX} x {_LEAST_FLOW_PX} px or more, "
            f"not {video_FHWC.shape[:3]}"
        )
    greys = [cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY) for frame_HWC in video_FHWC]

    def of_pair(index: int) -> tuple[int, float, float]:
        forward_HW2 = _flow(greys[index], greys[index + 1])
        visible_HW, place_HW2 = _visible(forward_HW2, _flow(greys[index + 1], greys[index]))
        drawn_HWC = _drawn_back(video_FHWC[index + 1].astype(np.float32), place_HW2)
        gap_HWC = drawn_HWC - video_FHWC[index]
        squares_HW = np.einsum("hwc,hwc->hw", gap_HWC, gap_HWC)
        lengths_HW = np.sqrt(_squared(forward_HW2))
        return (
            int(visible_HW.sum()),
            float(squares_HW[visible_HW].sum(dtype=np.float64)),
            float(lengths_HW[visible_HW].sum(dtype=np.float64)),
        )

    of_pairs = list(each(of_pair, range(len(video_FHWC) - 1)))
    seen, squares, length = (sum(values) for values in zip(*of_pairs, strict=True))
    pixels = len(of_pairs) * greys[0].size
    if not seen:
        gaps = (np.diff(pair_FHWC.astype(np.float64), axis=0) for pair_FHWC in _neighbours(video_FHWC))
        return WarpError(float(np.mean([np.mean(gap**2) for gap in gaps])) / 255**2, 0.0, 0.0)
    return WarpError(squares / (3 * seen) / 255**2, seen / pixels, length / seen)


def _neighbours(video_FHWC: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
    return (video_FHWC[index : index + 2] for index in range(len(video_FHWC) - 1))


def _flow(from_HW: cv2.typing.MatLike, to_HW: cv2.typing.MatLike) -> NDArray[np.float32]:
    machine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # it must not be shared by threads
    return np.asarray(machine.calc(from_HW, to_HW, np.zeros((*from_HW.shape, 2), np.float32)), np.float32)


def _visible(
    forward_HW2: NDArray[np.float32], backward_HW2: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which pixels are seen in both frames, and where (x, y) they go."""
    height, width = forward_HW2.shape[:2]
    place_HW2 = _grid_HW2(height, width) + forward_HW2
    back_HW2 = _drawn_back(backward_HW2, place_HW2)
    x_HW, y_HW = place_HW2[..., 0], place_HW2[..., 1]
    inside_HW = (x_HW >= 0) & (x_HW <= width - 1) & (y_HW >= 0) & (y_HW <= height - 1)
    lengths_HW = _squared(forward_HW2) + _squared(back_HW2)
    return inside_HW & (_squared(forward_HW2 + back_HW2) < 0.01 * lengths_HW + 0.5), place_HW2


@functools.lru_cache(maxsize=4)
def _grid_HW2(height: int, width: int) -> NDArray[np.float32]:
    """Each pixel's own (x, y)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def _squared(flow_HW2: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared lengths; a sum over so short an axis is slow."""
    return flow_HW2[..., 0] ** 2 + flow_HW2[..., 1] ** 2


def _drawn_back(image_HWC: NDArray[np.float32], place_HW2: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image's values at places (x, y), bilinear; the edge goes on outside."""
    x_HW, y_HW = (np.ascontiguousarray(place_HW2[..., axis]) for axis in (0, 1))
    return np.asarray(
        cv2.remap(image_HWC, x_HW, y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def _ssim(a_HWC: NDArray[np.uint8], b_HWC: NDArray[np.uint8]) -> float:
    a, b = a_HWC.astype(np.float64), b_HWC.astype(np.float64)
    mean_a, mean_b = _windowed(a), _windowed(b)
    var_a, var_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    cov = _windowed(a * b) - mean_a * mean_b
    ssim = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2)
    ssim /= (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    return float(ssim.mean())


def _windowed(image_HWC: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = slice(_WINDOW // 2, -(_WINDOW // 2))
    return np.asarray(cv2.GaussianBlur(image_HWC, (_WINDOW, _WINDOW), _SIGMA), np.float64)[inside, inside]


def _check_video(video_FHWC: NDArray[np.uint8]) -> None:
    is_video = video_FHWC.dtype == np.uint8 and video_FHWC.ndim == 4 and video_FHWC.shape[-1] == 3
    if not is_video or not video_FHWC.size:
        raise DataError(
            f"a video is uint8 (frames, rows, columns, 3), not {video_FHWC.dtype} {video_FHWC.shape}"
        )


def _check_pair(a_FHWC: NDArray[np.uint8], b_FHWC: NDArray[np.uint8]) -> None:
    _check_video(a_FHWC)
    _check_video(b_FHWC)
    if a_FHWC.shape != b_FHWC.shape:
        raise DataError(
            f"cannot compare {_described(a_FHWC)} with {_described(b_FHWC)}; cut or resize one of them first"
        )


def _described(video_FHWC: NDArray[np.uint8]) -> str:
    frames, height, width, _ = video_FHWC.shape
    return f"{frames} frames of {height}x{width}"
