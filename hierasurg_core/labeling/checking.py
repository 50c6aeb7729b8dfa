"""The checks of `label` that need no torch: folders, lists, and where the models' files are.

They run before anything is loaded, in the words of the functions that would find the same fault later.
"""

from __future__ import annotations

from pathlib import Path

from hierasurg_core.config import LabelConfig
from hierasurg_core.config.existing import expect_file, expect_folder, expect_folder_possible
from hierasurg_core.datasets.frames import MANIFEST, read_manifest
from hierasurg_core.datasets.operations import find_videos
from hierasurg_core.datasets.splits import read_list
from hierasurg_core.errors import WeightsError
from hierasurg_core.labeling.sam_weights import MINI, expect_segmenter
from hierasurg_core.models.hub import expect_repository, local_folder

_LARGE = "large"
OWN_FEATURES = ("sam", MINI)
RADIO = "nvidia/C-RADIOv4-H"
WITHOUT_BACKBONE = "give --features FOLDER, its folder below --weights-dir, or --features sam"
_INSTEAD = (
    "give its file as --sam-checkpoint FILE (with --sam), a folder that holds it as --weights-dir FOLDER, or "
    "--sam mini, which knows the phantom only"
)


def expect_labelling_possible(config: LabelConfig) -> None:
    """Refuse a call whose folders, lists or model files are missing; published files are fetched now.

    Raises:
        UsageError: An unknown SAM 2.
        DataError: There are no frames, or the list of videos is missing.
        WeightsError: A model is not to be had.
        ResourceError: The maps' folder cannot be written.
    """
    folders = list(find_videos(config.videos).paths.values())
    if config.only is not None:
        read_list(config.only, any_name=True)
    if config.out is not None:
        expect_folder_possible(config.out)
    expect_file("--sam-checkpoint", config.sam_checkpoint, WeightsError)
    expect_folder("--weights-dir", config.weights_dir, WeightsError)
    names = {config.sam or (MINI if are_phantom([path]) else _LARGE) for path in folders}
    for name in sorted(names):
        expect_segmenter(name, config.sam_checkpoint, config.weights_dir, instead=_INSTEAD)
        mini = name == MINI or Path(name).is_dir()  # the folder of another mini one
        if config.features is not None or not mini:
            _expect_backbone(config.features or RADIO, config)


def backbone_near(name: str, weights_dir: Path | None) -> Path | None:
    """Return a backbone's folder below the folder of weights, by its whole Hub id or its last part."""
    if weights_dir is None:
        return None
    places = [weights_dir / part for part in (name, name.split("/")[-1])]
    return next((place for place in places if place.is_dir()), None)


def _expect_backbone(name: str, config: LabelConfig) -> None:
    plain, _, revision = name.partition("@")
    if plain in OWN_FEATURES or backbone_near(plain, config.weights_dir) is not None:
        return
    if config.trust_remote_code and not Path(plain).is_dir():
        expect_repository(plain, revision, instead=WITHOUT_BACKBONE)
    else:
        local_folder(plain, instead=WITHOUT_BACKBONE)


def are_phantom(folders: list[Path]) -> bool:
    """Tell whether all folders say that they show the phantom, which only their manifests can."""
    return all((path / MANIFEST).is_file() and read_manifest(path).is_phantom for path in folders)
