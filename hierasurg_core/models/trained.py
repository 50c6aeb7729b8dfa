"""How long a model was trained, and whether its run is finished, as its folder says.

Owns where that stands: a run's `train.json`, a checkpoint's `state.json`, and `training.json` in the parts of
a pipeline that training exported. Other folders (bundled, public or foreign models) say nothing of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hierasurg_core.artifacts import read_json, write_json
from hierasurg_core.errors import DataError, WeightsError
from hierasurg_core.models.files import find_transformer

TRAINING = "training.json"
RECORD = "train.json"
_STEPS = {TRAINING: "steps", "state.json": "step", RECORD: "step"}


def trained_steps(folder: Path) -> int | None:
    """Returns the optimiser steps that a transformer was trained for; None where its folder does not say.

    Steps of the model that the run started from do not count.

    Args:
        folder: A run, a checkpoint, a transformer's folder, or a part of an exported pipeline.

    Raises:
        WeightsError: It holds no transformer, or its record is damaged.
    """
    part = find_transformer(folder)
    places = [part, part.parent] if part.name == "transformer" or _is_checkpoint(part) else [part]
    for place in places:
        for file, key in _STEPS.items():
            if (place / file).is_file():
                return _count(_read(place / file), key, place / file)
    return None


def write_trained_steps(part: Path, steps: int | None) -> None:
    """Writes the count into a pipeline's part; nothing where it is not known.

    Raises:
        ResourceError: The disk is full.
    """
    if steps is not None:
        write_json(part / TRAINING, {"steps": steps})


def is_finished(run: Path, step: int | None = None) -> bool:
    """Tells whether a run's folder holds its finished model; with a step, the one of that very step."""
    path = run / RECORD
    said = read_json(path) if path.is_file() else None
    if not isinstance(said, dict) or said.get("finished") is not True:
        return False
    return step is None or (said.get("step") == step and (run / "transformer" / "config.json").is_file())


def _is_checkpoint(folder: Path) -> bool:
    return folder.name.startswith("checkpoint-")


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError as error:
        raise WeightsError(str(error)) from error


def _count(said: Any, key: str, path: Path) -> int | None:
    steps = said.get(key) if isinstance(said, dict) else None
    if isinstance(said, dict) and steps is None:
        return None
    if type(steps) is not int or steps < 0:
        raise WeightsError(f"{path} names no number of trained steps ({key})")
    return steps
