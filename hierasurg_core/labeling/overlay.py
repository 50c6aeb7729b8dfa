"""Frames with their maps over them: a video to watch, and a contact sheet to look at.

Owns the look of it: an id has one colour throughout, entities are tinted and outlined, background and black
border are left as they are. Reads what `store` wrote and decides about nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.labeling.frames import SecondFrames
from hierasurg_core.labeling.refine import BACKGROUND, BORDER
from hierasurg_core.labeling.windows import CLIP_FRAMES
from hierasurg_core.maps import MAX_LEVELS, load_clip, load_map_image, map_num_entities, palette_rgb_N3
from hierasurg_core.maps.legend import draw_legend
from hierasurg_core.pictures import write_png
from hierasurg_core.video import write_mp4

_FPS = 4  # of the overlay: four seconds of the operation in one
_TINT = 0.45
_TILES = 24
_COLUMNS = 4
_TILE_WIDTH = 320
_AT_ONCE = 16  # frames read at once


def write_overlay(
    out: Path, name: str, frames: SecondFrames, folder: Path, map_format: str, clip_ids: Mapping[str, str]
) -> tuple[Path, Path]:
    """Writes `NAME_overlay.mp4` and `NAME_sheet.png`.

    Args:
        out: Folder for both.
        name: Of the video.
        frames: Its frames.
        folder: Its maps.
        map_format: "pkl" or "png".
        clip_ids: From the manifest of the maps.

    Returns:
        Both files.
    """
    maps = _png_maps(folder, frames.num_frames)
    if map_format == "pkl":
        maps = _clip_maps(folder, frames.num_frames, clip_ids)
    video, sheet = out / f"{name}_overlay.mp4", out / f"{name}_sheet.png"
    step = max(1, -(-frames.num_frames // _TILES))
    tiles: list[NDArray[np.uint8]] = []
    shown: set[int] = set()

    def pictures() -> Iterator[NDArray[np.uint8]]:
        index = 0
        for first in range(0, frames.num_frames, _AT_ONCE):
            for frame_HWC in frames.read(range(first, min(first + _AT_ONCE, frames.num_frames))):
                code_HW = next(maps)
                picture_HWC = overlay(frame_HWC, code_HW)
                if index % step == 0:
                    tiles.append(_tile(picture_HWC, f"{index} s"))
                    shown.update(np.unique(code_HW).tolist())
                index += 1
                yield picture_HWC

    write_mp4(video, pictures(), _FPS)
    write_png(sheet, _sheet(tiles, sorted(shown - {BACKGROUND, BORDER})))
    return video, sheet


def overlay(frame_HWC: NDArray[np.uint8], code_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tints a frame.

    Args:
        frame_HWC: uint8 RGB.
        code_HW: uint8 ids, `BACKGROUND` and `BORDER`.

    Returns:
        uint8 RGB.
    """
    palette_N3 = palette_rgb_N3(MAX_LEVELS)[np.arange(256) % MAX_LEVELS].astype(np.float32)
    share_N = np.full(256, _TINT, np.float32)
    share_N[[BACKGROUND, BORDER]] = 0
    edge_HW = np.zeros(code_HW.shape, bool)
    edge_HW[:, :-1] |= code_HW[:, :-1] != code_HW[:, 1:]
    edge_HW[:-1] |= code_HW[:-1] != code_HW[1:]
    edge_HW &= code_HW < BACKGROUND
    share_HW1 = np.where(edge_HW, np.float32(1), share_N[code_HW])[..., None]
    return (frame_HWC * (1 - share_HW1) + palette_N3[code_HW] * share_HW1 + 0.5).astype(np.uint8)


def _png_maps(folder: Path, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    for frame in range(num_frames):
        path = folder / f"{frame:06d}.png"
        yield _coded(map_num_entities(path), None)[load_map_image(path)]


def _clip_maps(folder: Path, num_frames: int, clip_ids: Mapping[str, str]) -> Iterator[NDArray[np.uint8]]:
    """The maps of clips that follow each other; the last one may begin inside the one before."""
    done = 0
    last = num_frames - CLIP_FRAMES
    for start in itertools.chain(range(0, last, CLIP_FRAMES), (last,)):
        clip = load_clip(folder / f"{start:06d}.pkl")
        codes = _coded(clip.num_entities, [int(text) for text in clip_ids[f"{start:06d}"].split()])
        yield from codes[clip.map_FHW[done - start :]]
        done = start + CLIP_FRAMES


def _coded(num_entities: int, ids: list[int] | None) -> NDArray[np.uint8]:
    """A table from the ids of a file to the video's, with codes for ground."""
    table = np.full(256, BORDER, np.uint8)
    table[:num_entities] = np.arange(num_entities) if ids is None else ids
    table[num_entities] = BACKGROUND
    return table


def _tile(picture_HWC: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    height = round(picture_HWC.shape[0] * _TILE_WIDTH / picture_HWC.shape[1])
    tile = cv2.resize(picture_HWC, (_TILE_WIDTH, height), interpolation=cv2.INTER_AREA)
    cv2.putText(tile, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(tile, np.uint8)


def _sheet(tiles: list[NDArray[np.uint8]], ids: list[int]) -> NDArray[np.uint8]:
    """Lay out tiles in rows, and below them which colour has which of the ids that they show."""
    padded = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
    rows = [np.concatenate(padded[at : at + _COLUMNS], axis=1) for at in range(0, len(padded), _COLUMNS)]
    palette_N3 = palette_rgb_N3(MAX_LEVELS)
    entries = [(palette_N3[id_ % MAX_LEVELS].tolist(), f"id {id_}") for id_ in ids]
    return np.concatenate([*rows, draw_legend(entries, rows[0].shape[1])])
