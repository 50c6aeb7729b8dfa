"""The measurements measure: on maps and videos whose answer is known by hand."""

import numpy as np

from hierasurg_core.phantom import draw
from hierasurg_core.phantom.measure import distances_to_targets, held_out_starts, psnr, tip_of


def test_psnr_by_hand():
    a = np.zeros((1, 2, 2, 3), np.uint8)
    b = np.full((1, 2, 2, 3), 51, np.uint8)
    assert round(psnr(a, b), 3) == 13.979  # 20 log10(255 / 51)


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


def test_held_out_starts_can_be_asked_for_three_other_targets():
    from hierasurg_core import taxonomy

    for start in held_out_starts(3):
        asked = [taxonomy.TRIPLETS[t] for t in start.triplets]
        assert len({t.target for t in asked}) == 3
        assert len({t.instrument for t in asked}) == 1
        seen = {code for i, code in enumerate(start.codes) if (start.map_HW == i).any()}
        assert {t.target_id for t in asked} <= seen
