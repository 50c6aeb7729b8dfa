"""Section 2's rules on masks small enough to check by eye."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hierasurg_core.labeling.refine import (
    BACKGROUND,
    BORDER,
    Piece,
    Rules,
    clean,
    cull_automatic,
    merge_objects,
    paint,
)

RULES = Rules(least_px=3, most_px=60, part_px=4, border_px=3)
ROWS = 10


def mask(*lines: str) -> NDArray[np.bool_]:
    """A mask of 10 columns; the rows that are not given are empty."""
    rows = [*lines, *([""] * (ROWS - len(lines)))]
    return np.array([[character == "#" for character in line.ljust(10)] for line in rows])


def square(top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask_HW = np.zeros((ROWS, 10), bool)
    mask_HW[top : top + side, left : left + side] = True
    return mask_HW


def piece(top: int, left: int, side: int) -> Piece:
    return Piece(top, left, np.ones((side, side), bool), side * side)


def test_limits_follow_the_size_of_the_frame() -> None:
    assert Rules.for_size((480, 854)) == Rules(1000, 100_000, 1000, 100)
    assert Rules.for_size((240, 427)) == Rules(250, 25_000, 250, 25)
    assert Rules.for_size((16, 16)).border_px == 1


def test_small_components_go_and_holes_close() -> None:
    found = clean(mask("####", "#  #", "####   ##", "####"), RULES)
    assert found is not None
    assert (found.top, found.left, found.area_px) == (0, 0, 16)
    assert (found.whole((ROWS, 10)) == square(0, 0, 4)).all()


def test_holes_that_would_add_more_than_a_fifth_stay() -> None:
    found = clean(mask("####", "#  #", "#  #", "####"), RULES)
    assert found is not None
    assert found.area_px == 12
    assert (found.whole((ROWS, 10)) == mask("####", "#  #", "#  #", "####")).all()


@pytest.mark.parametrize("side", [0, 1, 8])
def test_areas_out_of_the_limits_go(side: int) -> None:
    assert clean(square(1, 1, side), RULES) is None


def test_a_bay_is_no_hole() -> None:
    found = clean(mask("####", "#   ", "####", "####"), RULES)
    assert found is not None
    assert found.area_px == 13


def test_of_automatic_masks_the_largest_component_counts_and_the_contained_one_goes() -> None:
    two_parts = square(0, 0, 4) | square(6, 6, 2)
    inside = square(0, 0, 3)
    beside = square(5, 0, 3)
    indices, pieces = cull_automatic(np.stack([inside, two_parts, beside]), RULES)
    assert indices == [1, 2]
    assert [found.area_px for found in pieces] == [16, 9]
    assert cull_automatic(np.zeros((0, ROWS, 10), bool), RULES) == ([], [])


def test_pieces_overlap_as_their_masks_do() -> None:
    one, other = square(1, 2, 5), square(3, 4, 6)
    a, b = clean(one, RULES), clean(other, RULES)
    assert a is not None
    assert b is not None
    assert a.shared_px(b) == (one & other).sum() == 9
    assert a.iou(b) == pytest.approx(9 / (25 + 36 - 9))
    assert a.shared_px(piece(8, 0, 2)) == 0


def almost(side: int = 5) -> Piece:
    """A square without one corner: IoU 0.96 with the whole one."""
    mask_hw = np.ones((side, side), bool)
    mask_hw[0, 0] = False
    return Piece(2, 2, mask_hw, side * side - 1)


def test_the_smaller_of_two_that_are_one_in_most_frames_becomes_part_of_the_larger() -> None:
    frames: list[list[Piece | None]] = [
        [piece(2, 2, 5), almost()],
        [piece(2, 2, 5), almost()],
        [None, almost()],
    ]
    staying, entities = merge_objects(frames, [0, 1], RULES)
    assert entities == [0, 0]
    assert [[found is not None for found in frame] for frame in staying] == [
        [True, False],
        [True, False],
        [False, True],
    ]


def test_half_of_the_frames_is_not_enough() -> None:
    frames: list[list[Piece | None]] = [[piece(2, 2, 5), almost()], [None, almost()]]
    staying, entities = merge_objects(frames, [0, 1], RULES)
    assert entities == [0, 1]
    assert staying[0][1] is None


def test_a_union_that_is_too_large_is_not_made() -> None:
    frames: list[list[Piece | None]] = [
        [piece(2, 2, 5), almost()],
        [piece(2, 2, 5), almost()],
        [piece(2, 2, 5), Piece(0, 0, np.ones((10, 5), bool), 50)],
    ]
    assert merge_objects(frames, [0, 1], RULES)[1] == [0, 1]


def test_objects_of_one_entity_stay_one() -> None:
    frames: list[list[Piece | None]] = [[piece(0, 0, 3), None], [None, piece(6, 6, 3)]]
    assert merge_objects(frames, [7, 7], RULES)[1] == [7, 7]


def test_the_smaller_lies_on_the_larger_and_the_black_ground_is_border() -> None:
    frame_HWC = np.full((ROWS, 10, 3), 90, np.uint8)
    frame_HWC[:, :2] = 29  # border
    frame_HWC[9, 9] = 0  # a dark spot, too small
    frame_HWC[0, 3:6] = (29, 30, 29)  # dark, but for one channel
    map_HW = paint([piece(2, 4, 5), None, piece(3, 5, 2)], [4, 9, 1], frame_HWC, RULES)
    wanted_HW = np.full((ROWS, 10), BACKGROUND, np.uint8)
    wanted_HW[:, :2] = BORDER
    wanted_HW[2:7, 4:9] = 4
    wanted_HW[3:5, 5:7] = 1
    assert (map_HW == wanted_HW).all()


def test_an_object_on_black_ground_is_no_border() -> None:
    map_HW = paint([piece(0, 0, 4)], [0], np.zeros((ROWS, 10, 3), np.uint8), RULES)
    assert (map_HW[:4, :4] == 0).all()
    assert np.count_nonzero(map_HW == BORDER) == 84
