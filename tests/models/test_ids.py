import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from hierasurg_core.models import S2MTransformer3DModel, ids

TINY = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "time_embed_dim": 16}
TINY |= {"condition_embed_dim": 8, "condense_dim": 4, "text_embed_dim": 16}


def s2m(**changes: object) -> S2MTransformer3DModel:
    torch.manual_seed(0)
    return S2MTransformer3DModel(**TINY, frame_labels=True, **ids.ids_arguments(6), **changes).eval()  # type: ignore[arg-type]


def given(**changes: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = {
        "latents_BFCHW": torch.randn(1, 3, 6, 16, 24, generator=generator),
        "timesteps_B": torch.tensor([500]),
        "first_map_B1CHW": torch.rand(1, 1, 6, 16, 24, generator=generator),
        "photo_B1CHW": torch.randn(1, 1, 16, 4, 6, generator=generator),
        "phase_BF": torch.tensor([[1, 1, 2]]),
        "triplet_BF": torch.tensor([[17, 17, 60]]),
    }
    return {**values, **changes}


def test_shares_count_the_pixels_of_a_cell():
    map_HW = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]], dtype=torch.uint8)
    shares = ids.shares_of(map_HW[None, None], 3)
    assert shares.shape == (1, 1, 3, 1, 2)
    assert shares[0, 0, :, 0].tolist() == [[0.75, 0.0], [0.25, 0.5], [0.0, 0.5]]


def test_numbers_come_back_where_an_entity_is_wider_than_a_cell():
    map_HW = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((8, 8), np.uint8))
    given_BFHW = torch.from_numpy(map_HW)[None, None]
    assert torch.equal(ids.numbers_of(ids.shares_of(given_BFHW, 6)), given_BFHW)


def test_a_number_that_is_not_allowed_gives_way_to_the_next_likely():
    shares = torch.tensor([0.2, 0.5, 0.3]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 2, 2)
    allowed = torch.tensor([[True, False, True]])
    assert ids.numbers_of(shares).unique().tolist() == [1]
    assert ids.numbers_of(shares, allowed).unique().tolist() == [2]


def test_noise_levels_are_a_quarter_of_a_circle():
    signal, blur = ids.noise_levels(torch.tensor([499, 999]))
    assert signal.flatten().tolist() == pytest.approx([math.sqrt(0.5), 0.0], abs=1e-6)
    assert blur.flatten().tolist() == pytest.approx([math.sqrt(0.5), 1.0])


def test_maps_lie_under_the_frames_of_their_second():
    assert ids.maps_of_latents(16, 16, 1) == list(range(16))
    assert ids.maps_of_latents(5, 16, 4)[:5] == [0, 0, 0, 0, 1]
    assert ids.maps_of_latents(5, 16, 4)[-3:] == [14, 15, 15]
    # 8 frames a second, 49 frames and 6 maps: the second latent frame covers frames 1 to 4, all of map 0.
    eight = ids.maps_of_latents(13, 6, 4)
    assert len(eight) == 52
    assert eight[4:12] == [0, 0, 0, 0, 0, 0, 0, 1]


class Certain:
    """Answers with one map whatever it is given, and notes when it was asked."""

    def __init__(self, map_BFHW: Tensor, count: int) -> None:
        self.logits = 50 * ids.shares_of(map_BFHW, count)
        self.times: list[int] = []

    def __call__(self, latents_BFCHW: Tensor, timesteps_B: Tensor, **given: Any) -> Tensor:
        self.times.append(int(timesteps_B[0]))
        return self.logits.repeat(len(latents_BFCHW) // len(self.logits), 1, 1, 1, 1)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sampling_arrives_at_what_the_model_is_sure_of(guidance: float):
    map_HW = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((8, 8), np.uint8))
    wanted = torch.from_numpy(map_HW)[None, None].expand(1, 3, -1, -1)
    model = Certain(wanted, 6)
    label = {"phase_BF": torch.zeros(1, 3, dtype=torch.long)}
    shares = ids.sample_shares(
        model,
        torch.randn(1, 3, 6, 8, 12),
        ids.shares_of(wanted[:, :1], 6),
        torch.zeros(1, 1, 16, 2, 3),
        labels=label,
        dropped=label,
        steps=4,
        guidance=guidance,
        scale=0.18,
    )
    assert torch.equal(ids.numbers_of(shares), wanted)
    assert model.times == [999, 749, 499, 249]


def test_known_maps_stay_and_their_noise_leads_to_them():
    known = torch.zeros(1, 2, 16, 16, dtype=torch.uint8)
    model = Certain(torch.ones(1, 3, 16, 16, dtype=torch.uint8), 4)
    shares = ids.sample_shares(
        model,
        torch.randn(1, 3, 4, 8, 8),
        ids.shares_of(known[:, :1], 4),
        torch.zeros(1, 1, 16, 2, 2),
        labels={},
        dropped={},
        steps=2,
        guidance=1.0,
        scale=0.18,
        known_BKNhw=ids.shares_of(known, 4),
    )
    assert ids.numbers_of(shares)[0].flatten(1).unique(dim=1).tolist() == [[0], [0], [1]]


def test_every_input_changes_the_logits():
    model = s2m()
    torch.nn.init.normal_(model.label_proj.weight)  # type: ignore[union-attr]
    with torch.no_grad():
        before = model(**given())
        assert before.shape == (1, 3, 6, 16, 24)
        others = {
            "latents_BFCHW": given()["latents_BFCHW"] + 1,
            "timesteps_B": torch.tensor([20]),
            "first_map_B1CHW": given()["first_map_B1CHW"].flip(2),
            "photo_B1CHW": -given()["photo_B1CHW"],
            "phase_BF": torch.tensor([[1, 1, 3]]),
            "triplet_BF": torch.tensor([[60, 17, 17]]),
        }
        for name, value in others.items():
            assert not torch.allclose(before, model(**given(**{name: value})), atol=1e-5), (
                f"{name} is ignored"
            )


def test_a_label_acts_on_its_own_second():
    model = s2m()
    torch.nn.init.normal_(model.label_proj.weight)  # type: ignore[union-attr]
    for block in model.transformer_blocks:  # without attention a token sees itself and the clip's vector
        for parameter in cast(Any, block).attn1.to_out[0].parameters():
            torch.nn.init.zeros_(parameter)
    swapped = given(triplet_BF=torch.tensor([[17, 60, 17]]))
    with torch.no_grad():
        for condense in (model.phase_condense, model.triplet_condense):
            torch.nn.init.zeros_(cast(Any, condense)[0].weight)
        changed = (model(**given()) - model(**swapped)).abs().amax((0, 2, 3, 4))
    assert changed[0] == 0
    assert changed[1] > 1e-3
    assert changed[2] > 1e-3


def test_what_a_model_on_ids_cannot_take_is_named():
    model = s2m()
    with pytest.raises(ValueError, match="first_map_B1CHW and photo_B1CHW"):
        model(torch.zeros(1, 3, 6, 16, 24), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"\(1, 3, 5, 16, 24\): it takes \(batch, frames, 6"):
        model(**given(latents_BFCHW=torch.zeros(1, 3, 5, 16, 24)))
    with pytest.raises(ValueError, match="12 input channels"):
        S2MTransformer3DModel(**TINY, maps="ids", in_channels=48, out_channels=6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'colours' or 'ids'"):
        S2MTransformer3DModel(**TINY, maps="ID")  # type: ignore[arg-type]


def test_a_saved_model_on_ids_answers_the_same(tmp_path):
    from hierasurg_core.models import load_transformer

    model = s2m()
    model.save_pretrained(tmp_path)
    again = load_transformer(tmp_path, torch.float32)
    assert again.config["maps"] == "ids"
    with torch.no_grad():
        assert torch.equal(model(**given()), again(**given()))


def test_the_loss_of_a_uniform_answer_is_the_weights_times_log_n():
    shares = torch.tensor([0.5, 0.5, 0.0]).view(1, 1, 3, 1, 1).expand(2, 1, 3, 4, 4)
    losses = ids.entropy_loss(torch.zeros(2, 1, 3, 4, 4), 2 * shares)
    assert losses.tolist() == pytest.approx([2 * math.log(3)] * 2)


def test_small_and_moving_things_count_more():
    map_BFHW = torch.zeros(1, 2, 20, 20, dtype=torch.uint8)
    map_BFHW[:, :, :4, :4] = 1  # 4 % of the frame, still
    map_BFHW[:, 1, 10:14, 10:14] = 2  # comes in the second frame
    shares = ids.shares_of(map_BFHW, 4)
    weight = ids.weigh_shares(shares, moving=0.0, rare=0.5).sum(2)[0]
    assert float(weight[0, 0, 0]) == pytest.approx((0.05 / 0.04) ** 0.5)
    assert float(weight[0, 9, 9]) == pytest.approx(0.25)  # (0.05 / 0.96)^.5 is less than the least
    moving = ids.weigh_shares(shares, moving=5.0, rare=0.0).sum(2)[0]
    assert float(moving[0, 0, 0]) == 1.0
    assert float(moving[0, 5, 5]) == pytest.approx(1 + 5 * 0.5 / 1.0)  # strays in one of two frames
