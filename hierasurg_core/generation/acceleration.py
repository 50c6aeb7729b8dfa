"""Puts a loaded pipeline on its device as fast as that device and its memory allow.

Owns what is set before the first clip: attention kernels, compiled blocks, layout of the VAE, caches, 8-bit
weights, and where parts lie. On a CPU nothing is changed unless it is asked for, so results stay as they are
to the byte. Refuses: anything per clip (`pipelines`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from hierasurg_core.errors import UsageError
from hierasurg_core.generation.limits import NUM_MAPS
from hierasurg_core.generation.memory import ClipShape, Estimate, Memory, choose, stage_tokens
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.generation.placement import Placement, Waiting
from hierasurg_core.models import CogVideoXStack, lay_channels_last
from hierasurg_core.models.attention import choose_kernel, use_kernel
from hierasurg_core.models.backbone import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_group_offloading,
)
from hierasurg_core.models.quantised import Quantisation, quantise
from hierasurg_core.runtime import SideStream, expect_fixed_shapes, free_memory, keep_compiled

Cache = Literal["none", "first-block", "taylorseer", "pab"]

_GIB = 1024**3
_CALLS_THAT_PAY = 400  # of the blocks at full size: a compilation takes half a minute and saves 0.07 s a call
_LARGE_WIDTH = 1024  # tokens narrower than this are a mini model's: its calls are too short to gain

_CACHES: Mapping[str, Callable[[HieraSurgPipeline], Any]] = {
    "first-block": lambda _: FirstBlockCacheConfig(threshold=0.08),
    "taylorseer": lambda _: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=3, max_order=1),
    "pab": lambda pipeline: PyramidAttentionBroadcastConfig(  # Zhao et al. 2024, arXiv 2408.12588
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 800),
        current_timestep_callback=lambda: pipeline.current_timestep,
    ),
}


@dataclass(frozen=True)
class Speed:
    """What a run asks for.

    Attributes:
        compile: Whether blocks and VAE go through torch.compile; None: where the run is long enough to gain.
        cache: "none", "first-block", "taylorseer" or "pab" (diffusers' caches of a call's inner values).
        memory: "auto", "fast", "offload" or "group-offload"; see `memory`.
        quantize: "none", "fp8" or "int8" weights of the blocks.
        compiled_folder: Where compiled code is kept for later runs; None: the user's cache folder.
    """

    compile: bool | None = None
    cache: Cache = "none"
    memory: Memory = "auto"
    quantize: Literal["none"] | Quantisation = "none"
    compiled_folder: Path | None = None


def prepare(
    pipeline: HieraSurgPipeline,
    device: torch.device,
    clip: ClipShape,
    speed: Speed,
    *,
    calls: int = 0,
    several: bool = False,
) -> tuple[str, ...]:
    """Moves a pipeline to its device and sets it up; call it once, before the first clip.

    Args:
        pipeline: Best loaded to the CPU, so that parts that wait there never fill the device.
        device: Where it works.
        clip: The clips of the run.
        speed: What was asked for.
        calls: How often the transformers will be called in all, for `compile` None.
        several: Whether there is more than one clip (or batch), so that a video may be decoded beside the
            next one's beginning.

    Returns:
        What was chosen, for the user.

    Raises:
        UsageError: Settings that exclude each other.
        ResourceError: Nothing fits into the device's memory, or it lacks a unit that was asked for.
    """
    transformers: dict[str, CogVideoXStack] = {"m2v": pipeline.m2v}
    if pipeline.s2m is not None:
        transformers["s2m"] = pipeline.s2m
    _check(speed, device)
    notes: list[str] = []
    tokens = stage_tokens(pipeline.s2m, pipeline.m2v, pipeline.vae, clip, NUM_MAPS)
    if speed.quantize != "none":
        for model in transformers.values():
            use_kernel(model, None)
            quantise(model, speed.quantize, device)
    if device.type != "cuda":
        pipeline.to(device)
        pipeline.use_placement(Placement(device, tiled=None))
    else:
        expect_fixed_shapes(device)
        free = free_memory(device)
        chosen = choose(speed.memory, free, transformers, pipeline.vae, tokens, clip, several=several)
        notes.append(_describe(chosen))
        compiled = _compiles(speed, chosen, pipeline, calls)
        _place(pipeline, transformers, device, chosen, compiled)
        for name, model in transformers.items():
            heads, head_dim = model.config["num_attention_heads"], model.config["attention_head_dim"]
            kernel = choose_kernel(tokens[name], heads, head_dim, model.dtype, device)
            use_kernel(model, kernel)
            notes.append(f"{name.upper()}: {kernel or 'default'} attention over {tokens[name]} tokens")
        if compiled:
            keep_compiled(speed.compiled_folder or compiled_folder())
            for model in transformers.values():
                for block in model.transformer_blocks:
                    block.compile(dynamic=False)
            notes.append("blocks and VAE are compiled; the first clip takes longer")
    if speed.cache != "none":
        for model in transformers.values():
            model.enable_cache(_CACHES[speed.cache](pipeline))
        notes.append(f"cache {speed.cache}: calls are approximated")
    return tuple(notes)


def compiled_folder() -> Path:
    """Returns the user's folder for compiled code, by torch's version."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hierasurg" / f"compiled-{torch.__version__}"


def _check(speed: Speed, device: torch.device) -> None:
    if speed.cache != "none" and speed.cache not in _CACHES:
        raise UsageError(f"unknown cache {speed.cache!r}: use none, {', '.join(_CACHES)}")
    if speed.compile and speed.cache == "pab":
        raise UsageError("compile and cache pab exclude each other: a block's work changes from call to call")
    if device.type == "cpu" and speed.memory in ("offload", "group-offload"):
        raise UsageError(
            f"memory {speed.memory} is for GPUs; on a CPU all models lie in the one memory there is"
        )
    if speed.quantize != "none" and speed.memory == "group-offload":
        raise UsageError("quantize and memory group-offload exclude each other: use memory offload or fast")
    if speed.compile and speed.memory == "group-offload":
        raise UsageError(
            "compile and memory group-offload exclude each other: blocks change place as they run"
        )


def _compiles(speed: Speed, chosen: Estimate, pipeline: HieraSurgPipeline, calls: int) -> bool:
    if chosen.way == "group-offload":
        return False
    if speed.compile is not None:
        return speed.compile
    return pipeline.m2v.inner_dim >= _LARGE_WIDTH and calls >= _CALLS_THAT_PAY and speed.cache == "none"


def _place(
    pipeline: HieraSurgPipeline,
    transformers: Mapping[str, CogVideoXStack],
    device: torch.device,
    chosen: Estimate,
    compiled: bool,
) -> None:
    torch.nn.Module.to(pipeline.vae, device)
    if not chosen.tiled:
        lay_channels_last(pipeline.vae.decoder)
    waiting = {}
    for name, model in transformers.items():
        if chosen.way == "fast":
            torch.nn.Module.to(model, device)
        elif chosen.way == "offload":
            waiting[name] = Waiting(model, device)
        else:
            apply_group_offloading(
                model,
                onload_device=device,
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=True,
            )
    side = SideStream(device) if chosen.overlapped else None
    pipeline.use_placement(Placement(device, waiting, chosen.tiled, compiled and not chosen.tiled, side))


def _describe(chosen: Estimate) -> str:
    tiles = ", VAE in tiles" if chosen.tiled else ""
    beside = ", decoding beside the next clip" if chosen.overlapped else ""
    return f"memory {chosen.way}{tiles}{beside}: about {chosen.total / _GIB:.1f} GiB"
