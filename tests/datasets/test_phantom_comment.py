"""What the phantom's videos say of themselves goes with their frames, and keeps CAMMA's notice off them."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_datasets import build, config, write_operation, write_vae

from hierasurg_core.config import ExtractConfig
from hierasurg_core.datasets.extract import extract, read_manifest
from hierasurg_core.phantom.operation import write_operations
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import write_mp4

SAID = "hierasurg phantom: a synthetic operation"


@pytest.mark.parametrize(("comment", "phantom"), [(SAID, True), ("of a camera", False), (None, False)])
def test_frames_remember_the_comment_of_their_video(
    comment: str | None, phantom: bool, tmp_path: Path
) -> None:
    grey = np.full((2, 16, 16, 3), 90, np.uint8)
    write_mp4(tmp_path / "video01.mp4", grey, 1, comment)
    extract(ExtractConfig(source=tmp_path / "video01.mp4", out=tmp_path / "out"), SilentProgress())
    folder = read_manifest(tmp_path / "out" / "video01")
    assert folder.comment == (comment or "")
    assert folder.is_phantom is phantom


def test_the_phantom_says_so(tmp_path: Path) -> None:
    write_operations(tmp_path, videos=1, seconds=1, size_hw=(64, 96), seed=0, progress=SilentProgress())
    extract(ExtractConfig(source=tmp_path / "in", out=tmp_path / "videos"), SilentProgress())
    assert read_manifest(tmp_path / "videos" / "video01").is_phantom


@pytest.mark.parametrize("both", [True, False])
def test_a_data_set_of_the_phantom_alone_has_no_notice(both: bool, tmp_path: Path) -> None:
    for number in (1, 2):
        write_operation(tmp_path, number, 16)
    for number in (1, 2) if both else (1,):
        folder = tmp_path / "videos" / f"video{number:02d}"
        said = {
            "schema": 1,
            "name": folder.name,
            "fps": 1.0,
            "num_frames": 16,
            "size_hw": [32, 48],
            "black": [],
        }
        rest = {"digest": "0", "settings": {"start": 0.0}, "comment": SAID, "complete": True}
        for path in folder.glob("*.png"):
            path.rename(path.with_suffix(".jpg"))  # readers look at what a file holds
        (folder / "extract.json").write_text(json.dumps({**said, **rest}))
    write_vae(tmp_path / "model")
    build(config(tmp_path, on_the_fly=True, val_fraction=0.5))
    assert ("notice" in json.loads((tmp_path / "dataset" / "manifest.json").read_text())) is not both
