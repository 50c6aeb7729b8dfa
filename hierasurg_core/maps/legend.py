"""A legend for pictures of maps: a swatch of each colour with its text, in rows of a given width.

Owns the layout. It knows no palette and no files: a caller says which colour stands for what.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_SWATCH = 12  # pixels
_LINE = 18
_GAP = 4
_APART = 14  # pixels between two entries
_FONT_SIZE = 12
_INK, _PAPER, _EDGE = (32, 32, 32), (255, 255, 255), (128, 128, 128)

Entry = tuple[Sequence[int], str]  # RGB and text


def draw_legend(entries: Sequence[Entry], width: int) -> NDArray[np.uint8]:
    """Draw entries beside each other, as many to a row as fit.

    Args:
        entries: Colour (red, green, blue, 0 to 255) and text of each.
        width: Of the picture, in pixels.

    Returns:
        uint8 RGB (H, width, 3); no row where there are no entries.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    rows: list[list[tuple[int, Entry]]] = []
    left = width
    for entry in entries:
        wide = _SWATCH + _GAP + round(font.getlength(entry[1])) + _APART
        if left + wide > width and (left > _GAP or not rows):
            rows.append([])
            left = _GAP
        rows[-1].append((left, entry))
        left += wide
    picture = Image.new("RGB", (width, _LINE * len(rows) + (_GAP if rows else 0)), _PAPER)
    pen = ImageDraw.Draw(picture)
    for number, row in enumerate(rows):
        top = _GAP + number * _LINE
        for at, (colour, text) in row:
            box = (at, top, at + _SWATCH - 1, top + _SWATCH - 1)
            pen.rectangle(box, fill=(int(colour[0]), int(colour[1]), int(colour[2])), outline=_EDGE)
            pen.text((at + _SWATCH + _GAP, top - 2), text, _INK, font)
    return np.array(picture)
