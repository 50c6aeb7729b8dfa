"""Definitions of what an eye sees in maps, on maps of 12x16 pixels whose figures are known by hand."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from hierasurg_core import taxonomy
from hierasurg_core.phantom import draw
from hierasurg_core.phantom.held_out import BACKGROUND, BORDER, Course, held_out_starts, true_answers
from hierasurg_core.phantom.map_scores import (
    distances_to_targets,
    iou_of,
    score_course,
    score_request,
    tip_of,
    whole_and_sized,
)
from hierasurg_core.phantom.pieces import is_whole, pieces_of
from hierasurg_core.phantom.scoring import score_requests

HOOK = draw.SLOT_CODE + taxonomy.INSTRUMENTS.index("hook")


def empty(frames: int) -> NDArray[np.uint8]:
    """Nothing but background, 192 pixels a frame."""
    return np.full((frames, 12, 16), BACKGROUND, np.uint8)


def course_of(map_FHW: NDArray[np.uint8], codes: tuple[int, ...]) -> Course:
    frames = len(map_FHW)
    return Course(np.zeros((12, 16, 3), np.uint8), map_FHW, codes, (1,) * frames, (0,) * frames)


def test_whole_is_19_of_20_pixels_in_one_piece():
    mask = np.zeros((12, 16), bool)
    assert pieces_of(mask) == (0, 0.0)
    assert not is_whole(mask)
    mask[0, :9], mask[1, 9:15] = True, True  # touch at a corner
    mask[3, :4] = True
    assert pieces_of(mask) == (19, 15 / 19)
    mask[2, 2:4], mask[3, :4], mask[1, 2], mask[11, 15] = True, False, True, False
    mask[1, 0] = True
    assert pieces_of(mask) == (19, 1.0)
    mask[11, 15] = True
    assert pieces_of(mask) == (20, 0.95)
    assert is_whole(mask)
    mask[11, 0] = True
    assert pieces_of(mask) == (21, 19 / 21)
    assert not is_whole(mask)


def test_sized_is_whole_and_half_to_three_times_the_first_area():
    mask = np.zeros((5, 12, 16), bool)
    mask[0, 0, :9] = True  # 9 of 20: too small
    mask[1, 0, :10] = True
    mask[2, :4, :15] = True  # 60
    mask[3, :4, :15], mask[3, 4, 0] = True, True  # 61: too large
    mask[4, 0, :10], mask[4, 5, :10] = True, True  # 20 in two pieces
    assert whole_and_sized(mask, 20) == (0.8, 0.4)


def test_the_tip_is_the_pixel_farthest_from_the_trocar():
    mask = np.zeros((8, 12), bool)
    mask[4, 5:] = True
    mask[0, 0] = True  # a stray pixel is no tip
    assert tip_of(mask, np.array([3.0, 0.0])) == (4, 5)
    assert tip_of(np.zeros((8, 12), bool), np.array([3.0, 0.0])) is None


def test_distances_by_hand():
    ids = np.array(
        [
            [0, 0, 3, 3, 1, 1],
            [3, 3, 3, 3, 3, 3],
            [3, 3, 3, 2, 2, 2],
            [3, 3, 3, 3, 3, 3],
        ],
        np.uint8,
    )
    codes = (7, 2, draw.SLOT_CODE)  # two targets, then the instrument; 3 is background
    assert distances_to_targets(ids, codes, np.array([3.0, 0.0])) == {7: 8**0.5, 2: 5**0.5}
    ids[ids == 2] = 3
    assert distances_to_targets(ids, codes, np.array([3.0, 0.0])) == {}


def test_iou_is_over_all_frames_and_leaves_out_what_is_nowhere():
    truth, made = empty(2), empty(2)
    truth[:, 0, :10] = 0  # 20 pixels
    made[0, 0, :10] = 0
    assert iou_of(made, truth, [0]) == 0.5
    assert iou_of(made, truth, [0, 7]) == 0.5
    assert iou_of(made, truth, [7]) is None
    assert iou_of(made, truth, [0, BACKGROUND]) == (0.5 + 364 / 374) / 2


def test_a_request_by_hand():
    start = dataclasses.replace(
        held_out_starts(1)[0],
        codes=(0, 8, draw.SLOT_CODE),  # gallbladder, liver, the instrument
        map_HW=np.full((12, 16), 3, np.uint8),
        num_entities=3,
        entry_view_2=np.array([3.0, 0.0]),
    )
    start.map_HW[5, 6:] = 2  # 10 pixels
    liver = taxonomy.parse_triplet("grasper,retract,liver").id
    made = empty(4)
    made[:, 0, :4], made[:, 11, :4] = 0, 1
    made[0, 5, 6:] = 2
    made[1, 5, 6:] = 2
    made[2, 9, 6:] = 2  # 2 rows above the liver, 9 below the gallbladder
    made[3, 4, 4:] = 2  # 4 below the gallbladder, 7 above the liver: on the mean still at the liver
    made[3, 7, 4:6] = 2  # 2 pixels of 14 elsewhere
    found = score_request(start, liver, made, made)
    assert (found.share, found.frame_share) == (1.0, 0.5)
    assert (found.whole, found.sized) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (found.tip_thickness, found.tip_gap) == (None, None)  # too small to be seen
    other = score_request(start, taxonomy.parse_triplet("grasper,grasp,gallbladder").id, made, made)
    assert (other.share, other.frame_share) == (0.0, 0.5)


def newcomer() -> Course:
    """A target, and a hook that comes in the second frame (60 pixels) and grows (120)."""
    truth = empty(3)
    truth[:, 11, :] = 0
    truth[1, :10, :6] = 1
    truth[2, :10, :12] = 1
    return course_of(truth, (0, HOOK))


def test_a_newcomer_is_seen_from_a_third_to_three_times_its_true_area():
    course = newcomer()
    truth = score_course(course, course.map_FHW)
    assert (truth.new_seen, truth.new_whole, truth.unasked, truth.old_gone) == (1.0, 1.0, None, None)
    made = course.map_FHW.copy()
    made[1][made[1] == 1] = BACKGROUND
    made[1, 0, :10], made[1, 1, :10] = 1, 1  # 20 of 60
    made[2, 5, :12] = BACKGROUND  # two pieces, 48 and 60
    found = score_course(course, made)
    assert (found.new_seen, found.new_whole) == (1.0, 0.5)
    made[1, 0, 0] = BACKGROUND  # 19
    assert (score_course(course, made).new_seen, score_course(course, made).new_whole) == (1.0, 0.0)
    made[2][made[2] == 1] = BACKGROUND
    made[2, :3, :13] = 1  # 39 of 120
    assert score_course(course, made).new_seen == 0.0
    made[1] = 1  # 192 of 60
    assert score_course(course, made).new_seen == 0.0


def test_a_newcomer_needs_its_own_id():
    course = newcomer()
    made = np.where(course.map_FHW == 1, 2, course.map_FHW).astype(np.uint8)
    assert score_course(course, made).new_seen == 0.0


def test_a_small_newcomer_is_none():
    truth = empty(3)
    truth[2, :7, :16] = 1  # 112 pixels
    truth[2, 7, :7] = 1  # 119
    truth[:, 11, :] = 0
    found = score_course(course_of(truth, (0, HOOK)), truth)
    assert (found.new_seen, found.unasked) == (None, 0.0)
    truth[2, 7, 7] = 1
    assert score_course(course_of(truth, (0, HOOK)), truth).new_seen == 1.0


def test_gone_is_a_tenth_of_the_first_area_in_the_last_frame():
    truth = empty(4)
    truth[:2, :10, :6] = 0  # 60 pixels, gone in the last two frames
    course = course_of(truth, (HOOK,))
    assert score_course(course, truth).old_gone == 1.0
    made = truth.copy()
    made[2, :10, :6] = 0
    made[3, 0, :6] = 0
    assert score_course(course, made).old_gone == 1.0
    made[3, 1, 0] = 0
    assert score_course(course, made).old_gone == 0.0
    truth[2, 0, 0] = 0  # gone too late to be asked for
    assert score_course(course_of(truth, (HOOK,)), truth).old_gone is None


def test_the_assistant_does_not_count_as_gone_or_new():
    truth = empty(4)
    truth[:2, :10, :6] = 0
    truth[2:, :10, :12] = 1
    found = score_course(course_of(truth, (draw.ASSISTANT_CODE, draw.ASSISTANT_CODE)), truth)
    assert (found.old_gone, found.new_seen, found.stays_whole) == (None, None, None)


def test_nobody_asked_for_60_pixels_of_ids_that_nobody_knows():
    truth = empty(3)
    truth[:, 11, :] = 0
    course = course_of(truth, (0,))
    assert score_course(course, truth).unasked == 0.0
    made = truth.copy()
    made[1, :10, :5], made[1, 10, :9] = 1, 7  # 59
    made[2, :10, :5] = 1
    assert score_course(course, made).unasked == 0.0
    made[1, 10, 9] = 7
    assert score_course(course, made).unasked == 1.0


def test_an_instrument_that_stays_is_whole_in_some_frames():
    truth = empty(5)
    truth[:, :10, :6] = 0
    course = course_of(truth, (HOOK,))
    made = truth.copy()
    made[1, 5, :6] = BACKGROUND
    made[2][made[2] == 0] = BACKGROUND
    assert score_course(course, made).stays_whole == 0.5
    assert score_course(course, truth).stays_whole == 1.0


def test_anatomy_is_what_stays_in_view():
    truth = empty(3)
    truth[:, :5, :12] = 0  # 60 pixels throughout
    truth[0, 6:11, :12] = 1  # a target that is not seen later
    truth[:, 11, :] = BORDER
    truth[1:, 6:11, :12] = 2  # an instrument
    course = course_of(truth, (0, 1, HOOK))
    assert score_course(course, truth).anatomy_miou == 1.0
    made = truth.copy()
    made[1:, :5, :6] = BACKGROUND  # half of it: 30 pixels of 60
    background = 192 - 60 - 16 - 60
    expected = (0.5 + background / (background + 30) + 1.0) / 3
    assert score_course(course, made).anatomy_miou == pytest.approx(expected)
    made[1:, 6:11, :12] = BACKGROUND  # without the instrument: 60 more
    expected = (0.5 + background / (background + 90) + 1.0) / 3
    assert score_course(course, made).anatomy_miou == pytest.approx(expected)


def test_the_phantoms_own_answers_reach_their_targets_whole():
    found = score_requests(list(true_answers(2)))
    assert [row.share for row in found] == [1.0] * 6
    assert min(row.whole for row in found) >= 14 / 15  # one pulls its instrument nearly out of view
    assert [row.tip_thickness for row in found] == [1.0] * 6
