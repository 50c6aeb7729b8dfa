"""Ids as colours, and colours back as ids.

S2M paints a clip's distinct ids (its levels, rising) with matplotlib's `tab20`: the i-th of n gets the
colour at i / n. `decode_colours` undoes that for what a generator made of it, where borders are blurred and
colours noisy. The palette is known, so nothing is clustered; more than 20 levels are refused, because
`tab20` cannot tell them apart.

Source: HieraSurg's public code, which finds the colours by k-means instead.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.maps.clip import PanopticClip

MAX_LEVELS = 20

_TAB20 = np.array(
    [
        (31, 119, 180),
        (174, 199, 232),
        (255, 127, 14),
        (255, 187, 120),
        (44, 160, 44),
        (152, 223, 138),
        (214, 39, 40),
        (255, 152, 150),
        (148, 103, 189),
        (197, 176, 213),
        (140, 86, 75),
        (196, 156, 148),
        (227, 119, 194),
        (247, 182, 210),
        (127, 127, 127),
        (199, 199, 199),
        (188, 189, 34),
        (219, 219, 141),
        (23, 190, 207),
        (158, 218, 229),
    ],
    np.uint8,
)

_BITS = 6  # of each channel that the lookup table distinguishes
_SURE_RATIO = 0.5  # a colour is sure of its label if the second nearest is at least twice as far,
_SURE_DISTANCE = 60.0  # and it is this near, in steps of 1/255
_SURE_NEIGHBOURS = 2  # of the four neighbours that must be sure of the same label
_SIDE = 2  # pixels to each side of a thin line at which its neighbours are looked up
_MIX_DISTANCE = 25.0  # from the line between two colours, for a colour to be a mix of them
_REACH = 2  # pixels around an unsure one in which its label must occur
_LUMA = np.array([[0.2126, 0.7152, 0.0722]], np.float32)  # of BT.709
_LUMA_WEIGHT = 3.0  # of a distance along it between border pixels: an mp4 halves the resolution of all else
_WEIGHTS = np.eye(3, dtype=np.float32) + (_LUMA_WEIGHT - 1) * _LUMA.T @ _LUMA / (_LUMA @ _LUMA.T)
_SURE = 0x80  # flags beside the label in the lookup table: sure with its neighbours' backing,
_EXACT = 0x40  # and sure alone, because it lies in the palette colour's own bin


def palette_rgb_N3(n: int) -> NDArray[np.uint8]:
    """Returns the colours of n levels, uint8 (n, 3): `tab20` at i / n for the i-th.

    Raises:
        DataError: n is not in 1..20; beyond 20 two levels would share a colour.
    """
    if not 1 <= n <= MAX_LEVELS:
        raise DataError(f"{n} levels cannot be told apart by colour; a clip may have 1 to {MAX_LEVELS}")
    return _TAB20[len(_TAB20) * np.arange(n) // n]


def palette_levels(clip: PanopticClip) -> tuple[int, ...] | None:
    """Returns the ids that S2M's palette stands for, in training and in sampling.

    All of 0..K+1 where these are at most 20, so that a palette lasts as long as the ids do, also for ids
    that a first map hides; else those that occur; None where these are too many as well.
    """
    if clip.max_id < MAX_LEVELS:
        return tuple(range(clip.max_id + 1))
    return clip.levels if len(clip.levels) <= MAX_LEVELS else None


def colour_map(map_FHW: NDArray[np.uint8], levels: Sequence[int]) -> NDArray[np.uint8]:
    """Paints ids: uint8 (F, H, W) to uint8 (F, H, W, 3).

    Args:
        map_FHW: Ids; any leading shape will do.
        levels: The clip's distinct ids, rising (`PanopticClip.levels`).

    Raises:
        DataError: There are more than 20 levels, or the map holds an id that is none of them.
    """
    palette_N3 = palette_rgb_N3(len(levels))
    rank_of_id = np.full(256, 255, np.uint8)
    rank_of_id[list(levels)] = np.arange(len(levels))
    rank_FHW = rank_of_id[map_FHW]
    if (rank_FHW == 255).any():
        strangers = sorted(set(np.unique(map_FHW).tolist()) - set(levels))
        raise DataError(f"the map holds ids {strangers}, which are not among the levels {list(levels)}")
    return palette_N3[rank_FHW]


def decode_colours(
    video_FHWC: NDArray[np.uint8] | NDArray[np.floating],
    levels: Sequence[int],
    first_map_HW: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Reads ids from a coloured video with blurred borders and noise.

    The nearest colour alone errs along borders: half way between two colours there may lie a third, which
    draws a rim of a wrong object. So a pixel decides alone only where its colour is a palette colour, or
    is clearly one label's and two of its four neighbours are as sure of the same; any other pixel takes
    the nearest colour among the labels that are sure within two pixels of it (among all where there are
    none), where brightness counts more than hue.

    Args:
        video_FHWC: RGB, uint8, or finite floating point in 0..1 (values outside are clipped).
        levels: The ids that the palette stands for, rising.
        first_map_HW: The known map of frame 0, if any, which is returned as frame 0.

    Returns:
        uint8 ids (F, H, W).

    Raises:
        DataError: There are more than 20 levels, or first_map_HW has another size.
    """
    palette_N3 = palette_rgb_N3(len(levels)).astype(np.float32)
    table = _lookup_table(palette_N3)
    # The work on each frame lets go of Python's lock, so threads share it; two or more beat one.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        ranks = list(pool.map(_decode_frame, video_FHWC, repeat(palette_N3), repeat(table)))
    map_FHW = np.asarray(levels, np.uint8)[np.stack(ranks)]
    if first_map_HW is not None:
        if first_map_HW.shape != map_FHW.shape[1:]:
            raise DataError(f"the first map is {first_map_HW.shape}, but the video {map_FHW.shape[1:]}")
        map_FHW[0] = first_map_HW
    return map_FHW


def _decode_frame(
    frame_HWC: NDArray[np.generic], palette_N3: NDArray[np.float32], table: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Returns ranks into the palette, uint8 (H, W)."""
    colour_HWC = _as_uint8(frame_HWC)
    coarse_HWC = (colour_HWC >> (8 - _BITS)).astype(np.int32)
    bin_HW = coarse_HWC[..., 0] << (2 * _BITS) | coarse_HWC[..., 1] << _BITS | coarse_HWC[..., 2]
    found_HW = table.take(bin_HW)
    rank_HW = found_HW & ~np.uint8(_SURE | _EXACT)
    backing_HW = _backing(found_HW)
    exact_HW = (found_HW & _EXACT).astype(bool)
    sure_HW = exact_HW | ((found_HW >= _SURE) & (backing_HW >= _SURE_NEIGHBOURS))
    suspects = np.flatnonzero(sure_HW & (backing_HW < 4) & ~exact_HW)
    sure_HW.ravel()[_rims(suspects, found_HW, colour_HWC, palette_N3)] = False
    candidates_HW = _or_window(
        np.where(sure_HW, np.uint32(1) << rank_HW.astype(np.uint32), np.uint32(0)), _REACH
    )

    unsure = np.flatnonzero(~sure_HW)
    candidates_U1 = candidates_HW.ravel()[unsure, None]
    colour_U3 = colour_HWC.reshape(-1, 3)[unsure].astype(np.float32)
    weighted_N3 = palette_N3 @ _WEIGHTS
    distance_UN = colour_U3 @ _WEIGHTS @ (-2 * weighted_N3.T) + (weighted_N3**2).sum(axis=1)
    near_UN = (candidates_U1 >> np.arange(len(palette_N3), dtype=np.uint32) & 1).astype(bool) | (
        candidates_U1 == 0
    )
    distance_UN[~near_UN] = np.inf
    rank_HW.ravel()[unsure] = distance_UN.argmin(axis=1)
    return rank_HW


def _as_uint8(frame_HWC: NDArray[np.generic]) -> NDArray[np.uint8]:
    if frame_HWC.dtype == np.uint8:
        return frame_HWC.view(np.uint8)
    return (np.clip(frame_HWC.astype(np.float32), 0, 1) * 255 + 0.5).astype(np.uint8)


def _lookup_table(palette_N3: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns nearest rank and flag `_SURE` for every colour bin, uint8 (2 ** (3 * bits),)."""
    centre = (np.arange(1 << _BITS, dtype=np.float32) + 0.5) * (256 >> _BITS) - 0.5
    red, green, blue = ((centre - palette_N3[:, channel, None]) ** 2 for channel in range(3))
    shape = (len(centre),) * 3
    nearest = np.full(shape, np.inf, np.float32)
    second = nearest.copy()
    rank = np.zeros(shape, np.uint8)
    for index in range(len(palette_N3)):
        distance = red[index][:, None, None] + green[index][:, None] + blue[index]
        np.putmask(rank, distance < nearest, index)
        np.minimum(second, np.maximum(nearest, distance), out=second)
        np.minimum(nearest, distance, out=nearest)
    sure = (nearest < _SURE_RATIO**2 * second) & (nearest < _SURE_DISTANCE**2)
    flags = np.where(sure, np.uint8(_SURE), np.uint8(0))
    own_N3 = palette_N3.astype(np.int32) >> (8 - _BITS)
    flags[tuple(own_N3.T)] |= _EXACT
    return (rank | flags).ravel()


def _backing(found_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Counts which of a pixel's four neighbours have the same label and are as sure of it, uint8 (H, W)."""
    plain_HW = found_HW & ~np.uint8(_EXACT)
    backing_HW = np.zeros(found_HW.shape, np.uint8)
    same = plain_HW[1:] == plain_HW[:-1]
    backing_HW[1:] += same
    backing_HW[:-1] += same
    same = plain_HW[:, 1:] == plain_HW[:, :-1]
    backing_HW[:, 1:] += same
    backing_HW[:, :-1] += same
    return backing_HW


def _rims(
    suspects: NDArray[np.intp],
    found_HW: NDArray[np.uint8],
    colour_HWC: NDArray[np.uint8],
    palette_N3: NDArray[np.float32],
) -> NDArray[np.intp]:
    """Returns those of the suspects (flat indices) whose colour is a mix of what lies on their two sides.

    Along a straight border a whole line can have the mixed colour of a third label, and then its pixels
    back each other.
    """
    found, colour = found_HW.ravel(), colour_HWC.reshape(-1, 3)
    rims = []
    for side in (_SIDE, _SIDE * found_HW.shape[1]):
        one = found.take(suspects - side, mode="clip")
        two = found.take(suspects + side, mode="clip")
        ranks = [labels & ~np.uint8(_SURE | _EXACT) for labels in (found[suspects], one, two)]
        between = (
            ((one & two) >= _SURE) & (ranks[0] != ranks[1]) & (ranks[0] != ranks[2]) & (ranks[1] != ranks[2])
        )
        start_U3, end_U3 = palette_N3[ranks[1][between]], palette_N3[ranks[2][between]]
        span_U3 = end_U3 - start_U3
        offset_U3 = colour[suspects[between]] - start_U3
        share_U = np.clip((offset_U3 * span_U3).sum(axis=1) / (span_U3**2).sum(axis=1), 0, 1)
        miss_U = ((offset_U3 - share_U[:, None] * span_U3) ** 2).sum(axis=1)
        rims.append(suspects[between][miss_U < _MIX_DISTANCE**2])
    return np.concatenate(rims)


def _or_window(bits_HW: NDArray[np.uint32], reach: int) -> NDArray[np.uint32]:
    """Returns the bitwise or over the square window that reaches so many pixels to each side."""
    rows_HW = bits_HW.copy()
    for step in range(1, reach + 1):
        rows_HW[step:] |= bits_HW[:-step]
        rows_HW[:-step] |= bits_HW[step:]
    window_HW = rows_HW.copy()
    for step in range(1, reach + 1):
        window_HW[:, step:] |= rows_HW[:, :-step]
        window_HW[:, :-step] |= rows_HW[:, step:]
    return window_HW
