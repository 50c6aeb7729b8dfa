"""The settings of every command as frozen dataclasses: names, types, defaults and ranges.

All is checked when a config is made, before any library is loaded. It refuses numbers out of range and
settings that exclude each other, and knows nothing of what lies on disk or in the taxonomy.
"""

import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hierasurg_core.errors import UsageError

Fps = Literal[1, 8]
Dtype = Literal["auto", "bf16", "fp16", "fp32"]
Precision = Literal["bf16", "fp16", "fp32"]
Schedule = Literal["constant", "cosine"]

_MAX_SEED = 2**63 - 1
_SIZE_HW = re.compile(r"([1-9]\d*)x([1-9]\d*)")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class GenerateConfig:
    """One call of `generate`.

    Attributes:
        phase: Name or id of the phase; None leaves the choice to the starting scene.
        triplet: "instrument,verb,target" or id; None as for the phase.
        frame: Image to start from, instead of a scene of the gallery. Needs `map` or `maps`.
        map: Indexed PNG of the frame's panoptic map. Needs `frame`.
        maps: Maps of the whole clip (.pkl, folder of indexed PNGs, or mp4), which take the place of S2M.
        model: Pipeline folder or Hub id; None: a finished run of the working folder, else the mini models.
        s2m: Run, checkpoint or model folder that replaces the pipeline's S2M.
        m2v: The same for M2V.
        out: Folder for the samples.
        num: How many samples.
        seed: Of the first sample; the next ones count on.
        steps: Denoising steps of either stage; None: the model's own default.
        guidance: Scale of classifier-free guidance, 1 is off; None: the model's own default.
        fps: Frames a second, 1 or 8; None: the model's own rate.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto", "bf16", "fp16" or "fp32".
        contact_sheet: Also write one PNG with the frames of all samples.

    Raises:
        UsageError: A number is out of range, or two settings exclude each other.
    """

    phase: str | None = None
    triplet: str | None = None
    frame: Path | None = None
    map: Path | None = None
    maps: Path | None = None
    model: str | None = None
    s2m: str | None = None
    m2v: str | None = None
    out: Path = Path("samples")
    num: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    fps: Fps | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    contact_sheet: bool = False

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        _check_choices(self)
        _at_least("num", self.num, 1)
        _in_seeds(self.seed)
        if self.steps is not None:
            _at_least("steps", self.steps, 1)
        if self.guidance is not None:
            _at_least("guidance", self.guidance, 0)
        _check_device(self.device)
        if self.map is not None and self.maps is not None:
            raise UsageError("map and maps exclude each other: give the first map or those of the whole clip")
        if self.map is not None and self.frame is None:
            raise UsageError("map needs frame: give the image that the map belongs to as well")
        if self.frame is not None and self.map is None and self.maps is None:
            raise UsageError(
                "frame needs map: give the panoptic map of that image, or maps of the whole clip"
            )


@dataclass(frozen=True)
class BuildDatasetConfig:
    """One call of `build-dataset`.

    Attributes:
        videos: Folder of frame folders, as `extract` makes it.
        out: Folder for the data set.
        labels: Folder with CholecT50 JSON or Cholec80 phase files; None builds without phases and triplets.
        maps: Folder with `videoNN_masks/`; None: `videos`.
        base: Model folder with `vae/`, Hub id, or "mini" for the bundled models.
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
    base: str = "THUDM/CogVideoX-2b"
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
        _check_choices(self)
        for name in ("first_frames", "batch"):
            _at_least(name, getattr(self, name), 1)
        _above_zero("shard_mb", self.shard_mb)
        for name in ("size", "map_size"):
            if getattr(self, name) is not None:
                _check_size_hw(name, getattr(self, name))
        if self.step is not None:
            _at_least("step", self.step, 1)
            if self.step % self.fps:
                raise UsageError(
                    f"step {self.step} is no whole number of seconds at {self.fps} fps: maps are one a second"
                )
        for name in ("flip", "object_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.val_fraction is not None:
            _fraction("val_fraction", self.val_fraction)
            if self.train is not None or self.val is not None:
                raise UsageError("val_fraction excludes train and val: give lists or a fraction")
        if not self.base:
            raise UsageError("base is empty: give a model folder, a Hub id, or 'mini'")
        _in_seeds(self.seed)
        _check_device(self.device)


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
        strict: Decode every frame, and refuse a video of which one cannot be decoded.
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
    strict: bool = False
    with_fix: bool = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        _above_zero("fps", self.fps)
        for name in ("size", "crop"):
            _as_size(name, getattr(self, name))
        _at_least("quality", self.quality, 1)
        if self.quality > 100:
            raise UsageError(f"quality must be 100 or less, not {self.quality}")
        if self.workers is not None:
            _at_least("workers", self.workers, 1)
        _at_least("start", self.start, 0)
        if self.end is not None and not self.start < self.end < math.inf:
            raise UsageError(f"end must be more than start, {self.start:g}, not {self.end:g}")

    @property
    def size_hw(self) -> tuple[int, int] | None:
        """`size` as numbers."""
        return _as_size("size", self.size)

    @property
    def crop_hw(self) -> tuple[int, int] | None:
        """`crop` as numbers."""
        return _as_size("crop", self.crop)


@dataclass(frozen=True)
class TrainConfig:
    """How one stage is trained; the same for S2M and M2V.

    Attributes:
        steps: Optimizer steps in all.
        batch: Clips a step and process.
        accumulate: Micro-batches that make up one optimizer step.
        lr: Peak learning rate of AdamW.
        warmup: Steps over which the rate rises linearly from 0.
        schedule: What comes after: "constant", or "cosine" down to 0 at the last step.
        beta1: AdamW's first moment decay.
        beta2: AdamW's second moment decay.
        weight_decay: AdamW's decoupled weight decay.
        grad_clip: Largest norm of the gradient.
        precision: "bf16", "fp16" or "fp32".
        ema: Decay of the averaged weights; None: none are kept.
        condition_dropout: Probability that a clip is trained without its conditions.
        gradient_checkpointing: Recompute activations instead of keeping them.
        compile: Run the blocks through torch.compile.
        checkpoint_every: Steps between checkpoints.
        keep: How many checkpoints stay on disk.
        seed: Of data order, noise and dropout.
        resume: "latest", "never", or the path of a checkpoint.
        log_every: Steps between lines of metrics.
        device: As in `GenerateConfig`.
        max_seconds: Stop with a checkpoint after this long; None: only at the last step.

    Raises:
        UsageError: A number is out of range.
    """

    steps: int = 10000
    batch: int = 1
    accumulate: int = 1
    lr: float = 1e-4
    warmup: int = 500
    schedule: Schedule = "constant"
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 1e-4
    grad_clip: float = 1.0
    precision: Precision = "bf16"
    ema: float | None = None
    condition_dropout: float = 0.0
    gradient_checkpointing: bool = True
    compile: bool = False
    checkpoint_every: int = 1000
    keep: int = 2
    seed: int = 0
    resume: str = "latest"
    log_every: int = 10
    device: str = "auto"
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Checks ranges."""
        _check_choices(self)
        for name in ("steps", "batch", "accumulate", "checkpoint_every", "keep", "log_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup", "weight_decay"):
            _at_least(name, getattr(self, name), 0)
        for name in ("lr", "grad_clip"):
            _above_zero(name, getattr(self, name))
        for name in ("beta1", "beta2"):
            _fraction(name, getattr(self, name))
        if not 0 <= self.condition_dropout <= 1:
            raise UsageError(f"condition_dropout must lie between 0 and 1, not {self.condition_dropout}")
        if self.ema is not None:
            _fraction("ema", self.ema)
        if self.max_seconds is not None:
            _above_zero("max_seconds", self.max_seconds)
        _in_seeds(self.seed)
        _check_device(self.device)
        if not self.resume:
            raise UsageError("resume is empty: give 'latest', 'never' or the path of a checkpoint")


SECTIONS: Mapping[str, type] = types.MappingProxyType(
    {
        "build-dataset": BuildDatasetConfig,
        "extract": ExtractConfig,
        "generate": GenerateConfig,
        "train-s2m": TrainConfig,
        "train-m2v": TrainConfig,
    }
)


def _check_choices(config: object) -> None:
    """Holds fields with a fixed choice to it, also where the dataclass is built without `load_config`."""
    for name, kind in typing.get_type_hints(type(config)).items():
        choices = [argument for part in (kind, *typing.get_args(kind)) for argument in _literals(part)]
        value = getattr(config, name)
        if choices and value is not None and value not in choices:
            raise UsageError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}")


def _literals(kind: Any) -> tuple[object, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _as_size(name: str, text: str | None) -> tuple[int, int] | None:
    """Reads "480x720", rows first."""
    if text is None:
        return None
    match = _SIZE_HW.fullmatch(text)
    if match is None:
        raise UsageError(f"{name} must be rows x columns like 480x720, not {text!r}")
    return int(match[1]), int(match[2])


def _at_least(name: str, value: float, lowest: int) -> None:
    if not (value >= lowest and math.isfinite(value)):
        raise UsageError(f"{name} must be {lowest} or more, not {value}")


def _above_zero(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{name} must be more than 0, not {value}")


def _fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"{name} must be at least 0 and less than 1, not {value}")


def _in_seeds(seed: int) -> None:
    if not 0 <= seed <= _MAX_SEED:
        raise UsageError(f"seed must lie between 0 and {_MAX_SEED}, not {seed}")


def _check_size_hw(name: str, text: str) -> None:
    """Holds rows x columns to what the models can take: sides divisible by 16."""
    match = _SIZE_HW.fullmatch(text)
    if not match:
        raise UsageError(f"{name} must be rows x columns, as 480x720, not {text!r}")
    nearest = "x".join(str(max(16, round(int(side) / 16) * 16)) for side in match.groups())
    if text != nearest:
        raise UsageError(
            f"{name} {text} is not possible: sides must be divisible by 16; nearest is {nearest}"
        )


def _check_device(device: str) -> None:
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or mps, not {device!r}")
