import dataclasses

import pytest
import torch
from tiny_training import ALPHA_BAR_T, clips, m2v
from torch import Tensor

from hierasurg_core.errors import DataError
from hierasurg_core.models import CogVideoXDPMScheduler
from hierasurg_core.training import Draws, M2VStage, S2MStage
from hierasurg_core.training.stages import VelocityStage, add_noise


def scheduler_of_cogvideox() -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
    )


class Knowing:
    """A model that is told what to answer and keeps what it was asked."""

    def __init__(self, answer: Tensor | None = None) -> None:
        self.answer = answer
        self.asked: dict[str, Tensor | None] = {}

    def __call__(
        self,
        latents_BFCHW: Tensor,
        timesteps_B: Tensor,
        phase_BF: Tensor | None = None,
        triplet_BF: Tensor | None = None,
        maps_BFHW: Tensor | None = None,
    ) -> Tensor:
        self.asked = {
            "latents": latents_BFCHW,
            "times": timesteps_B,
            "phase": phase_BF,
            "triplet": triplet_BF,
            "maps": maps_BFHW,
        }
        return latents_BFCHW[:, :, :4] if self.answer is None else self.answer


def draws() -> Draws:
    return Draws(torch.Generator().manual_seed(1))


def test_noise_is_the_schedulers() -> None:
    scheduler = scheduler_of_cogvideox()
    clean = clips(6).clean_latents
    noisy, velocity, times = add_noise(clean, scheduler.alphas_cumprod, draws())
    again = draws()
    assert torch.equal(times, again.integers(1000, (6,)))
    noise = again.normal(tuple(clean.shape))
    theirs = torch.IntTensor(times.tolist())
    torch.testing.assert_close(noisy, scheduler.add_noise(clean, noise, theirs))
    torch.testing.assert_close(velocity, scheduler.get_velocity(clean, noise, theirs))


def test_loss_is_the_published_one_at_all_times() -> None:
    """mean((x0' - x0)^2 / (1 - alpha_bar)), computed in double precision with the scheduler's functions."""
    scheduler = scheduler_of_cogvideox()
    clean = torch.randn(1000, 1, 1, 2, 2, dtype=torch.float64)
    noise, wrong = torch.randn_like(clean), torch.randn_like(clean)
    times = torch.IntTensor(range(1000))
    noisy = scheduler.add_noise(clean, noise, times)
    velocity = scheduler.get_velocity(clean, noise, times)
    predicted = velocity + wrong
    guess = scheduler.get_velocity(predicted, noisy, times)
    weight = 1 / (1 - scheduler.alphas_cumprod)
    assert torch.isfinite(weight).all()
    published = ((guess - clean) ** 2 * weight.view(-1, 1, 1, 1, 1)).flatten(1).mean(1)
    ours = (predicted - velocity).square().flatten(1).mean(1)
    torch.testing.assert_close(ours, published)


@pytest.mark.parametrize("stage", [S2MStage(ALPHA_BAR_T), M2VStage(ALPHA_BAR_T)])
def test_perfect_velocity_has_no_loss(stage: VelocityStage) -> None:
    batch = clips(6)
    _, target = stage.prediction_and_target(Knowing(), batch, draws())
    prediction, again = stage.prediction_and_target(Knowing(target), batch, draws())
    assert torch.equal(prediction, again)
    signal_at_the_end = add_noise(batch.clean_latents, torch.zeros(1), draws())
    assert torch.equal(signal_at_the_end[1], -batch.clean_latents)
    assert torch.isfinite(target).all()


def test_times_are_uniform_over_all() -> None:
    _, _, times = add_noise(torch.zeros(20_000, 1, 1, 1, 1), ALPHA_BAR_T, draws())
    assert times.min() == 0
    assert times.max() == 999
    tenths = torch.bincount(times // 100, minlength=10) / 20_000
    torch.testing.assert_close(tenths, torch.full((10,), 0.1), atol=0.01, rtol=0)


def test_s2m_channels_are_noisy_first_map_first_frame() -> None:
    model, batch = Knowing(), clips(2)
    S2MStage(ALPHA_BAR_T).prediction_and_target(model, batch, draws())
    latents = model.asked["latents"]
    assert latents is not None
    assert batch.first_map_B1CHW is not None
    assert latents.shape == (2, 3, 12, 4, 6)
    assert torch.equal(latents[:, :1, 4:8], batch.first_map_B1CHW)
    assert torch.equal(latents[:, :1, 8:], batch.first_frame_B1CHW)
    assert not latents[:, 1:, 4:].any()
    assert model.asked["phase"] is batch.phase_BF
    assert model.asked["triplet"] is batch.triplet_BF
    assert model.asked["maps"] is None


def test_m2v_channels_are_noisy_first_frame() -> None:
    model, batch = Knowing(), clips(2)
    M2VStage(ALPHA_BAR_T).prediction_and_target(model, batch, draws())
    latents, maps, levels = model.asked["latents"], model.asked["maps"], batch.levels_BFHW()
    assert latents is not None
    assert maps is not None
    assert levels is not None
    assert latents.shape == (2, 3, 8, 4, 6)
    assert torch.equal(latents[:, :1, 4:], batch.first_frame_B1CHW)
    assert not latents[:, 1:, 4:].any()
    assert torch.equal(maps, levels)
    assert model.asked["phase"] is None
    M2VStage(ALPHA_BAR_T, hierarchical=True).prediction_and_target(model, batch, draws())
    assert model.asked["phase"] is batch.phase_BF
    assert model.asked["triplet"] is batch.triplet_BF


def test_half_latents_are_noised_in_float32() -> None:
    batch = dataclasses.replace(
        clips(2),
        latents_BFCHW=clips(2).clean_latents.half(),
        first_frame_B1CHW=clips(2).first_frame_B1CHW.bfloat16(),
    )
    prediction, target = M2VStage(ALPHA_BAR_T).prediction_and_target(m2v(), batch, draws())
    assert prediction.dtype == target.dtype == torch.float32


def test_what_a_stage_lacks_is_named() -> None:
    without = dataclasses.replace(clips(2), first_map_B1CHW=None, maps_BFHW=None)
    with pytest.raises(DataError, match="first_map_B1CHW, phase_BF and triplet_BF"):
        S2MStage(ALPHA_BAR_T).prediction_and_target(Knowing(), without, draws())
    unlabelled = dataclasses.replace(clips(2), triplet_BF=None)
    with pytest.raises(DataError, match="hierarchical M2V's training needs"):
        M2VStage(ALPHA_BAR_T, hierarchical=True).prediction_and_target(Knowing(), unlabelled, draws())
    with pytest.raises(DataError, match="maps_BFHW"):
        M2VStage(ALPHA_BAR_T).prediction_and_target(Knowing(), without, draws())
