"""True maps to compare with: ours in either form, other people's indexed PNGs, and masks painted in colours.

Owns what counts as truth and which second a file shows. In a painted mask a colour is one entity, so two
instruments of a class are one; grey or black is what CholecSeg8k paints outside the round view with, and the
white of its outlines belongs to nobody. It knows no class by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.datasets.annotations import operation_name
from hierasurg_core.datasets.mapfiles import CLIP_SECONDS, VideoMaps
from hierasurg_core.datasets.operations import MASKS
from hierasurg_core.errors import DataError
from hierasurg_core.maps import PanopticClip
from hierasurg_core.maps.clip import MAX_ENTITIES
from hierasurg_core.pictures import read_head, read_image

_NUMBERED = re.compile(r"(\d+)\.(png|pkl)", re.IGNORECASE)
_CHOLECSEG8K = re.compile(r"frame_(\d+)_endo_color_mask\.png")
_CHOLECSEG8K_FPS = 25
_OUTSIDE = (0x7F7F7F, 0x505050, 0x000000)
_NOBODY = 0xFFFFFF


class TruthMaps(Protocol):
    """The true maps of one video.

    Attributes:
        seconds: That have one, rising.
    """

    seconds: tuple[int, ...]

    def clip(self, second: int, count: int) -> PanopticClip:
        """The maps of consecutive seconds, all of which have one."""
        ...


class FileTruth:
    """Maps as ids: clips as `.pkl`, or indexed PNGs."""

    def __init__(self, folder: Path) -> None:
        """Lists them.

        Raises:
            DataError: There are none.
        """
        self._maps = VideoMaps(folder)
        named = [_NUMBERED.fullmatch(path.name) for path in folder.iterdir()]
        last = max(int(match[1]) for match in named if match) + CLIP_SECONDS
        self.seconds = tuple(second for second in range(last) if self._maps.has(second, 1))

    def clip(self, second: int, count: int) -> PanopticClip:
        """As `TruthMaps`."""
        return self._maps.clip(second, count)


class ColourTruth:
    """Masks painted in colours, a picture a second."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        """Takes the pictures by their seconds."""
        self._files = dict(sorted(files.items()))
        self.seconds = tuple(self._files)

    def clip(self, second: int, count: int) -> PanopticClip:
        """As `TruthMaps`.

        Raises:
            DataError: A picture is damaged or of another size, or has more colours than a mask can have.
        """
        paths = [self._files[index] for index in range(second, second + count)]
        pictures = [read_image(path) for path in paths]
        for path, picture_HWC in zip(paths, pictures, strict=True):
            if picture_HWC.shape != pictures[0].shape:
                raise DataError(f"{path} is of another size than {paths[0]}")
        return ids_of_colours(np.stack(pictures), str(paths[0]))


def find_truth(folder: Path, name: str) -> TruthMaps | None:
    """Finds a video's true maps: `NAME_masks/`, the folder itself if that is called so, or CholecSeg8k's.

    Raises:
        DataError: What is there is damaged.
    """
    for candidate in (folder / f"{name}{MASKS}", folder):
        if candidate.is_dir() and _video_of(candidate) == name:
            return _in_masks_folder(candidate)
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and _video_of(path) == name:
            for file in sorted(path.rglob("*.png")):
                match = _CHOLECSEG8K.fullmatch(file.name)
                if match and int(match[1]) % _CHOLECSEG8K_FPS == 0:
                    files[int(match[1]) // _CHOLECSEG8K_FPS] = file
    return ColourTruth(files) if files else None


def ids_of_colours(picture_FHWC: NDArray[np.uint8], name: str) -> PanopticClip:
    """Gives each colour of painted masks an id.

    Args:
        picture_FHWC: uint8 RGB.
        name: For the message.

    Raises:
        DataError: There are more colours than entities can be.
    """
    wide = picture_FHWC.astype(np.uint32)
    colour_FHW = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    colours, index_FHW = np.unique(colour_FHW, return_inverse=True)
    entities = [colour for colour in colours.tolist() if colour not in (*_OUTSIDE, _NOBODY)]
    if len(entities) > MAX_ENTITIES:
        raise DataError(f"{name} has {len(entities)} colours: it is no mask, in which a colour is an entity")
    ids = {colour: identity for identity, colour in enumerate(entities)}
    ids |= {_NOBODY: len(entities)} | dict.fromkeys(_OUTSIDE, len(entities) + 1)
    table = np.array([ids[colour] for colour in colours.tolist()], np.uint8)
    return PanopticClip(table[index_FHW.reshape(colour_FHW.shape)], len(entities))


def _in_masks_folder(folder: Path) -> TruthMaps:
    pictures = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _NUMBERED.fullmatch(path.name)) and match[2].lower() == "png"
    }
    if not pictures or read_head(pictures[min(pictures)], "map").mode in ("P", "L"):
        return FileTruth(folder)
    return ColourTruth(pictures)


def _video_of(path: Path) -> str:
    """The operation that a folder is named after ("VID01", "video01_masks")."""
    return operation_name(path.name.removesuffix(MASKS))
