"""Random numbers of a training step, the same whether one process takes the batch or several share it.

Every rank draws for all clips of the global batch from a generator in the same state and keeps its share.
So two ranks with batch b train on the noise and times that one rank with batch 2b would, and one
generator's state describes all ranks. B is this rank's clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """A generator and the share of its numbers that belongs to this rank.

    Attributes:
        generator: Lies on the device the numbers are needed on; in the same state on all ranks.
        rank: Which share.
        world_size: How many shares; all ranks have equally many clips.
    """

    generator: torch.Generator
    rank: int = 0
    world_size: int = 1

    def normal(self, shape_B: tuple[int, ...]) -> Tensor:
        """Returns float32 numbers of N(0, 1); the first dimension counts this rank's clips."""
        whole = self._whole(shape_B)
        return self._share(torch.randn(whole, generator=self.generator, device=self.generator.device))

    def uniform(self, shape_B: tuple[int, ...]) -> Tensor:
        """Returns float32 numbers in [0, 1)."""
        whole = self._whole(shape_B)
        return self._share(torch.rand(whole, generator=self.generator, device=self.generator.device))

    def stratified(self, clips: int) -> Tensor:
        """Returns a float32 number in [0, 1) for each clip, one from each of equally many parts of it.

        The parts are those of all ranks' clips together.
        """
        count = clips * self.world_size
        place = torch.arange(count, device=self.generator.device)
        drawn = torch.rand(count, generator=self.generator, device=self.generator.device)
        return self._share((place + drawn) / count)

    def integers(self, high: int, shape_B: tuple[int, ...]) -> Tensor:
        """Returns int64 numbers in 0..high - 1."""
        whole = self._whole(shape_B)
        return self._share(
            torch.randint(0, high, whole, generator=self.generator, device=self.generator.device)
        )

    def _whole(self, shape_B: tuple[int, ...]) -> tuple[int, ...]:
        return (shape_B[0] * self.world_size, *shape_B[1:])

    def _share(self, whole: Tensor) -> Tensor:
        clips = whole.shape[0] // self.world_size
        return whole[self.rank * clips : (self.rank + 1) * clips]
