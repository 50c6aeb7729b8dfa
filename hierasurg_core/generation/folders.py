"""The layout of a pipeline folder: `model_index.json` beside `s2m/`, `m2v/`, `vae/` and `scheduler/`.

Owns what the index says and where a part lies. It reads no weights and imports nothing that an index names.
"""

from pathlib import Path
from typing import Any

from hierasurg_core.artifacts import read_json
from hierasurg_core.errors import DataError, WeightsError

MODEL_INDEX = "model_index.json"
PIPELINE_CLASS = "HieraSurgPipeline"


def read_model_index(folder: Path) -> dict[str, Any]:
    """Returns a pipeline folder's `default_steps`, `default_guidance` and `default_maps_guidance`, if named.

    Raises:
        WeightsError: It is no pipeline folder.
    """
    path = folder / MODEL_INDEX
    if not path.is_file():
        parts = "s2m/, m2v/, vae/ and scheduler/"
        raise WeightsError(f"{folder} is no pipeline: there is no {MODEL_INDEX}, which stands beside {parts}")
    try:
        index = read_json(path)
    except DataError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(index, dict) or index.get("_class_name") != PIPELINE_CLASS:
        raise WeightsError(f"{path} does not describe a {PIPELINE_CLASS}")
    scales = ("default_guidance", "default_maps_guidance")
    defaults = {key: index[key] for key in ("default_steps", *scales) if index.get(key) is not None}
    steps = defaults.get("default_steps", 1)
    guidance = [defaults[key] for key in scales if key in defaults]
    possible = all(type(scale) in (int, float) and scale >= 0 for scale in guidance)
    if type(steps) is not int or steps < 1 or not possible:
        raise WeightsError(f"{path} has impossible defaults: {defaults}")
    return defaults


def part_folder(folder: Path, name: str) -> Path:
    """Returns a part of a pipeline folder.

    Raises:
        WeightsError: It is not there; the message names it.
    """
    file = "scheduler_config.json" if name == "scheduler" else "config.json"
    if not (folder / name / file).is_file():
        raise WeightsError(f"the pipeline {folder} lacks its part {name}: {name}/{file} is not there")
    return folder / name
