"""Folders of phantom clips: plain videos, and samples with the records that `generate` writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core import taxonomy
from hierasurg_core.artifacts import write_json
from hierasurg_core.maps import PanopticClip, colour_map, describe_levels, palette_levels
from hierasurg_core.phantom import draw
from hierasurg_core.phantom.held_out import uint8_video
from hierasurg_core.video import write_mp4

Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def drawn(
    count: int, seed: int, *, frames: int = 16, size_hw: tuple[int, int] = (64, 96)
) -> draw.PhantomClips:
    phases, triplets = torch.arange(count) % 7, torch.arange(count) * 7 % 94
    return draw.draw_clips(phases, triplets, seed, num_frames=frames, size_hw=size_hw)


def write_videos(folder: Path, clips: draw.PhantomClips, change: Change | None = None) -> Path:
    """Writes `0000.mp4`, ... and nothing else."""
    folder.mkdir(parents=True)
    for index, video_FHWC in enumerate(uint8_video(clips)):
        write_mp4(folder / f"{index:04d}.mp4", change(video_FHWC) if change else video_FHWC, 1)
    return folder


def write_samples(
    folder: Path,
    clips: draw.PhantomClips,
    change: Change | None = None,
    *,
    source: Callable[[int], dict[str, Any]] = lambda index: {},
    model: dict[str, Any] | None = None,
) -> Path:
    """Writes samples as `generate` does: video, coloured maps and record."""
    write_videos(folder, clips, change)
    for index in range(len(clips.video_BFCHW)):
        maps = PanopticClip(clips.map_BFHW[index].numpy(), int(clips.num_entities_B[index]))
        levels = palette_levels(maps)
        assert levels is not None
        comment = describe_levels(levels, maps.num_entities)
        write_mp4(folder / f"{index:04d}_maps.mp4", colour_map(maps.map_FHW, levels), 1, comment)
        phase, triplet = int(clips.phase_BF[index, 0]), int(clips.triplet_BF[index, 0])
        record = {
            "schema": 1,
            "video": f"{index:04d}.mp4",
            "seed": index,
            "phase": {"id": phase, "name": taxonomy.PHASES[phase]},
            "triplet": {"id": triplet, "name": taxonomy.TRIPLETS[triplet].name},
            "start": {},
            "source": source(index),
            "model": model or {"name": "test"},
        }
        write_json(folder / f"{index:04d}.json", record)
    return folder


def softer(video_FHWC: np.ndarray) -> np.ndarray:
    """A copy as a model might make it: a little blurred."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in video_FHWC])


def write_softer_sides(root: Path, count: int, frames: int, size_hw: tuple[int, int]) -> draw.PhantomClips:
    """Writes `real`, videos, and `samples`, their softer copies; returns the clips."""
    clips = drawn(count, 4, frames=frames, size_hw=size_hw)
    write_videos(root / "real", clips)
    write_samples(root / "samples", clips, softer, source=lambda index: {"clip": f"{index:04d}"})
    return clips
