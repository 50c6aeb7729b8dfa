"""How a stage is sampled: denoising steps, scale of guidance, solver.

Owns these settings, their ranges and their form in a pipeline's `model_index.json`, where each stage has its
own. Refuses: the arithmetic behind them (`generation.solvers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from hierasurg_core.config.checks import at_least, check_choices
from hierasurg_core.errors import UsageError

Solver = Literal["sde-dpm++", "dpm++", "ddim"]
SOLVERS: tuple[Solver, ...] = ("sde-dpm++", "dpm++", "ddim")
STAGES = ("s2m", "m2v")


@dataclass(frozen=True)
class StageSampling:
    """How a stage is sampled; without arguments, as a model of which nothing is said.

    That is 10 steps of DPM-Solver++, not the 100 of the stochastic solver that the published models were
    sampled with: on 256 clips and 258 requests of the mini models nothing is lost by it (24.3 dB against
    23.6, 62 % of requests against 55 %; `tests/benchmarks/bench_steps.py`). Published weights have not been
    measured.

    Attributes:
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance, 1 is off.
        solver: One of `SOLVERS`.

    Raises:
        UsageError: A number is out of range, or there is no such solver.
    """

    steps: int = 10
    guidance: float = 1.0
    solver: Solver = "dpm++"

    def __post_init__(self) -> None:
        """Checks types and ranges: an index is a file that people write."""
        for name, kinds in (("steps", (int,)), ("guidance", (int, float))):
            if type(getattr(self, name)) not in kinds:
                raise UsageError(f"{name} must be a number, not {getattr(self, name)!r}")
        at_least("steps", self.steps, 1)
        at_least("guidance", self.guidance, 0)
        check_choices(self)

    def settled(self, stage: str, asked: Asked) -> StageSampling:
        """Returns how "s2m" or "m2v" is sampled: as asked for, and in all else as here."""
        guidance = asked.guidance
        if stage == "s2m" and asked.maps_guidance is not None:
            guidance = asked.maps_guidance
        return StageSampling(
            self.steps if asked.steps is None else asked.steps,
            self.guidance if guidance is None else guidance,
            asked.solver or self.solver,
        )


class Asked(Protocol):
    """What a call asks for of both stages, and of S2M alone; None: as is the stage's own."""

    @property
    def steps(self) -> int | None:
        """Denoising steps."""
        ...

    @property
    def guidance(self) -> float | None:
        """Scale of both stages."""
        ...

    @property
    def maps_guidance(self) -> float | None:
        """Scale of S2M alone."""
        ...

    @property
    def solver(self) -> Solver | None:
        """One of `SOLVERS`."""
        ...


def own_sampling(
    samplings: Mapping[str, StageSampling], stage: str, distilled_steps: int | None, *, on_ids: bool = False
) -> StageSampling:
    """Returns how a model is sampled unless told otherwise.

    Args:
        samplings: Of the stages of which anything is said; another is `StageSampling()`.
        stage: The model's.
        distilled_steps: A few-step student's number of steps: it is made for these, by DDIM, and has its
            teacher's guidance built in. None for any other model.
        on_ids: Whether it is an S2M on ids, which needs 8 steps of DDIM where nothing is said.
    """
    if distilled_steps is not None:
        return StageSampling(distilled_steps, 1.0, "ddim")
    return samplings.get(stage, StageSampling(8, 1.0, "ddim") if on_ids else StageSampling())


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
