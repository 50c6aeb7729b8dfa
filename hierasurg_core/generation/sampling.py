"""From noise to latents: the denoising loop that both stages share.

Owns the order of solver and model calls, classifier-free guidance and the draws of noise. It knows neither
pixels nor what the conditions mean, and changes no global state. Nothing in the loop waits for a GPU: the
solver's numbers are known beforehand, and noise is drawn on the host while the GPU still works.

Legend: B clips, F latent frames, C channels, h w latent rows and columns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hierasurg_core.generation.solvers import Solver, advance, solver_steps
from hierasurg_core.models import CogVideoXDPMScheduler


class Denoiser(Protocol):
    """How S2M and M2V are called; returns the velocity (B, F, C, h, w)."""

    def __call__(self, latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
        """Predicts the velocity of noisy latents that have their condition channels behind them."""
        ...


@torch.inference_mode()
def denoise(
    model: Denoiser,
    scheduler: CogVideoXDPMScheduler,
    condition_BFCHW: Tensor,
    *,
    conditions: Mapping[str, Tensor],
    dropped: Mapping[str, Tensor],
    channels: int,
    steps: int,
    guidance: float,
    generator: torch.Generator | Sequence[torch.Generator],
    on_step: Callable[[], None],
    solver: Solver = "sde-dpm++",
    on_time: Callable[[int], None] = lambda time: None,
) -> Tensor:
    """Samples clean latents.

    Guidance 1 asks the model once a step; any other scale asks for both answers in one batch and returns
    without + guidance * (with - without). All noise is drawn on the generators' device, so a generator on
    the CPU gives the same noise for every device. The solver computes in float32.

    Args:
        model: S2M or M2V.
        scheduler: Its noise levels; its `set_timesteps` is called here.
        condition_BFCHW: What follows the noisy channels: first map and photo, or photo.
        conditions: Named inputs of the model, batch first.
        dropped: The same names with the values that stand for "not given".
        channels: C of the latents.
        steps: Solver steps, at most the scheduler's training steps.
        guidance: Scale, 1 is off.
        generator: Of all noise: one for the batch, or one a clip, whose noise then is the same in any batch.
        on_step: Called after each step has been handed to the device.
        solver: "sde-dpm++" is CogVideoX's own, with fresh noise in each step; "dpm++" and "ddim" draw none.
        on_time: Told the training time step before the model is called with it.

    Returns:
        Scaled latents (B, F, C, h, w), float32, on the condition's device.

    Raises:
        ValueError: steps is not in 1..training steps, or not one generator a clip.
    """
    plan = solver_steps(scheduler, steps, solver)
    device = condition_BFCHW.device
    batch, frames, _, height, width = condition_BFCHW.shape
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) not in (1, batch):
        raise ValueError(f"{len(generators)} generators for {batch} clips: give one, or one a clip")
    shape = (batch // len(generators), frames, channels, height, width)
    guided = guidance != 1
    if guided:
        condition_BFCHW = torch.cat([condition_BFCHW, condition_BFCHW])
        conditions = {name: torch.cat([dropped[name], given]) for name, given in conditions.items()}
    latents_BFCHW = _draw(generators, shape, device) * scheduler.init_noise_sigma
    clean: Tensor | None = None
    for step in plan:
        noisy_BFCHW = torch.cat([latents_BFCHW, latents_BFCHW]) if guided else latents_BFCHW
        on_time(step.time)
        times_B = torch.full((noisy_BFCHW.shape[0],), step.time, device=device)
        velocity = model(torch.cat([noisy_BFCHW, condition_BFCHW], dim=2), times_B, **conditions).float()
        if guided:
            without, with_ = velocity.chunk(2)
            velocity = without + guidance * (with_ - without)
        noise = None
        for _ in range(step.draws):  # all but the last are drawn as diffusers draws them, and not used
            noise = _draw(generators, shape, device)
        latents_BFCHW, clean = advance(step, latents_BFCHW, velocity, clean, noise)
        on_step()
    assert clean is not None
    # Where the steps do not divide 1000 the stochastic solver stops at time 0, which still has noise; its
    # last estimate of the clean latents has none, and is what the solvers return otherwise.
    return clean


def _draw(generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns N(0, 1) of one shape a generator, side by side, without waiting for the device."""
    parts = [torch.randn(shape, generator=generator, device=generator.device) for generator in generators]
    noise = parts[0] if len(parts) == 1 else torch.cat(parts)
    if noise.device.type == "cpu" and device.type == "cuda":
        noise = noise.pin_memory()
    return noise.to(device, non_blocking=True)
