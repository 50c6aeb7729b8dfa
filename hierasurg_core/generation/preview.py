"""The contact sheet: one PNG that shows all samples of a run at a glance.

Owns the layout. It draws with Pillow's built-in font and knows no files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hierasurg_core.maps import (
    MAX_LEVELS,
    PanopticClip,
    colour_map,
    describe_levels,
    palette_levels,
    palette_rgb_N3,
)

_COLUMNS = 8
_WIDTH = 192  # pixels of a picture on the sheet
_GAP = 4
_CAPTION = 20
_SWATCH = 10  # side of a colour in the legend
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


@dataclass(frozen=True)
class Strip:
    """One sample on the sheet.

    Attributes:
        caption: A line above it.
        frames_FHWC: uint8 RGB.
        maps: One a second.
    """

    caption: str
    frames_FHWC: NDArray[np.uint8]
    maps: PanopticClip


def contact_sheet(strips: Sequence[Strip]) -> NDArray[np.uint8]:
    """Draws samples below each other: a caption, frames spread over the clip, and the maps of these moments.

    The legend says which colour of the maps has which id; it stands beside the caption, or below it.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: There is no sample.
    """
    rows = [_draw(strip) for strip in strips]
    width = max(row_HWC.shape[1] for row_HWC in rows)
    return np.concatenate(
        [
            np.pad(row_HWC, ((0, 0), (0, width - row_HWC.shape[1]), (0, 0)), constant_values=_PAPER[0])
            for row_HWC in rows
        ]
    )


def colouring(
    maps: PanopticClip,
) -> tuple[Callable[[NDArray[np.uint8]], NDArray[np.uint8]], str | None]:
    """Finds how S2M's palette paints maps of a clip's entities.

    Returns:
        A function from ids (..., H, W) to uint8 (..., H, W, 3), and the comment that lets `load_clip` read
        the ids back; None where there are more ids than colours.
    """
    levels = palette_levels(maps)
    if levels is None:
        return lambda map_FHW: palette_rgb_N3(MAX_LEVELS)[map_FHW % MAX_LEVELS], None
    return lambda map_FHW: colour_map(map_FHW, levels), describe_levels(levels, maps.num_entities)


def _draw(strip: Strip) -> NDArray[np.uint8]:
    paint, _ = colouring(strip.maps)
    maps_FHWC = paint(strip.maps.map_FHW)
    count = min(_COLUMNS, len(maps_FHWC))
    height, width = strip.frames_FHWC.shape[1:3]
    cell = (_WIDTH, max(1, round(_WIDTH * height / width)))
    pitch = (cell[0] + _GAP, cell[1] + _GAP)
    width = count * pitch[0] + _GAP
    font = ImageFont.load_default(13)
    names = [(_id_name(strip.maps, level), paint(np.array(level, np.uint8))) for level in strip.maps.levels]
    widths = [_SWATCH + 2 * _GAP + round(font.getlength(name)) + 2 * _GAP for name, _ in names]
    beside = round(font.getlength(strip.caption)) + 6 * _GAP + sum(widths) <= width
    lines = _lines(widths, width - 2 * _GAP)
    top = _CAPTION if beside else _CAPTION * (1 + len(lines))
    sheet = Image.new("RGB", (width, top + 2 * pitch[1] + _GAP), _PAPER)
    drawing = ImageDraw.Draw(sheet)
    drawing.text((_GAP, _GAP), strip.caption, _INK, font)
    for row, line in enumerate([range(len(names))] if beside else lines):
        x, y = (width - sum(widths), _GAP) if beside else (_GAP, _CAPTION * (1 + row) + _GAP)
        for index in line:
            name, rgb_3 = names[index]
            swatch = (x, y + 2, x + _SWATCH, y + 2 + _SWATCH)
            drawing.rectangle(swatch, fill=tuple(map(int, rgb_3)), outline=_INK)
            drawing.text((x + _SWATCH + _GAP, y), name, _INK, font)
            x += widths[index]
    rows = ((strip.frames_FHWC, Image.Resampling.BICUBIC), (maps_FHWC, Image.Resampling.NEAREST))
    for row, (pictures_FHWC, method) in enumerate(rows):
        chosen = np.linspace(0, len(pictures_FHWC) - 1, count).round().astype(int)
        for column, picture_HWC in enumerate(pictures_FHWC[chosen]):
            place = (_GAP + column * pitch[0], top + _GAP + row * pitch[1])
            sheet.paste(Image.fromarray(picture_HWC).resize(cell, method), place)
    return np.array(sheet)


def _id_name(maps: PanopticClip, level: int) -> str:
    """Returns an id as the legend has it: the number that `--edit` takes, or what the ground is."""
    return {maps.num_entities: "background", maps.max_id: "black border"}.get(level, str(level))


def _lines(widths: Sequence[int], most: int) -> list[list[int]]:
    """Breaks entries of these widths into lines of at most so many pixels."""
    lines: list[list[int]] = [[]]
    left = most
    for index, width in enumerate(widths):
        if width > left and lines[-1]:
            lines.append([])
            left = most
        lines[-1].append(index)
        left -= width
    return lines
