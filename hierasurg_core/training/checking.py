"""The checks of `train-s2m` and `train-m2v` that need no torch: the data set, other paths, the base's folder.

They run before anything is loaded. What the base is, and whether it goes with the data, is checked by `plan`.
"""

from __future__ import annotations

from pathlib import Path

from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig
from hierasurg_core.config.existing import expect_file, expect_folder, expect_folder_possible
from hierasurg_core.datasets.manifest import read_dataset_manifest
from hierasurg_core.errors import DataError, WeightsError
from hierasurg_core.models.hub import local_folder
from hierasurg_core.training.reporting import expect_reporter

_PUBLIC = "public"


def expect_training_possible(config: TrainS2MConfig | TrainM2VConfig, stage: str, *, dry: bool) -> None:
    """Refuse a call whose data set, files or folders are missing; a base of the Hub is fetched now.

    Args:
        config: What was asked for.
        stage: "s2m" or "m2v".
        dry: Fetch nothing.

    Raises:
        UsageError: A package for `report_to` is missing.
        DataError: The data set is missing, damaged, or of another rate; or a file is missing.
        WeightsError: The base, the teacher or the checkpoint is missing.
        ResourceError: The run's folder cannot be written.
    """
    expect_reporter(config.report_to)
    manifest = read_dataset_manifest(config.dataset)
    if config.fps is not None and config.fps != manifest.form.fps:
        raise DataError(
            f"{config.dataset} has {manifest.form.fps} fps, not the {config.fps} asked for: give the data "
            f"set of that rate, or --fps {manifest.form.fps}"
        )
    expect_file("--text-vectors", config.text_vectors)
    if config.resume not in ("latest", "never"):
        expect_folder("--resume", Path(config.resume), WeightsError)
    expect_folder_possible(config.out)
    if config.export not in (None, _PUBLIC):
        expect_folder_possible(Path(config.export))
    parts = ["transformer", stage, "vae", "scheduler"]
    if config.distill is not None:
        if not dry:
            local_folder(config.distill, parts)
    elif not dry and not _has_begun(config.out):
        local_folder(config.base, parts)


def _has_begun(out: Path) -> bool:
    """Tell whether a run is there that may know its own base: this one, or M2V's first stage beside it."""
    return out.is_dir() or out.with_name(f"{out.name}-unconditional").is_dir()
