"""How the models of a folder are sampled unless a call says otherwise.

Owns where that stands: in a pipeline's `model_index.json` under "sampling", and beside a run's transformer in
`sampling.json`, which a run takes over from the pipeline or run that it started from. Other folders (a plain
CogVideoX, public checkpoints) say nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hierasurg_core.artifacts import read_json, write_json
from hierasurg_core.config.sampling import StageSampling, as_index, of_index
from hierasurg_core.errors import DataError, UsageError, WeightsError

MODEL_INDEX = "model_index.json"
PIPELINE_CLASS = "HieraSurgPipeline"
SAMPLING = "sampling.json"


def read_pipeline_sampling(folder: Path) -> dict[str, StageSampling]:
    """Returns what the index of a HieraSurg pipeline says, by stage.

    Raises:
        WeightsError: It is no pipeline folder, or says what is impossible.
    """
    path = folder / MODEL_INDEX
    if not path.is_file():
        parts = "s2m/, m2v/, vae/ and scheduler/"
        raise WeightsError(f"{folder} is no pipeline: there is no {MODEL_INDEX}, which stands beside {parts}")
    index = _read(path)
    if not isinstance(index, dict) or index.get("_class_name") != PIPELINE_CLASS:
        raise WeightsError(f"{path} does not describe a {PIPELINE_CLASS}")
    return _of_index(index.get("sampling", {}), path)


def read_sampling(folder: Path) -> dict[str, StageSampling]:
    """Returns what a pipeline's or a run's folder says, by stage; nothing for other folders.

    Raises:
        WeightsError: It says what is impossible.
    """
    index = folder / MODEL_INDEX
    said = _read(index) if index.is_file() else None
    if isinstance(said, dict) and said.get("_class_name") == PIPELINE_CLASS:
        return _of_index(said.get("sampling", {}), index)
    path = folder / SAMPLING
    return _of_index(_read(path), path) if path.is_file() else {}


def write_sampling(samplings: Mapping[str, StageSampling], out: Path) -> None:
    """Writes it beside a run's transformer; nothing where nothing is known.

    Raises:
        ResourceError: The disk is full.
    """
    if samplings:
        write_json(out / SAMPLING, as_index(samplings))


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError as error:
        raise WeightsError(str(error)) from error


def _of_index(said: object, path: Path) -> dict[str, StageSampling]:
    try:
        return of_index(said)
    except UsageError as error:
        raise WeightsError(f"{path} says an impossible sampling: {error}") from error
