import numpy as np
import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.maps import PanopticClip, normalise_levels, with_room


def test_levels_are_the_ids_that_occur():
    clip = PanopticClip(np.array([[[0, 4], [4, 3]]], np.uint8), num_entities=3)
    assert clip.levels == (0, 3, 4)
    assert clip.max_id == 4


def test_room_moves_background_and_border_and_nothing_else():
    clip = PanopticClip(np.array([[[0, 2], [3, 1]]], np.uint8), num_entities=2)
    roomy = with_room(clip, 4)
    assert roomy.num_entities == 4
    assert roomy.map_FHW.tolist() == [[[0, 4], [5, 1]]]
    assert with_room(clip, 2).map_FHW.tolist() == clip.map_FHW.tolist()
    with pytest.raises(ValueError, match="no room in 1"):
        with_room(clip, 1)
    with pytest.raises(DataError, match="254"):
        with_room(clip, 255)


def test_masks_and_ids_say_the_same():
    map_FHW = np.array([[[0, 1], [2, 3]], [[1, 1], [2, 3]]], np.uint8)
    masks = PanopticClip(map_FHW, num_entities=2).to_masks()
    assert sorted(masks) == [0, 1]
    assert sorted(masks[1]) == [0, 1, 2, 3]
    assert masks[0][1].dtype == np.bool_
    assert masks[0][1].tolist() == [[[False, True], [False, False]]]
    assert masks[1][0].tolist() == [[[False, False], [False, False]]]
    again = PanopticClip.from_masks(masks)
    assert np.array_equal(again.map_FHW, map_FHW)
    assert again.num_entities == 2


def test_what_no_mask_covers_is_background_and_the_higher_id_wins():
    masks = {
        0: {
            0: np.array([[[True, True], [False, False]]]),
            1: np.array([[[False, True], [False, False]]]),
            3: np.array([[[False, False], [False, True]]]),
        }
    }
    assert PanopticClip.from_masks(masks).map_FHW.tolist() == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize(
    ("map_FHW", "num_entities", "message"),
    [
        (np.zeros((2, 2), np.uint8), 1, "frames, rows, columns"),
        (np.zeros((1, 2, 2), np.int64), 1, "int64"),
        (np.zeros((0, 2, 2), np.uint8), 1, "frames, rows, columns"),
        (np.full((1, 2, 2), 4, np.uint8), 2, "id 4, but with 2 entities the highest is 3"),
        (np.zeros((1, 2, 2), np.uint8), 255, "not 255"),
    ],
)
def test_a_clip_that_is_none_is_refused(map_FHW, num_entities: int, message: str):
    with pytest.raises(DataError, match=message):
        PanopticClip(map_FHW, num_entities)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "without a gap"),
        ({1: {0: np.ones((1, 2, 2), bool), 1: np.ones((1, 2, 2), bool)}}, "without a gap"),
        ({0: {0: np.ones((1, 2, 2), bool)}}, "at least two"),
        ({0: {0: np.ones((1, 2, 2), bool), 300: np.ones((1, 2, 2), bool)}}, "300"),
        ({0: {0: np.ones((1, 2, 2), bool), 1: np.ones((1, 2, 3), bool)}}, "one size"),
        ({0: {0: np.ones((3, 2, 2), bool), 1: np.ones((1, 2, 2), bool)}}, "1, rows, columns"),
        ({0: {0: np.ones((), bool), 1: np.ones((), bool)}}, "one size"),
    ],
)
def test_masks_that_are_no_clip_are_refused(masks, message: str):
    with pytest.raises(DataError, match=message):
        PanopticClip.from_masks(masks)


def test_normalised_levels_are_id_over_highest_id():
    map_BFHW = np.array([[[[0, 2]]], [[[0, 2]]]], np.uint8)
    values = normalise_levels(map_BFHW, [2, 4])
    assert values.dtype == np.float32
    assert values.tolist() == [[[[0, 1]]], [[[0, 0.5]]]]
    with pytest.raises(ValueError, match="above the highest"):
        normalise_levels(map_BFHW, [1, 4])
    with pytest.raises(ValueError, match="each of 2 clips"):
        normalise_levels(map_BFHW, [2])
