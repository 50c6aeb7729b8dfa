"""How long a run would take here: a few of its own steps, timed.

Owns the timing. Nothing is written, and what was trained is thrown away. Where a step would take minutes, or
the base is not at hand, the time is estimated from how fast this device multiplies matrices; it says which.
Checkpoints and previews come on top.
"""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from hierasurg_core.progress import Progress
from hierasurg_core.runtime import deterministic, device_milliseconds, device_name, resolve_dtype
from hierasurg_core.training.acceleration import use_fastest_kernel
from hierasurg_core.training.metrics import Window
from hierasurg_core.training.plan import TrainingPlan
from hierasurg_core.training.run import build_model, build_stage, open_data
from hierasurg_core.training.setup import accelerated, set_up
from hierasurg_core.training.steps import Stepper
from hierasurg_core.training.trainer import Extras, memory_errors

_STEPS = 2  # timed, after one that warms up
_LONG_S = 60.0  # of a step: so slow a one is estimated, or not repeated
_SIDES = {"cpu": 1024, "cuda": 8192}  # of the matrices whose product shows a device's speed
_SHARE = 0.7  # of the machine's memory that a rehearsal on a CPU may take


@dataclass(frozen=True)
class RunTime:
    """How long a run takes on this device.

    Attributes:
        seconds_a_step: Of one optimiser step.
        seconds: Of all steps that are left.
        steps: How many these are.
        device: "cpu", or what the GPU calls itself.
        measured_steps: Steps that were timed; 0: it is an estimate, and `why` says why.
        why: Why nothing was timed; None where something was.
    """

    seconds_a_step: float
    seconds: float
    steps: int
    device: str
    measured_steps: int
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Returns it in one line."""
        how = f"measured over {self.measured_steps} of its own steps"
        if self.why is not None:
            how = f"estimated from the speed of matrix products, as {self.why}"
        return (
            f"time here: about {duration(self.seconds)} for {self.steps} steps, "
            f"{self.seconds_a_step:.3g} s each on {self.device} ({how})"
        )


def rehearse(plan: TrainingPlan, device: torch.device, progress: Progress) -> RunTime:
    """Times a few steps of a planned run, in this process alone.

    Args:
        plan: Of a dry run too.
        device: Where it would train.
        progress: Is told of the steps.

    Raises:
        HieraSurgError: As `run_training`, where the run itself would fail at its first step.
    """
    left = max(plan.config.steps - (0 if plan.run is None else plan.run.step), 0)
    estimated = _flops_a_step(plan) / _speed(device, plan.config.precision)
    why = _why_not(plan, device, estimated)
    if why is None:
        with deterministic(plan.config.deterministic):
            timed = _time_steps(plan, device, progress)
        a_step = sum(timed) / len(timed)
        return RunTime(a_step, a_step * left, left, device_name(device), len(timed))
    return RunTime(estimated, estimated * left, left, device_name(device), 0, why)


def duration(seconds: float) -> str:
    """Returns a time in words: "45 s", "12 min", "3.2 h" or "2.1 days"."""
    for limit, size, unit in ((90, 1, "s"), (90 * 60, 60, "min")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _time_steps(plan: TrainingPlan, device: torch.device, progress: Progress) -> list[float]:
    """Returns the seconds of steps; the first one, which warms up, counts only where it is slow."""
    config = dataclasses.replace(plan.config, preview_every=0)
    plan = dataclasses.replace(plan, config=config)
    model, lora = build_model(plan, None, progress)
    stage = build_stage(plan, model, device)
    batches, _ = open_data(plan, device, progress)
    extras = Extras(lora=lora, load=plan.load)
    with accelerated(model, config, device) as accelerator, memory_errors(config, extras):
        state, wrapped = set_up(model, stage, batches, config, accelerator, lora)
        if config.precision == "bf16" or config.deterministic:
            number_type = resolve_dtype(config.precision, device)
            use_fastest_kernel(model, plan.load.tokens, number_type, device)
        stepper, window = Stepper(state, wrapped, stage, config), Window(gradients_may_overflow=True)
        progress.start("time steps", _STEPS + 1, "steps")
        timed: list[float] = []
        for _ in range(_STEPS + 1):
            began = time.perf_counter()
            stepper.step(window)
            window.close()
            timed.append(time.perf_counter() - began)
            progress.advance()
            if timed[0] > _LONG_S:
                break
        stepper.close()
    return timed[1:] or timed


def _why_not(plan: TrainingPlan, device: torch.device, estimated: float) -> str | None:
    """Returns why a rehearsal is out of the question, in words; None where it is not."""
    if plan.part is None:
        return "the base is not at hand"
    if device.type == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if plan.estimate.total > _SHARE * memory:
            return "a step does not fit into this machine's memory"
    return "a step would take minutes" if estimated > _LONG_S else None


def _flops_a_step(plan: TrainingPlan) -> float:
    return plan.load.flops_a_clip() * plan.config.batch * plan.config.accumulate


def _speed(device: torch.device, precision: str) -> float:
    """Returns the operations a second of a matrix product in the run's number type."""
    side = _SIDES.get(device.type, _SIDES["cpu"])
    left, right = (
        torch.randn(side, side, device=device).to(resolve_dtype(precision, device)) for _ in range(2)
    )

    def multiply() -> None:
        torch.mm(left, right)

    if device.type == "cuda":
        seconds = device_milliseconds(multiply, device) / 1000
    else:
        multiply()
        began = time.perf_counter()
        multiply()
        seconds = time.perf_counter() - began
    return 2.0 * side**3 / seconds
