from collections.abc import Callable
from typing import Any

import pytest
import torch
from generation.tiny_assets import SCHEDULER
from torch import Tensor

from hierasurg_core.generation.sampling import denoise
from hierasurg_core.generation.solvers import advance, solver_steps
from hierasurg_core.models import CogVideoXDPMScheduler
from hierasurg_core.runtime import make_generator

SHAPE = (2, 3, 2, 4, 4)


def scheduler(**changes: object) -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(**{**SCHEDULER, **changes})


def step_of(theirs: CogVideoXDPMScheduler) -> Callable[..., Any]:
    """Its step takes None for what was before, though its annotations do not say so."""
    return theirs.step


def some_model(latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
    return 0.7 * torch.sin(3 * latents_BFCHW[:, :, :2])


@pytest.mark.parametrize("predicts", ["v_prediction", "sample", "epsilon"])
@pytest.mark.parametrize("steps", [1, 2, 7, 15, 50])
def test_each_step_is_that_of_diffusers(steps: int, predicts: str):
    theirs = scheduler(prediction_type=predicts, rescale_betas_zero_snr=predicts != "epsilon")
    draw = make_generator(0)
    before, time_before = None, None
    for step in solver_steps(theirs, steps, "sde-dpm++"):
        noisy, model = (torch.randn(SHAPE, generator=draw, dtype=torch.float64) for _ in range(2))
        state = draw.get_state()
        expected = step_of(theirs)(
            model, before, step.time, time_before, noisy, generator=draw, return_dict=False
        )
        draw.set_state(state)
        noise = None
        for _ in range(step.draws):
            noise = torch.randn(SHAPE, generator=draw, dtype=torch.float64)
        found = advance(step, noisy, model, before, noise)
        for ours, other in zip(found, expected, strict=True):
            assert torch.allclose(ours, other, rtol=1e-6, atol=1e-6)
        before, time_before = expected[1], step.time


def test_the_loop_draws_what_diffusers_draws():
    ours = make_generator(5)
    theirs = make_generator(5)
    torch_scheduler = scheduler()
    found = denoise(
        some_model,
        torch_scheduler,
        torch.zeros(2, 3, 1, 4, 4),
        conditions={},
        dropped={},
        channels=2,
        steps=7,
        guidance=1.0,
        generator=ours,
        on_step=lambda: None,
    )
    latents = torch.randn(SHAPE, generator=theirs)
    clean, before = None, None
    for time in torch_scheduler.timesteps.tolist():
        model = some_model(latents, torch.tensor([time]))
        latents, clean = step_of(torch_scheduler)(
            model, clean, time, before, latents, generator=theirs, return_dict=False
        )
        before = time
    assert clean is not None
    assert torch.allclose(found, clean, atol=1e-5)
    assert torch.equal(torch.randn(3, generator=ours), torch.randn(3, generator=theirs))


def test_a_clip_does_not_depend_on_the_others_of_its_batch():
    def sample(seeds: list[int]) -> Tensor:
        return denoise(
            some_model,
            scheduler(),
            torch.zeros(len(seeds), 3, 1, 4, 4),
            conditions={},
            dropped={},
            channels=2,
            steps=3,
            guidance=1.0,
            generator=[make_generator(seed) for seed in seeds],
            on_step=lambda: None,
        )

    assert torch.equal(sample([1, 2])[1:], sample([2]))
    with pytest.raises(ValueError, match="3 generators for 2 clips"):
        denoise(
            some_model,
            scheduler(),
            torch.zeros(2, 3, 1, 4, 4),
            conditions={},
            dropped={},
            channels=2,
            steps=1,
            guidance=1.0,
            generator=[make_generator(0)] * 3,
            on_step=lambda: None,
        )


@pytest.mark.parametrize(("steps", "bound"), [(5, 0.03), (20, 0.006)])
def test_the_plain_solver_follows_a_flow_that_is_known(steps: int, bound: float):
    """Data of N(0, 1/4): at a level a the flow has scaled its start by sqrt(a / 4 + 1 - a)."""
    alphas = scheduler().alphas_cumprod
    noisy, before = torch.ones(1, dtype=torch.float64), None
    for step in solver_steps(scheduler(), steps, "dpm++"):
        level = float(alphas[step.time])
        spread = level / 4 + 1 - level
        assert abs(noisy.item() / spread**0.5 - 1) < bound
        velocity = (level**0.5 - level**0.5 / 4 / spread) / (1 - level) ** 0.5 * noisy
        noisy, before = advance(step, noisy, velocity, before, None)


def test_the_plain_solver_draws_no_noise():
    plan = solver_steps(scheduler(), 6, "dpm++")
    assert all(step.draws == 0 and step.next_noise == 0 for step in plan)
    assert plan[-1].next_clean == pytest.approx(1)
    assert plan[-1].next_noisy == pytest.approx(0)


def test_what_is_unknown_is_refused():
    with pytest.raises(ValueError, match=r"sde-dpm\+\+ or dpm\+\+"):
        solver_steps(scheduler(), 4, "euler")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        solver_steps(scheduler(), 0, "dpm++")
