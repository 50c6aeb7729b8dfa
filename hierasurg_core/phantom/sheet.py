"""The phantom's contact sheet: every phase, instrument, verb and target on one picture, named.

Owns the choice of what is shown. The picture is for people: whoever cannot tell two tiles apart has found a
fault.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core import taxonomy
from hierasurg_core.phantom.draw import draw_clips

_TILE_HW = (144, 216)
_COLUMNS = 7
_LABEL = 18
_VERBS = (
    ("grasper,grasp,gallbladder", 1),
    ("grasper,retract,gallbladder", 1),
    ("hook,dissect,cystic_plate", 3),
    ("bipolar,coagulate,liver", 5),
    ("clipper,clip,cystic_duct", 1),
    ("scissors,cut,cystic_artery", 1),
    ("irrigator,aspirate,fluid", 5),
    ("irrigator,irrigate,liver", 5),
    ("grasper,pack,gallbladder", 4),
    ("hook,null_verb,null_target", 1),
)
_TARGETS = (
    ("hook,dissect,gallbladder", 1),
    ("hook,dissect,cystic_plate", 1),
    ("hook,dissect,cystic_duct", 1),
    ("hook,dissect,cystic_artery", 1),
    ("bipolar,coagulate,cystic_pedicle", 1),
    ("hook,dissect,blood_vessel", 0),
    ("irrigator,aspirate,fluid", 5),
    ("bipolar,coagulate,abdominal_wall_cavity", 0),
    ("bipolar,coagulate,liver", 5),
    ("scissors,cut,adhesion", 0),
    ("grasper,retract,omentum", 0),
    ("bipolar,coagulate,peritoneum", 0),
    ("grasper,retract,gut", 0),
    ("grasper,grasp,specimen_bag", 4),
)


def phantom_sheet(seed: int = 0) -> NDArray[np.uint8]:
    """Draws the sheet: rows of phases, instruments, verbs (after 3 s of action) and targets.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    null = [taxonomy.parse_triplet(f"{name},null_verb,null_target").id for name in taxonomy.INSTRUMENTS]
    blocks = [
        ("phase", taxonomy.PHASES, [null[0]] * 7, range(7)),
        ("instrument", taxonomy.INSTRUMENTS, null, [1] * 6),
        ("verb", [text.split(",")[1] for text, _ in _VERBS], *_columns(_VERBS)),
        ("target", [text.split(",")[2] for text, _ in _TARGETS], *_columns(_TARGETS)),
    ]
    rows: list[NDArray[np.uint8]] = []
    for kind, names, triplets, phases in blocks:
        clips = draw_clips(
            torch.tensor(list(phases)), torch.tensor(triplets), seed, size_hw=_TILE_HW, extras=0.1
        )
        frames = (clips.video_BFCHW[:, 12] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        tiles = [_named(frame, f"{kind}: {name}") for frame, name in zip(frames, names, strict=True)]
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
        rows += [np.concatenate(tiles[i : i + _COLUMNS], 1) for i in range(0, len(tiles), _COLUMNS)]
    return np.concatenate(rows)


def _columns(pairs: tuple[tuple[str, int], ...]) -> tuple[list[int], list[int]]:
    return [taxonomy.parse_triplet(text).id for text, _ in pairs], [phase for _, phase in pairs]


def _named(frame_HWC: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    band = np.full((_LABEL, frame_HWC.shape[1], 3), 24, np.uint8)
    cv2.putText(band, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.37, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([band, frame_HWC])
