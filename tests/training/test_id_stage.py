import dataclasses
from typing import Any

import pytest
import torch
from tiny_training import config
from torch import Tensor

from hierasurg_core.errors import DataError
from hierasurg_core.models import M2VTransformer3DModel, S2MTransformer3DModel, ids
from hierasurg_core.progress import SilentProgress
from hierasurg_core.training import Batch, Draws, LatentCacheSource, M2VStage, train
from hierasurg_core.training.checkpoint import WEIGHTS
from hierasurg_core.training.id_stage import S2MIdStage

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "time_embed_dim": 16,
    "condition_embed_dim": 8,
    "condense_dim": 4,
    "text_embed_dim": 16,
}
STAGE = S2MIdStage(num_numbers=6, scale=0.18)


def s2m() -> S2MTransformer3DModel:
    torch.manual_seed(0)
    return S2MTransformer3DModel(**TINY, frame_labels=True, photo_channels=4, **ids.ids_arguments(6))  # type: ignore[arg-type]


def clips(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 6, (count, 3, 4, 6), generator=generator, dtype=torch.uint8)
    return Batch(
        latents_BFCHW=None,
        first_frame_B1CHW=torch.randn(count, 1, 4, 4, 6, generator=generator),
        ids=tuple(f"video01/{start:06d}" for start in range(count)),
        phase_BF=torch.randint(7, (count, 3), generator=generator),
        triplet_BF=torch.randint(-1, 100, (count, 3), generator=generator),
        numbered_BFHW=coarse.repeat_interleave(8, 2).repeat_interleave(8, 3),
    )


def draws(rank: int = 0, world_size: int = 1) -> Draws:
    return Draws(torch.Generator().manual_seed(3), rank, world_size)


class Answers:
    """Answers with given logits and keeps what it was given."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.given: dict[str, Any] = {}

    def __call__(self, latents_BFCHW: Tensor, timesteps_B: Tensor, **given: Any) -> Tensor:
        self.given = {"noisy": latents_BFCHW, "time": timesteps_B, **given}
        return self.logits


def test_the_loss_is_zero_for_the_right_answer_and_grows_with_a_wrong_one():
    batch = clips(2)
    assert batch.numbered_BFHW is not None
    right = Answers(100 * ids.shares_of(batch.numbered_BFHW, 6))
    assert STAGE.losses(right, batch, draws()).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    wrong = Answers(100 * ids.shares_of((batch.numbered_BFHW + 1) % 6, 6))
    assert (STAGE.losses(wrong, batch, draws()) > 10).all()


def test_the_model_is_given_noise_the_first_map_the_photo_and_labels():
    batch = clips(4)
    assert batch.numbered_BFHW is not None
    model = Answers(torch.zeros(4, 3, 6, 16, 24))
    STAGE.losses(model, batch, draws())
    shares = ids.shares_of(batch.numbered_BFHW, 6)
    assert torch.equal(model.given["first_map_B1CHW"], shares[:, :1])
    assert torch.equal(model.given["photo_B1CHW"], batch.first_frame_B1CHW)
    assert batch.phase_BF is not None
    assert torch.equal(model.given["phase_BF"], batch.phase_BF)
    times = model.given["time"]
    assert [int(time) // 250 for time in times] == [0, 1, 2, 3], "times are spread over the batch"
    signal, blur = ids.noise_levels(times)
    noise = (model.given["noisy"] - signal * 0.18 * shares) / blur
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)


def test_two_ranks_draw_what_one_draws():
    batch = clips(4)
    model = s2m()
    with torch.no_grad():
        whole = STAGE.losses(model, batch, draws())
        parts = [
            STAGE.losses(model, batch.select(torch.arange(2) + 2 * rank), draws(rank, 2)) for rank in (0, 1)
        ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_batch_without_maps_is_refused():
    with pytest.raises(DataError, match="numbered_BFHW"):
        STAGE.losses(s2m(), dataclasses.replace(clips(2), numbered_BFHW=None), draws())
    with pytest.raises(DataError, match="no latents to learn from"):
        _ = clips(2).clean_latents
    with pytest.raises(DataError, match=r"numbered_BFHW of a batch is torch\.float32"):
        dataclasses.replace(clips(2), numbered_BFHW=torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_steps_and_two_more_are_four(tmp_path, optimizer: str):
    def run(name: str, steps: int) -> Tensor:
        settings = config(steps=steps, batch=2, optimizer=optimizer, checkpoint_every=2)
        train(s2m(), STAGE, LatentCacheSource(clips(), 2), settings, tmp_path / name, SilentProgress())
        return (tmp_path / name / "transformer" / WEIGHTS).read_bytes()

    whole = run("whole", 4)
    run("parts", 2)
    assert run("parts", 4) == whole


def test_training_lowers_the_loss(tmp_path):
    result = train(
        s2m(),
        STAGE,
        LatentCacheSource(clips(2), 2),
        config(steps=30, batch=2, lr=1e-2, log_every=5),
        tmp_path,
        SilentProgress(),
    )
    with torch.no_grad():
        before = float(STAGE.losses(s2m(), clips(2), draws()).mean())
    assert result.loss is not None
    assert result.loss < 0.8 * before


def test_the_wide_patch_projection_learns_at_a_quarter_of_the_rate():
    from hierasurg_core.training.optimizers import build_optimizer

    wide = S2MTransformer3DModel(**TINY, **ids.ids_arguments(20))  # type: ignore[arg-type]
    groups = build_optimizer(list(wide.named_parameters()), config()).param_groups
    assert [(group["factor"], len(group["params"])) for group in groups][1:] == [(0.25, 1)]
    narrow = build_optimizer(list(s2m().named_parameters()), config()).param_groups
    assert len(narrow) == 1, "12 numbers of 64 cells are fewer than 1,024 inputs"


def test_m2v_of_patches_weighs_what_moves_more():
    torch.manual_seed(0)
    model = M2VTransformer3DModel(
        **TINY, in_channels=8, out_channels=4, maps="patches", num_numbers=6, hierarchical=True
    )
    alpha_bar_T = torch.linspace(0.99, 0.0, 1000)
    still = clips(2)
    assert still.numbered_BFHW is not None
    moving = still.numbered_BFHW.clone()
    moving[:, 1:, :16, :16] = 5
    batch = dataclasses.replace(still, latents_BFCHW=torch.randn(2, 3, 4, 4, 6), numbered_BFHW=moving)
    plain = M2VStage(alpha_bar_T, hierarchical=True, maps_a_latent=1, num_numbers=6)
    weighed = dataclasses.replace(plain, moving=5.0)
    prediction, target = plain.prediction_and_target(model, batch, draws())
    scaled, scaled_target = weighed.prediction_and_target(model, batch, draws())
    ratio = (scaled_target / target).square()[:, :, 0]
    assert float(ratio.mean()) == pytest.approx(1.0, abs=1e-4)
    assert torch.allclose(scaled, ratio.sqrt().unsqueeze(2) * prediction, atol=1e-5)
    assert (ratio[:, 1, :2, :2] > ratio[:, 0, 2:, 3:].max() - 1e-6).all()
