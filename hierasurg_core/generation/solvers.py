"""Solvers of the diffusion equation as plain numbers, worked out before the first call of a model.

Owns the arithmetic of a step. A solver is a list of `SolverStep`: floats on the host, so that a step is a
few products on the device and nothing waits for it. Refuses: models, noise and loops (`sampling`).

With alpha_bar a, signal sqrt(a), blur s = sqrt(1 - a), log ratio l = log(sqrt(a) / s), h = l' - l to the next
time, r = h_before / h and the clean estimate x0, DPM-Solver++ of second order (Lu et al. 2022,
arXiv 2211.01095, algorithm 2M) goes

    D  = (1 + 1 / 2r) x0 - 1 / 2r x0_before
    x' = s' / s x - sqrt(a') (exp(-h) - 1) D

and its stochastic form, which CogVideoX samples with, x' = s' / s exp(-h) x - sqrt(a') (exp(-2h) - 1) D +
s' sqrt(1 - exp(-2h)) noise. With D = x0 the first of the two is DDIM (Song et al. 2021, arXiv 2010.02502),
the only one that a few-step student is made for (`training.distill`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from hierasurg_core.config.sampling import SOLVERS, Solver
from hierasurg_core.models import CogVideoXDPMScheduler


@dataclass(frozen=True)
class SolverStep:
    """One step: two linear combinations.

    clean = clean_noisy * noisy + clean_model * model, then
    next = next_noisy * noisy + next_clean * clean + next_before * clean_before + next_noise * noise.

    Attributes:
        time: Training time step that the model is asked at.
        clean_noisy: Weight of the noisy latents in the clean estimate.
        clean_model: Weight of what the model gave.
        next_noisy: Weight of the noisy latents in the next ones.
        next_clean: Weight of the clean estimate.
        next_before: Weight of the clean estimate of the step before; 0 in the first step.
        next_noise: Weight of fresh noise; 0 for a solver that draws none.
        draws: How often diffusers' scheduler draws noise in this step; the last draw is the one it uses.
    """

    time: int
    clean_noisy: float
    clean_model: float
    next_noisy: float
    next_clean: float
    next_before: float
    next_noise: float
    draws: int


def solver_steps(scheduler: CogVideoXDPMScheduler, steps: int, solver: Solver) -> tuple[SolverStep, ...]:
    """Returns the steps from pure noise to clean latents.

    "sde-dpm++" does what the scheduler's own `step` does, its times included: where the steps do not divide
    the training steps these lie one or two beside the next step's. "dpm++" and "ddim" go to the next step's
    time.

    Args:
        scheduler: Its noise levels and spacing; `set_timesteps` is called.
        steps: How many, at most the scheduler's training steps.
        solver: One of `SOLVERS`.

    Raises:
        ValueError: No such solver, steps out of range, or a scheduler that predicts none of the three kinds.
    """
    longest = int(scheduler.config["num_train_timesteps"])
    if not 1 <= steps <= longest:
        raise ValueError(f"steps must lie in 1..{longest}, not {steps}")
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}: use {' or '.join(SOLVERS)}")
    scheduler.set_timesteps(steps)
    times: list[int] = scheduler.timesteps.tolist()
    if solver != "sde-dpm++":
        return steps_along(scheduler, [*times, -1], solver)
    found = []
    for index, time in enumerate(times):
        following = time - longest // steps
        before = _level(scheduler, times[index - 1]) if index and following >= 0 else None
        levels = _level(scheduler, time), _level(scheduler, following)
        found.append(_step(time, *levels, before, True, scheduler.config["prediction_type"]))
    return tuple(found)


def steps_along(
    scheduler: CogVideoXDPMScheduler, times: Sequence[int], solver: Literal["dpm++", "ddim"]
) -> tuple[SolverStep, ...]:
    """Returns the steps without fresh noise from each of some times to the next.

    Args:
        scheduler: Its noise levels.
        times: Falling training time steps; a negative last one stands for clean latents.
        solver: Of second order from the second step on, or of first.
    """
    found = []
    for index, (time, following) in enumerate(pairwise(times)):
        before = None
        if index and following >= 0 and solver == "dpm++":
            before = _level(scheduler, times[index - 1])
        levels = _level(scheduler, time), _level(scheduler, following)
        found.append(_step(time, *levels, before, False, scheduler.config["prediction_type"]))
    return tuple(found)


def advance(
    step: SolverStep, noisy: Tensor, model: Tensor, clean_before: Tensor | None, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the next noisy latents and the clean estimate, in the latents' own number type and place.

    Args:
        step: Which.
        noisy: Latents at its time.
        model: What the model gave for them.
        clean_before: The clean estimate of the step before; needed where `step.next_before` is not 0.
        noise: N(0, 1) of the same shape; needed where `step.next_noise` is not 0.
    """
    clean = noisy * step.clean_noisy + model * step.clean_model
    following = noisy * step.next_noisy + clean * step.next_clean
    if step.next_before:
        assert clean_before is not None, "only the first step has no step before"
        following = following + clean_before * step.next_before
    if step.next_noise:
        assert noise is not None, "a stochastic solver takes noise"
        following = following + noise * step.next_noise
    return following, clean


def _step(
    time: int, level: float, target: float, before: float | None, stochastic: bool, predicts: str
) -> SolverStep:
    signal, blur = math.sqrt(level), math.sqrt(1 - level)
    clean = {
        "v_prediction": (signal, -blur),
        "epsilon": (1 / signal, -blur / signal) if signal else (math.nan, math.nan),
        "sample": (0.0, 1.0),
    }
    if predicts not in clean:
        raise ValueError(f"the scheduler predicts {predicts!r}, not {', '.join(clean)}")
    ratio, ratio_next = _log_ratio(level), _log_ratio(target)
    length = ratio_next - ratio
    power = 2 if stochastic else 1
    keep = math.sqrt((1 - target) / (1 - level)) * (math.exp(-length) if stochastic else 1.0)
    pull = -math.sqrt(target) * math.expm1(-power * length)
    lean = 0.0
    if before is not None:
        lean = length / (2 * (ratio - _log_ratio(before)))  # 1 / 2r; 0 after a step from no signal at all
    return SolverStep(
        time=time,
        clean_noisy=clean[predicts][0],
        clean_model=clean[predicts][1],
        next_noisy=keep,
        next_clean=pull * (1 + lean),
        next_before=-pull * lean,
        next_noise=math.sqrt((1 - target) * -math.expm1(-2 * length)) if stochastic else 0.0,
        draws=(2 if before is not None else 1) if stochastic else 0,
    )


def _level(scheduler: CogVideoXDPMScheduler, time: int) -> float:
    """alpha_bar at a training time step; that of clean latents below the first."""
    return float(scheduler.alphas_cumprod[time] if time >= 0 else scheduler.final_alpha_cumprod)


def _log_ratio(level: float) -> float:
    if level <= 0:
        return -math.inf
    return math.inf if level >= 1 else 0.5 * (math.log(level) - math.log1p(-level))
