"""Which models a run uses: the choice between `--model`, `--s2m`, `--m2v`, finished runs and the mini models.

Owns the choice and what the user is told of it. Reads the small JSON files that say where parts lie and which
rates a model makes; loads no torch, so a missing folder is found at once. What the parts are, and whether
they belong together, is checked by `sources`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.generation.folders import part_folder
from hierasurg_core.models.configs import read_model_config
from hierasurg_core.models.defaults import read_pipeline_sampling
from hierasurg_core.models.files import CONFIG_FILE, find_beside, find_transformer
from hierasurg_core.models.hub import local_folder
from hierasurg_core.models.trained import is_finished, trained_steps

SCHEDULER_FILE = "scheduler/scheduler_config.json"
RATES = (1, 8)  # frames a second
MINI = "the bundled mini models"
_FRAMES, _SECONDS = 49, 16  # of a clip, where a config is silent


@dataclass(frozen=True)
class ModelChoice:
    """The folders of a run's models, found but not looked into.

    Attributes:
        name: What the user is told.
        base: The pipeline folder.
        is_mini: No pipeline was asked for, so it is the bundled one.
        replaced: Stages ("s2m", "m2v") that do not come from the pipeline, with the folder asked for.
        stages: Folder with `config.json` of each stage that the run needs.
        notes: What was chosen for the user besides.
    """

    name: str
    base: Path
    is_mini: bool
    replaced: Mapping[str, Path]
    stages: Mapping[str, Path]
    notes: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Tell whether no transformer comes from the pipeline."""
        return len(self.replaced) == len(self.stages)

    def rate(self, asked: int | None) -> int:
        """Return the frames a second of a run.

        Raises:
            UsageError: The model does not make the rate asked for.
            WeightsError: The config of M2V cannot be read.
        """
        folder = self.stages["m2v"]
        return rate_of(rates_of(read_model_config(folder / CONFIG_FILE), folder), asked, folder)

    def video_size_hw(self) -> tuple[int, int]:
        """Return rows and columns of M2V's videos.

        Raises:
            WeightsError: The config of M2V cannot be read, or names what is no size.
        """
        file = self.stages["m2v"] / CONFIG_FILE
        config = read_model_config(file)
        try:
            return 8 * int(config.get("sample_height", 60)), 8 * int(config.get("sample_width", 90))
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{file} names impossible sizes: {error}") from error


def choose_models(config: GenerateConfig, assets: Path, working: Path) -> ModelChoice:
    """Find the models of a run.

    Without `model`, `s2m` and `m2v`: `runs/s2m` and `runs/m2v` of the working folder where both are finished,
    else the bundled mini models.

    Args:
        config: What was asked for.
        assets: Folder of the package with `mini/`.
        working: Folder in which `runs/` is looked for.

    Raises:
        UsageError: Both `maps` and `s2m`.
        WeightsError: A folder is missing, or lacks a transformer.
    """
    if config.maps is not None and config.s2m is not None:
        raise UsageError("maps and s2m exclude each other: given maps take the place of S2M")
    wanted = ("m2v",) if config.maps is not None else ("s2m", "m2v")
    notes: list[str] = []
    replaced = {name: path for name, path in _replacements(config, working, notes).items() if name in wanted}
    base = assets / "mini" if config.model is None else local_folder(config.model)
    stages = {
        name: find_transformer(replaced[name]) if name in replaced else base_part(base, name)
        for name in wanted
    }
    base_name = None if len(replaced) == len(wanted) else MINI if config.model is None else config.model
    name = _name(base_name, replaced, stages)
    return ModelChoice(name, base, config.model is None, replaced, stages, tuple(notes))


def scheduler_steps(choice: ModelChoice) -> int | None:
    """Return the most denoising steps that the run's scheduler has, None where its file does not say it.

    Raises:
        WeightsError: The scheduler's config cannot be read.
    """
    around = [find_beside(folder, SCHEDULER_FILE) for folder in choice.stages.values()]
    beside = next((file for file in around if file is not None), None)
    own = choice.base / SCHEDULER_FILE
    file = beside if choice.whole and choice.is_mini and beside is not None else own
    steps = read_model_config(file).get("num_train_timesteps") if file.is_file() else None
    return steps if type(steps) is int else None


def base_part(base: Path, name: str) -> Path:
    """Return a part of the pipeline folder.

    Raises:
        WeightsError: It is no pipeline folder, or lacks the part.
    """
    if not base.is_dir():
        raise WeightsError(f"there is no folder {base}: give a pipeline folder or a Hub id as --model")
    read_pipeline_sampling(base)
    return part_folder(base, name)


def rates_of(config: Mapping[str, Any], where: Path) -> tuple[int, ...]:
    """Return the frames a second that a transformer makes, by what its config says of a clip.

    Raises:
        WeightsError: The config says what is no number.
    """
    try:
        frames, seconds = (
            int(config.get("sample_frames", _FRAMES)),
            int(config.get("sample_seconds", _SECONDS)),
        )
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where / CONFIG_FILE} names impossible sizes: {error}") from error
    rate = (frames - 1) / seconds if seconds > 0 else 0
    return (int(rate),) if rate in RATES else RATES


def rate_of(rates: tuple[int, ...], asked: int | None, folder: Path) -> int:
    """Return the rate asked for, or the first that the model in `folder` makes.

    Raises:
        UsageError: The model does not make the rate asked for.
    """
    if asked is not None and asked not in rates:
        allowed = " or ".join(map(str, rates))
        raise UsageError(f"--fps {asked} is not possible: the model {folder} makes {allowed} fps")
    return asked or rates[0]


def _replacements(config: GenerateConfig, working: Path, notes: list[str]) -> dict[str, Path]:
    """Return the transformers that do not come from the pipeline folder, by stage."""
    given = {"s2m": config.s2m, "m2v": config.m2v}
    replaced = {name: local_folder(text) for name, text in given.items() if text is not None}
    if config.model is not None or replaced:
        return replaced
    runs = {name: working / "runs" / name for name in given}
    finished = {name: is_finished(run) for name, run in runs.items()}
    if all(finished.values()):
        return runs
    for name, run in runs.items():
        if run.is_dir() and not finished[name]:
            notes.append(f"{run} holds no finished model and is not used")
        elif finished[name]:
            notes.append(f"{run} is not used alone; add --{name} {run} to use it with the mini models")
    return {}


def _name(base: str | None, replaced: Mapping[str, Path], stages: Mapping[str, Path]) -> str:
    """Say "the bundled mini models with M2V of runs/m2v, 4 steps of training", for instance."""
    parts: list[str] = []
    counts = {name: trained_steps(stages[name]) for name in replaced}
    for name in sorted(replaced, reverse=True):
        steps = counts[name]
        trained = "" if steps is None else f", {steps} step{'s'[: steps != 1]} of training"
        parts.append(f"{name.upper()} of {replaced[name]}{trained}")
    joined = (", and " if any(steps is not None for steps in counts.values()) else " and ").join(parts)
    return " with ".join(text for text in (base, joined) if text)
