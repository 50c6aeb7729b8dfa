"""The settings of `label`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hierasurg_core.config.checks import above_zero, at_least, check_choices, check_device, check_sam
from hierasurg_core.config.generate import Dtype
from hierasurg_core.config.ranks import Ranks
from hierasurg_core.errors import UsageError

MapFormat = Literal["pkl", "png"]
_DTYPES = Literal["auto", "bf16", "fp16", "fp32"]
_PINNED = re.compile(r"[^@]+@[0-9a-f]{40}")


@dataclass(frozen=True)
class LabelConfig(Ranks):
    """One call of `label`; processes as in `Ranks`.

    Attributes:
        videos: Folder of frame folders, as `extract` makes it, or one frame folder.
        out: Where `videoNN_masks` go; None: beside the frame folders.
        sam: tiny, small, base-plus, large or mini; None: large, and mini for the phantom's own frames.
        sam_checkpoint: File with the weights of `sam`, instead of the Hub.
        weights_dir: Folder to look for weights in, before the Hub.
        features: Vision backbone that tells entities apart: a Hub id (`NAME@REVISION` where it brings code),
            a folder, "sam" (the segmenter's own image embedding) or "mini" (that of the bundled one); None:
            C-RADIOv4-H, and "sam" with the mini segmenter.
        trust_remote_code: Run the code that the backbone's repository brings; needs a pinned revision.
        match: Largest mean squared error between descriptors of one entity; None: the backbone's own.
        format: "pkl" (a clip of 16 frames for each frame) or "png" (one map a frame).
        visualize: Also write an overlay video and a contact sheet a video.
        only: List of the videos to take; None: all.
        limit: Label the first so many seconds of each video only; None: all.
        skip_bad: Let the frame before take the place of one that is unreadable or of another size.
        batch: Frames encoded at once.
        max_objects: Most objects tracked in a window; the rarest are left out. With background and border, 18
            are as many as the colours of S2M's maps tell apart.
        compile: Run the segmenter through torch.compile.
        notice: Put CAMMA's licence notice into the manifest; frames of the phantom never have it.
        check: Folder with true maps: label nothing, and compare the maps that are there with these.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto", "bf16", "fp16" or "fp32".

    Raises:
        UsageError: A number is out of range, or two settings exclude each other.
    """

    videos: Path = Path("videos")
    out: Path | None = None
    sam: str | None = None
    sam_checkpoint: Path | None = None
    weights_dir: Path | None = None
    features: str | None = None
    trust_remote_code: bool = False
    match: float | None = None
    format: MapFormat = "pkl"
    visualize: bool = False
    only: Path | None = None
    limit: int | None = None
    skip_bad: bool = False
    batch: int = 8
    max_objects: int = 18
    compile: bool = False
    notice: bool = True
    check: Path | None = None
    device: str = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        check_choices(self)
        for name in ("batch", "max_objects"):
            at_least(name, getattr(self, name), 1)
        if self.max_objects > 200:
            raise UsageError(f"max_objects must be 200 or less, not {self.max_objects}: ids are bytes")
        if self.limit is not None:
            at_least("limit", self.limit, 1)
        if self.match is not None:
            above_zero("match", self.match)
        check_device(self.device)
        if self.sam is not None:
            check_sam(self.sam)
        if self.sam_checkpoint is not None and self.sam is None:
            raise UsageError("sam_checkpoint needs sam: say which model the file is of (--sam large)")
        if self.trust_remote_code and self.features is None:
            raise UsageError("trust_remote_code needs features: name the backbone whose code may run")
        remote = self.trust_remote_code and not Path(str(self.features)).is_dir()
        if remote and not _PINNED.fullmatch(str(self.features)):
            raise UsageError(
                f"trust_remote_code needs a pinned revision: give features as {self.features}@COMMIT, "
                "the commit's 40 hexadecimal digits"
            )
