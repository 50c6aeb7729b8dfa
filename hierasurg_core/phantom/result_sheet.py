"""Sheets for looking at what models made: a row of frames a clip, a line of text above each.

Owns their look. Maps of all rows have one colour an id, so that truth and what was made can be compared.
Legend: F frames, H W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.maps import MAX_LEVELS, palette_rgb_N3
from hierasurg_core.phantom.held_out import BACKGROUND, BORDER
from hierasurg_core.pictures import write_png

_BAND_PX = 16
_GREYS = (14, 15)  # of the palette, which would look like the background
_BACKGROUND_RGB, _BORDER_RGB = (70, 70, 70), (0, 0, 0)
_STRANGE_RGB = (255, 255, 255)  # ids that no colour is left for


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a sheet.

    Attributes:
        text: What stands above it.
        video_FHWC: uint8 RGB.
    """

    text: str
    video_FHWC: NDArray[np.uint8]


def painted(map_FHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paints comparable maps (`held_out.comparable`) as a video, uint8 (F, H, W, 3)."""
    colours_N3 = np.delete(palette_rgb_N3(MAX_LEVELS), _GREYS, axis=0)
    table_N3 = np.full((256, 3), _STRANGE_RGB, np.uint8)
    table_N3[: len(colours_N3)] = colours_N3
    table_N3[[BACKGROUND, BORDER]] = _BACKGROUND_RGB, _BORDER_RGB
    return table_N3[map_FHW]


def draw_sheet(rows: Sequence[Row]) -> NDArray[np.uint8]:
    """Draws rows of frames of one size, about every second from the first to the last, uint8 (H, W, 3)."""
    tiles: list[NDArray[np.uint8]] = []
    for row in rows:
        frames = len(row.video_FHWC)
        shown = np.linspace(0, frames - 1, (frames + 1) // 2).round().astype(int)
        line = np.concatenate(list(row.video_FHWC[shown]), axis=1)
        band = np.full((_BAND_PX, line.shape[1], 3), 24, np.uint8)
        cv2.putText(band, row.text, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
        tiles += [band, line]
    return np.concatenate(tiles)


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """Writes the sheet as a PNG, atomically.

    Raises:
        ResourceError: The file cannot be written.
    """
    write_png(path, draw_sheet(rows))
