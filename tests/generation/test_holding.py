import pytest
import torch
from generation.tiny_assets import SCHEDULER
from torch import Tensor

from hierasurg_core.generation.holding import Held
from hierasurg_core.generation.sampling import denoise
from hierasurg_core.models import CogVideoXDPMScheduler
from hierasurg_core.runtime import make_generator


def model(latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
    """Answers with noise that sees all frames."""
    return latents_BFCHW[:, :, :2] - latents_BFCHW[:, :, :2].mean(dim=1, keepdim=True)


def sample(weights: tuple[float, ...] | None, known_BKCHW: Tensor, guidance: float = 1.0) -> Tensor:
    scheduler = CogVideoXDPMScheduler(**SCHEDULER)
    return denoise(
        model if weights is None else Held(model, scheduler, known_BKCHW, weights),
        scheduler,
        torch.zeros(1, 3, 1, 4, 4),
        conditions={},
        dropped={},
        channels=2,
        steps=6,
        guidance=guidance,
        generator=make_generator(0),
        on_step=lambda: None,
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_known_latents_stay_and_the_others_see_them(guidance: float):
    known = torch.randn(1, 2, 2, 4, 4, generator=make_generator(1))
    free = sample(None, known, guidance)
    held = sample((1.0, 1.0), known, guidance)
    assert torch.allclose(held[:, :2], known, atol=2e-2)
    assert not torch.allclose(held[:, 2], free[:, 2], atol=0.1)


def test_a_weight_of_nothing_changes_nothing_and_half_lies_between():
    known = torch.full((1, 1, 2, 4, 4), 5.0)
    free = sample(None, known)
    assert torch.equal(sample((0.0,), known), free)
    half = sample((0.5,), known)[:, 0].mean()
    assert free[:, 0].mean() < half < 5


def test_wrong_weights_are_refused():
    known = torch.zeros(1, 2, 2, 4, 4)
    for weights in ((1.0,), (1.0, 2.0)):
        with pytest.raises(ValueError, match="for each of 2 known frames"):
            Held(model, CogVideoXDPMScheduler(**SCHEDULER), known, weights)
