"""The settings of `extract` and `build-dataset`, and which config belongs to which command.

All is checked when a config is made, before any library is loaded. It refuses numbers out of range and
settings that exclude each other, and knows nothing of what lies on disk or in the taxonomy.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hierasurg_core.config.checks import (
    above_zero,
    as_size,
    at_least,
    check_choices,
    check_device,
    check_size_hw,
    fraction,
    in_seeds,
)
from hierasurg_core.config.evaluate import EvaluateConfig
from hierasurg_core.config.generate import Dtype, Fps, GenerateConfig
from hierasurg_core.config.label import LabelConfig
from hierasurg_core.config.ranks import Ranks
from hierasurg_core.config.train import TrainM2VConfig, TrainS2MConfig
from hierasurg_core.errors import UsageError


@dataclass(frozen=True)
class BuildDatasetConfig(Ranks):
    """One call of `build-dataset`; processes as in `Ranks`.

    Attributes:
        videos: Folder of frame folders, as `extract` makes it.
        out: Folder for the data set.
        labels: Folder with CholecT50 JSON or Cholec80 phase files; None builds without phases and triplets.
        maps: Folder with `videoNN_masks/`; None: `videos`.
        base: Model folder with `vae/`, Hub id, or "mini" for the bundled models; None: CogVideoX-2b, and mini
            for the phantom's own frames.
        fps: Frames a second of the frame folders, 1 or 8.
        step: Frames between the starts of clips, whole seconds; None: one second.
        size: Rows x columns of video and maps ("480x720"); None: the VAE's own.
        map_size: The same for coloured maps, which S2M learns; None: 256x384, or `size` if that is less.
        train: List of the videos to train on.
        val: List of the videos to validate on.
        val_fraction: Share of the videos that validates, in place of lists.
        flip: Probability of either flip, in the training split.
        object_dropout: Probability that an object is taken out of a clip, in the training split.
        first_frames: First frames stored a clip: a clean one, and others with noise.
        shard_mb: Largest size of a shard, about.
        batch: Clips encoded at once.
        on_the_fly: Write an index only; training decodes and encodes.
        drop_unlabelled: Leave out clips without maps, which are an error otherwise.
        notice: Put CAMMA's licence notice into the manifest.
        resume: Keep whole shards that are there; else everything is made anew.
        describe: Only tell what is found.
        seed: Of split, flips, dropout and noise.
        device: As in `GenerateConfig`.
        dtype: As in `GenerateConfig`.

    Raises:
        UsageError: A number is out of range, or two settings exclude each other.
    """

    videos: Path = Path("videos")
    out: Path = Path("dataset")
    labels: Path | None = Path("labels")
    maps: Path | None = None
    base: str | None = None
    fps: Fps = 1
    step: int | None = None
    size: str | None = None
    map_size: str | None = None
    train: Path | None = None
    val: Path | None = None
    val_fraction: float | None = None
    flip: float = 0.3
    object_dropout: float = 0.0
    first_frames: int = 2
    shard_mb: float = 1000.0
    batch: int = 1
    on_the_fly: bool = False
    drop_unlabelled: bool = False
    notice: bool = True
    resume: bool = True
    describe: bool = False
    seed: int = 0
    device: str = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        check_choices(self)
        for name in ("first_frames", "batch"):
            at_least(name, getattr(self, name), 1)
        above_zero("shard_mb", self.shard_mb)
        for name in ("size", "map_size"):
            if getattr(self, name) is not None:
                check_size_hw(name, getattr(self, name))
        if self.step is not None:
            at_least("step", self.step, 1)
            if self.step % self.fps:
                raise UsageError(
                    f"step {self.step} is no whole number of seconds at {self.fps} fps: maps are one a second"
                )
        for name in ("flip", "object_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.val_fraction is not None:
            fraction("val_fraction", self.val_fraction)
            if self.train is not None or self.val is not None:
                raise UsageError("val_fraction excludes train and val: give lists or a fraction")
        if self.base == "":
            raise UsageError("base is empty: give a model folder, a Hub id, or 'mini'")
        in_seeds(self.seed)
        check_device(self.device)


@dataclass(frozen=True)
class ExtractConfig:
    """One call of `extract`.

    Attributes:
        source: A video file, a folder of videos, or a folder of image folders.
        out: Folder for the frame folders.
        fps: Frames a second.
        size: Rows x columns of the frames ("480x720"), cropped to that shape; None: as they are.
        crop: Rows x columns to cut out of the middle before that; None: all.
        quality: Of the JPEGs, 1 to 100.
        workers: Videos at a time; None: by the cores.
        start: Second of each video to begin at.
        end: Second to stop before; None: the end of the video.
        only: List of the operations to take; None: all.
        first_index: Number of the image that shows second 0, for folders of images; None: the first image's.
        strict: Decode every frame, and refuse a video of which one cannot be decoded.
        overwrite: Replace frames that have maps, and delete those maps, which no longer fit.
        deinterlace: "auto" takes the combs out of frames that the video calls interlaced; "off" keeps them.
        with_fix: Changes nothing: the fault that this option worked around does not arise here.

    Raises:
        UsageError: A number is out of range, or a size is none.
    """

    source: Path | None = None
    out: Path = Path("videos")
    fps: float = 1.0
    size: str | None = None
    crop: str | None = None
    quality: int = 95
    workers: int | None = None
    start: float = 0.0
    end: float | None = None
    only: Path | None = None
    first_index: int | None = None
    strict: bool = False
    overwrite: bool = False
    deinterlace: Literal["auto", "off"] = "auto"
    with_fix: bool = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_choices(self)
        above_zero("fps", self.fps)
        for name in ("size", "crop"):
            as_size(name, getattr(self, name))
        at_least("quality", self.quality, 1)
        if self.quality > 100:
            raise UsageError(f"quality must be 100 or less, not {self.quality}")
        if self.workers is not None:
            at_least("workers", self.workers, 1)
        if self.first_index is not None:
            at_least("first_index", self.first_index, 0)
        at_least("start", self.start, 0)
        if self.end is not None and not self.start < self.end < math.inf:
            raise UsageError(f"end must be more than start, {self.start:g}, not {self.end:g}")

    @property
    def size_hw(self) -> tuple[int, int] | None:
        """`size` as numbers."""
        return as_size("size", self.size)

    @property
    def crop_hw(self) -> tuple[int, int] | None:
        """`crop` as numbers."""
        return as_size("crop", self.crop)


SECTIONS: Mapping[str, type] = types.MappingProxyType(
    {
        "build-dataset": BuildDatasetConfig,
        "evaluate": EvaluateConfig,
        "extract": ExtractConfig,
        "generate": GenerateConfig,
        "label": LabelConfig,
        "train-s2m": TrainS2MConfig,
        "train-m2v": TrainM2VConfig,
    }
)
