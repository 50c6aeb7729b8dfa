"""What the models can take: sizes, frame counts, and how many ids a first map may have.

Owns the checks and their messages, which name what is possible next to what was asked for.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.maps import MAX_LEVELS, PanopticClip, palette_levels

NUM_MAPS = 16  # frames that S2M makes, one a second
SIZE_STEP = 16  # pixels: the VAE divides sides by 8, the transformers' patches by 2


def expect_levels(clip: PanopticClip) -> tuple[int, ...]:
    """Returns the ids that S2M's palette stands for (see `maps.palette_levels`).

    Raises:
        DataError: More than 20 occur, which `tab20` cannot tell apart.
    """
    levels = palette_levels(clip)
    if levels is None:
        raise DataError(
            f"the first map has {len(clip.levels)} ids, but S2M's palette tells at most {MAX_LEVELS} apart; "
            "merge or drop small entities"
        )
    return levels


def expect_starts(
    photos_HWC: Sequence[NDArray[np.uint8]],
    first_maps_HW: Sequence[NDArray[np.uint8]],
    num_entities: Sequence[int],
) -> list[tuple[int, ...]]:
    """Returns the ids that S2M's palette stands for in each clip, if photographs and maps belong together.

    Raises:
        DataError: They differ in size, or a map has more than 20 ids.
    """
    expect_same_sizes(photos_HWC, first_maps_HW)
    return [
        expect_levels(PanopticClip(first_map_HW[None], count))
        for first_map_HW, count in zip(first_maps_HW, num_entities, strict=True)
    ]


def expect_same_sizes(
    photos_HWC: Sequence[NDArray[np.uint8]], first_maps_HW: Sequence[NDArray[np.uint8]]
) -> None:
    """Compares photographs with their maps.

    Raises:
        DataError: They differ in size.
    """
    for photo_HWC, first_map_HW in zip(photos_HWC, first_maps_HW, strict=True):
        if photo_HWC.shape[:2] != first_map_HW.shape:
            raise DataError(f"the photograph is {_size(photo_HWC)}, but its map {_size(first_map_HW)}")


def check_size(size_hw: tuple[int, ...]) -> tuple[int, int]:
    """Returns a size if the models can take it.

    Raises:
        UsageError: A side is not divisible by 16; the message names the nearest that is.
    """
    height, width = size_hw
    if height % SIZE_STEP or width % SIZE_STEP or not height * width:
        near = (max(SIZE_STEP, round(side / SIZE_STEP) * SIZE_STEP) for side in (height, width))
        raise UsageError(
            f"a size of {height}x{width} (height x width) is not possible: both must be multiples of "
            f"{SIZE_STEP}; the nearest is {'x'.join(map(str, near))}"
        )
    return height, width


def check_frames(num_frames: int) -> int:
    """Returns a frame count if the models can take it.

    Raises:
        UsageError: It is not a multiple of 4, or 0; the message names the nearest that are.
    """
    if num_frames % 4 or num_frames < 4:
        low = max(4, num_frames // 4 * 4)
        raise UsageError(f"{num_frames} frames are not possible: the nearest counts are {low} and {low + 4}")
    return num_frames


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
