"""Going on with a run: which settings it keeps, which may change, and what the user is told of both.

Owns the comparison of a call's settings with the record of the run that it would go on with. A setting that
was not given is taken from the run. One that changes the model, the optimiser or the data is refused; one
that does neither is taken over, with a note of the old and the new value. A finished run with no step left is
left as it is. Reads JSON alone, before any weight is read or anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig, load_config, to_dict
from hierasurg_core.config.train import STUDENT_SUFFIX, is_preset
from hierasurg_core.datasets.manifest import MANIFEST
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.models.text_vectors import TEXT_VECTORS
from hierasurg_core.models.trained import is_finished
from hierasurg_core.training.checkpoint import choose_checkpoint, read_state
from hierasurg_core.training.memory import changes_of

DATA = "data.json"
_DIGEST = "digest"
_STAGES = {"s2m": ("s2m", "s2m-student"), "m2v": ("m2v", "m2v-unconditional", "m2v-student")}
_TOLD = frozenset(
    {
        *("steps", "batch", "accumulate", "lr", "warmup", "schedule", "beta1", "beta2", "weight_decay"),
        *("grad_clip", "precision", "condition_dropout", "compile", "deterministic", "sharding"),
        *("checkpoint_every", "keep", "log_every", "preview_every", "previews", "preview_steps", "report_to"),
    }
)
"""Settings that may change from one session to the next; a note tells old and new."""
_OF_MEMORY = frozenset({"memory", "offload", "gradient_checkpointing", "keep_attention"})
_OF_A_CALL = frozenset(
    {
        *("out", "resume", "device", "dataset", "text_vectors", "fps", "epochs", "stage", "export"),
        *("max_seconds", "max_restarts", "gpus", "nodes", "node_rank", "rendezvous"),
    }
)
"""Settings of one call; where they concern the run they are checked by content (see `expect_same_data`)."""

StageConfig = TrainS2MConfig | TrainM2VConfig


@dataclass(frozen=True)
class RunRecord:
    """What a run says of itself.

    Attributes:
        checkpoint: To go on from.
        step: Optimiser steps done at it.
        seconds: Time spent on them.
        stage: "s2m", "m2v", "m2v-unconditional" or that of a student.
        config: The settings of its last session.
        model: The constructor's arguments of its model, and what else its `config.json` holds.
        data: What it says of its data set; empty where it says nothing.
        finished: Whether its folder holds the finished model of this very step.
    """

    checkpoint: Path
    step: int
    seconds: float
    stage: str
    config: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    finished: bool

    def value_of(self, name: str) -> Any:
        """Returns a setting of the run; where it took its base's, what the model has."""
        said = self.config.get(name)
        return self.model.get(name) if said is None else said


@dataclass(frozen=True)
class Continuation:
    """The settings with which a run goes on.

    Attributes:
        config: Resolved against the run.
        notes: What was taken over, kept, or not used.
        is_done: Whether no step is left, so that nothing is trained or written.
    """

    config: StageConfig
    notes: tuple[str, ...]
    is_done: bool


def read_record(out: Path, resume: str) -> RunRecord | None:
    """Returns what the run says that a call would go on with; None where it starts anew.

    Args:
        out: The run's folder; it need not exist.
        resume: As `choose_checkpoint` takes it.

    Raises:
        UsageError: As `choose_checkpoint`.
        WeightsError: The checkpoint's record is damaged.
    """
    checkpoint = choose_checkpoint(out, resume)
    if checkpoint is None:
        return None
    state = read_state(checkpoint)
    config = state.get("config")
    return RunRecord(
        checkpoint=checkpoint,
        step=state["step"],
        seconds=state["seconds"],
        stage=state["stage"],
        config=config if isinstance(config, dict) else {},
        model=_said(checkpoint / "transformer" / "config.json"),
        data=_said(checkpoint.parent / DATA),
        finished=checkpoint.parent.resolve() == out.resolve() and is_finished(out, state["step"]),
    )


def go_on(config: StageConfig, stage: str, given: Mapping[str, str] | None, run: RunRecord) -> Continuation:
    """Settles a call's settings against the run that it goes on with.

    Args:
        config: What was asked for.
        stage: "s2m" or "m2v".
        given: Settings that were given, and by what (see `config.given_settings`); None: all but those that
            are None.
        run: From `read_record`.

    Raises:
        WeightsError: The run is one of another stage.
        UsageError: A setting that was given would change the model, the optimiser or the data. One line names
            each with the asked and the run's value.
    """
    asked = to_dict(config)
    if given is None:
        given = {name: "" for name, value in asked.items() if value is not None}
    _expect_stage(config, stage, given, run)
    settings = dict(asked)
    refused: list[str] = []
    changed: list[str] = []
    kept: list[str] = []
    for name in asked:
        if name in _OF_MEMORY or name in _OF_A_CALL or name not in run.config:
            continue
        old, new = run.value_of(name), _effective(name, config, given, run)
        if new is None or _same(name, old, new):
            settings[name] = run.config[name]
            if new is None and run.config[name] != asked[name]:
                kept.append(f"{name} {_shown(old)}")
        elif _may_change(name, old, new):
            changed.append(f"{name} {_shown(new)} (was {_shown(old)})")
        else:
            refused.append(f"{_named(name, given)} {_shown(new)}, the run has {_shown(old)}")
    settings |= _memory(asked, given, run)
    if "stage" not in given and "stage" in run.config and "stage" in asked:
        settings["stage"] = run.config["stage"]
    if "text_vectors" not in given and settings.get("text_condition") == "vectors":
        settings["text_vectors"] = str(run.checkpoint.parent / TEXT_VECTORS)
    done = run.finished and settings["epochs"] is None and settings["steps"] <= run.step
    if refused and not done:
        raise UsageError(
            f"{run.checkpoint.parent} goes on as it was begun: asked for {'; '.join(refused)}; leave "
            f"{'it' if len(refused) == 1 else 'them'} out to go on, or {_anew(config, run)}"
        )
    if done:
        own = {name: run.config[name] for name in asked if name in run.config and name not in _OF_A_CALL}
        return Continuation(
            _built(config, stage, settings | own), (_left_alone(config, run, [*refused, *changed]),), True
        )
    notes = [f"as the run was begun: {', '.join(kept)}"] if kept else []
    notes += [f"from here on: {', '.join(changed)}"] if changed else []
    return Continuation(_built(config, stage, settings), tuple(notes), False)


def describe_data(dataset: Path) -> dict[str, Any]:
    """Returns what a run keeps of its data set's manifest, for its record and its model's card.

    Raises:
        DataError: The manifest cannot be read.
    """
    said = read_json(dataset / MANIFEST)
    kept = {key: said.get(key) for key in ("notice", "form", "clips", "splits", "vae")}
    return {"dataset": str(dataset), _DIGEST: sha256_file(dataset / MANIFEST), **kept}


def expect_same_data(run: RunRecord, dataset: Path) -> None:
    """Holds a run to the data set that it was begun with; the same one may lie elsewhere now.

    Raises:
        DataError: Rate, sizes, splits or content differ; the message names both.
    """
    if not run.data:
        return
    now = describe_data(dataset)
    advice = "give the data set that it was begun with, or another --out to start anew"
    old_form, form = run.data.get("form") or {}, now["form"]
    for name in form:
        if name in old_form and old_form[name] != form[name]:
            raise DataError(
                f"{dataset} has {name} {_shown(form[name])}, the run {run.checkpoint.parent} has "
                f"{_shown(old_form[name])}: {advice}"
            )
    differing = [name for name in ("splits", "clips") if run.data.get(name, now[name]) != now[name]]
    if differing or run.data.get(_DIGEST, now[_DIGEST]) != now[_DIGEST]:
        which = f" with other {' and '.join(differing)}" if differing else ""
        theirs = f"{run.data.get('dataset')} (digest {str(run.data.get(_DIGEST, 'unknown'))[:12]})"
        raise DataError(
            f"{dataset} (digest {now[_DIGEST][:12]}) is another data set{which} than {theirs} of the run "
            f"{run.checkpoint.parent}: {advice}"
        )


def expect_same_optimizer(config: StageConfig, run: RunRecord) -> None:
    """Holds a run to its optimiser once the memory setting is chosen, which may bring one of its own.

    Raises:
        UsageError: They differ.
    """
    old = run.config.get("optimizer")
    if old is not None and old != config.optimizer:
        raise UsageError(
            f"{run.checkpoint.parent} goes on as it was begun: --memory {config.memory} asks for the "
            f"optimizer {config.optimizer}, the run has {old}; leave it out to go on, or "
            f"{_anew(config, run)}"
        )


def _expect_stage(config: StageConfig, stage: str, given: Mapping[str, str], run: RunRecord) -> None:
    wanted = stage
    if isinstance(config, TrainM2VConfig) and config.stage == "unconditional":
        wanted = "m2v-unconditional"
    if config.distill is not None and "distill" in given:
        wanted = stage + STUDENT_SUFFIX
    other_part = "stage" in given and (run.stage == "m2v-unconditional") != (wanted == "m2v-unconditional")
    other_kind = wanted.endswith(STUDENT_SUFFIX) and run.stage != wanted
    if run.stage not in _STAGES[stage] or other_part or other_kind:
        raise WeightsError(
            f"{run.checkpoint} is a checkpoint of {run.stage}, not of {wanted}; give one of its own"
        )


def _effective(name: str, config: StageConfig, given: Mapping[str, str], run: RunRecord) -> Any:
    """Returns what was asked of a setting; None where nothing was."""
    asked = to_dict(config)[name]
    if name == "optimizer":
        return _asked_optimizer(config, given, run)
    if name == "steps" and config.epochs is not None:
        return asked
    if name not in given or (name == "base" and is_preset(given[name])):
        return None
    return asked


def _asked_optimizer(config: StageConfig, given: Mapping[str, str], run: RunRecord) -> str | None:
    """Returns the optimiser that was asked for by name or by the memory setting."""
    memory = config.memory if "memory" in given else "auto"
    if memory != "auto" and "optimizer" in changes_of(memory):
        return changes_of(memory)["optimizer"]
    by_memory = run.config.get("memory") == "8bit" and run.config.get("optimizer") == "adamw8bit"
    if by_memory and memory == "auto" and config.optimizer == "adamw":
        return None
    return config.optimizer if "optimizer" in given else None


def _memory(asked: Mapping[str, Any], given: Mapping[str, str], run: RunRecord) -> dict[str, Any]:
    """Returns how memory is saved: as asked, else as the run does."""
    if "memory" in given and asked["memory"] not in ("auto", run.config.get("memory")):
        return {name: asked[name] for name in _OF_MEMORY}
    return {name: run.config[name] for name in _OF_MEMORY if name in run.config}


def _may_change(name: str, old: Any, new: Any) -> bool:
    return name in _TOLD or (name == "ema" and old is not None and new is not None)


def _same(name: str, old: Any, new: Any) -> bool:
    if old == new or name not in ("base", "distill") or old is None:
        return old == new
    before, now = (Path(str(path)).expanduser() for path in (old, new))
    if not now.is_dir():
        return False
    return not before.exists() or before.samefile(now)  # a model that was moved is told by its digest


def _built(config: StageConfig, stage: str, settings: Mapping[str, Any]) -> StageConfig:
    return load_config(type(config), f"train-{stage}", files=[], overrides=settings, sets=[])


def _left_alone(config: StageConfig, run: RunRecord, unused: list[str]) -> str:
    """Says that a finished run is not touched."""
    ignored = f"; not used: {'; '.join(unused)}" if unused else ""
    return (
        f"{config.out} is finished with {run.step} steps: nothing is trained, and its record stays as it is"
        f"{ignored}; give more --steps to go on, or another --out to start anew"
    )


def _anew(config: StageConfig, run: RunRecord) -> str:
    if run.checkpoint.parent.resolve() == config.out.resolve():
        return "give another --out to start anew"
    return f"start anew without --resume {run.checkpoint}"


def _named(name: str, given: Mapping[str, str]) -> str:
    """Calls a setting as the user did: "--seed", "--set seed", or "seed of hierasurg.yaml"."""
    origin = given.get(name, "")
    if not origin:
        return name
    if origin == "--set":
        return f"--set {name}"
    return origin if origin.startswith("--") else f"{name} of {origin}"


def _said(path: Path) -> dict[str, Any]:
    try:
        said = read_json(path)
    except DataError:
        return {}
    return said if isinstance(said, dict) else {}


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
