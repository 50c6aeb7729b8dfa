"""Held-out clips are the same for everyone, and what comes into view can be foretold."""

import numpy as np

from hierasurg_core import taxonomy
from hierasurg_core.maps import PanopticClip
from hierasurg_core.phantom import draw
from hierasurg_core.phantom.held_out import (
    BACKGROUND,
    BORDER,
    Course,
    comparable,
    held_out_clips,
    held_out_courses,
    held_out_starts,
    number_by_appearance,
    requests_of,
    true_answers,
)


def test_background_and_border_have_fixed_ids_also_where_a_model_adds_entities():
    ids = np.array([[[0, 1, 2, 3]]], np.uint8)
    assert comparable(PanopticClip(ids, 2)).tolist() == [[[0, 1, BACKGROUND, BORDER]]]
    more = np.array([[[0, 1, 2, 4, 5]]], np.uint8)
    assert comparable(PanopticClip(more, 4)).tolist() == [[[0, 1, 2, BACKGROUND, BORDER]]]


def test_ids_follow_the_frame_in_which_an_entity_is_first_seen():
    ids = np.array([[[3, 3, 5, 6]], [[3, 0, 5, 6]], [[1, 0, 2, 6]]], np.uint8)  # 4 never occurs
    map_FHW, old = number_by_appearance(PanopticClip(ids, 5))
    assert old == (3, 0, 1, 2)
    a, b = BACKGROUND, BORDER
    assert map_FHW.tolist() == [[[0, 0, a, b]], [[0, 1, a, b]], [[2, 1, 3, b]]]


def test_the_first_map_of_a_course_has_no_room_for_what_comes():
    map_FHW = np.array([[[1, 0, BACKGROUND, BORDER]], [[1, 2, BACKGROUND, BORDER]]], np.uint8)
    course = Course(np.zeros((1, 4, 3), np.uint8), map_FHW, (0, 1, 14), (0, 0), (0, 0))
    first = course.first_map()
    assert (first.num_entities, first.map_FHW.tolist()) == (2, [[[1, 0, 2, 3]]])


def test_courses_tell_which_instrument_acts_and_a_newcomer_has_the_next_id():
    courses = held_out_courses(16)
    found = 0
    for course in courses:
        occurring = np.unique(course.map_FHW)
        assert occurring.tolist() == [*range(len(course.codes)), BACKGROUND, BORDER]
        first = set(np.unique(course.map_FHW[0]).tolist()) - {BACKGROUND, BORDER}
        assert first == set(range(len(first)))
        acting = draw.SLOT_CODE + taxonomy.TRIPLETS[course.triplet[-1]].instrument_id
        if acting in course.codes and course.codes.index(acting) >= len(first):
            found += 1
    assert found >= 4


def test_more_courses_begin_with_the_same():
    one, many = held_out_courses(1)[0], held_out_courses(16)[0]
    assert np.array_equal(one.map_FHW, many.map_FHW)
    assert one.triplet == many.triplet


def test_clips_name_their_instruments():
    for clip in held_out_clips(4):
        wide = [(clip.maps.map_FHW == tool).any(axis=(1, 2)).sum() for tool in clip.instruments]
        assert 1 <= len(clip.instruments) <= 2
        assert max(wide) == 16  # the acting instrument is in view from the first second


def test_starts_can_be_asked_for_three_other_targets():
    for start in held_out_starts(3):
        asked = [taxonomy.TRIPLETS[t] for t in start.triplets]
        assert len({t.target for t in asked}) == 3
        assert len({t.instrument for t in asked}) == 1
        seen = {code for i, code in enumerate(start.codes) if (start.map_HW == i).any()}
        assert {t.target_id for t in asked} <= seen


def test_true_answers_begin_with_the_start_and_move_its_instrument():
    answers = true_answers(2)
    assert len(answers) == len(requests_of(2)) == 6
    for (start, _), answer in zip(requests_of(2), answers, strict=True):
        first = comparable(PanopticClip(start.map_HW[None], start.num_entities))[0]
        assert np.array_equal(answer[0], first)
        acting = start.codes.index(draw.SLOT_CODE)
        assert not np.array_equal(answer[-1] == acting, answer[0] == acting)
