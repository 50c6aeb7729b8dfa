"""From noise to latents: the denoising loop that both stages share.

Owns the order of scheduler and model calls and classifier-free guidance. It knows neither pixels nor what
the conditions mean, and changes no global state.

Legend: B clips, F latent frames, C channels, h w latent rows and columns.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, cast

import torch
from torch import Tensor

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
    generator: torch.Generator,
    on_step: Callable[[], None],
) -> Tensor:
    """Samples clean latents with CogVideoX's DPM solver (a second-order SDE solver).

    Guidance 1 asks the model once a step; any other scale asks for both answers in one batch and returns
    without + guidance * (with - without). All noise is drawn on the generator's device, so a generator on
    the CPU gives the same noise for every device. The solver computes in float32.

    Args:
        model: S2M or M2V.
        scheduler: Its `set_timesteps` is called here.
        condition_BFCHW: What follows the noisy channels: first map and photo, or photo.
        conditions: Named inputs of the model, batch first.
        dropped: The same names with the values that stand for "not given".
        channels: C of the latents.
        steps: Solver steps, at most the scheduler's training steps.
        guidance: Scale, 1 is off.
        generator: Of all noise.
        on_step: Called after each step.

    Returns:
        Scaled latents (B, F, C, h, w), float32, on the condition's device.

    Raises:
        ValueError: steps is not in 1..training steps.
    """
    longest = int(scheduler.config["num_train_timesteps"])
    if not 1 <= steps <= longest:
        raise ValueError(f"steps must lie in 1..{longest}, not {steps}")
    device = condition_BFCHW.device
    batch, frames, _, height, width = condition_BFCHW.shape
    guided = guidance != 1
    if guided:
        condition_BFCHW = torch.cat([condition_BFCHW, condition_BFCHW])
        conditions = {name: torch.cat([dropped[name], given]) for name, given in conditions.items()}
    noise = torch.randn(
        (batch, frames, channels, height, width), generator=generator, device=generator.device
    )
    scheduler.set_timesteps(steps, device=device)
    latents_BFCHW = noise.to(device) * scheduler.init_noise_sigma
    # It takes None for "no step before", though its annotations do not say so.
    solve = cast(Callable[..., tuple[Tensor, Tensor]], scheduler.step)
    clean_before: Tensor | None = None
    time_before: int | None = None
    for time in scheduler.timesteps.tolist():
        noisy_BFCHW = torch.cat([latents_BFCHW, latents_BFCHW]) if guided else latents_BFCHW
        times_B = torch.full((noisy_BFCHW.shape[0],), time, device=device)
        velocity = model(torch.cat([noisy_BFCHW, condition_BFCHW], dim=2), times_B, **conditions).float()
        if guided:
            without, with_ = velocity.chunk(2)
            velocity = without + guidance * (with_ - without)
        latents_BFCHW, clean_before = solve(
            velocity, clean_before, time, time_before, latents_BFCHW, generator=generator, return_dict=False
        )
        time_before = time
        on_step()
    assert clean_before is not None
    # Where the steps do not divide 1000 the solver stops at time 0, which still has noise; its last estimate
    # of the clean latents has none, and is what it returns otherwise.
    return clean_before
