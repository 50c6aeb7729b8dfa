"""Agreement of maps and boxes, on maps whose answer is counted by hand."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.agreement import (
    Boxes,
    assign,
    boundary_f,
    box_iou,
    compare_maps,
    detector_agreement,
)
from hierasurg_core.maps import PanopticClip

# Two entities of 4 pixels, background 2, border 3.
WANTED_HW = [
    [0, 0, 2, 3],
    [0, 0, 2, 3],
    [2, 1, 1, 3],
    [2, 1, 1, 3],
]
# The first entity has lost a pixel, the second one is where it should be but is called 0.
FOUND_HW = [
    [1, 1, 2, 3],
    [1, 2, 2, 3],
    [2, 0, 0, 3],
    [2, 0, 0, 3],
]


def clip(*maps, entities: int = 2) -> PanopticClip:
    return PanopticClip(np.array(maps, np.uint8), entities)


def test_a_clip_agrees_with_itself():
    result = compare_maps(clip(WANTED_HW, WANTED_HW), clip(WANTED_HW, WANTED_HW))
    assert result.mean_iou == result.background_iou == result.boundary_f == 1
    assert result.frame_pq == result.clip_pq == result.id_consistency == 1
    assert (result.id_switches, result.entities_wanted, result.entities_found) == (0, 2, 2)


def test_names_of_ids_do_not_matter():
    result = compare_maps(clip(WANTED_HW), clip(FOUND_HW))
    assert result.mean_iou == (3 / 4 + 1) / 2
    assert result.background_iou == 4 / 5
    assert result.frame_pq == result.clip_pq == (3 / 4 + 1) / 2
    assert result.id_consistency is None  # one frame has no chance to switch


def test_a_lost_entity_and_an_invented_one_by_hand():
    found_HW = np.array(FOUND_HW)
    found_HW[found_HW == 1] = 2  # the first entity is lost
    found_HW[0, 3] = 1  # a stray pixel of the border is called an entity
    result = compare_maps(clip(WANTED_HW), clip(found_HW))
    assert result.mean_iou == 1 / 2
    assert result.frame_pq == 1 / (1 + 1 / 2 + 1 / 2)
    assert (result.entities_wanted, result.entities_found) == (2, 2)


def test_more_entities_on_one_side():
    found_HW = np.array(WANTED_HW) + 3  # ids 3 and 4 of five, background 5, border 6
    found_HW[0, :2] = 0
    result = compare_maps(clip(WANTED_HW), clip(found_HW, entities=5))
    assert result.mean_iou == pytest.approx((2 / 4 + 1) / 2)
    assert result.background_iou == 1
    assert result.frame_pq == pytest.approx(1 / (1 + (1 + 2) / 2))  # an IoU of a half is no match
    assert result.entities_found == 3


def test_ids_that_change_hands_by_hand():
    swapped_HW = np.array([[{0: 1, 1: 0}.get(value, value) for value in row] for row in WANTED_HW])
    wanted = clip(WANTED_HW, WANTED_HW, WANTED_HW)
    result = compare_maps(wanted, clip(WANTED_HW, swapped_HW, WANTED_HW))
    assert result.frame_pq == 1
    assert result.boundary_f == 1
    assert result.id_switches == 4  # there and back, both
    assert result.id_consistency == 0
    assert result.mean_iou == pytest.approx(8 / 16)  # 2 of 3 frames: 8 of 12 + 12 - 8 pixels
    assert result.clip_pq == 0
    once = compare_maps(wanted, clip(WANTED_HW, WANTED_HW, swapped_HW))
    assert (once.id_switches, once.id_consistency) == (2, 0.5)


def test_an_entity_that_is_away_for_a_frame_keeps_its_id():
    empty_HW = np.full((4, 4), 2)
    result = compare_maps(clip(WANTED_HW, WANTED_HW, WANTED_HW), clip(WANTED_HW, empty_HW, WANTED_HW))
    assert (result.id_switches, result.id_consistency) == (0, 1)
    # 4 matches, 2 lost in the middle
    assert result.frame_pq == 4 / (4 + 2 / 2)


def test_maps_without_entities():
    result = compare_maps(clip([[0, 1]], entities=0), clip([[0, 0]], entities=0))
    assert result.mean_iou is None
    assert result.frame_pq is None
    assert result.background_iou == 1 / 2
    border = compare_maps(clip([[1, 1]], entities=0), clip([[1, 1]], entities=0))
    assert border.background_iou is None


def test_maps_of_other_sizes_are_refused():
    with pytest.raises(DataError, match="frames, rows, columns"):
        compare_maps(clip(WANTED_HW), clip(WANTED_HW, WANTED_HW))


def test_boundaries_by_hand():
    wanted_HW, found_HW = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    wanted_HW[:, 8:] = 1
    found_HW[:, 10:] = 7
    assert boundary_f(wanted_HW, wanted_HW * 3) == 1
    assert boundary_f(wanted_HW, found_HW) == 0  # 2 px away; the tolerance is 0.23 px, so 1 px
    assert boundary_f(wanted_HW, found_HW, tolerance=0.07) == 1  # 1.98 px, so 2 px
    found_HW[:10, 10:] = 0
    found_HW[:10, 8:] = 7
    # Found: 10 border pixels at column 7, 2 between the columns 8 and 9 of row 9, 10 at column 9.
    precision, recall = 11 / 22, 11 / 20
    assert boundary_f(wanted_HW, found_HW) == pytest.approx(2 * precision * recall / (precision + recall))
    flat_HW = np.zeros((20, 20), np.uint8)
    assert boundary_f(flat_HW, flat_HW + 1) == 1
    assert boundary_f(flat_HW, wanted_HW) == boundary_f(wanted_HW, flat_HW) == 0


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 9), (9, 3), (30, 31)])
@pytest.mark.parametrize("levels", [2, 10**6])
def test_the_assignment_is_the_best(shape: tuple[int, int], levels: int):
    random = np.random.default_rng(levels)
    for _ in range(20):
        score_MN = random.integers(0, levels, shape) / levels - 0.3
        pairs = assign(score_MN)
        assert len(pairs) == min(shape)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
        rows, columns = linear_sum_assignment(score_MN, maximize=True)
        assert sum(score_MN[pair] for pair in pairs) == pytest.approx(
            score_MN[rows, columns].sum(), abs=1e-12
        )


def test_nothing_to_assign():
    assert assign(np.zeros((0, 3))) == assign(np.zeros((3, 0))) == []
    with pytest.raises(ValueError, match="finite"):
        assign(np.array([[np.nan]]))


def boxes(*rows: tuple[float, float, float, float, float]) -> Boxes:
    table = np.array(rows, float).reshape(-1, 5)
    return Boxes(table[:, :4], table[:, 4])


def test_box_iou_by_hand():
    a_M4, b_N4 = np.array([[0, 0, 2, 2]]), np.array([[1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 2, 2], [1, 1, 1, 1]])
    assert box_iou(a_M4, b_N4).tolist() == [[1 / 7, 0, 1, 0]]
    assert box_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0]]


def test_detector_agreement_by_hand():
    frames = [
        # One hit at IoU 1, one pair at 1/3; the box at exactly 0.5 does not count.
        (
            boxes((0, 0, 2, 2, 0.9), (10, 0, 12, 2, 0.8), (5, 5, 6, 6, 0.5)),
            boxes((11, 0, 13, 2, 0.9), (0, 0, 2, 2, 0.6)),
        ),
        # A real box without partner, then a pair at exactly 0.5.
        (boxes((0, 0, 2, 2, 0.9)), boxes()),
        (boxes((0, 0, 2, 2, 0.9)), boxes((0, 0, 2, 1, 0.9), (50, 50, 51, 51, 0.9))),
    ]
    result = detector_agreement(iter(frames))
    assert result.mean_iou == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert (result.real_boxes, result.generated_boxes) == (4, 4)
    assert result.real_hit == 2 / 4
    assert result.generated_hit == 2 / 4


def test_frames_without_boxes():
    result = detector_agreement([(boxes(), boxes())])
    assert result.mean_iou is result.real_hit is result.generated_hit is None


def test_boxes_that_are_none_are_refused():
    with pytest.raises(DataError, match="with N scores"):
        Boxes(np.zeros((2, 4)), np.zeros(3))
    with pytest.raises(DataError, match="NaN"):
        boxes((0, 0, 1, float("nan"), 0.9))
