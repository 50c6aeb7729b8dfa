"""How S2M on ids is trained: noisy shares in, a weighted cross-entropy on the numbers of maps out.

Owns the loss and the conditions of that form; the functions on shares are `models.ids`. It knows neither
optimiser nor files. B clips, F frames, H W pixels, N numbers, h w cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hierasurg_core.errors import DataError
from hierasurg_core.models import ids
from hierasurg_core.models.text_vectors import TextVectors
from hierasurg_core.training.batch import Batch
from hierasurg_core.training.draws import Draws
from hierasurg_core.training.words import conditions


@dataclass(frozen=True)
class S2MIdStage:
    """Phase and triplet to panoptic maps as categories; a `Stage`.

    Attributes:
        num_numbers: N of the model.
        scale: Of the shares before noise is added, the model's own.
        vectors: Take the place of phase and triplet ids; None: the model takes ids.
        moving: How much more a place counts where the maps leave the first one (`ids.weigh_shares`).
        rare: How much more small entities count (likewise).
        compiled: Whether what surrounds the model runs through torch.compile.
        name: "s2m".
        inputs: Noisy shares and the first map's.
    """

    num_numbers: int
    scale: float
    vectors: TextVectors | None = None
    moving: float = 5.0
    rare: float = 0.3
    compiled: bool = False
    name: str = "s2m"
    inputs: int = 2

    def losses(self, model: ids.IdModel, batch: Batch, draws: Draws) -> Tensor:
        """Runs the model on noised shares and returns the loss of each clip; see `Stage`.

        Times are spread evenly over the batch, one drawn from each of its equal parts of 0..999.
        """
        map_BFHW = _maps_of(batch)
        time_B = (draws.stratified(len(batch)) * ids.NUM_TIMES).long()
        frames, height, width = map_BFHW.shape[1:]
        cells = (height // ids.CELL, width // ids.CELL)
        noise = draws.normal((len(batch), frames, self.num_numbers, *cells))
        prepare, entropy = (_PREPARE, _ENTROPY) if self.compiled else (_prepared, ids.entropy_loss)
        noisy, first, weighted = prepare(
            map_BFHW, noise, time_B, self.num_numbers, self.scale, self.moving, self.rare
        )
        phase, triplet = conditions(self.vectors, batch)
        logits = model(
            noisy,
            time_B,
            first_map_B1CHW=first,
            photo_B1CHW=batch.first_frame_B1CHW,
            phase_BF=phase,
            triplet_BF=triplet,
        )
        return entropy(logits, weighted)

    @torch.no_grad()
    def sampled(self, model: ids.IdModel, batch: Batch, *, steps: int, noise_BFNhw: Tensor) -> Tensor:
        """Returns maps (B, F, H, W), uint8 numbers, that the model makes under a batch's conditions."""
        map_BFHW = _maps_of(batch)
        first = ids.shares_of(map_BFHW[:, :1], self.num_numbers)
        phase, triplet = conditions(self.vectors, batch)
        labels = {"phase_BF": phase, "triplet_BF": triplet}
        shares = ids.sample_shares(
            model,
            noise_BFNhw,
            first,
            batch.first_frame_B1CHW,
            labels={name: told for name, told in labels.items() if told is not None},
            dropped={},
            steps=steps,
            guidance=1.0,
            scale=self.scale,
        )
        made = ids.numbers_of(shares)
        made[:, 0] = map_BFHW[:, 0]
        return made


def _maps_of(batch: Batch) -> Tensor:
    if batch.numbered_BFHW is None or batch.phase_BF is None or batch.triplet_BF is None:
        raise DataError("S2M on ids needs numbered_BFHW, phase_BF and triplet_BF in each batch")
    return batch.numbered_BFHW


def _prepared(
    map_BFHW: Tensor,
    noise: Tensor,
    time_B: Tensor,
    num_numbers: int,
    scale: float,
    moving: float,
    rare: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns noisy shares, the first map's shares, and weighted shares."""
    shares = ids.shares_of(map_BFHW, num_numbers)
    signal, blur = ids.noise_levels(time_B)
    noisy = signal * scale * shares + blur * noise
    return noisy, shares[:, :1], ids.weigh_shares(shares, moving=moving, rare=rare)


_PREPARE = torch.compile(_prepared, dynamic=False)
_ENTROPY = torch.compile(ids.entropy_loss, dynamic=False)
