"""Maps by an S2M on ids: clip ids to the model's numbers, sampling, and numbers back to clip ids.

Owns what surrounds the sampling loop of `models.ids`: which entity has which number, and which newcomers are
kept. Refuses: photographs (their latents are given) and words.

Legend: B clips, F frames, H W pixels, K entities, N numbers of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hierasurg_core.config.sampling import StageSampling
from hierasurg_core.generation.limits import NUM_MAPS
from hierasurg_core.maps import Numbering, PanopticClip, number_by_appearance
from hierasurg_core.models import S2MTransformer3DModel, ids

_SPECK = 1e-3  # of a frame: what comes in and never grows larger is not kept


@dataclass(frozen=True, eq=False)
class IdStart:
    """The maps that clips of one size begin with, in the model's numbers.

    Attributes:
        numberings: One a clip.
        known_BFHW: The maps in numbers, uint8; the first alone, or as many as are known.
    """

    numberings: tuple[Numbering, ...]
    known_BFHW: NDArray[np.uint8]

    @classmethod
    def of(cls, known: Sequence[NDArray[np.uint8]], num_entities: Sequence[int], num_numbers: int) -> IdStart:
        """Number the maps (F, H, W) that each clip begins with."""
        numberings = tuple(
            number_by_appearance(PanopticClip(map_FHW, count), num_numbers)
            for map_FHW, count in zip(known, num_entities, strict=True)
        )
        numbered = [of.numbered(map_FHW) for of, map_FHW in zip(numberings, known, strict=True)]
        return cls(numberings, np.stack(numbered))


def sample_maps(
    s2m: S2MTransformer3DModel,
    start: IdStart,
    photo_B1CHW: Tensor,
    labels: Mapping[str, Tensor],
    dropped: Mapping[str, Tensor],
    how: StageSampling,
    generators: Sequence[torch.Generator],
    *,
    on_step: Callable[[], None],
    on_time: Callable[[int], None],
) -> Tensor:
    """Return probabilities (B, 16, N, h, w), float32, of each clip's maps.

    Args:
        s2m: On ids.
        start: What the clips begin with.
        photo_B1CHW: Latents of their photographs, on the device where the model works.
        labels: Phases and triplets as the model takes them.
        dropped: The same names with what stands for "not given".
        how: Steps and guidance; the solver is DDIM whatever it says.
        generators: One a clip.
        on_step: Called after each step.
        on_time: Told the time step before each call.
    """
    device = photo_B1CHW.device
    count = int(s2m.config["out_channels"])
    known = ids.shares_of(torch.from_numpy(start.known_BFHW).to(device), count)
    shape = (NUM_MAPS, *known.shape[2:])
    several = known.shape[1] > 1
    return ids.sample_shares(
        s2m,
        ids.initial_noise(shape, generators, device),
        known[:, :1],
        photo_B1CHW,
        labels=dict(labels),
        dropped=dict(dropped),
        steps=how.steps,
        guidance=how.guidance,
        scale=float(s2m.config["id_scale"]),
        known_BKNhw=known if several else None,
        on_step=on_step,
        on_time=on_time,
    )


def clips_of(shares_BFNhw: Tensor, start: IdStart) -> list[PanopticClip]:
    """Return the maps that are most likely, in clip ids; what is known stays as it was given.

    A newcomer that never covers a thousandth of a frame is left out; its pixels go to what is next likely.
    """
    numbers = ids.numbers_of(shares_BFNhw)
    count = shares_BFNhw.shape[2]
    largest_BN = torch.stack(
        [(numbers == number).float().mean((2, 3)).amax(1) for number in range(count)], dim=1
    )
    given_BN = torch.zeros_like(largest_BN, dtype=torch.bool)
    for index, numbering in enumerate(start.numberings):
        given_BN[index, : len(numbering.ids)] = True
    given_BN[:, count - 2 :] = True
    specks_BN = ~given_BN & (largest_BN > 0) & (largest_BN < _SPECK)
    if bool(specks_BN.any()):
        numbers = ids.numbers_of(shares_BFNhw, ~specks_BN)
    made_BFHW = numbers.cpu().numpy()
    made_BFHW[:, : start.known_BFHW.shape[1]] = start.known_BFHW
    return [numbering.clip(made) for numbering, made in zip(start.numberings, made_BFHW, strict=True)]


def left_out_note(first_map: PanopticClip, num_numbers: int) -> str | None:
    """Return a line that says which entities a model has no numbers for; None where it has enough."""
    left_out = number_by_appearance(first_map, num_numbers).left_out
    if not left_out:
        return None
    return (
        f"the first map has {len(left_out)} more entities than S2M's {num_numbers - 2}: ids "
        f"{', '.join(map(str, left_out))}, the smallest, count as background"
    )
