"""How much memory a clip takes on a GPU, and which of the ways to place the models that leaves.

Owns the estimate and the choice. The arithmetic, with e bytes a value:

- A transformer weighs its parameters. While it runs, N tokens of width D take 24 N D e bytes: the stream and
  its norm, query, key and value before and after their norms, attention, the four times wider hidden values
  of the feed-forward twice, and copies that torch makes.
- The VAE weighs its parameters and a third more for the copy that codes single frames. Its widest values in
  decoding are 256 channels of 9 frames at the clip's size; five such tensors live at once. Tiles are of half
  the height and half the width, so they need a quarter.

- Where a video is decoded while the next clip is denoised, both take their memory at once.

The three ways: "fast" has all weights on the device, "offload" one transformer at a time, "group-offload"
two of its blocks at a time (it also decodes in tiles, where the other two do only if they must).
Refuses: moving anything (`placement`, `acceleration`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from hierasurg_core.errors import ResourceError, UsageError
from hierasurg_core.models import (
    AutoencoderKLCogVideoX,
    CogVideoXStack,
    M2VTransformer3DModel,
    ids,
    latent_frames,
)
from hierasurg_core.models.conditioning import map_grid
from hierasurg_core.models.transformers import PIXELS_PER_LATENT

Memory = Literal["auto", "fast", "offload", "group-offload"]
WAYS = ("fast", "offload", "group-offload")

_LIVE_TOKENS = 24
_LIVE_FRAMES = 5
_CHUNK_FRAMES = 9
_FLAT_COPY = 4 / 3
_RESERVE = 600 * 1024**2  # CUDA's own context and what torch's allocator can't use
_GIB = 1024**3


@dataclass(frozen=True)
class ClipShape:
    """What is generated at once.

    Attributes:
        s2m_hw: Pixels of S2M's maps.
        m2v_hw: Pixels of the video.
        num_frames: Of the video, a multiple of 4.
        num_maps: One a second.
        batch: Clips at once; twice as many where guidance is on.
    """

    s2m_hw: tuple[int, int]
    m2v_hw: tuple[int, int]
    num_frames: int
    num_maps: int
    batch: int = 1


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device at the worst moment of a way.

    Attributes:
        way: "fast", "offload" or "group-offload".
        tiled: Whether the VAE decodes in tiles.
        weights: Of all that lies there at that moment.
        values: What is computed at that moment.
        overlapped: Whether a video is decoded while the next clip's latents are denoised.
    """

    way: str
    tiled: bool
    weights: int
    values: int
    overlapped: bool = False

    @property
    def total(self) -> int:
        """Bytes in all, CUDA's own included."""
        return self.weights + self.values + _RESERVE


def count_tokens(model: CogVideoXStack, size_hw: tuple[int, int], latent_frames: int, num_maps: int) -> int:
    """Returns N, the tokens that a block attends over: image tokens, the one token, and the stream."""
    on_ids = model.config["maps"] == "ids"
    patch = model.config["patch_size"] * (ids.CELL if on_ids else PIXELS_PER_LATENT)
    image = latent_frames * (size_hw[0] // patch) * (size_hw[1] // patch)
    if not isinstance(model, M2VTransformer3DModel) or model.config["maps"] == "patches":
        return image + 2
    rows, columns = map_grid(
        size_hw, downscale=model.config["map_downscale"], num_blocks=len(model.segmap_resblocks)
    )
    return image + 1 + num_maps * rows * columns


def stage_tokens(
    s2m: CogVideoXStack | None,
    m2v: CogVideoXStack,
    vae: AutoencoderKLCogVideoX,
    clip: ClipShape,
    s2m_frames: int,
) -> dict[str, int]:
    """Returns the tokens of each stage by its name."""
    frames = latent_frames(vae, clip.num_frames)
    tokens = {"m2v": count_tokens(m2v, clip.m2v_hw, frames, clip.num_maps)}
    if s2m is not None:
        tokens["s2m"] = count_tokens(s2m, clip.s2m_hw, s2m_frames, 0)
    return tokens


def estimate(
    way: str,
    tiled: bool,
    models: dict[str, CogVideoXStack],
    vae: nn.Module,
    tokens: dict[str, int],
    clip: ClipShape,
    *,
    overlapped: bool = False,
) -> Estimate:
    """Returns what a way takes.

    Args:
        way: One of `WAYS`.
        tiled: Whether the VAE decodes in tiles.
        models: The transformers by stage.
        vae: With `config["block_out_channels"]`.
        tokens: N by stage.
        clip: The clip.
        overlapped: Whether a video is decoded while a transformer runs.
    """
    weigh = {name: weight_bytes(model) for name, model in models.items()}
    vae_bytes = int(weight_bytes(vae) * _FLAT_COPY)
    value = next(vae.parameters()).element_size()
    widest = sorted(vae.config["block_out_channels"])[-2]  # type: ignore[index]
    height, width = clip.m2v_hw
    frames = _LIVE_FRAMES * min(_CHUNK_FRAMES, clip.num_frames + 1) * height * width * widest * value
    decoding = clip.batch * (frames // 4 if tiled else frames)
    moments = []
    for name, model in models.items():
        running = clip.batch * _LIVE_TOKENS * tokens[name] * model.inner_dim * value
        resident = {
            "fast": sum(weigh.values()),
            "offload": weigh[name],
            "group-offload": 4 * weigh[name] // max(len(model.transformer_blocks), 4),
        }[way]
        moments.append((resident + vae_bytes, running + (decoding if overlapped else 0)))
    moments.append(((sum(weigh.values()) if way == "fast" else 0) + vae_bytes, decoding))
    weights, values = max(moments, key=sum)
    return Estimate(way, tiled, weights, values, overlapped)


def choose(
    asked: Memory,
    free: int,
    models: dict[str, CogVideoXStack],
    vae: nn.Module,
    tokens: dict[str, int],
    clip: ClipShape,
    *,
    several: bool = False,
) -> Estimate:
    """Returns the fastest way that fits into the free memory, or the one asked for.

    Whole frames come before tiles, since tiles change pixels where they meet, though little. Decoding
    overlaps with the next clip only where all weights stay on the device.

    Args:
        asked: "auto" or a way.
        free: Bytes.
        models: The transformers by stage.
        vae: The VAE.
        tokens: N by stage.
        clip: The clip.
        several: Whether more than one is made, so that one's end can overlap with the next one's beginning.

    Raises:
        UsageError: There is no such way.
        ResourceError: Nothing fits; the message says how much the smallest way takes.
    """
    if asked not in ("auto", *WAYS):
        raise UsageError(f"unknown memory {asked!r}: use auto, {', '.join(WAYS)}")
    ways = WAYS if asked == "auto" else (asked,)
    options = [(way, tiled) for tiled in (False, True) for way in ways if tiled or way != "group-offload"]
    options.sort(key=lambda option: (option[1], WAYS.index(option[0])))
    found = [estimate(way, tiled, models, vae, tokens, clip) for way, tiled in options]
    if several and found[0].way == "fast":
        found.insert(0, estimate("fast", False, models, vae, tokens, clip, overlapped=True))
    for option in found:
        if option.total <= free:
            return option
    least = min(found, key=lambda option: option.total)
    if asked != "auto":
        return least  # asked for by name: an estimate is no reason to refuse it
    raise ResourceError(
        f"this clip takes at least about {least.total / _GIB:.1f} GiB of GPU memory (--memory {least.way}), "
        f"and {free / _GIB:.1f} GiB are free; use a smaller size or --device cpu"
    )


def weight_bytes(module: nn.Module) -> int:
    """Returns the bytes of a module's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])
