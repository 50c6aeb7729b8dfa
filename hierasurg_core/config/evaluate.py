"""The settings of `evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hierasurg_core.config.checks import (
    above_zero,
    at_least,
    check_choices,
    check_device,
    check_sam,
    in_seeds,
)
from hierasurg_core.config.ranks import Ranks
from hierasurg_core.errors import UsageError

EvaluateDtype = Literal["auto", "bf16", "fp16", "fp32"]
Split = Literal["train", "val"]
NONE = "none"


@dataclass(frozen=True)
class EvaluateConfig(Ranks):
    """One call of `evaluate`; processes as in `Ranks`.

    Attributes:
        generated: What is judged: samples of `generate`, mp4 files, or frame folders.
        real: What it is held to: a data set, mp4 files, or frame folders.
        out: Folder of report.json, report.html and their clips.
        cache: Folder of measured clips, which all reports share; None: hierasurg/evaluate in the user's cache
            folder (XDG_CACHE_HOME, else ~/.cache).
        cache_gib: Of measured clips at most so many GiB are kept, those used last.
        split: Of a data set; None: "val" where it has clips, else "train".
        num: At most so many clips a side; None: all.
        protocol: Preset (hierasurg, styleganv, cd-fvd) or file of how clips are compared.
        clip_frames: Frames of a clip; None: the protocol's, else 16 or what the clips have.
        stride: Take every Nth frame; None: the protocol's, else what spreads `clip_frames` over a clip.
        fps: Take frames at this rate on both sides; None: as they are, and the sides must agree.
        first_frame: Whether the frame that a model was given counts.
        i3d: TorchScript of I3D; None: `i3d_torchscript.pt` in `weights_dir`, if it is there.
        videomae: Folder of a VideoMAE; None: `videomae` in `weights_dir`, if it is there.
        inception: Weights of Inception-v3; None: their published name in `weights_dir`, if it is there.
        lpips: TorchScript of LPIPS's VGG16; None: `vgg16.pt` in `weights_dir`, if it is there.
        weights_dir: Where the published weights lie.
        classifier: "mini", "none", a TorchScript file, or the folder of a video classifier.
        detector: TorchScript file, or an ultralytics one (.pt), of a detector of instruments.
        sam: SAM 2 that looks for the asked maps: mini, tiny, small, base-plus, large, "none", or "auto": mini
            for samples of the mini models, else none.
        vae: Model folder of the VAE baseline, "none", or None: the one that the samples say they were made
            with, else the data set's.
        vae_clips: At most so many real clips go through the VAE, which costs more than all else; None: all.
        replicates: Of a bootstrap interval; 0: no intervals.
        wall: At most so many samples are copied beside the report, worst and best by each metric.
        seed: Of every random choice.
        batch: Clips at once through a network.
        device: As in `GenerateConfig`.
        dtype: The same, for the VAE and SAM 2; networks that give features always compute in fp32.

    Raises:
        UsageError: A number is out of range.
    """

    generated: Path = Path("samples")
    real: Path = Path("dataset")
    out: Path = Path("report")
    cache: Path | None = None
    cache_gib: float = 10.0
    split: Split | None = None
    num: int | None = None
    protocol: str = "hierasurg"
    clip_frames: int | None = None
    stride: int | None = None
    fps: float | None = None
    first_frame: bool | None = None
    i3d: Path | None = None
    videomae: Path | None = None
    inception: Path | None = None
    lpips: Path | None = None
    weights_dir: Path | None = None
    classifier: str = "mini"
    detector: Path | None = None
    sam: str = "auto"
    vae: str | None = None
    vae_clips: int | None = 256
    replicates: int = 1000
    wall: int = 24
    seed: int = 0
    batch: int = 4
    device: str = "auto"
    dtype: EvaluateDtype = "auto"

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_choices(self)
        for name in ("num", "clip_frames", "stride", "vae_clips", "gpus", "batch"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        for name in ("replicates", "wall"):
            at_least(name, getattr(self, name), 0)
        if self.fps is not None:
            above_zero("fps", self.fps)
        above_zero("cache_gib", self.cache_gib)
        if self.num == 1:
            raise UsageError("num must be 2 or more: a distribution needs two clips a side")
        if self.clip_frames is not None and self.clip_frames < 4:
            raise UsageError(f"clip_frames must be 4 or more, not {self.clip_frames}")
        for name in ("protocol", "classifier", "sam"):
            if not getattr(self, name):
                raise UsageError(f"{name} is empty: give a name, or '{NONE}'")
        check_sam(self.sam, others=("auto", NONE))
        in_seeds(self.seed)
        check_device(self.device)
