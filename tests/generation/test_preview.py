import numpy as np
import pytest

from hierasurg_core.generation.preview import Strip, contact_sheet
from hierasurg_core.maps import MAX_LEVELS, PanopticClip, palette_rgb_N3

FRAMES = np.zeros((8, 64, 96, 3), np.uint8)


def test_a_sheet_says_which_colour_is_what():
    map_FHW = np.full((8, 64, 96), 2, np.uint8)
    map_FHW[:, :20], map_FHW[:, :, :5] = 0, 3
    clip = PanopticClip(map_FHW, 2)  # entity 1 is not seen
    bare = contact_sheet([Strip("0000", FRAMES, clip)])
    named = contact_sheet([Strip("0000", FRAMES, clip, {0: "liver", 1: "gut"})])
    legend_HWC = named[-22:]
    assert bare.shape == named.shape == (20 + 2 * 132 + 4 + 22, 8 * 196 + 4, 3)
    assert (bare[:-22] == named[:-22]).all()
    assert (bare[-22:] != legend_HWC).any()  # "0" became "0 liver"
    swatches = {tuple(pixel) for pixel in legend_HWC[8, :].tolist()}
    painted = {tuple(pixel) for pixel in named[180, :].tolist()}
    palette = {tuple(colour) for colour in palette_rgb_N3(MAX_LEVELS).tolist()}
    assert len(swatches & palette) == 3  # entity 0, background, border
    assert painted & palette <= swatches


def test_a_sheet_needs_a_sample():
    with pytest.raises(ValueError, match="max"):
        contact_sheet([])
