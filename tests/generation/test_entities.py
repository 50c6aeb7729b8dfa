import numpy as np

from hierasurg_core.generation.entities import Entity, entities_of, list_entities
from hierasurg_core.maps import PanopticClip

# Entity 0 fills the top left 3x3 of 9x9, 1 is a pixel in the middle of the right edge, 2 is nowhere.
MAP = np.full((9, 9), 3, np.uint8)
MAP[:3, :3], MAP[4, 8], MAP[8] = 0, 1, 4
CLIP = PanopticClip(MAP[None], 3)


def test_an_entity_is_told_by_share_and_place():
    assert entities_of(CLIP, {0: "liver"}) == (
        Entity(0, "liver", 9 / 81, "top left"),
        Entity(1, None, 1 / 81, "centre right"),
        Entity(2, None, 0.0, None),
    )
    assert [entity.size for entity in entities_of(CLIP)] == [
        "11 % of the frame, top left",
        "1 % of the frame, centre right",
        "not in the first frame",
    ]


def test_all_stand_in_one_line():
    said = "0 liver, 1 (1 % of the frame, centre right), 2 (not in the first frame)"
    assert list_entities(CLIP, {0: "liver"}) == said
    assert list_entities(PanopticClip(np.zeros((1, 4, 4), np.uint8), 0)) == "none"


def test_the_middle_and_the_small_have_words():
    map_HW = np.full((30, 30), 1, np.uint8)
    map_HW[15, 15:17] = 0
    assert entities_of(PanopticClip(map_HW[None], 1))[0].size == "under 1 % of the frame, centre"
