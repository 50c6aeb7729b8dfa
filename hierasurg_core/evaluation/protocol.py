"""What a metric depends on besides the videos, and the presets that name it.

FVD moves by a factor of two with the resize alone (MagicDrive-V2 issue 61, Latte issue 115). So a number is
published with its protocol, and two numbers are compared only where their protocols are equal. A fact that
is None is not known: presets leave out what their sources do not say, and the run that uses one fills it in.

Imports no torch.
"""

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hierasurg_core.config import load_config, write_config
from hierasurg_core.errors import UsageError

_SECTION = "protocol"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Protocol:
    """How clips are chosen, prepared and compared.

    Attributes:
        name: What it is called; two names may stand for the same protocol.
        num_real: Real clips.
        num_generated: Generated clips.
        fps: Frames a second of the clips.
        stride: Every Nth frame is taken.
        clip_frames: Frames that the extractor sees of a clip.
        resize: "shorter-side" keeps the shape, "stretch" does not, "extractor": the network does it inside.
        resize_px: Side, or shorter side, in pixels after the resize.
        interpolation: Of the resize.
        antialias: Whether the resize smooths before it makes smaller.
        crop: "centre" to a square after the resize, or "none".
        input_px: Side of the square that the extractor's first layer sees; where it differs from what the
            steps before leave, frames are stretched to it.
        extractor: Network, training data and layer.
        extractor_sha256: Digest of its weights.
        ddof: What the covariance's divisor lacks of N, 0 or 1.
        kernel: Of all kernel distances (KVD, KID); "none" leaves them out. Besides, "cubic" lets I3D's KVD
            also stand with the gaussian kernel, in a row of its own.
        kernel_subsets: Subsets it is averaged over.
        kernel_subset_size: Samples a subset.
        seed: Of every random choice.
        first_frame_counts: Whether the frame that was given to the model is part of what is measured.

    Raises:
        UsageError: A number is out of range.
    """

    name: str = "own"
    num_real: int | None = None
    num_generated: int | None = None
    fps: float | None = None
    stride: int | None = None
    clip_frames: int | None = None
    resize: Literal["shorter-side", "stretch", "extractor"] | None = None
    resize_px: int | None = None
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] | None = None
    antialias: bool | None = None
    crop: Literal["centre", "none"] | None = None
    input_px: int | None = None
    extractor: str | None = None
    extractor_sha256: str | None = None
    ddof: int | None = None
    kernel: Literal["cubic", "gaussian", "none"] | None = None
    kernel_subsets: int | None = None
    kernel_subset_size: int | None = None
    seed: int | None = None
    first_frame_counts: bool | None = None

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and not value >= lowest:
                raise UsageError(f"protocol: {name} must be {lowest} or more, not {value}")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise UsageError(f"protocol: fps must be more than 0, not {self.fps}")
        if self.ddof is not None and self.ddof > 1:
            raise UsageError(f"protocol: ddof must be 0 or 1, not {self.ddof}")
        if self.extractor_sha256 is not None and not _SHA256.fullmatch(self.extractor_sha256):
            raise UsageError(
                f"protocol: extractor_sha256 must be 64 hexadecimal digits in lower case, "
                f"not '{self.extractor_sha256}'"
            )

    @property
    def unknown(self) -> tuple[str, ...]:
        """The facts that matter and are not known."""
        return tuple(fact for fact in _FACTS if fact not in self._idle and getattr(self, fact) is None)

    @property
    def _idle(self) -> set[str]:
        """Facts that mean nothing beside the others."""
        idle: set[str] = set()
        if self.kernel == "none":
            idle |= {"kernel_subsets", "kernel_subset_size"}
        if self.resize == "extractor":
            idle |= {"resize_px", "interpolation", "antialias"}
        return idle


_FACTS = tuple(field.name for field in dataclasses.fields(Protocol) if field.name != "name")


_LOWEST: Mapping[str, int] = types.MappingProxyType(
    {
        "num_real": 2,
        "num_generated": 2,
        "stride": 1,
        "clip_frames": 1,
        "resize_px": 1,
        "input_px": 1,
        "ddof": 0,
        "kernel_subsets": 1,
        "kernel_subset_size": 2,
        "seed": 0,
    }
)

# Sources. hierasurg: arXiv 2506.21287 and its public code. styleganv: `fvd2048_16f` in
# src/metrics/metric_main.py and frechet_video_distance.py of github.com/universome/stylegan-v; its data
# sets are square beforehand. cd-fvd: the defaults of cdfvd/fvd.py, utils/data_utils.py (videos, not frame
# folders), utils/metric_utils.py (where the divisor stands that it shares with StyleGAN-V) and
# third_party/VideoMAEv2/utils.py of github.com/songweige/content-debiased-fvd; it takes all real clips
# there are.
PRESETS: Mapping[str, Protocol] = types.MappingProxyType(
    {
        "hierasurg": Protocol(
            "hierasurg",
            num_generated=4000,
            clip_frames=16,
            resize="shorter-side",
            resize_px=224,
            crop="centre",
            input_px=224,
            extractor="i3d-kinetics400-logits",
            kernel="cubic",
            kernel_subsets=100,
        ),
        "styleganv": Protocol(
            "styleganv",
            num_real=2048,
            num_generated=2048,
            stride=1,
            clip_frames=16,
            resize="extractor",
            extractor="i3d-kinetics400-logits",
            ddof=0,
            kernel="none",
        ),
        "cd-fvd": Protocol(
            "cd-fvd",
            num_generated=2048,
            stride=1,
            clip_frames=16,
            resize="shorter-side",
            resize_px=256,
            interpolation="bilinear",
            antialias=True,
            crop="centre",
            input_px=224,
            extractor="videomae-v2-giant-ssv2-features",
            ddof=0,
            kernel="none",
            seed=42,
        ),
    }
)


def load_protocol(name_or_file: str) -> Protocol:
    """Returns a preset by its name, or reads a YAML or JSON file with a section `protocol`.

    Raises:
        UsageError: It is neither, or the file has an unknown key or a value of the wrong type or range.
    """
    preset = PRESETS.get(name_or_file)
    if preset is not None:
        return preset
    path = Path(name_or_file)
    if not path.is_file():
        raise UsageError(f"protocol '{name_or_file}' is no file, and none of {', '.join(PRESETS)}")
    return load_config(Protocol, _SECTION, files=[path], overrides={}, sets=[])


def save_protocol(path: Path, protocol: Protocol) -> None:
    """Writes a protocol as YAML that `load_protocol` reads.

    Raises:
        ResourceError: The file cannot be written.
    """
    write_config(path, _SECTION, protocol)


def protocol_from_dict(values: Mapping[str, object]) -> Protocol:
    """Makes a protocol of what a report's JSON holds, which `config.to_dict` wrote.

    Raises:
        UsageError: A key is unknown, or a value has the wrong type or range.
    """
    return load_config(Protocol, _SECTION, files=[], overrides=values, sets=[])


def compare(a: Protocol, b: Protocol, names: tuple[str, str] | None = None) -> None:
    """Lets two reports be compared only if the same was done for both; the protocols' names may differ.

    Args:
        a: Of the first.
        b: Of the second.
        names: What an error calls the two; None: the protocols' names.

    Raises:
        UsageError: Facts differ, or are not known in both, so that they may differ; all are named, with the
            options of `evaluate` that make them the same.
    """
    first, second = names or (f"protocol {a.name}", f"protocol {b.name}")
    differing = {
        fact: f"{fact} ({_said(getattr(a, fact))} against {_said(getattr(b, fact))})"
        for fact in _FACTS
        if getattr(a, fact) != getattr(b, fact) and not (fact in a._idle and fact in b._idle)
    }
    if differing:
        raise UsageError(
            f"'{first}' and '{second}' differ in {', '.join(differing.values())}; "
            f"{_remedy(a, b, set(differing))}"
        )
    if a.unknown:
        raise UsageError(
            f"'{first}' and '{second}' leave open {', '.join(a.unknown)}; {_remedy(a, b, set(a.unknown))}"
        )


_COUNTS = ("num_real", "num_generated")
_TIMES = ("fps", "stride", "clip_frames")
_EXTRACTOR = ("extractor", "extractor_sha256")
_SHORTEST = 4  # frames of a clip that `evaluate` takes


def _remedy(a: Protocol, b: Protocol, facts: set[str]) -> str:
    """Says how both are measured so that these facts become the same."""
    again = "measure both again with"
    options: list[str] = []  # to be pasted
    words: list[str] = []
    counts = [getattr(one, count) for one in (a, b) for count in _COUNTS]
    if facts & set(_COUNTS):
        if None in counts:  # a side of one clip makes no distribution
            return "measure both again with two clips a side or more"
        options.append(f"--num {min(counts)}")
    if facts & set(_TIMES):
        fps = min((one.fps for one in (a, b) if one.fps is not None), default=None)
        frames = None if fps is None else _common_frames(a, b, fps)
        if fps is None or frames is None:
            words.append("one --fps, --stride and --clip-frames")
        elif frames < _SHORTEST:
            return (
                f"no options make them the same: at {fps:g} frames a second the shorter clips have {frames} "
                f"frames, and {_SHORTEST} are needed; make clips of one rate and length, measure both again"
            )
        else:
            options.append(f"--fps {fps:.15g} --stride 1 --clip-frames {frames}")
    if "first_frame_counts" in facts:
        options.append("--first-frame")
    if "seed" in facts:
        options.append(f"--seed {a.seed or b.seed or 0}")
    other = facts - {*_COUNTS, *_TIMES, *_EXTRACTOR, "first_frame_counts", "seed"}
    if other and (a.name != b.name or a.extractor == b.extractor):  # else they go with the extractor
        if a.name in PRESETS:
            options.append(f"--protocol {a.name}")
        else:
            words.append("one --protocol FILE")
    if facts & set(_EXTRACTOR):
        words.append("the same --weights-dir, by the same version of hierasurg")
    return f"{again} {' and '.join(filter(None, (' '.join(options), *words)))}"


def _common_frames(a: Protocol, b: Protocol, fps: float) -> int | None:
    """Returns the frames at a rate that both have clips for; None where a length is not known."""
    frames: list[int] = []
    skips_first = a.first_frame_counts == b.first_frame_counts and a.first_frame_counts is False
    for one in (a, b):
        if one.fps is None or one.stride is None or one.clip_frames is None:
            return None
        seconds = (one.clip_frames - 1) / one.fps
        if skips_first:  # one more frame stands before the first that counts
            frames.append(math.floor((seconds + 1 / (one.fps * one.stride)) * fps + 1e-6))
        else:
            frames.append(math.floor(seconds * fps + 1e-6) + 1)
    return min(frames)


def _said(value: object) -> str:
    return "unknown" if value is None else str(value)
