"""From a clip's pixels to what a network sees: resize, crop, scale.

Owns the one place where evaluation changes pixels, because published numbers move most by it. Real and
generated clips go through the same lines. Legend: B clips, F frames, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from hierasurg_core.errors import UsageError
from hierasurg_core.evaluation.protocol import Protocol

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]


@dataclass(frozen=True)
class Preparation:
    """How frames become the pixels of a network.

    Attributes:
        resize: "shorter-side" to `resize_px`, "stretch" to `size_hw`, or "none".
        resize_px: Shorter side after the resize.
        size_hw: What the network sees; frames are cropped to it around their centre, or stretched where
            they are of another size.
        interpolation: Of every resize.
        antialias: Whether it smooths before it makes smaller.
    """

    resize: Literal["shorter-side", "stretch", "none"]
    size_hw: tuple[int, int]
    resize_px: int | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    @property
    def key(self) -> str:
        """Names it in the cache."""
        return f"{self.resize} {self.resize_px} {self.size_hw} {self.interpolation} {self.antialias}"


def preparation_of(protocol: Protocol, input_px: int) -> Preparation:
    """What a protocol asks to be done before a network of square frames; None facts take the usual.

    Raises:
        UsageError: It crops frames that were not resized to their shorter side.
    """
    side = protocol.input_px or input_px
    how = protocol.interpolation or "bilinear"
    smooth = True if protocol.antialias is None else protocol.antialias
    if protocol.resize in ("extractor", "stretch"):
        if protocol.crop == "centre":
            raise UsageError("protocol: crop 'centre' needs resize 'shorter-side'; else give crop 'none'")
        name = "none" if protocol.resize == "extractor" else "stretch"
        return Preparation(name, (side, side), None, how, smooth)
    shorter = protocol.resize_px or side
    if protocol.crop == "none":
        return Preparation("stretch", (side, side), None, how, smooth)
    return Preparation("shorter-side", (side, side), shorter, how, smooth)


def prepared_BFCHW(
    clips: Sequence[NDArray[np.uint8]], how: Preparation, device: torch.device
) -> torch.Tensor:
    """Returns clips of one length as float32 pixels in [0, 1] on a device, (B, F, 3, H, W).

    Args:
        clips: uint8 (F, H, W, 3).
        how: What is done; with "none" frames keep their size.
        device: Where it is done.
    """
    return torch.stack([_prepared(clip_FHWC, how, device) for clip_FHWC in clips])


def _prepared(clip_FHWC: NDArray[np.uint8], how: Preparation, device: torch.device) -> torch.Tensor:
    frames = torch.from_numpy(np.ascontiguousarray(clip_FHWC)).to(device).permute(0, 3, 1, 2).float() / 255
    if how.resize == "none":
        return frames
    if how.resize == "shorter-side":
        shorter = how.resize_px or min(how.size_hw)
        height, width = frames.shape[-2:]
        scale = shorter / min(height, width)
        frames = _resized(
            frames, (max(shorter, round(height * scale)), max(shorter, round(width * scale))), how
        )
        top, left = (frames.shape[-2] - shorter) // 2, (frames.shape[-1] - shorter) // 2
        frames = frames[..., top : top + shorter, left : left + shorter]
    return _resized(frames, how.size_hw, how)


def _resized(frames_FCHW: torch.Tensor, size_hw: tuple[int, int], how: Preparation) -> torch.Tensor:
    if tuple(frames_FCHW.shape[-2:]) == size_hw:
        return frames_FCHW
    if how.interpolation == "lanczos":
        return _lanczos(frames_FCHW, size_hw)
    if how.interpolation == "nearest":
        return interpolate(frames_FCHW, size_hw, mode="nearest-exact")
    resized = interpolate(
        frames_FCHW, size_hw, mode=how.interpolation, antialias=how.antialias, align_corners=False
    )
    return resized.clamp(0, 1)


def _lanczos(frames_FCHW: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Pillow's, which always smooths; bytes in and out."""
    bytes_FHWC = (frames_FCHW * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    size = (size_hw[1], size_hw[0])
    made = [np.array(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in bytes_FHWC]
    resized = torch.from_numpy(np.stack(made)).to(frames_FCHW.device)
    return resized.permute(0, 3, 1, 2).float() / 255
