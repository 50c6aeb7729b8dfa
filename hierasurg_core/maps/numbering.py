"""Clip ids to the fixed numbers that S2M on ids reads and writes, and back.

Such an S2M has N numbers: 0..N-3 for entities, N-2 for the background, N-1 for the black border. Entities are
numbered by the frame in which they first appear, so that what comes into view takes the next free number: the
model can foretell it. Legend: F frames, H W pixels, K entities of a clip, N numbers of a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.maps.clip import MAX_ENTITIES, PanopticClip


@dataclass(frozen=True, eq=False)
class Numbering:
    """Which entity of a clip has which number of a model.

    Attributes:
        ids: Clip ids by number: number i stands for clip id `ids[i]`.
        num_entities: K of the clip.
        num_numbers: N of the model, background and border included.
        left_out: Clip ids without a number, because the model has too few; they count as background.
    """

    ids: tuple[int, ...]
    num_entities: int
    num_numbers: int
    left_out: tuple[int, ...] = ()

    def numbered(self, map_FHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the clip's maps, or one map of it, in the model's numbers."""
        number_of_id = np.full(256, self.num_numbers - 2, np.uint8)
        number_of_id[list(self.ids)] = np.arange(len(self.ids), dtype=np.uint8)
        number_of_id[self.num_entities + 1] = self.num_numbers - 1
        return number_of_id[map_FHW]

    def clip(self, numbered_FHW: NDArray[np.uint8]) -> PanopticClip:
        """Return a model's maps in clip ids.

        What the numbered maps did not have takes ids of the clip that did not occur in them, the lowest
        first, then new ones behind its last; so the result may have more entities than the clip.

        Raises:
            DataError: The new entities bring the clip above 254.
        """
        highest = self.num_numbers - 2
        present = np.bincount(numbered_FHW.ravel(), minlength=self.num_numbers)[:highest] > 0
        new = [number for number in range(len(self.ids), highest) if present[number]]
        free = [entity for entity in range(self.num_entities) if entity not in self.ids + self.left_out]
        taken = (free + list(range(self.num_entities, self.num_entities + len(new))))[: len(new)]
        num_entities = max(self.num_entities, *(entity + 1 for entity in taken), 0)
        if num_entities > MAX_ENTITIES:
            raise DataError(f"the maps would have {num_entities} entities; a clip has at most {MAX_ENTITIES}")
        id_of_number = np.zeros(self.num_numbers, np.uint8)
        id_of_number[: len(self.ids)] = self.ids
        id_of_number[new] = taken
        id_of_number[highest:] = num_entities, num_entities + 1
        return PanopticClip(id_of_number[numbered_FHW], num_entities)


def number_by_appearance(
    maps: PanopticClip, num_numbers: int, shuffled: np.random.Generator | None = None
) -> Numbering:
    """Return numbers for the entities that occur in a clip: by first frame, then by clip id.

    Where there are more entities than numbers, the smallest ones (by pixels over the clip) are left out.

    Args:
        maps: The clip; for sampling its first map alone.
        num_numbers: N of the model.
        shuffled: Gives numbers by chance instead, among as many as there are entities.

    Raises:
        ValueError: N is below 3, so that no entity would have a number.
    """
    if num_numbers < 3:
        raise ValueError(f"a model with {num_numbers} numbers has none for an entity: give 3 or more")
    pixels_FI = np.stack([np.bincount(map_HW.ravel(), minlength=256) for map_HW in maps.map_FHW])
    pixels_I = pixels_FI.sum(axis=0)
    found = [entity for entity in range(maps.num_entities) if pixels_I[entity]]
    kept = sorted(found, key=lambda entity: -pixels_I[entity])[: num_numbers - 2]
    first_I = (pixels_FI > 0).argmax(axis=0)
    order = sorted(kept, key=lambda entity: (first_I[entity], entity))
    if shuffled is not None:
        order = [order[index] for index in shuffled.permutation(len(order))]
    left_out = tuple(sorted(set(found) - set(kept)))
    return Numbering(tuple(order), maps.num_entities, num_numbers, left_out)
