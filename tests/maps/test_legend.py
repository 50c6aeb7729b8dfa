import numpy as np

from hierasurg_core.maps.legend import draw_legend

RED, BLUE = (200, 0, 0), (0, 0, 200)


def swatches(picture_HWC: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Top row and left column of a colour's first pixel."""
    rows, columns = np.nonzero((picture_HWC == np.array(colour)).all(axis=2))
    return int(rows.min()), int(columns.min())


def test_entries_stand_beside_each_other_while_they_fit():
    picture_HWC = draw_legend([(RED, "0 liver"), (BLUE, "1 gut")], 300)
    assert picture_HWC.shape == (22, 300, 3)
    assert swatches(picture_HWC, RED)[0] == swatches(picture_HWC, BLUE)[0]
    assert swatches(picture_HWC, RED)[1] < swatches(picture_HWC, BLUE)[1]


def test_what_does_not_fit_goes_into_the_next_row():
    picture_HWC = draw_legend([(RED, "0 abdominal wall"), (BLUE, "1 gut")], 120)
    assert picture_HWC.shape == (40, 120, 3)
    assert swatches(picture_HWC, BLUE)[0] == swatches(picture_HWC, RED)[0] + 18


def test_text_stands_behind_its_swatch():
    picture_HWC = draw_legend([(RED, "0 liver")], 300)
    assert (picture_HWC[:, 20:60] < 128).any()
    assert (picture_HWC[:, 100:] == 255).all()


def test_no_entries_are_no_rows():
    assert draw_legend([], 300).shape == (0, 300, 3)
