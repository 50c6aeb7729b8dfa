"""Training at full size on several GPUs of one host, with whole copies (DDP) and in pieces (FSDP2).

Run ``python -m tests.benchmarks.bench_train_multi_gpu --gpus 1,2,4 --seconds 300``; ``--tiny`` runs a small
model on the CPU, to see that it works. The 2b M2V architecture with random weights and cached latents of
17x480x720, set up as a run sets it up, with the same batch for each GPU. As many ranks as the largest number
start once and form a group of each size in turn. Each measurement prints a line of JSON; the last line tells
efficiencies, samples/s of N over N times those of one.
"""

import argparse
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from hierasurg_core.config import TrainConfig
from hierasurg_core.models import M2VTransformer3DModel
from hierasurg_core.runtime import device_milliseconds
from hierasurg_core.training import Draws, LatentCacheSource, M2VStage
from hierasurg_core.training.acceleration import use_fastest_kernel
from hierasurg_core.training.checkpoint import trained_parameters
from hierasurg_core.training.memory import Workload, changes_of
from hierasurg_core.training.setup import accelerated, set_up
from hierasurg_core.training.sharding import clip_gradients
from hierasurg_core.training.trainer import exposed_communication
from tests.benchmarks.random_clips import random_clips

SIZE = Workload(parameters=0, trained=0, tokens=12271, width=1920, blocks=30)
TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "time_embed_dim": 16,
    "text_embed_dim": 16,
    "num_layers": 3,
    "map_widths": (4, 8),
}
_ALL = timedelta(minutes=10)
_NEEDS_S = {"none": 30, "full": 60}  # of another measurement; the blocks in pieces are compiled anew


@contextlib.contextmanager
def group_of(size: int, rank: int, store: Store, device: torch.device) -> Iterator[None]:
    """The first `size` ranks as the whole process group; one alone has none."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in told.items()})
    if size == 1:
        for name in told:
            del os.environ[name]
    else:
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        if size > 1:
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def measure(
    asked: argparse.Namespace, sharding: str, memory: str, rank: int, size: int, device: torch.device
) -> dict[str, Any]:
    """Times optimiser steps of the ranks together, and those of each alone, without what they exchange."""
    config = TrainConfig(
        batch=asked.batch,
        device=str(device) if size == 1 else device.type,
        ema=asked.ema or None,
        compile=not asked.tiny,
        precision="bf16",
        **{"sharding": sharding, **changes_of(memory)},
    )
    with torch.device(device):
        torch.manual_seed(0)
        model = M2VTransformer3DModel(**(TINY if asked.tiny else {}))
    stage = M2VStage(torch.linspace(0.9975, 0.0, 1000, dtype=torch.float64, device=device))
    data = random_clips(asked.batch, (3, 4, 6, 4) if asked.tiny else (5, 60, 90, 16), device, rank)
    with accelerated(model, config, device) as accelerator:
        state, wrapped = set_up(model, stage, LatentCacheSource(data, asked.batch), config, accelerator, None)
        kernel = None if asked.tiny else use_fastest_kernel(model, SIZE.tokens, torch.bfloat16, device)
        parameters = [parameter for _, parameter in trained_parameters(model)]
        draws = Draws(state.generator, rank, size)

        def step() -> None:
            prediction, target = stage.prediction_and_target(wrapped, data, draws)
            accelerator.backward((prediction.float() - target).square().mean())
            if state.shell is None:
                accelerator.clip_grad_norm_(parameters, 1.0)
            else:
                clip_gradients(parameters, 1.0)
            state.optimizer.step()
            state.optimizer.zero_grad()
            if state.ema is not None:
                state.ema.update(1)

        def seconds_of(steps: int) -> float:
            wait(device)
            began = time.perf_counter()
            for _ in range(steps):
                step()
            wait(device)
            return (time.perf_counter() - began) / steps

        first = seconds_of(1)
        seconds_of(2)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = seconds_of(asked.steps)
        cuda = device.type == "cuda"
        peak = round(torch.cuda.max_memory_allocated(device) / 1024**3, 2) if cuda else None
        found: dict[str, Any] = {
            "samples_per_s": round(size * asked.batch / seconds, 3),
            "step_ms": round(seconds * 1000, 1),
            "first_step_s": round(first, 1),
            "peak_gib": peak,
            "kernel": kernel,
        }
        if size > 1 and state.shell is None:
            found["exposed_ms_by_ddp"] = round(exposed_communication(wrapped) * 1000, 1)
            with accelerator.no_sync(wrapped):
                apart = seconds_of(max(2, asked.steps // 2))
            found["exposed_ms"] = round((seconds - apart) * 1000, 1)
        return found


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def work(asked: argparse.Namespace) -> None:
    """One rank: goes through all measurements, and sits out those of smaller groups."""
    rank, counts = asked.rank, sizes(asked)
    device = torch.device("cpu") if asked.tiny else torch.device("cuda", rank)
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)
    store = TCPStore("localhost", asked.port, is_master=False, timeout=_ALL)
    peak = peak_flops(device) if rank == 0 and not asked.tiny else None
    flops = SIZE.flops_a_clip() * asked.batch
    parts = [("ddp", "none", asked.memory, size) for size in counts]
    if counts[-1] > 1:
        parts += [(name, "full", memory, counts[-1]) for name, memory in asked.sharded]
    speeds: dict[str, float] = {}
    alone_ms: float | None = None
    for index, (name, sharding, memory, size) in enumerate(parts):
        if rank == 0:
            needs = _NEEDS_S[sharding] if speeds and not asked.tiny else 0
            enough = time.time() + needs < asked.end
            store.set(f"go/{index}", "yes" if enough else "no")
        if store.get(f"go/{index}") == b"no":
            if rank == 0:
                print(json.dumps({"part": name, "gpus": size, "left out": "too little time"}), flush=True)
            continue
        found: dict[str, Any] = {}
        if rank < size:
            with group_of(size, rank, PrefixStore(f"group/{index}", store), device):
                found = measure(asked, sharding, memory, rank, size, device)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            store.set(f"peak/{index}/{rank}", str(found["peak_gib"]))
        if rank == 0:
            if size == 1:
                alone_ms = found["step_ms"]
            elif sharding == "full" and alone_ms is not None:
                found["over_one_gpu_ms"] = round(found["step_ms"] - alone_ms, 1)
            found["peak_gib_by_rank"] = [store.get(f"peak/{index}/{r}").decode() for r in range(size)]
            if peak is not None:
                found["mfu"] = round(flops / (found["step_ms"] / 1000) / peak, 3)
            speeds[f"{name} {size}"] = found["samples_per_s"]
            line = {"part": name, "gpus": size, "batch": asked.batch, "memory": memory, **found}
            print(json.dumps(line), flush=True)
            store.set(f"done/{index}", "yes")
        store.wait([f"done/{index}"], _ALL)
    if rank == 0:
        print(json.dumps(summary(speeds, peak)), flush=True)


def peak_flops(device: torch.device) -> float:
    """Of an 8192^3 matrix product in bf16, measured."""
    left, right = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)

    return 2 * 8192**3 / (device_milliseconds(multiply, device, 20) / 1000)


def summary(speeds: dict[str, float], peak: float | None) -> dict[str, Any]:
    one = speeds.get("ddp 1")
    efficiency = (
        {}
        if one is None
        else {name: round(speed / one / int(name.split()[1]), 3) for name, speed in speeds.items()}
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    tflops = None if peak is None else round(peak / 1e12)
    return {"efficiency": efficiency, "device": gpu, "peak_tflops": tflops, "torch": torch.__version__}


def sizes(asked: argparse.Namespace) -> list[int]:
    return sorted({int(count) for count in asked.gpus.split(",")})


def start(asked: argparse.Namespace) -> int:
    """Starts the ranks and waits; the first that fails, or the end of the time, ends all."""
    store = TCPStore("localhost", 0, is_master=True, timeout=_ALL, wait_for_workers=False)
    end = time.time() + asked.seconds
    root = Path(__file__).parents[2]
    given = [*sys.argv[1:], "--port", str(store.port), "--end", str(end), "--rank"]
    command = [sys.executable, "-m", "tests.benchmarks.bench_train_multi_gpu", *given]
    packages = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4"), "PYTHONPATH": packages}
    ranks = [
        subprocess.Popen([*command, str(rank)], cwd=root, env={**os.environ, **threads})
        for rank in range(sizes(asked)[-1])
    ]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    try:
        while any(rank.poll() is None for rank in ranks):
            failed = [index for index, rank in enumerate(ranks) if rank.poll()]
            if failed or time.time() > end + 60:
                why = f"rank {failed[0]} failed" if failed else "the time was over"
                print(json.dumps({"error": why}), flush=True)
                return 1
            time.sleep(0.5)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return max(rank.returncode for rank in ranks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpus", default="1,2", help="sizes of groups, with commas")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--batch", type=int, default=2, help="clips a GPU")
    parser.add_argument("--memory", default="attention", help="keep, attention or recompute")
    parser.add_argument("--sharded", default="attention,keep", help="the same for FSDP, with commas")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--ema", type=float, default=0.9999, help="0 keeps no average")
    parser.add_argument("--tiny", action="store_true", help="a small model, on the CPU")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank is None:
        sys.exit(start(asked))
    asked.sharded = [(f"fsdp-{memory}", memory) for memory in asked.sharded.split(",") if memory]
    work(asked)


if __name__ == "__main__":
    main()
