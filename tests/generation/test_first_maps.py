"""Photographs without a map: SAM 2 makes it once, before any model of the run is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation.test_generate import Told, refused, run

from hierasurg_core.artifacts import read_json
from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import UsageError
from hierasurg_core.generation import first_maps, planning
from hierasurg_core.generation.listing import list_entities
from hierasurg_core.labeling.segmenter import load_segmenter
from hierasurg_core.labeling.single import map_by
from hierasurg_core.maps import load_clip

SCENES = planning.ASSETS / "scenes"
FIRST, SECOND = SCENES / "000_frame.jpg", SCENES / "012_frame.jpg"
NO_WORDS: dict[str, Any] = {"phase": None, "triplet": None}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often SAM 2 is loaded, and how many maps it makes; the functions are the real ones."""
    counted = {"loads": 0, "maps": 0}

    def counting(name: str, work: Any) -> Any:
        def counted_work(*arguments: Any, **options: Any) -> Any:
            counted[name] += 1
            return work(*arguments, **options)

        return counted_work

    monkeypatch.setattr(first_maps, "load_segmenter", counting("loads", load_segmenter))
    monkeypatch.setattr(first_maps, "map_by", counting("maps", map_by))
    return counted


def requests(folder: Path, *frames: Path) -> Path:
    file = folder / "photos.csv"
    file.write_text("phase,frame\n" + "".join(f"calot,{frame}\n" for frame in frames))
    return file


def test_many_photos_load_sam_once_and_equal_ones_share_a_map(
    assets: Path, tmp_path: Path, counts: dict[str, int]
):
    told = Told()
    file = requests(tmp_path, FIRST, SECOND, FIRST)
    run(assets, tmp_path, told, **NO_WORDS, requests=file, steps=1)
    assert counts == {"loads": 1, "maps": 2}
    assert told.stages.index("maps of photographs") < told.stages.index("load models")
    records = [read_json(tmp_path / "samples" / f"000{number}.json") for number in range(3)]
    assert [record["start"]["map"] for record in records] == [{"made_by": "SAM 2 mini"}] * 3
    assert any(note.startswith("map: made of the frame by SAM 2 mini, ") for note in records[0]["notes"])
    first, second = (load_clip(tmp_path / "samples" / f"000{number}_maps.mp4") for number in (0, 1))
    assert first.num_entities > 2
    assert (first.map_FHW[0] != second.map_FHW[0]).any()


def test_stories_from_a_photo_load_sam_once(assets: Path, tmp_path: Path, counts: dict[str, int]):
    run(assets, tmp_path, phase="calot", triplet=None, frame=FIRST, seconds=2, num=2, steps=1)
    assert counts == {"loads": 1, "maps": 1}


def test_edits_are_held_to_made_maps_before_any_model_is_read(own_assets: Path, tmp_path: Path):
    for path in (own_assets / "mini").rglob("*.safetensors"):
        path.write_bytes(b"never read")
    message = r"edit 'remove 40': entity 40 does not exist; these have no names; entities are 0 \(\d+ % of"
    options: dict[str, Any] = {**NO_WORDS, "requests": requests(tmp_path, FIRST, SECOND)}
    refused(UsageError, message, own_assets, tmp_path, **options, edit="remove 40")
    message = "--newcomers 18: the first map has .* entities"
    refused(UsageError, message, own_assets, tmp_path, **options, newcomers=18)


def test_entities_of_a_photo_are_told_by_size_and_place(tmp_path: Path):
    config = GenerateConfig(phase="calot", frame=FIRST, out=tmp_path / "samples", num=2, device="cpu")
    (listed,) = list_entities(config, planning.plan(config, Told()), Told()).starts
    assert listed.start == str(FIRST)
    assert listed.samples == ("0000", "0001")
    assert [entity.id for entity in listed.entities] == list(range(len(listed.entities)))
    assert {entity.name for entity in listed.entities} == {None}
    shares = np.array([entity.share for entity in listed.entities])
    assert shares.min() > 0
    assert 0.2 < shares.sum() < 1
    assert list(tmp_path.iterdir()) == []
