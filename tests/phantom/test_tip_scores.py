"""Tips are thin and open, or not: by hand, and on true clips that are made blunt."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hierasurg_core.phantom import draw
from hierasurg_core.phantom.held_out import BACKGROUND, BORDER, requests_of, true_answers
from hierasurg_core.phantom.tip_scores import compare_tips, find_tip

NO_BORDER = np.zeros((64, 96), bool)  # the window's radius is 6.016 pixels


def test_a_line_of_one_pixel_is_two_thick_and_has_no_gap():
    mask = np.zeros((64, 96), bool)
    mask[30, 40:] = True
    tip = find_tip(mask, NO_BORDER)
    assert tip is not None
    assert (tip.thickness_px, tip.gap) == (2.0, 0.0)


def test_a_strip_of_three_pixels_has_its_mean_depth_times_four():
    mask = np.zeros((64, 96), bool)
    mask[29:32, 40:] = True
    tip = find_tip(mask, NO_BORDER)
    assert tip is not None
    # Columns 40..46 of the first row, which holds the farthest pixel, and of the next; 40..45 of the third.
    # Depths: 1 in the outer rows and the first column, else 2; each half a pixel less.
    depths = [0.5] * 7 + [0.5] + [1.5] * 5 + [0.5] * 6
    assert tip.thickness_px == pytest.approx(4 * sum(depths) / len(depths), rel=1e-5)
    assert tip.gap == 0.0


def test_two_jaws_leave_a_gap():
    mask = np.zeros((64, 96), bool)
    mask[30, 40:] = True
    mask[34, 40:] = True
    mask[30:35, 60:] = True
    tip = find_tip(mask, NO_BORDER)
    assert tip is not None
    # Near (30, 40): columns 40..46 of row 30, 40..44 of row 34. Between them 3 rows of 6 to 7, 6 and 5 to 6.
    assert 17 <= tip.gap * np.pi * 6.016**2 <= 19
    assert tip.thickness_px == 2.0


def test_the_tip_lies_opposite_to_the_border():
    mask = np.zeros((64, 96), bool)
    mask[30, 20:60] = True
    assert find_tip(mask, NO_BORDER) is None  # nothing comes in from anywhere
    border = NO_BORDER.copy()
    border[:, 60:] = True
    mask[28, 55] = True  # a stray pixel is no tip
    tip = find_tip(mask, border)
    assert tip is not None
    assert tip.thickness_px == 2.0
    assert find_tip(np.zeros((64, 96), bool), border) is None


def closed(map_FHW: NDArray[np.uint8], identity: int, size: int) -> NDArray[np.uint8]:
    """Fills the gaps of an instrument, as a coarse model does."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    filled = map_FHW.copy()
    for frame in filled:
        frame[cv2.morphologyEx((frame == identity).astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0] = identity
    return filled


def test_true_tips_are_right_and_closed_and_widened_ones_are_not():
    gaps, closed_gaps, thicknesses = [], [], []
    for (start, _), answer in zip(requests_of(8), true_answers(8), strict=True):
        acting = start.codes.index(draw.SLOT_CODE)
        true, blunt = (compare_tips(m, answer, acting) for m in (answer, closed(answer, acting, 11)))
        wide = answer.copy()
        for frame in wide:
            body = cv2.dilate((frame == acting).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            frame[body & (frame != BORDER)] = acting
        thicknesses.append(compare_tips(wide, answer, acting).thickness)
        assert true.thickness in (1.0, None)
        if true.gap is not None:
            gaps.append(true.gap)
            closed_gaps.append(blunt.gap)
    assert len(gaps) >= 3
    assert set(gaps) == {1.0}
    assert np.mean(closed_gaps) < 0.8
    assert np.mean([t for t in thicknesses if t is not None]) > 1.3


def test_frames_in_which_one_of_both_shows_no_instrument_do_not_count():
    truth = np.full((4, 64, 96), BACKGROUND, np.uint8)
    truth[:, 30:32, 40:] = 0  # 112 pixels
    made = truth.copy()
    made[3] = BACKGROUND
    assert compare_tips(made, truth, 0).thickness == 1.0
    made[2] = BACKGROUND
    assert compare_tips(made, truth, 0).thickness is None
