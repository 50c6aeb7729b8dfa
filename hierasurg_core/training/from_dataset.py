"""Batches from a data set on disk: the `BatchSource` of real trainings.

Owns the order of clips, reading ahead, and the drawing of latents from their posterior. What is drawn for a
clip depends on the seed, the epoch and its place in the epoch's order alone, so a resumed run, and one with
another number of processes, gets the very same batches (on the same kind of device).

Legend: B clips, F latent frames, C channels, h w latent sides, S seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hierasurg_core.datasets.dataset import ClipDataset, ClipSample
from hierasurg_core.datasets.usable import unusable_in_words
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.maps import PanopticClip, fit_maps, number_by_appearance
from hierasurg_core.runtime import make_generator
from hierasurg_core.training.batch import Batch

StageName = Literal["s2m", "m2v"]
_LARGEST_SEED = 2**63
_BY_CHANCE = 0.25  # of S2M's clips are numbered by chance, so that it relies on no order


class DatasetSource:
    """Draws batches from a data set, in a new seeded order each epoch, reading ahead in threads.

    All ranks walk the same order and take neighbouring shares of it; an epoch that does not fill the last
    batch is topped up from the next one. For S2M the latents are those of the coloured maps, or on ids there
    are numbered maps instead, and the first frame is the photo at S2M's size. For M2V the latents are drawn
    from the video's posterior, and one of the stored first frames is taken by chance.

    Example:
        >>> source = DatasetSource(open_dataset(Path("dataset")), "m2v", batch=4, device=device)
        >>> batch = next(iter(source))
    """

    def __init__(
        self,
        clips: ClipDataset,
        stage: StageName,
        batch: int,
        seed: int = 0,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        ahead: int = 3,
        num_numbers: int | None = None,
    ) -> None:
        """Looks for the clips that the stage can use.

        Args:
            clips: The data set.
            stage: "s2m" or "m2v".
            batch: Clips a batch, on this rank.
            seed: Of the order and of what is drawn.
            device: Where batches go.
            rank: This process's number.
            world_size: How many processes share the order.
            threads: That read; with a data set that encodes on the fly, 1.
            ahead: Batches read before they are asked for.
            num_numbers: N of a model that takes maps in numbers (see `maps.numbering`); None for any other.

        Raises:
            UsageError: `batch`, `threads` or `ahead` is not positive.
            DataError: No clip has coloured maps, which S2M needs.
        """
        for name, value in (("batch", batch), ("threads", threads), ("ahead", ahead)):
            if not value > 0:
                raise UsageError(f"{name} {value}: it must be at least 1")
        paints = stage == "s2m" and num_numbers is None
        usable = clips.paintable() if paints else list(range(len(clips)))
        if not usable:
            raise DataError(
                f"{clips.manifest.folder} has nothing to train on: "
                f"{unusable_in_words(len(clips), len(clips))}"
            )
        self._clips, self._stage, self._usable = clips, stage, np.array(usable)
        self._num_numbers = num_numbers
        self._batch, self._seed, self._device = batch, seed, torch.device(device)
        self._rank, self._world_size = rank, world_size
        self._threads, self._ahead = threads, ahead
        self._epoch, self._offset = 0, 0

    @property
    def left_out(self) -> int:
        """Clips that this stage cannot learn from."""
        return len(self._clips) - len(self._usable)

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches without end, from where the state says."""
        waiting: deque[tuple[tuple[int, int], list[Future[tuple[ClipSample, int]]]]] = deque()
        places = self._places(self._epoch, self._offset)
        pool = ThreadPoolExecutor(self._threads)
        try:
            while True:
                while len(waiting) <= self._ahead:
                    share, after = next(places)
                    waiting.append((after, [pool.submit(self._read, *place) for place in share]))
                after, futures = waiting.popleft()
                batch = self._collate([future.result() for future in futures])
                self._epoch, self._offset = after
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def state_dict(self) -> dict[str, Any]:
        """Returns {clips, seed, epoch, offset}: clips of this epoch already given out, over all ranks."""
        return {"clips": len(self._usable), "seed": self._seed, "epoch": self._epoch, "offset": self._offset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a state of a source over the same clips; iterators from before go on where they were.

        Raises:
            DataError: It had another number of clips.
        """
        if state["clips"] != len(self._usable):
            raise DataError(
                f"cannot continue in the same order: the run began with {state['clips']} clips and "
                f"{self._clips.manifest.folder} has {len(self._usable)} now; give the same data set, or "
                "start anew in another folder with --out"
            )
        self._seed, self._epoch, self._offset = state["seed"], state["epoch"], state["offset"]

    def _places(
        self, epoch: int, offset: int
    ) -> Iterator[tuple[list[tuple[int, int, int]], tuple[int, int]]]:
        """Yields this rank's (clip, epoch, place) for each batch, and where the stream is after it."""
        order_N = self._order(epoch)
        share = slice(self._rank * self._batch, (self._rank + 1) * self._batch)
        while True:
            taken: list[tuple[int, int, int]] = []
            while len(taken) < self._batch * self._world_size:
                taken.append((int(order_N[offset]), epoch, offset))
                offset += 1
                if offset == len(order_N):
                    epoch, offset = epoch + 1, 0
                    order_N = self._order(epoch)
            yield taken[share], (epoch, offset)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        generator = make_generator((self._seed * 1_000_003 + epoch) % _LARGEST_SEED)
        return self._usable[torch.randperm(len(self._usable), generator=generator).numpy()]

    def _read(self, clip: int, epoch: int, place: int) -> tuple[ClipSample, int]:
        """Returns the clip and the seed of what is drawn for it."""
        with_maps = self._stage == "m2v" or self._num_numbers is not None
        sample = self._clips.get(clip, epoch, with_maps=with_maps)
        return sample, ((self._seed * 1_000_003 + epoch) * 1_000_003 + place + 1) % _LARGEST_SEED

    def _collate(self, drawn: list[tuple[ClipSample, int]]) -> Batch:
        samples = [sample for sample, _ in drawn]
        labels = {
            "phase_BF": self._moved([sample.phase_S for sample in samples]).long(),
            "triplet_BF": self._moved([sample.triplet_S for sample in samples]).long(),
        }
        ids = tuple(sample.id for sample in samples)
        numbered = None
        if self._num_numbers is not None:
            numbered = self._moved([self._numbered(sample, seed) for sample, seed in drawn])
        if self._stage == "s2m" and numbered is not None:
            photo = self._moved([sample.photo_Cij[None] for sample in samples])
            return Batch(None, photo, ids, numbered_BFHW=numbered, **labels)
        if self._stage == "s2m":
            coloured = self._moved(
                [sample.coloured_SCij for sample in samples if sample.coloured_SCij is not None]
            )
            photo = self._moved([sample.photo_Cij[None] for sample in samples])
            return Batch(coloured, photo, ids, first_map_B1CHW=coloured[:, :1], **labels)
        generators = [make_generator(seed, self._device) for _, seed in drawn]
        chosen = [
            int(torch.randint(len(sample.first_frame_KChw), (1,), generator=generator, device=self._device))
            for sample, generator in zip(samples, generators, strict=True)
        ]
        first = [sample.first_frame_KChw[k : k + 1] for sample, k in zip(samples, chosen, strict=True)]
        mean = self._moved([sample.video_mean_TChw for sample in samples])
        spread = torch.exp(0.5 * self._moved([sample.video_logvar_TChw for sample in samples]).float())
        noise = [
            torch.randn(mean.shape[1:], generator=generator, device=self._device) for generator in generators
        ]
        return Batch(
            torch.addcmul(mean.float(), spread, torch.stack(noise)),
            self._moved(first),
            ids,
            maps_BFHW=self._moved([sample.map_SHW for sample in samples if sample.map_SHW is not None]),
            max_id_B=torch.tensor([sample.max_id for sample in samples], device=self._device),
            numbered_BFHW=numbered,
            **labels,
        )

    def _numbered(self, sample: ClipSample, seed: int) -> NDArray[np.uint8]:
        """Returns a clip's maps in numbers, a quarter of S2M's clips by chance; at the stage's own size."""
        assert sample.map_SHW is not None
        assert self._num_numbers is not None
        draws = np.random.default_rng(seed)
        shuffled = draws if self._stage == "s2m" and draws.random() < _BY_CHANCE else None
        clip = PanopticClip(sample.map_SHW, sample.max_id - 1)
        numbered = number_by_appearance(clip, self._num_numbers, shuffled).numbered(clip.map_FHW)
        return numbered if self._stage == "m2v" else fit_maps(numbered, self._clips.manifest.form.map_size_hw)

    def _moved(self, arrays: list[NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self._device, non_blocking=True)
