"""The model that a training run starts from, where the user names none or several could be meant.

Owns the rule. Reads small JSON files and loads no torch, so that a base that is missing is found at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig
from hierasurg_core.config.train import is_preset, unconditional_folder
from hierasurg_core.datasets.base_choice import PUBLISHED
from hierasurg_core.models.trained import is_finished


def choose_base(
    config: TrainS2MConfig | TrainM2VConfig, given: Mapping[str, str] | None, notes: list[str]
) -> str:
    """Return the base: a student's teacher, the one asked for, M2V's unconditional run, or CogVideoX-2b.

    Args:
        config: Of the run, with its final folder as `out`.
        given: Settings that were given, and by what. A base that a preset alone names yields to a finished
            unconditional run. None: what the config names was asked for.
        notes: Is told what was chosen.
    """
    if config.distill is not None:
        return config.distill
    asked = config.base or PUBLISHED
    if not isinstance(config, TrainM2VConfig) or config.stage == "unconditional":
        return asked
    first = unconditional_folder(config.out)
    weak = given is not None and is_preset(given.get("base", ""))
    if config.base is not None and not weak:
        if is_finished(first) and not _is_folder(config.base, first):
            notes.append(
                f"starting from {asked} as asked, not from the unconditional run {first}; --base {first} "
                "takes that"
            )
        return asked
    if is_finished(first):
        notes.append(f"starting from the unconditional run {first}, in place of {asked}")
        return str(first)
    if first.is_dir():
        notes.append(f"the unconditional run {first} is not finished and not used; starting from {asked}")
    return asked


def _is_folder(name: str, folder: Path) -> bool:
    return Path(name).is_dir() and folder.is_dir() and Path(name).samefile(folder)
