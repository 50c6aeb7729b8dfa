"""The model whose VAE a data set is encoded with, where the user names none.

Owns the rule: the published CogVideoX-2b, and the bundled mini models for frames that are all the phantom's.
"""

from __future__ import annotations

from pathlib import Path

from hierasurg_core.config import BuildDatasetConfig
from hierasurg_core.config.existing import expect_file, expect_folder, expect_folder_possible
from hierasurg_core.datasets.frames import MANIFEST, read_manifest
from hierasurg_core.datasets.plan import find_videos

MINI = "mini"
PUBLISHED = "THUDM/CogVideoX-2b"


def choose_base(config: BuildDatasetConfig) -> tuple[str, str | None]:
    """Return the base of a data set, and what the user is told where it was chosen.

    Raises:
        DataError: There are no frame folders, or one is damaged.
    """
    if config.base is not None:
        return config.base, None
    folders = find_videos(config.videos).paths.values()
    if all(_is_phantom(path) for path in folders):
        return MINI, f"{config.videos} holds frames of the phantom, so --base {MINI}"
    return PUBLISHED, None


def expect_building_possible(config: BuildDatasetConfig) -> None:
    """Refuse a call whose folders or lists are missing.

    Raises:
        DataError: A folder or list is missing.
        ResourceError: The data set's folder cannot be written.
    """
    find_videos(config.videos)
    expect_folder("--maps", config.maps)
    if config.labels is not None and config.labels != BuildDatasetConfig.labels:
        expect_folder("--labels", config.labels)
    expect_file("--train", config.train)
    expect_file("--val", config.val)
    expect_folder_possible(config.out)


def _is_phantom(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and read_manifest(folder).is_phantom
