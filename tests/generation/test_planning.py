from pathlib import Path

import numpy as np
import pytest
from generation.test_generate import start_files

from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import ResourceError
from hierasurg_core.generation.planning import plan, with_crop_noted
from hierasurg_core.generation.request import Start
from hierasurg_core.generation.requests import Job
from hierasurg_core.maps import PanopticClip
from hierasurg_core.progress import SilentProgress


def photo(height: int, width: int, source: str = "frame") -> Start:
    first_map = PanopticClip(np.zeros((1, height, width), np.uint8), 1)
    photo_HWC = np.zeros((height, width, 3), np.uint8)
    return Start(photo_HWC, first_map, None, 1, -1, {source: "x"})


def test_a_photo_of_another_shape_is_cropped_aloud():
    (note,) = with_crop_noted(photo(500, 500), (128, 192)).notes
    assert note == "frame: 500x500 px, of which the middle 500x333 px are used: the model makes 192x128 px"
    assert with_crop_noted(photo(480, 720), (128, 192)).notes == ()
    assert with_crop_noted(photo(480, 725), (128, 192)).notes == ()  # less than 2 %
    assert with_crop_noted(photo(500, 500, "scene"), (128, 192)).notes == ()


def test_the_note_belongs_to_the_sample(assets: Path, tmp_path: Path):
    files = start_files(tmp_path)
    config = GenerateConfig(phase="calot", frame=files["frame"], map=files["map"])
    planned = plan(config, SilentProgress(), assets=assets, working=tmp_path)
    assert planned.work is not None
    (job,) = planned.work
    assert isinstance(job, Job)
    assert job.read().notes == ("no triplet was given; S2M is told of none",)  # of the model's own shape


def test_more_samples_than_the_disk_holds_are_not_listed(assets: Path, tmp_path: Path):
    with pytest.raises(ResourceError, match="1000000000000 samples need"):
        plan(
            GenerateConfig(num=10**12, out=tmp_path / "samples"),
            SilentProgress(),
            assets=assets,
            working=tmp_path,
        )
