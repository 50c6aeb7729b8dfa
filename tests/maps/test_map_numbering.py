import numpy as np
import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.maps import Numbering, PanopticClip, number_by_appearance

# Two frames of 2x4 pixels, 5 entities: 3 and 1 are in the first frame, 4 comes in the second, 0 and 2 never.
CLIP = PanopticClip(np.array([[[3, 3, 1, 5], [3, 5, 5, 6]], [[3, 4, 1, 5], [4, 5, 5, 6]]], np.uint8), 5)


def test_numbers_rise_with_the_frame_of_first_appearance():
    numbering = number_by_appearance(CLIP, 8)
    assert numbering.ids == (1, 3, 4)
    assert numbering.left_out == ()
    expected = [[[1, 1, 0, 6], [1, 6, 6, 7]], [[1, 2, 0, 6], [2, 6, 6, 7]]]
    assert numbering.numbered(CLIP.map_FHW).tolist() == expected


def test_numbers_go_back_to_the_ids_of_the_clip():
    numbering = number_by_appearance(CLIP, 8)
    back = numbering.clip(numbering.numbered(CLIP.map_FHW))
    assert back.num_entities == 5
    assert np.array_equal(back.map_FHW, CLIP.map_FHW)


def test_newcomers_take_ids_that_do_not_occur_and_then_new_ones():
    first = PanopticClip(CLIP.map_FHW[:1], 5)
    numbering = number_by_appearance(first, 8)
    assert numbering.ids == (1, 3)
    made = np.array([[[0, 1, 2, 3], [4, 5, 6, 7]]], np.uint8)
    clip = numbering.clip(made)
    # Entities 2, 3, 4, 5 of the model are new: ids 0, 2 and 4 were free, then comes 5; 6 and 7 end the clip.
    assert clip.num_entities == 6
    assert clip.map_FHW.tolist() == [[[1, 3, 0, 2], [4, 5, 6, 7]]]


def test_the_smallest_entities_are_left_out_where_numbers_are_too_few():
    numbering = number_by_appearance(CLIP, 4)
    assert numbering.ids == (1, 3)
    assert numbering.left_out == (4,)
    assert numbering.numbered(CLIP.map_FHW[1]).tolist() == [[1, 2, 0, 2], [2, 2, 2, 3]]
    # An id that was left out is not given to another entity.
    assert number_by_appearance(CLIP, 4).clip(np.array([[[0, 1], [2, 3]]], np.uint8)).num_entities == 5


def test_numbers_by_chance_are_those_of_the_same_entities():
    drawn = {number_by_appearance(CLIP, 8, np.random.default_rng(seed)).ids for seed in range(20)}
    assert {tuple(sorted(ids)) for ids in drawn} == {(1, 3, 4)}
    assert len(drawn) > 1


def test_what_cannot_be_numbered_is_refused():
    with pytest.raises(ValueError, match="2 numbers has none for an entity"):
        number_by_appearance(CLIP, 2)


def test_a_clip_that_is_full_takes_no_newcomer():
    crowded = PanopticClip(np.arange(254, dtype=np.uint8).reshape(1, 2, 127), 254)
    numbering = number_by_appearance(crowded, 20)
    assert len(numbering.ids) == 18
    assert len(numbering.left_out) == 236
    numbering = number_by_appearance(crowded, 256)
    with pytest.raises(DataError, match="255 entities; a clip has at most 254"):
        Numbering(numbering.ids[:253], 254, 256, numbering.ids[253:]).clip(np.array([[[253]]], np.uint8))
