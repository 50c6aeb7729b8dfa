"""Who is who: inside a window by looks and place, from window to window by overlap and looks."""

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.labeling.refine import BACKGROUND, Piece
from hierasurg_core.labeling.tracker import Known, Registry, Sighting, find_entities, mean_squared_error

NEAR = 0.01


def look(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def at(column: int) -> Piece:
    return Piece(0, column, np.ones((4, 4), bool), 16)


def seen(*masks: tuple[int, float]) -> Sighting:
    """Masks by column and a descriptor of one value."""
    described = np.array([[value] for _, value in masks], np.float32).reshape(len(masks), 1)
    return Sighting(tuple(at(column) for column, _ in masks), described)


def test_mean_squared_error_of_all_pairs() -> None:
    error = mean_squared_error(np.array([[0, 0], [1, 1]], np.float32), np.array([[0, 2]], np.float32))
    assert error.tolist() == [[2.0], [1.0]]


def test_looks_match_wherever_the_mask_is_and_are_averaged() -> None:
    (entity,) = find_entities([seen((0, 1.0)), seen((40, 1.08))], NEAR, 10)
    assert entity.seen == [(0, 0), (1, 0)]
    assert entity.prompts == [(0, 0)]
    assert entity.look_C.tolist() == [np.float32(1.04)]


def test_a_mask_that_stays_is_the_same_whatever_it_looks_like() -> None:
    (entity,) = find_entities([seen((0, 1.0)), seen((0, 9.0))], NEAR, 10)
    assert entity.seen == [(0, 0), (1, 0)]


def test_no_entity_has_two_masks_in_a_frame() -> None:
    entities = find_entities([seen((0, 1.0)), seen((20, 1.05), (40, 1.01))], NEAR, 10)
    assert [entity.seen for entity in entities] == [[(0, 0), (1, 1)], [(1, 0)]]


def test_new_ones_enter_and_returners_are_prompted_again_under_their_name() -> None:
    frames = [seen((0, 1.0)), seen((0, 1.0), (20, 2.0)), *[seen((20, 2.0))] * 5, seen((0, 1.0), (20, 2.0))]
    entities = find_entities(frames, NEAR, 10)
    assert [entity.prompts for entity in entities] == [[(0, 0), (7, 0)], [(1, 1)]]


def test_the_rarest_go_where_there_are_too_many() -> None:
    frames = [seen((0, 1.0), (20, 2.0), (40, 3.0)), seen((0, 1.0), (40, 3.0)), seen((40, 3.0))]
    assert [entity.seen[0] for entity in find_entities(frames, NEAR, 2)] == [(0, 0), (0, 2)]
    assert [entity.seen[0] for entity in find_entities(frames, NEAR, 1)] == [(0, 2)]


def test_what_shows_once_is_left_out_where_twice_is_asked() -> None:
    frames = [seen((0, 1.0), (20, 2.0)), seen((0, 1.0), (40, 3.0)), seen((0, 1.0), (60, 3.0))]
    entities = find_entities(frames, NEAR, 10, least_seen=2)
    assert [entity.prompts for entity in entities] == [[(0, 0)], [(1, 1)]]


def test_frames_without_masks() -> None:
    assert find_entities([seen(), seen()], NEAR, 10) == []
    assert len(find_entities([seen(), seen((0, 1.0)), seen()], NEAR, 10)) == 1


def test_what_overlaps_keeps_its_id_and_the_rest_is_compared_by_looks() -> None:
    registry = Registry()
    assert registry.link([look(1), look(2)], None, [(0, 9), (0, 3)], NEAR) == [0, 1]
    before = np.full((1, 4, 4), BACKGROUND, np.uint8)
    before[0, :2] = 0
    now = np.full((1, 4, 4), BACKGROUND, np.uint8)
    now[0, :2] = 1  # what was 0 is the second one now
    ids = registry.link([look(2.01), look(5), look(7)], (before, now), [(8, 12), (8, 12), (9, 12)], NEAR)
    assert ids == [1, 0, 2]
    assert registry.known[0].look_C.tolist() == [3.0]
    assert registry.known[1].last_frame == 12


def test_a_returner_of_long_ago_gets_its_id_back() -> None:
    registry = Registry({5: Known(look(4.0), 3)})
    assert registry.link([look(4.02)], None, [(300, 310)], NEAR) == [5]


def test_ids_are_bytes_and_the_one_gone_longest_is_given_again() -> None:
    registry = Registry({identity: Known(look(float(identity)), identity) for identity in range(254)})
    assert registry.link([look(5.0), look(-9.0)], None, [(400, 410), (400, 410)], NEAR) == [5, 0]
    assert len(registry.known) == 254
