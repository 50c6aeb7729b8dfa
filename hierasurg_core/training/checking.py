"""The checks of `train-s2m` and `train-m2v` that need no torch: the data set, other paths, the base's folder.

They run before anything is loaded. What the base is, and whether it goes with the data, is checked by `plan`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig
from hierasurg_core.config.existing import expect_file, expect_folder, expect_folder_possible
from hierasurg_core.datasets.manifest import Manifest, read_dataset_manifest
from hierasurg_core.errors import DataError, WeightsError
from hierasurg_core.models.hub import local_folder
from hierasurg_core.training.base_choice import choose_base
from hierasurg_core.training.reporting import expect_reporter

_PUBLIC = "public"
_NEW = ("latest", "never")  # what `resume` says where no checkpoint is named

StageConfig = TrainS2MConfig | TrainM2VConfig


def expect_training_possible(
    config: StageConfig, stage: str, *, dry: bool, given: Mapping[str, str] | None = None
) -> None:
    """Refuse a call whose data set, files or folders are missing; a base of the Hub is fetched now.

    Args:
        config: What was asked for.
        stage: "s2m" or "m2v".
        dry: Fetch nothing.
        given: As `choose_base` takes it.

    Raises:
        UsageError: A package for `report_to` is missing.
        DataError: The data set is missing, damaged, or of another rate; or a file is missing.
        WeightsError: The base, the teacher or the checkpoint is missing.
        ResourceError: The run's folder cannot be written.
    """
    expect_reporter(config.report_to)
    manifest = read_dataset_manifest(config.dataset)
    expect_rate(config, manifest)
    expect_file("--text-vectors", config.text_vectors)
    if config.resume not in _NEW:
        expect_folder("--resume", Path(config.resume), WeightsError)
    config = dataclasses.replace(config, out=config.run_folder)
    expect_folder_possible(config.out)
    if config.export not in (None, _PUBLIC):
        expect_folder_possible(Path(config.export))
    if not dry and not _may_go_on(config):
        local_folder(choose_base(config, given, []), ["transformer", stage, "vae", "scheduler"])


def expect_rate(config: StageConfig, manifest: Manifest) -> None:
    """Refuse a data set of another rate than was asked for.

    Raises:
        DataError: The message names both rates.
    """
    if config.fps is not None and config.fps != manifest.form.fps:
        raise DataError(
            f"{config.dataset} has {manifest.form.fps} fps, not the {config.fps} asked for: give the data "
            f"set of that rate, or --fps {manifest.form.fps}"
        )


def _may_go_on(config: StageConfig) -> bool:
    """Tell whether there may be a run to go on with, which knows its own base."""
    return config.out.is_dir() or config.resume not in _NEW
