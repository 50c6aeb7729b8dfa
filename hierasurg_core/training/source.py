"""Where batches come from: the seam every data source fills, and the one over tensors in memory.

N clips of a cache, K variants of a first frame, B clips of a batch; other letters as in `batch`. A source
never ends, and its state says exactly which batch comes next; how many steps to take is the trainer's
business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.training.batch import Batch


class BatchSource(Protocol):
    """An endless, resumable stream of this rank's batches.

    `state_dict` describes the stream after the last batch that the iterator has given out (not those a
    source has read ahead), in values JSON can hold. After `load_state_dict`, a new iterator goes on there.
    """

    def __iter__(self) -> Iterator[Batch]:
        """Yields this rank's batches without end."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns where the stream is."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves the stream to where another one was.

        Raises:
            DataError: The state belongs to other data.
        """
        ...


def select_clips(clips: Batch, first_frames_NKCHW: Tensor | None, index_B: Tensor, chance_B: Tensor) -> Batch:
    """Takes clips of a cache, each with one of its first frames' variants where it has such.

    Args:
        clips: The N clips.
        first_frames_NKCHW: K variants of each clip's first frame; None keeps the clips' own.
        index_B: Which clips; lies on the CPU.
        chance_B: Which variants: numbers in [0, 1), on the CPU.
    """
    batch = clips.select(index_B)
    if first_frames_NKCHW is None:
        return batch
    kinds = first_frames_NKCHW.shape[1]
    chosen_B = (chance_B * kinds).long().clamp(max=kinds - 1)
    row_B = (index_B * kinds + chosen_B).to(first_frames_NKCHW.device, non_blocking=True)
    frames = first_frames_NKCHW.flatten(0, 1).index_select(0, row_B).unsqueeze(1)
    return dataclasses.replace(batch, first_frame_B1CHW=frames)


class LatentCacheSource:
    """Draws batches from clips held in memory, on the GPU or not, in a new seeded order each epoch.

    All ranks walk the same order and take neighbouring shares of it, so two ranks with batch b see at each
    step what one rank with batch 2b sees. An epoch that does not fill the last batch is topped up from the
    next one: no clip is left out.

    Example:
        >>> source = LatentCacheSource(clips.to(device), batch=128, seed=0)
        >>> batch = next(iter(source))  # a Batch of 128 clips on that device
    """

    def __init__(
        self,
        clips: Batch,
        batch: int,
        seed: int = 0,
        *,
        first_frames_NKCHW: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Takes all clips as one large batch.

        Args:
            clips: The N clips.
            batch: Clips a batch, on this rank.
            seed: Of the order and of the choice of variants.
            first_frames_NKCHW: K variants of each clip's first frame, of which each draw takes one by
                chance in place of `clips.first_frame_B1CHW`. So cached latents still carry first frames
                of changing noise, as M2V's training asks for.
            rank: This process's number.
            world_size: How many processes share the order.

        Raises:
            UsageError: `batch` is not positive.
            DataError: The variants do not fit the clips.
        """
        if not batch > 0:
            raise UsageError(f"batch {batch}: it must be at least 1")
        expected = (len(clips), *clips.first_frame_B1CHW.shape[2:])
        if first_frames_NKCHW is not None:
            given = tuple(first_frames_NKCHW.shape)
            if len(given) != 5 or given[1] < 1 or (given[0], *given[2:]) != expected:
                raise DataError(f"first_frames_NKCHW is {given}, expected (N, K, C, H, W) as {expected}")
        self._clips = clips
        self._variants = None if first_frames_NKCHW is None else first_frames_NKCHW.contiguous()
        self._batch, self._seed, self._rank, self._world_size = batch, seed, rank, world_size
        self._epoch, self._offset = 0, 0
        self._order: tuple[int, Tensor, Tensor] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches without end, from where the state says."""
        while True:
            yield self._draw()

    def state_dict(self) -> dict[str, Any]:
        """Returns {clips, seed, epoch, offset}: clips of this epoch already given out, over all ranks."""
        return {
            "clips": len(self._clips),
            "seed": self._seed,
            "epoch": self._epoch,
            "offset": self._offset,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a state of a source over the same clips.

        Raises:
            DataError: It had another number of clips.
        """
        if state["clips"] != len(self._clips):
            raise DataError(
                f"cannot continue in the same order: the run began with {state['clips']} clips and there "
                f"are {len(self._clips)} now; give the same data, or start anew in another folder with --out"
            )
        self._seed, self._epoch, self._offset = state["seed"], state["epoch"], state["offset"]

    def _draw(self) -> Batch:
        index_parts, variant_parts, missing = [], [], self._batch * self._world_size
        while missing:
            order_N, chance_N = self._epoch_order()
            part = slice(self._offset, self._offset + missing)
            index_parts.append(order_N[part])
            variant_parts.append(chance_N[part])
            taken = index_parts[-1].numel()
            missing -= taken
            self._offset += taken
            if self._offset == len(self._clips):
                self._epoch, self._offset = self._epoch + 1, 0
        share = slice(self._rank * self._batch, (self._rank + 1) * self._batch)
        index_B = torch.cat(index_parts)[share]
        return select_clips(self._clips, self._variants, index_B, torch.cat(variant_parts)[share])

    def _epoch_order(self) -> tuple[Tensor, Tensor]:
        """The epoch's permutation of the clips and, for each place in it, a number in [0, 1)."""
        if self._order is None or self._order[0] != self._epoch:
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
            order_N = torch.randperm(len(self._clips), generator=generator)
            chance_N = torch.rand(len(self._clips), generator=generator, dtype=torch.float64)
            self._order = (self._epoch, order_N, chance_N)
        return self._order[1], self._order[2]
