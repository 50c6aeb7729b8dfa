"""The checks of `evaluate` that need no torch: both sides, the protocol, names and the report's folder.

They run before anything is loaded. Weights that are missing are no fault: they cost their own metrics, and
the report says which.
"""

from __future__ import annotations

from pathlib import Path

from hierasurg_core.config import EvaluateConfig
from hierasurg_core.config.existing import expect_folder_possible
from hierasurg_core.datasets.manifest import MANIFEST, read_dataset_manifest
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.evaluation.protocol import load_protocol

AUTO = "auto"
FORMS = "samples of 'generate', a data set of 'build-dataset', mp4 files, or folders of 000000.jpg, ..."


def expect_evaluating_possible(config: EvaluateConfig) -> None:
    """Refuse a call whose sides, protocol or names do not exist.

    Raises:
        UsageError: An unknown protocol, or a split of what is no data set.
        DataError: A side is missing, or is a damaged data set.
        ResourceError: The report's folder cannot be written.
    """
    load_protocol(config.protocol)
    expect_side(config.generated, None)
    expect_side(config.real, config.split)
    expect_folder_possible(config.out)
    if config.cache is not None:
        expect_folder_possible(config.cache)


def expect_side(path: Path, split: str | None) -> None:
    """Refuse a side that is no folder, or that has no splits where one was asked for.

    Raises:
        UsageError: A split was asked for, and it is no data set.
        DataError: It is missing, or a damaged data set.
    """
    if not path.is_dir():
        raise DataError(f"there is no folder {path}: give {FORMS}")
    if (path / MANIFEST).is_file():
        read_dataset_manifest(path)
    elif split is not None:
        raise UsageError(f"{path} is no data set, so it has no split '{split}': leave out --split")
