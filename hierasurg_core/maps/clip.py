"""The currency of panoptic maps: one clip, checked when it is made.

Owns what ids mean and how masks become ids; knows neither files nor colours. Sizes change
here by nearest pixel only, so that no id is ever invented.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.pictures import centre_crop

MAX_ENTITIES = 254  # ids are uint8, and two of them are background and border


@dataclass(frozen=True, eq=False)
class PanopticClip:
    """The maps of one clip; an id is the same object in all frames.

    Attributes:
        map_FHW: uint8 ids, read-only. 0..K-1 are entities, K is background, K+1 black border.
        num_entities: K. Not every id has to occur.

    Raises:
        DataError: The array has another type or form, no pixel, or an id above K + 1.

    Example:
        >>> clip = PanopticClip(np.array([[[0, 1], [2, 1]]], np.uint8), num_entities=1)
        >>> clip.max_id, clip.levels
        (2, (0, 1, 2))
    """

    map_FHW: NDArray[np.uint8]
    num_entities: int

    def __post_init__(self) -> None:
        """Checks the form and takes a read-only view."""
        map_FHW = self.map_FHW
        if map_FHW.dtype != np.uint8 or map_FHW.ndim != 3 or not map_FHW.size:
            raise DataError(f"maps are uint8 (frames, rows, columns), not {map_FHW.dtype} {map_FHW.shape}")
        if not 0 <= self.num_entities <= MAX_ENTITIES:
            raise DataError(f"a clip has 0 to {MAX_ENTITIES} entities, not {self.num_entities}")
        highest = int(map_FHW.max())
        if highest > self.max_id:
            raise DataError(
                f"the maps hold id {highest}, but with {self.num_entities} entities the highest is "
                f"{self.max_id} (background {self.num_entities}, black border {self.max_id})"
            )
        view_FHW = map_FHW.view()
        view_FHW.flags.writeable = False
        object.__setattr__(self, "map_FHW", view_FHW)

    @property
    def max_id(self) -> int:
        """The black border's id, K + 1, by which M2V's map values are divided."""
        return self.num_entities + 1

    @property
    def levels(self) -> tuple[int, ...]:
        """The distinct ids that occur in the clip, rising."""
        return tuple(int(level) for level in np.flatnonzero(np.bincount(self.map_FHW.ravel(), minlength=256)))

    @classmethod
    def from_masks(cls, masks: Mapping[int, Mapping[int, NDArray[np.bool_]]]) -> "PanopticClip":
        """Makes a clip of one boolean mask per frame and id, the form of the public data.

        Where masks overlap the higher id wins; what no mask covers is background. The two highest ids of
        the clip are background and black border.

        Args:
            masks: `{frame: {id: bool (1, H, W) or (H, W)}}`; frames count from 0 without a gap. An id may
                be missing in a frame.

        Raises:
            DataError: Frames have gaps or no mask, sizes differ, or ids are out of range.
        """
        if sorted(masks) != list(range(len(masks))) or not masks:
            raise DataError(
                f"masks must be given for frames 0, 1, ... without a gap, not for {_short(masks)}"
            )
        ids = sorted({entity for frame in masks.values() for entity in frame})
        if len(ids) < 2 or ids[0] < 0 or ids[-1] > MAX_ENTITIES + 1:
            raise DataError(
                f"mask ids must lie in 0..{MAX_ENTITIES + 1}, with at least two, not {_short(ids)}"
            )
        num_entities = ids[-1] - 1
        shapes = {mask.shape[-2:] for frame in masks.values() for mask in frame.values()}
        if len(shapes) != 1 or not all(len(shape) == 2 for shape in shapes):
            raise DataError(f"all masks of a clip must have one size, not {sorted(shapes)}")
        map_FHW = np.full((len(masks), *shapes.pop()), num_entities, np.uint8)
        for index, frame in masks.items():
            for entity in sorted(frame):
                mask = frame[entity]
                if mask.ndim not in (2, 3) or mask.size != map_FHW[index].size:
                    raise DataError(f"a mask is (1, rows, columns), not {mask.shape}")
                map_FHW[index][mask.reshape(map_FHW.shape[1:]).astype(bool)] = entity
        return cls(map_FHW, num_entities)

    def to_masks(self) -> dict[int, dict[int, NDArray[np.bool_]]]:
        """Returns `{frame: {id: bool (1, H, W)}}` for every id 0..K+1, also those that do not occur."""
        return {
            index: {entity: map_HW[None] == entity for entity in range(self.max_id + 1)}
            for index, map_HW in enumerate(self.map_FHW)
        }


def with_room(clip: PanopticClip, num_entities: int) -> PanopticClip:
    """Gives a clip room for more entities: background and border move up, the ids between stay free.

    Raises:
        DataError: There are more than 254 of them.
        ValueError: They are fewer than it has.
    """
    found = clip.num_entities
    if num_entities < found:
        raise ValueError(f"a clip of {found} entities has no room in {num_entities}")
    if num_entities > MAX_ENTITIES:
        raise DataError(f"a clip has 0 to {MAX_ENTITIES} entities, not {num_entities}")
    ids = np.arange(256, dtype=np.uint8)
    ids[[found, found + 1]] = num_entities, num_entities + 1
    return PanopticClip(ids[clip.map_FHW], num_entities)


def normalise_levels(
    map_BFHW: NDArray[np.uint8], max_id_B: NDArray[np.int64] | Sequence[int]
) -> NDArray[np.float32]:
    """Scales ids to what M2V's map encoder reads: id / highest id of the clip, float32 in [0, 1].

    Args:
        map_BFHW: uint8 ids of B clips.
        max_id_B: Each clip's `PanopticClip.max_id`.

    Raises:
        ValueError: There is not one positive highest id a clip, or an id lies above it.

    Source: HieraSurg's public code.
    """
    highest_B = np.asarray(max_id_B)
    if highest_B.shape != map_BFHW.shape[:1] or not (highest_B > 0).all():
        raise ValueError(f"need one highest id above 0 for each of {len(map_BFHW)} clips, not {highest_B}")
    if (map_BFHW.reshape(len(map_BFHW), -1).max(axis=1) > highest_B).any():
        raise ValueError("a clip holds an id above the highest id given for it")
    return map_BFHW.astype(np.float32) / highest_B.astype(np.float32)[:, None, None, None]


def fit_maps(map_FHW: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Crops maps as `pictures.fit_image` crops their photograph, and resizes them to the nearest pixel.

    Args:
        map_FHW: uint8 ids; any leading axes will do.
        size_hw: Wanted rows and columns.
    """
    rows, columns = centre_crop((map_FHW.shape[-2], map_FHW.shape[-1]), size_hw)
    part = map_FHW[..., rows, columns]
    row, column = (
        ((np.arange(wanted) + 0.5) * (found / wanted)).astype(np.intp)
        for wanted, found in zip(size_hw, part.shape[-2:], strict=True)
    )
    return np.ascontiguousarray(part[..., row[:, None], column])


def _short(values: Iterable[int]) -> str:
    text = str(list(values))
    return text if len(text) <= 60 else f"{text[:57]}..."
