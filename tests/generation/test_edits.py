import numpy as np
import pytest

from hierasurg_core.errors import UsageError
from hierasurg_core.generation.edits import Edit, apply_edits, expect_possible, parse_edits
from hierasurg_core.maps import PanopticClip

# 0 and 1 are entities, 2 the background, 3 the border.
FIRST = np.array(
    [
        [3, 3, 3, 3, 3, 3, 3],
        [2, 2, 2, 2, 2, 2, 2],
        [2, 0, 0, 2, 1, 1, 2],
        [2, 0, 0, 2, 1, 1, 2],
        [2, 2, 2, 2, 2, 2, 2],
    ],
    np.uint8,
)
CLIP = PanopticClip(np.stack([FIRST] * 5), 2)
NAMES = {0: "gallbladder", 1: "cystic_duct"}


def edited(text: str, clip: PanopticClip = CLIP) -> np.ndarray:
    return apply_edits(clip, parse_edits(text), NAMES).map_FHW


def test_an_edit_is_read():
    assert parse_edits("move 3 by 40,-2 over 16; Keep liver , 2 from 4") == (
        Edit("move 3 by 40,-2 over 16", "move", ("3",), (40, -2), 16, 1),
        Edit("Keep liver , 2 from 4", "keep", ("liver", "2"), (0, 0), None, 4),
    )


def test_a_movement_is_linear_lies_on_top_and_leaves_the_background():
    map_FHW = edited("move 0 by 4,0 over 2")
    assert np.array_equal(map_FHW[0], FIRST)
    assert map_FHW[1][2].tolist() == [2, 2, 2, 0, 0, 1, 2]
    assert map_FHW[2][2].tolist() == [2, 2, 2, 2, 1, 0, 0]
    assert np.array_equal(map_FHW[2], map_FHW[4])
    to_the_end = edited("move 0 by 4,0")
    assert [map_HW[2].tolist().index(0) for map_HW in to_the_end] == [1, 2, 3, 4, 5]
    later = edited("move 0 by 4,0 over 1 from 3")
    assert [map_HW[2].tolist().index(0) for map_HW in later] == [1, 1, 1, 5, 5]


def test_what_leaves_the_picture_is_gone_and_the_border_hides():
    assert 0 not in edited("move 0 by 40,0 over 1")[1]
    up = edited("move 0 by 0,-2 over 1")[1]
    assert up.tolist()[:3] == [[3] * 7, [2, 0, 0, 2, 2, 2, 2], [2, 2, 2, 2, 1, 1, 2]]


def test_a_hole_takes_the_nearest_of_others():
    around = np.full((5, 7), 1, np.uint8)
    around[2, 2:5] = 0
    around[:, 6] = 2
    clip = PanopticClip(np.stack([around] * 2), 2)
    assert set(np.unique(edited("remove 0", clip)[1])) == {1, 2}
    alone = PanopticClip(np.zeros((2, 3, 3), np.uint8), 2)
    assert (edited("remove 0", alone)[1] == 2).all()


def test_remove_and_keep_by_id_and_by_name():
    removed = edited("remove cystic duct")
    assert np.array_equal(removed[0], FIRST)
    assert (removed[1:] != 1).all()
    assert (removed[1:] == 0).sum() == 4 * 4
    assert np.array_equal(edited("keep Gallbladder"), removed)
    assert (edited("remove 0,1 from 0") >= 2).all()


def test_edits_follow_each_other():
    both = edited("remove 1; move 0 by 3,0 over 1")
    assert both[1][2].tolist() == [2, 2, 2, 2, 0, 0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an edit is empty: write 'move WHO"),
        ("mvoe 0 by 1,1", "did you mean 'move'"),
        ("move 0", "a movement needs 'by RIGHT,DOWN'"),
        ("move 0 by 1", "is not understood"),
        ("move 0 by 1,1 over 0", "takes 1 second or more"),
        ("remove 0 by 1,1", "'remove' takes no 'by'"),
        ("keep 0 over 3", "'keep' takes no 'over'"),
        ("remove 0,,1", "is no id or name"),
        ("remove 2", "entity 2 is the background; entities are 0 gallbladder, 1 cystic_duct"),
        ("remove 3", "entity 3 is the black border"),
        ("remove 7", "entity 7 does not exist"),
        ("remove cistic duct", "no entity is called 'cistic duct'; did you mean 'cystic duct'"),
        ("remove 0 from 5", "begins at second 5, but the clip ends with 4"),
    ],
)
def test_errors_name_the_edit_and_the_language(text: str, message: str):
    with pytest.raises(UsageError, match=message):
        apply_edits(CLIP, parse_edits(text), NAMES)


def test_what_needs_no_maps_is_refused_before_they_are_made():
    first = PanopticClip(FIRST[None], 2)
    expect_possible(parse_edits("remove 0 from 15"), first, 16, NAMES)
    with pytest.raises(UsageError, match="ends with 15"):
        expect_possible(parse_edits("remove 0 from 16"), first, 16, NAMES)
    unnamed = (
        r"these have no names; entities are 0 \(11 % of the frame, centre left\), 1 \(11 % of .*centre\)"
    )
    with pytest.raises(UsageError, match=unnamed):
        expect_possible(parse_edits("remove liver"), first, 16, {})


def test_a_name_of_two_entities_means_both():
    clip = PanopticClip(np.repeat(FIRST[None], 3, axis=0), 2)
    edited = apply_edits(clip, parse_edits("remove grasper"), {0: "grasper", 1: "grasper"})
    assert set(np.unique(edited.map_FHW[1]).tolist()) <= {2, 3}
