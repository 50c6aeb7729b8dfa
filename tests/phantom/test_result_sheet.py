"""Sheets show the first and the last frame, and one colour an id."""

from pathlib import Path

import numpy as np
from PIL import Image

from hierasurg_core.phantom.held_out import BACKGROUND, BORDER
from hierasurg_core.phantom.result_sheet import Row, draw_sheet, painted, write_sheet


def test_each_id_has_a_colour_of_its_own():
    ids = np.array([[[*range(18), BACKGROUND, BORDER, 18, 19]]], np.uint8)
    colours = [tuple(colour) for colour in painted(ids)[0, 0].tolist()]
    assert len(set(colours[:20])) == 20
    assert colours[18:] == [(70, 70, 70), (0, 0, 0), (255, 255, 255), (255, 255, 255)]


def test_a_row_has_a_band_and_half_of_the_frames(tmp_path: Path):
    video = np.zeros((16, 8, 100, 3), np.uint8)
    video[0], video[15] = 10, 20
    write_sheet(tmp_path / "sheet.png", [Row("one", video), Row("two", video)])
    with Image.open(tmp_path / "sheet.png") as image:
        found = np.array(image)
    assert found.shape == (2 * (16 + 8), 800, 3)
    assert np.array_equal(found, draw_sheet([Row("one", video), Row("two", video)]))
    assert (found[16:24, :100] == 10).all()
    assert (found[16:24, 700:] == 20).all()
    assert (found[:16] > 200).any()  # the text
