from pathlib import Path

import numpy as np
import pytest
from generation.tiny_assets import NUM_ENTITIES, edit_json

from hierasurg_core.errors import DataError
from hierasurg_core.generation.scenes import load_scenes, matching_scenes, scene_of_maps
from hierasurg_core.maps import PanopticClip
from hierasurg_core.taxonomy import parse_triplet


def found(assets: Path, phase: int | None, triplet: str | None) -> tuple[list[str], tuple[str, ...]]:
    scenes = load_scenes(assets / "scenes")
    best, missing = matching_scenes(scenes, phase, None if triplet is None else parse_triplet(triplet))
    return [scene.name for scene in best], missing


def test_a_scene_shows_phase_instrument_and_target(assets: Path):
    assert found(assets, 1, "grasper,retract,gallbladder") == (["000"], ())
    assert found(assets, 1, "hook,dissect,cystic_duct") == (["001"], ())
    assert found(assets, 4, "grasper,grasp,gallbladder") == (["002"], ())
    assert found(assets, 1, None) == (["000", "001"], ())
    assert found(assets, None, None) == (["000", "001", "002"], ())


def test_what_no_scene_shows_is_given_up_in_order_and_said(assets: Path):
    assert found(assets, 1, "grasper,grasp,gut") == (["000"], ("target gut",))
    assert found(assets, 4, "hook,dissect,cystic_duct") == (["001"], ("phase gallbladder-packaging",))
    missing = ("instrument clipper", "target cystic_duct")
    assert found(assets, 4, "clipper,clip,cystic_duct") == (["002"], missing)
    assert found(assets, 1, "hook,null_verb,null_target") == (["001"], ())


def test_maps_find_the_scene_they_start_from(assets: Path):
    scenes = load_scenes(assets / "scenes")
    maps_FHW = np.concatenate([scenes[1].first_map().map_FHW, np.zeros((2, 64, 96), np.uint8)])
    assert scene_of_maps(scenes, PanopticClip(maps_FHW, NUM_ENTITIES)) == scenes[1]
    large = PanopticClip(maps_FHW.repeat(2, axis=1).repeat(2, axis=2), NUM_ENTITIES)
    assert scene_of_maps(scenes, large) == scenes[1]
    assert scene_of_maps(scenes, PanopticClip(maps_FHW[1:], NUM_ENTITIES)) is None
    assert scene_of_maps(scenes, PanopticClip(maps_FHW, NUM_ENTITIES + 1)) is None


def test_a_damaged_gallery_is_refused(own_assets: Path):
    index = own_assets / "scenes" / "scenes.json"
    edit_json(index, schema=2)
    with pytest.raises(DataError, match="schema 1"):
        load_scenes(own_assets / "scenes")
    edit_json(index, schema=1, scenes=[{"name": "000", "phase": 9}])
    with pytest.raises(DataError, match="describes a scene wrongly"):
        load_scenes(own_assets / "scenes")
    index.unlink()
    with pytest.raises(DataError, match=r"scenes\.json"):
        load_scenes(own_assets / "scenes")
