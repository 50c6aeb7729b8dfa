"""The contact sheet: one PNG that shows all samples of a run at a glance.

Owns the layout. It draws with Pillow's built-in font and knows no files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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
from hierasurg_core.maps.legend import draw_legend

_COLUMNS = 8
_WIDTH = 192  # pixels of a picture on the sheet
_GAP = 4
_CAPTION = 20
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


@dataclass(frozen=True)
class Strip:
    """One sample on the sheet.

    Attributes:
        caption: A line above it.
        frames_FHWC: uint8 RGB.
        maps: One a second.
        names: What entities of the maps are called, where that is known.
    """

    caption: str
    frames_FHWC: NDArray[np.uint8]
    maps: PanopticClip
    names: Mapping[int, str] = field(default_factory=dict)


def contact_sheet(strips: Sequence[Strip]) -> NDArray[np.uint8]:
    """Draw samples below each other: a caption, frames spread over the clip, their maps, and a legend.

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
    sheet = Image.new("RGB", (count * pitch[0] + _GAP, _CAPTION + 2 * pitch[1] + _GAP), _PAPER)
    ImageDraw.Draw(sheet).text((_GAP, _GAP), strip.caption, _INK, ImageFont.load_default(13))
    rows = ((strip.frames_FHWC, Image.Resampling.BICUBIC), (maps_FHWC, Image.Resampling.NEAREST))
    for row, (pictures_FHWC, method) in enumerate(rows):
        chosen = np.linspace(0, len(pictures_FHWC) - 1, count).round().astype(int)
        for column, picture_HWC in enumerate(pictures_FHWC[chosen]):
            place = (_GAP + column * pitch[0], _CAPTION + _GAP + row * pitch[1])
            sheet.paste(Image.fromarray(picture_HWC).resize(cell, method), place)
    shown = np.unique(strip.maps.map_FHW)
    colours_N3 = paint(shown.reshape(1, 1, -1)).reshape(-1, 3)
    entries = [
        (colour.tolist(), _called(int(id_), strip)) for id_, colour in zip(shown, colours_N3, strict=True)
    ]
    return np.concatenate([np.array(sheet), draw_legend(entries, sheet.width)])


def _called(id_: int, strip: Strip) -> str:
    """Return id and name: "3 liver"."""
    ground = {strip.maps.num_entities: "background", strip.maps.max_id: "black border"}
    name = strip.names.get(id_) or ground.get(id_)
    return f"{id_}" if name is None else f"{id_} {name}"
