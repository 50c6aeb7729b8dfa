import json
from pathlib import Path

import numpy as np

from hierasurg_core.config import BuildDatasetConfig
from hierasurg_core.datasets.base_choice import choose_base
from hierasurg_core.pictures import write_png


def frames(folder: Path, name: str, comment: str | None) -> None:
    """A folder of one frame; with a comment also the manifest that `extract` writes."""
    video = folder / "videos" / name
    video.mkdir(parents=True)
    write_png(video / "000000.png", np.full((64, 96, 3), 90, np.uint8))
    if comment is not None:
        (video / "000000.png").rename(video / "000000.jpg")
        said = {"schema": 1, "name": name, "fps": 1.0, "num_frames": 1, "size_hw": [64, 96], "black": []}
        rest = {"digest": "0", "settings": {"start": 0.0}, "complete": True, "comment": comment}
        (video / "extract.json").write_text(json.dumps({**said, **rest}))


def test_frames_of_the_phantom_take_mini_and_it_is_said(tmp_path: Path):
    for name in ("video01", "video02"):
        frames(tmp_path, name, "hierasurg phantom, seed 1")
    videos = tmp_path / "videos"
    base, note = choose_base(BuildDatasetConfig(videos=videos))
    assert base == "mini"
    assert note == f"{videos} holds frames of the phantom, so --base mini"


def test_what_was_asked_for_is_taken(tmp_path: Path):
    frames(tmp_path, "video01", "hierasurg phantom, seed 1")
    asked = BuildDatasetConfig(videos=tmp_path / "videos", base="some/model")
    assert choose_base(asked) == ("some/model", None)


def test_other_frames_never_take_mini(tmp_path: Path):
    frames(tmp_path, "video01", "hierasurg phantom, seed 1")
    frames(tmp_path, "video02", None)
    config = BuildDatasetConfig(videos=tmp_path / "videos")
    assert choose_base(config) == ("THUDM/CogVideoX-2b", None)
    frames(tmp_path, "video03", "an operation")
    assert choose_base(config) == ("THUDM/CogVideoX-2b", None)
