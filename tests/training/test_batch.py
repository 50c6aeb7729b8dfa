import dataclasses

import pytest
import torch
from tiny_training import clips

from hierasurg_core.errors import DataError
from hierasurg_core.training import Batch, Draws


def test_select_takes_the_same_clips_of_everything() -> None:
    data = clips(4)
    chosen = data.select(torch.tensor([3, 1, 3]))
    assert chosen.ids == ("video01/000003", "video01/000001", "video01/000003")
    assert len(chosen) == 3
    for field in dataclasses.fields(Batch):
        if field.name != "ids":
            assert torch.equal(getattr(chosen, field.name), getattr(data, field.name)[[3, 1, 3]])


def test_levels_are_ids_over_the_largest_id() -> None:
    data = dataclasses.replace(
        clips(2),
        maps_BFHW=torch.tensor([[[[0, 2], [3, 4]]], [[[0, 2], [4, 5]]]], dtype=torch.uint8),
        max_id_B=torch.tensor([4, 5]),
    )
    levels = data.levels_BFHW()
    assert levels is not None
    expected = torch.tensor([[[[0.0, 0.5], [0.75, 1.0]]], [[[0.0, 0.4], [0.8, 1.0]]]])
    torch.testing.assert_close(levels, expected)
    as_levels = dataclasses.replace(data, maps_BFHW=levels.half(), max_id_B=None).levels_BFHW()
    assert as_levels is not None
    assert as_levels.dtype == torch.float32
    assert dataclasses.replace(data, maps_BFHW=None).levels_BFHW() is None


def test_dropped_clips_lose_labels_and_maps_but_no_frame() -> None:
    data = clips(3)
    bare = data.without_conditions(torch.tensor([False, True, False]))
    assert data.phase_BF is not None
    assert bare.phase_BF is not None
    assert bare.triplet_BF is not None
    assert bare.maps_BFHW is not None
    assert bare.phase_BF[1].tolist() == bare.triplet_BF[1].tolist() == [-1] * 5
    assert not bare.maps_BFHW[1].any()
    assert torch.equal(bare.phase_BF[[0, 2]], data.phase_BF[[0, 2]])
    assert torch.equal(bare.first_frame_B1CHW, data.first_frame_B1CHW)
    assert data.phase_BF[1].tolist() != [-1] * 5


def test_conditions_are_dropped_together_as_often_as_asked() -> None:
    draws = Draws(torch.Generator().manual_seed(0))
    data = clips(4).select(torch.arange(4).repeat(500))
    bare = data.without_conditions(draws.uniform((2000,)) < 0.2)
    assert bare.phase_BF is not None
    assert bare.triplet_BF is not None
    dropped_B = (bare.phase_BF == -1).all(dim=1)
    assert dropped_B.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (bare.triplet_BF[dropped_B] == -1).all()
    assert data.triplet_BF is not None
    assert torch.equal(bare.triplet_BF[~dropped_B], data.triplet_BF[~dropped_B])


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("latents_BFCHW", torch.zeros(2, 3, 4, 4), "not 5 float dimensions"),
        ("latents_BFCHW", torch.zeros(2, 3, 4, 4, 6, dtype=torch.long), "not 5 float dimensions"),
        ("ids", ("a",), "a batch of 2 clips has 1 ids"),
        ("first_frame_B1CHW", torch.zeros(2, 3, 4, 4, 6), r"first_frame_B1CHW .* expected \(2, 1, 4, 4, 6\)"),
        ("first_map_B1CHW", torch.zeros(1, 1, 4, 4, 6), "first_map_B1CHW"),
        ("phase_BF", torch.zeros(2, 5), "phase_BF .* expected integers"),
        ("triplet_BF", torch.zeros(2, dtype=torch.long), "triplet_BF .* expected integers"),
        ("maps_BFHW", torch.zeros(3, 4, 8, 8), r"maps_BFHW .* expected \(2, F, H, W\)"),
        ("maps_BFHW", torch.zeros(2, 4, 8, 8, dtype=torch.long), "float levels"),
        ("max_id_B", None, "max_id_B of shape"),
    ],
)
def test_what_does_not_fit_is_named(field: str, value: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        dataclasses.replace(clips(2), **{field: value})
