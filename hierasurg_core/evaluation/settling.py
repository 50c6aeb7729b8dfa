"""What an evaluation settles before it measures: one rate, one length, a protocol that leaves nothing open.

Owns the rules by which two sides are made comparable, and refuses those that cannot be. Legend: a step is the
number of a side's own frames from one frame at the common rate to the next; where it is no whole number, the
nearest frames are taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hierasurg_core.config import EvaluateConfig, to_dict
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.evaluation.protocol import Protocol
from hierasurg_core.evaluation.recordings import Side, nearest_frames

DEFAULT_FRAMES = 16
_SUBSET_SIZE = 1000
_SAME_RATE = 1e-3  # of a rate: the difference of 29.97 and 30
_OF_MINI = (
    "resize",
    "resize_px",
    "interpolation",
    "antialias",
    "crop",
    "input_px",
)  # it has a way of its own


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are measured.

    Attributes:
        frames: Of a clip.
        stride: From one measured frame to the next, in frames at `rate`.
        rate: Frames a second before the stride.
        generated_step: Frames of the generated side for one at `rate`, 1 or more.
        real_step: The same of the real side.
        skip: Frames at `rate` that are passed over first.
        notes: What was chosen for the user.
    """

    frames: int
    stride: int
    rate: float
    generated_step: float
    real_step: float
    skip: int
    notes: tuple[str, ...]

    @property
    def fps(self) -> float:
        """Returns measured frames a second."""
        return self.rate / self.stride

    def offsets(self, step: float) -> tuple[int, ...]:
        """Returns the frames of a clip of a side with this step, counted from the clip's start."""
        return nearest_frames(self.frames, stride=self.stride * step, skip=self.skip * step)


def settle_sampling(config: EvaluateConfig, protocol: Protocol, generated: Side, real: Side) -> Sampling:
    """Finds one rate and one length for both sides.

    Raises:
        UsageError: The rates differ and none was asked for, or a side has fewer frames a second than asked.
        DataError: A side mixes rates, or its clips are too short.
    """
    rates = [_rate(side) for side in (generated, real)]
    notes: list[str] = []
    known = [rate for rate in rates if rate is not None]
    if not known:
        known = [config.fps or 1.0]
        notes.append(f"no side says its rate: {known[0]:g} frames a second are taken for it")
    elif None in rates:
        silent = (generated, real)[rates.index(None)]
        notes.append(f"{silent.path} does not say its rate: that of the other side is taken for it")
    generated_rate, real_rate = (rate or known[0] for rate in rates)
    wanted = config.fps or protocol.fps
    if wanted is None:
        if generated_rate != real_rate:
            raise UsageError(
                f"{generated.path} has {generated_rate:g} frames a second and {real.path} {real_rate:g}: "
                f"give --fps {min(generated_rate, real_rate):g} to compare both at one rate"
            )
        wanted = generated_rate
    both = ((generated, generated_rate), (real, real_rate))
    _expect_rate(wanted, both)
    steps = [_step(rate, wanted) for _, rate in both]
    notes += [
        f"{side.path} has {rate:g} frames a second: the nearest frames to {wanted:g} a second are taken, "
        f"up to {500 / rate:.0f} ms off"
        for (side, rate), step in zip(both, steps, strict=True)
        if step != int(step)
    ]
    counts = protocol.first_frame_counts if config.first_frame is None else config.first_frame
    skip = 0 if counts is None or counts else 1
    longest = min(
        math.ceil((_usual_length(side) - 0.5) / step) - skip
        for side, step in zip((generated, real), steps, strict=True)
    )
    frames = config.clip_frames or protocol.clip_frames or DEFAULT_FRAMES
    stride = config.stride or protocol.stride or max(1, longest // frames)
    if config.clip_frames is None and (frames - 1) * stride + 1 > longest:
        shorter = (longest - 1) // stride + 1
        notes.append(f"clips have {longest} frames: {max(shorter, 1)} are compared, not {frames}")
        frames = shorter
    if frames < 4:
        raise DataError(f"clips of {longest} frames at {wanted:g} a second are too short: 4 are needed")
    return Sampling(frames, stride, wanted, steps[0], steps[1], skip, tuple(notes))


def settle_protocol(
    protocol: Protocol,
    sampling: Sampling,
    *,
    counts: tuple[int, int],
    extractor: tuple[str, str, str],
    seed: int,
) -> tuple[Protocol, tuple[str, ...]]:
    """Fills in what a protocol leaves open with what this run does.

    Args:
        protocol: A preset, or the user's.
        sampling: Of frames.
        counts: Real and generated clips that were measured.
        extractor: Name, digest and what it sees: "mini" or "224", of the network that the protocol is about.
        seed: Of the run.

    Returns:
        The protocol, in which no fact is open, and in what the run is not what the protocol asks for.
    """
    name, digest, sees = extractor
    mini = sees == "mini"
    real, generated = counts
    kernel = protocol.kernel or "cubic"
    facts: dict[str, Any] = {
        "num_real": real if real > 1 else None,  # of one clip there is no distribution
        "num_generated": generated if generated > 1 else None,
        "fps": sampling.fps,
        "stride": sampling.stride,
        "clip_frames": sampling.frames,
        "extractor": name,
        "extractor_sha256": digest,
        "first_frame_counts": not sampling.skip,
        "seed": seed,
    }
    usual: dict[str, Any] = {
        "resize": "stretch" if mini else "shorter-side",
        "resize_px": 128 if mini else int(sees),
        "interpolation": "bilinear",
        "antialias": True,
        "crop": "none" if mini or protocol.resize in ("stretch", "extractor") else "centre",
        "input_px": 128 if mini else int(sees),
        "ddof": 1,
        "kernel": kernel,
        "kernel_subsets": 100,
        "kernel_subset_size": _SUBSET_SIZE,
    }
    if mini:
        facts |= {key: usual[key] for key in _OF_MINI}
    filled = {
        key: value for key, value in usual.items() if key not in facts and getattr(protocol, key) is None
    }
    deviations = tuple(
        f"the protocol '{protocol.name}' asks for {key} {getattr(protocol, key)}; this run has {value}"
        for key, value in facts.items()
        if getattr(protocol, key) not in (None, value) and not (mini and key in _OF_MINI)
    )
    return dataclasses.replace(protocol, **facts, **filled), deviations


def protocol_facts(protocol: Protocol) -> dict[str, Any]:
    """Returns the protocol as a report has it, with its digest; networks are compared one by one."""
    facts = to_dict(protocol)
    text = json.dumps({key: value for key, value in facts.items() if key != "name"}, sort_keys=True)
    return {**facts, "digest": hashlib.sha256(text.encode()).hexdigest()}


def _rate(side: Side) -> float | None:
    rates = {recording.fps for recording in side.recordings if recording.fps is not None}
    if len(rates) > 1:
        said = ", ".join(f"{rate:g}" for rate in sorted(rates))
        raise DataError(f"{side.path} mixes rates ({said} frames a second): keep one rate in one folder")
    return next(iter(rates), None)


def _expect_rate(wanted: float, sides: Sequence[tuple[Side, float]]) -> None:
    """Refuses a rate that a side does not have: frames are left out, none are made up."""
    side, lowest = min(sides, key=lambda one: one[1])
    if wanted > lowest * (1 + _SAME_RATE):
        raise UsageError(
            f"{side.path} has {lowest:g} frames a second, fewer than {wanted:g}: "
            f"give --fps {lowest:g}, or less"
        )


def _step(rate: float, wanted: float) -> float:
    """Returns frames at `rate` for one at `wanted`; whole where a rate such as 29.97 is near a multiple."""
    whole = round(rate / wanted)
    return float(whole) if abs(rate - whole * wanted) <= _SAME_RATE * rate else rate / wanted


def _usual_length(side: Side) -> int:
    """Frames that most recordings have: shorter ones are left out and named."""
    return Counter(recording.num_frames for recording in side.recordings).most_common(1)[0][0]
