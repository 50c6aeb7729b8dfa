"""The contact sheet says which colour of its maps is which id."""

import numpy as np
import pytest
from maps.moving_shapes import moving_ids

from hierasurg_core.generation.preview import Strip, colouring, contact_sheet
from hierasurg_core.maps import PanopticClip


@pytest.mark.parametrize(("frames", "band"), [(16, 20), (2, 80)])  # beside the caption, or in lines below it
def test_the_legend_shows_every_id_in_its_colour(frames: int, band: int):
    maps = PanopticClip(moving_ids(18, frames, (64, 96), 1), 18)
    black_FHWC = np.zeros((frames, 64, 96, 3), np.uint8)
    sheet_HWC = contact_sheet([Strip("0000: calot, seed 0", black_FHWC, maps)])
    assert sheet_HWC.shape == (band + 2 * 132 + 4, min(8, frames) * 196 + 4, 3)
    paint, _ = colouring(maps)
    wanted = {tuple(map(int, paint(np.array(level, np.uint8)))) for level in maps.levels}
    assert len(wanted) == len(maps.levels)
    shown = {tuple(map(int, rgb)) for rgb in sheet_HWC[:band].reshape(-1, 3)}
    assert wanted <= shown
