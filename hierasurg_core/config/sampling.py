"""How a stage is sampled: denoising steps, scale of guidance, solver.

Owns these settings, their ranges and their form in a pipeline's `model_index.json`, where each stage has its
own. Refuses: the arithmetic behind them (`generation.solvers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from hierasurg_core.config.checks import at_least, check_choices
from hierasurg_core.errors import UsageError

Solver = Literal["sde-dpm++", "dpm++", "ddim"]
SOLVERS: tuple[Solver, ...] = ("sde-dpm++", "dpm++", "ddim")
STAGES = ("s2m", "m2v")


@dataclass(frozen=True)
class StageSampling:
    """How a stage is sampled; without arguments, as the published models are (reference-model.md, section 3).

    Attributes:
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance, 1 is off.
        solver: One of `SOLVERS`.

    Raises:
        UsageError: A number is out of range, or there is no such solver.
    """

    steps: int = 50
    guidance: float = 1.0
    solver: Solver = "sde-dpm++"

    def __post_init__(self) -> None:
        """Checks types and ranges: an index is a file that people write."""
        for name, kinds in (("steps", (int,)), ("guidance", (int, float))):
            if type(getattr(self, name)) not in kinds:
                raise UsageError(f"{name} must be a number, not {getattr(self, name)!r}")
        at_least("steps", self.steps, 1)
        at_least("guidance", self.guidance, 0)
        check_choices(self)

    def changed(self, steps: int | None, guidance: float | None, solver: Solver | None) -> StageSampling:
        """Returns what results where somebody asks for some of the three; None: as it is."""
        return StageSampling(
            self.steps if steps is None else steps,
            self.guidance if guidance is None else guidance,
            solver or self.solver,
        )


def own_sampling(default: StageSampling, distilled_steps: int | None) -> StageSampling:
    """Returns how a model is sampled unless told otherwise.

    Args:
        default: Of its stage.
        distilled_steps: A few-step student's number of steps: it is made for these, by DDIM, and has its
            teacher's guidance built in. None for any other model.
    """
    return default if distilled_steps is None else StageSampling(distilled_steps, 1.0, "ddim")


def as_index(samplings: Mapping[str, StageSampling]) -> dict[str, dict[str, Any]]:
    """Returns the form of `model_index.json`, by stage."""
    return {stage: dataclasses.asdict(sampling) for stage, sampling in samplings.items()}


def of_index(said: object) -> dict[str, StageSampling]:
    """Returns what an index says of the stages that it names.

    Raises:
        UsageError: It names another stage or setting, or an impossible value.
    """
    found: dict[str, StageSampling] = {}
    for stage, settings in _named(said, "stages").items():
        if stage not in STAGES:
            raise UsageError(f"{stage!r} is no stage: use {' or '.join(STAGES)}")
        given = _named(settings, f"settings of {stage}")
        names = [field.name for field in dataclasses.fields(StageSampling)]
        if not set(given) <= set(names):
            raise UsageError(f"{stage} has {settings!r}: it takes {', '.join(names)}")
        found[stage] = StageSampling(**given)
    return found


def _named(said: object, what: str) -> Mapping[str, Any]:
    if not isinstance(said, Mapping):
        raise UsageError(f"it must name {what}, not {said!r}")
    return cast(Mapping[str, Any], said)
