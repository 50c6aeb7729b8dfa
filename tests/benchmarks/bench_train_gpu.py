"""Training at full size on one GPU; run ``python -m tests.benchmarks.bench_train_gpu [--parts a,b]``.

Random weights and cached latents of the full sizes, real optimiser steps through the stages, the clipping
and the kernels that the trainer uses. The baseline is the public code's loop from its description: bf16
weights, eager blocks that are all computed again, AdamW. Each part prints a line of JSON.
"""

import tests.benchmarks.without_av  # noqa: F401 - before all that imports PyAV

# isort: split

import argparse
import dataclasses
import gc
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hierasurg_core.models import CogVideoXStack
from hierasurg_core.models.attention import kernel_times
from hierasurg_core.runtime import make_generator
from hierasurg_core.training import Batch, Draws, M2VStage, S2MStage
from hierasurg_core.training.acceleration import restore_model, set_up_model, use_fastest_kernel
from hierasurg_core.training.offload import OffloadedAdamW
from tests.benchmarks import full_size
from tests.benchmarks.full_size import DEVICE, Report, call_flops, gib
from tests.benchmarks.random_clips import random_clips

TOKENS = {"s2m": 6146, "m2v17": 12271, "m2v49": 19621}
_peak: list[float] = []


def batch_of(name: str, batch: int) -> Batch:
    shapes = {"s2m": (16, 32, 48, 16), "m2v17": (5, 60, 90, 16), "m2v49": (13, 60, 90, 6)}
    clips = random_clips(batch, shapes[name], DEVICE, 3)
    labels = torch.ones(batch, shapes[name][-1], dtype=torch.long, device=DEVICE)
    clips = dataclasses.replace(clips, phase_BF=labels, triplet_BF=labels)
    if name != "s2m":
        return clips
    return dataclasses.replace(
        clips, first_map_B1CHW=clips.clean_latents[:, :1], maps_BFHW=None, max_id_B=None
    )


def measure(
    model: CogVideoXStack,
    name: str,
    batch: int,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    autocast: bool,
) -> dict[str, Any]:
    """Times optimiser steps after three warm-up steps, and forbids waits for the GPU in the last of those."""
    alpha_bar_T = full_size.scheduler().alphas_cumprod.to(DEVICE)
    stage: Any = S2MStage(alpha_bar_T) if name == "s2m" else M2VStage(alpha_bar_T)
    data, draws = batch_of(name, batch), Draws(make_generator(0, DEVICE))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def forward(latents: Tensor, *given: Tensor, **words: Any) -> Tensor:
        if not autocast:
            return model(latents, *given, **words)
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            return model(latents, *given, **words)

    def step() -> None:
        prediction, target = stage.prediction_and_target(forward, data, draws)
        (prediction.float() - target).square().flatten(1).mean(1).mean().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    step()
    torch.cuda.synchronize()
    waits = _waits(step)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / steps
    flops = 3 * call_flops(TOKENS[name]) * batch
    return {
        "samples_per_s": round(batch / seconds, 3),
        "step_ms": round(seconds * 1000, 1),
        "mfu": round(flops / seconds / _peak[0], 3),
        "peak_gib": gib(),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 1024**3, 2),
        "first_step_s": round(first, 1),
        "waits": waits,
    }


def _waits(step: Callable[[], None]) -> str:
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error)[:200]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def make(name: str, dtype: torch.dtype = torch.float32) -> CogVideoXStack:
    free()
    torch.backends.cudnn.benchmark = True
    model = full_size.s2m(dtype) if name == "s2m" else full_size.m2v(dtype)
    return model.train()


def adamw(model: CogVideoXStack) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.95), weight_decay=1e-4, fused=True)


def baseline(name: str, batch: int) -> dict[str, Any]:
    model = make(name, torch.bfloat16)
    model.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=1e-4)
    return measure(model, name, batch, optimizer, 5, autocast=False)


def kernels() -> dict[str, Any]:
    return {
        name: {
            k: round(ms, 2)
            for k, ms in kernel_times(n, 30, 64, torch.bfloat16, DEVICE, backward=True).items()
        }
        for name, n in TOKENS.items()
    }


def ours(name: str, settings: Iterable[tuple[int, str, int]]) -> dict[str, Any]:
    """Full fine-tuning with float32 master weights; settings are (batch, recompute, every)."""
    model = make(name)
    optimizer = adamw(model)
    found: dict[str, Any] = {"weights_gib": gib()}
    found["kernel"] = use_fastest_kernel(model, TOKENS[name], torch.bfloat16, DEVICE)
    for batch, recompute, every in settings:
        way: Any = recompute
        free()
        set_up_model(model, recompute=way, every=every, compiled=True)
        label = f"batch {batch}, recompute {recompute} of every {every}"
        try:
            found[label] = measure(model, name, batch, optimizer, 8, autocast=True)
        except torch.OutOfMemoryError as error:
            optimizer.zero_grad()
            found[label] = {"error": str(error)[:200]}
    restore_model(model)
    return found


def lora(rank: int) -> dict[str, Any]:
    from peft import LoraConfig

    model = make("m2v17", torch.bfloat16)
    model.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    use_fastest_kernel(model, TOKENS["m2v17"], torch.bfloat16, DEVICE)
    found = {}
    for recompute in ("full", "attention"):
        free()
        way: Any = recompute
        set_up_model(model, recompute=way)
        found[recompute] = measure(model, "m2v17", 1, adamw(model), 4, autocast=True)
    return found


def offloaded() -> dict[str, Any]:
    model = make("m2v17")
    use_fastest_kernel(model, TOKENS["m2v17"], torch.bfloat16, DEVICE)
    set_up_model(model, recompute="full")
    optimizer = OffloadedAdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=1e-4)
    return measure(model, "m2v17", 1, optimizer, 3, autocast=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default="", help="names to run, with commas; all by default")
    parser.add_argument("--seconds", type=float, default=170)
    asked = parser.parse_args()
    _peak.append(full_size.peak_flops())
    print(f'{{"peak_tflops": {_peak[0] / 1e12:.0f}}}', flush=True)
    report = Report(asked.seconds, [name for name in asked.parts.split(",") if name])
    report.part("kernels", kernels)
    report.part(
        "m2v17", lambda: ours("m2v17", [(1, "none", 1), (1, "attention", 1), (2, "attention", 2)]), 60
    )
    report.part("m2v17_baseline", lambda: baseline("m2v17", 1), 12)
    report.part("s2m", lambda: ours("s2m", [(1, "none", 1), (2, "none", 1)]), 40)
    report.part("s2m_baseline", lambda: baseline("s2m", 1), 10)
    report.part("m2v49", lambda: ours("m2v49", [(1, "none", 1), (1, "attention", 1)]), 45)
    report.part("lora", lambda: lora(64), 15)
    report.part("offload", offloaded, 25)
    report.part("m2v49_baseline", lambda: baseline("m2v49", 1), 15)
    report.part("more", lambda: ours("m2v17", [(1, "full", 1), (4, "attention", 1)]), 45)
    report.end()


if __name__ == "__main__":
    main()
