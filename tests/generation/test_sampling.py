import pytest
import torch
from generation.tiny_assets import SCHEDULER
from torch import Tensor

from hierasurg_core.generation.sampling import denoise
from hierasurg_core.models import CogVideoXDPMScheduler
from hierasurg_core.runtime import make_generator

SHAPE = (1, 3, 2, 4, 4)


def sample(
    model, *, steps: int = 4, guidance: float = 1.0, conditions=None, dropped=None, seed: int = 0
) -> Tensor:
    return denoise(
        model,
        CogVideoXDPMScheduler(**SCHEDULER),
        torch.zeros(1, 3, 1, 4, 4),
        conditions=conditions or {},
        dropped=dropped or {},
        channels=2,
        steps=steps,
        guidance=guidance,
        generator=make_generator(seed),
        on_step=lambda: None,
    )


class Knows:
    """The perfect model of one clean sample: x_t = sqrt(a) x0 + sqrt(1 - a) noise gives v."""

    def __init__(self, clean: Tensor) -> None:
        self.clean = clean
        self.alphas = CogVideoXDPMScheduler(**SCHEDULER).alphas_cumprod

    def __call__(self, latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
        noisy = latents_BFCHW[:, :, :2]
        alpha = self.alphas[timesteps_B[0]]
        noise = (noisy - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_perfect_model_is_sampled_to_its_clean_latents(steps: int):
    clean = torch.randn(SHAPE, generator=make_generator(3))
    assert torch.allclose(sample(Knows(clean), steps=steps), clean, atol=2e-2)


def test_the_seed_decides():
    def zero(latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
        return latents_BFCHW[:, :, :2] * 0.1

    assert torch.equal(sample(zero, seed=1), sample(zero, seed=1))
    assert not torch.equal(sample(zero, seed=1), sample(zero, seed=2))


def test_guidance_extrapolates_from_the_dropped_condition():
    seen = []

    def model(latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
        seen.append((latents_BFCHW.shape[0], conditions["phase_BF"].flatten().tolist()))
        return conditions["phase_BF"].float().view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 4, 4)

    given = {"phase_BF": torch.tensor([[3]]), "kept": torch.tensor([[1]])}
    dropped = {"phase_BF": torch.tensor([[-1]]), "kept": torch.tensor([[1]])}
    plain = sample(model, steps=1, conditions=given, dropped=dropped)
    assert seen == [(1, [3])]
    guided = sample(model, steps=1, guidance=2.5, conditions=given, dropped=dropped)
    assert seen[1] == (2, [-1, 3])
    # one step from pure noise: the result is minus the velocity, -1 + 2.5 * (3 - -1) = 9
    assert torch.allclose(plain, torch.full(SHAPE, -3.0), atol=1e-4)
    assert torch.allclose(guided, torch.full(SHAPE, -9.0), atol=1e-4)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_steps(steps: int):
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        sample(Knows(torch.zeros(SHAPE)), steps=steps)
