from itertools import islice

import pytest
import torch
from tiny_training import clips

from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.training import Draws, LatentCacheSource


def drawn(source: LatentCacheSource, batches: int) -> list[tuple[str, ...]]:
    return [batch.ids for batch in islice(source, batches)]


def test_an_epoch_holds_every_clip_once_in_an_order_of_its_own() -> None:
    names = [name for ids in drawn(LatentCacheSource(clips(6), 4, seed=3), 6) for name in ids]
    epochs = [names[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == list(clips(6).ids) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_larger_than_the_cache_repeats_clips() -> None:
    assert sorted(drawn(LatentCacheSource(clips(2), 5), 1)[0]).count("video01/000000") in (2, 3)


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_state_says_which_batch_comes_next(after: int) -> None:
    source = LatentCacheSource(clips(6), 4, seed=3)
    drawn(source, after)
    resumed = LatentCacheSource(clips(6), 4, seed=8)
    resumed.load_state_dict(source.state_dict())
    assert drawn(resumed, 4) == drawn(source, 4)


def test_two_ranks_share_what_one_would_take() -> None:
    ranks = [LatentCacheSource(clips(6), 2, seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    alone = LatentCacheSource(clips(6), 4, seed=1)
    shares = [drawn(rank, 5) for rank in ranks]
    assert [a + b for a, b in zip(*shares, strict=True)] == drawn(alone, 5)


def test_variants_of_the_first_frame_take_turns_by_chance() -> None:
    variants = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(6, 4, 4, 4, 6)
    clip = torch.arange(6.0).view(6, 1, 1, 1, 1)
    source = LatentCacheSource(clips(6), 6, first_frames_NKCHW=10 * clip + variants)
    seen = []
    for batch in islice(source, 50):
        first = batch.first_frame_B1CHW[:, 0, 0, 0, 0]
        assert (first // 10).tolist() == [float(name[-1]) for name in batch.ids]
        seen.extend((first % 10).tolist())
    assert all(seen.count(variant) > 40 for variant in range(4))


def test_bad_sources_are_refused() -> None:
    with pytest.raises(UsageError, match="batch 0"):
        LatentCacheSource(clips(2), 0)
    with pytest.raises(DataError, match="first_frames_NKCHW"):
        LatentCacheSource(clips(2), 1, first_frames_NKCHW=torch.zeros(2, 4, 4, 6))


def test_draws_of_two_ranks_are_those_of_one() -> None:
    def draw(rank: int, world_size: int) -> list[torch.Tensor]:
        draws = Draws(torch.Generator().manual_seed(5), rank, world_size)
        clips_here = 4 // world_size
        return [
            draws.normal((clips_here, 3)),
            draws.integers(1000, (clips_here,)),
            draws.uniform((clips_here,)),
        ]

    for alone, first, second in zip(draw(0, 1), draw(0, 2), draw(1, 2), strict=True):
        assert torch.equal(alone, torch.cat([first, second]))
