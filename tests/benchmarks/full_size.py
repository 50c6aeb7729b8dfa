"""What the GPU benchmarks share: full-size models with random weights, inputs, times, parts that may fail."""

import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hierasurg_core.errors import HieraSurgError
from hierasurg_core.maps import PanopticClip
from hierasurg_core.models import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    M2VTransformer3DModel,
    S2MTransformer3DModel,
)

DEVICE = torch.device("cuda", 0)
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
}
WIDTH, BLOCKS = 1920, 30
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    HieraSurgError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Report:
    """Runs parts one after the other; prints each one's result, or traceback, as a line of JSON at once."""

    def __init__(self, seconds: float, wanted: list[str]) -> None:
        self.results: dict[str, Any] = {}
        self._end, self._wanted = time.monotonic() + seconds, wanted

    def part(self, name: str, work: Callable[[], Any], needs: float = 0.0) -> None:
        """Runs a part unless it was not asked for, or fewer than `needs` seconds are left."""
        if self._wanted and not any(name.startswith(wanted) for wanted in self._wanted):
            return
        began = time.monotonic()
        if began + needs > self._end:
            self.results[name] = {"left out": f"fewer than {needs:.0f} s were left"}
        else:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            try:
                self.results[name] = work()
            except FAULTS:  # one part must not cost the others
                self.results[name] = {"error": traceback.format_exc(limit=-6)}
        spent = round(time.monotonic() - began, 1)
        print(json.dumps({name: self.results[name], "seconds": spent}), flush=True)

    def end(self) -> None:
        print(
            json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, **self.results})
        )
        sys.stdout.flush()


def build(maker: Callable[..., Any], dtype: torch.dtype = torch.bfloat16, **settings: Any) -> Any:
    """Makes a model on the GPU with random weights in a number type."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(DEVICE):
            return maker(**settings).eval()
    finally:
        torch.set_default_dtype(before)


def s2m(dtype: torch.dtype = torch.bfloat16) -> S2MTransformer3DModel:
    return build(S2MTransformer3DModel, dtype)


def m2v(dtype: torch.dtype = torch.bfloat16, **settings: Any) -> M2VTransformer3DModel:
    return build(M2VTransformer3DModel, dtype, **settings)


def vae(dtype: torch.dtype = torch.bfloat16) -> AutoencoderKLCogVideoX:
    kinds = {"down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}
    return build(AutoencoderKLCogVideoX, dtype, block_out_channels=(128, 256, 256, 512), **kinds)


def scheduler() -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(**SCHEDULER)


def inputs(stage: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """A call's inputs: "s2m" 16 x 256x384, "m2v17" and "m2v49" at 480x720 with 16 and 6 maps."""
    draw = torch.Generator(DEVICE).manual_seed(1)
    shapes = {"s2m": (1, 16, 48, 32, 48), "m2v17": (1, 5, 32, 60, 90), "m2v49": (1, 13, 32, 60, 90)}
    latents = torch.randn(shapes[stage], generator=draw, device=DEVICE).to(dtype)
    given = {"latents_BFCHW": latents, "timesteps_B": torch.tensor([500], device=DEVICE)}
    if stage == "s2m":
        words = torch.ones(1, 16, dtype=torch.long, device=DEVICE)
        return {**given, "phase_BF": words, "triplet_BF": words}
    maps = 16 if stage == "m2v17" else 6
    tokens = torch.randn(1, maps * 15 * 23, WIDTH, generator=draw, device=DEVICE).relu_().to(dtype)
    return {**given, "map_tokens_BND": tokens}


def call_flops(tokens: int) -> float:
    """Of one forward pass: linear layers and attention of the blocks."""
    return (88.5e6 * tokens + 4.0 * tokens**2 * WIDTH) * BLOCKS


def peak_flops() -> float:
    """Of an 8192^3 matrix product in bf16, measured."""
    left, right = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / (median_ms(lambda: left @ right, 20) / 1000)


def median_ms(work: Callable[[], object], repeats: int = 7) -> float:
    """Median milliseconds by CUDA events, after two warm-up runs."""
    times = []
    for _ in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[2:])[repeats // 2]


def relative(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the reference's."""
    reference = reference.float()
    return ((values.float() - reference).norm() / reference.norm()).item()


def gib() -> float:
    """Peak allocated memory since the part began, or since the last reset."""
    return round(torch.cuda.max_memory_allocated() / 1024**3, 2)


def scene(size_hw: tuple[int, int], entities: int = 10, frames: int = 16) -> tuple[np.ndarray, PanopticClip]:
    """A photograph and maps of rectangles that move."""
    height, width = size_hw
    map_FHW = np.full((frames, height, width), entities, np.uint8)
    map_FHW[:, :, : width // 20] = entities + 1
    for frame in range(frames):
        for entity in range(entities):
            top = height * (entity % 4) // 5 + height * frame // 200
            left = width // 10 + width * (entity // 4) // 4
            map_FHW[frame, top : top + height // 7, left : left + width // 6] = entity
    photo = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return photo, PanopticClip(map_FHW, entities)
