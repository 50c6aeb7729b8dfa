"""What a sample leaves on disk besides its JSON: videos, pictures and maps, in as many forms as wanted.

Owns names and layout: `NAME.mp4`, `NAME_maps.mp4`, and on demand `NAME_maps/` and `NAME_frames/` (PNGs that
count from 000000), `NAME_overlay.mp4`, `NAME_side_by_side.mp4` and `NAME.gif`. Every form is written from a
stream, so an mp4 of any length takes the memory of one frame. Each file or folder is whole or absent.

Legend: F frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hierasurg_core.artifacts import atomic_file, atomic_folder
from hierasurg_core.config import GenerateConfig
from hierasurg_core.generation.preview import colouring
from hierasurg_core.maps import PanopticClip, fit_maps, save_map_png
from hierasurg_core.pictures import write_png
from hierasurg_core.video import write_mp4

_OVERLAY = 0.45  # of the maps' colours over the frames
_GAP = 4  # pixels between frames and maps that stand beside each other


@dataclass(frozen=True)
class Footage:
    """A finished video and its maps, to be read as often as needed.

    Attributes:
        frames: Begins a stream of uint8 RGB (H, W, 3).
        maps: Begins a stream of clips, together one map a second.
        fps: Frames a second.
    """

    frames: Callable[[], Iterator[NDArray[np.uint8]]]
    maps: Callable[[], Iterator[PanopticClip]]
    fps: int

    @classmethod
    def of_clip(cls, frames_FHWC: NDArray[np.uint8], maps: PanopticClip, fps: int) -> Footage:
        """Returns the footage of one clip that is in memory."""
        return cls(lambda: iter(frames_FHWC), lambda: iter((maps,)), fps)

    def single_maps(self) -> Iterator[NDArray[np.uint8]]:
        """Yields one map (H, W) a second."""
        for clip in self.maps():
            yield from clip.map_FHW


def possible_paths(out: Path, name: str) -> dict[str, Path]:
    """Returns all that a sample of this name can have in a folder besides its record, by form."""
    return {
        "video": out / f"{name}.mp4",
        "maps": out / f"{name}_maps.mp4",
        "maps_dir": out / f"{name}_maps",
        "frames_dir": out / f"{name}_frames",
        "overlay": out / f"{name}_overlay.mp4",
        "side_by_side": out / f"{name}_side_by_side.mp4",
        "gif": out / f"{name}.gif",
    }


def output_paths(config: GenerateConfig, name: str) -> dict[str, Path]:
    """Returns what was asked for of a sample of this name, by form; "video" and "maps" always."""
    optional = {
        "maps_dir": config.maps_dir,
        "frames_dir": config.frames_dir,
        "overlay": config.overlay,
        "side_by_side": config.side_by_side,
        "gif": config.gif,
    }
    return {form: path for form, path in possible_paths(config.out, name).items() if optional.get(form, True)}


def write_outputs(paths: dict[str, Path], footage: Footage) -> None:
    """Writes all that was asked for.

    Args:
        paths: What `output_paths` returned.
        footage: The sample; all of its clips have the same number of entities.

    Raises:
        ResourceError: A file cannot be written.
    """
    paint, comment = colouring(next(footage.maps()))
    write_mp4(paths["maps"], (paint(map_HW) for map_HW in footage.single_maps()), 1, comment)
    write_mp4(paths["video"], footage.frames(), footage.fps)
    if "overlay" in paths:
        overlaid = (_overlay(frame_HWC, map_HWC) for frame_HWC, map_HWC in _pairs(footage, paint))
        write_mp4(paths["overlay"], overlaid, footage.fps)
    if "side_by_side" in paths:
        beside = (_beside(frame_HWC, map_HWC) for frame_HWC, map_HWC in _pairs(footage, paint))
        write_mp4(paths["side_by_side"], beside, footage.fps)
    if "gif" in paths:
        _write_gif(paths["gif"], footage)
    if "frames_dir" in paths:
        with atomic_folder(paths["frames_dir"]) as folder:
            for index, frame_HWC in enumerate(footage.frames()):
                write_png(folder / f"{index:06d}.png", frame_HWC)
    if "maps_dir" in paths:
        number = next(footage.maps()).num_entities
        with atomic_folder(paths["maps_dir"]) as folder:
            for index, map_HW in enumerate(footage.single_maps()):
                save_map_png(folder / f"{index:06d}.png", map_HW, number)


def _pairs(
    footage: Footage, paint: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yields each frame with the painted map of its second, at the frame's size."""
    maps = footage.single_maps()
    map_HWC = np.empty(0, np.uint8)
    for index, frame_HWC in enumerate(footage.frames()):
        if index % footage.fps == 0:
            map_HWC = paint(fit_maps(next(maps), (frame_HWC.shape[0], frame_HWC.shape[1])))
        yield frame_HWC, map_HWC


def _overlay(frame_HWC: NDArray[np.uint8], map_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    mixed_HWC = (1 - _OVERLAY) * frame_HWC.astype(np.float32) + _OVERLAY * map_HWC
    return mixed_HWC.round().astype(np.uint8)


def _beside(frame_HWC: NDArray[np.uint8], map_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gap = np.full((frame_HWC.shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([frame_HWC, gap, map_HWC], axis=1)


def _write_gif(path: Path, footage: Footage) -> None:
    """Writes an endless GIF, each frame with the palette that suits it best."""
    pictures = (
        Image.fromarray(frame_HWC).quantize(256, Image.Quantize.MEDIANCUT) for frame_HWC in footage.frames()
    )
    with atomic_file(path) as part:
        next(pictures).save(
            part,
            format="GIF",
            save_all=True,
            append_images=pictures,
            duration=round(1000 / footage.fps),
            loop=0,
        )
