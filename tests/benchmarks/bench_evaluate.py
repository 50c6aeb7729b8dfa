"""Seconds and peak memory of `evaluate` with the mini network, by the number of clips.

Run from the repository's root: `python -m tests.benchmarks.bench_evaluate --clips 1000`. Half of the clips
are generated, half real; 16 frames of 128x192, so that the generated ones are held to the real ones too. A
quarter of the count comes first. Each count runs in a process of its own, then again with all kept. Memory
must not grow with the count; the second run must cost little more than the start of Python and torch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.config import EvaluateConfig
from hierasurg_core.evaluation.evaluate import evaluate
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import write_mp4

DRAWN = 16
"""Clips that are drawn; all others are these, moved sideways and in another light."""


def write_worlds(folder: Path, count: int) -> None:
    """Real clips, and softer copies of them as the generated ones; no two clips of a side are alike."""
    from hierasurg_core.phantom.draw import draw_clips  # would count in what is measured
    from hierasurg_core.phantom.held_out import uint8_video

    for side in ("made", "real"):
        (folder / side).mkdir(parents=True)
    videos = uint8_video(draw_clips(torch.arange(DRAWN) % 7, torch.arange(DRAWN) * 5, 2))
    for index in range(count):
        real_FHWC = moved(videos[index % DRAWN], index // DRAWN)
        soft_FHWC = np.stack([cv2.GaussianBlur(frame_HWC, (0, 0), 0.8) for frame_HWC in real_FHWC])
        write_mp4(folder / "real" / f"{index:05d}.mp4", real_FHWC, 1)
        write_mp4(folder / "made" / f"{index:05d}.mp4", soft_FHWC, 1)


def moved(video_FHWC: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """A clip a few pixels aside and a little darker."""
    light = 1 - 0.04 * (step % 7)
    return np.ascontiguousarray(np.roll(video_FHWC, 3 * step, axis=2) * light).astype(np.uint8)


def measured(world: Path) -> dict[str, object]:
    """Runs `evaluate` here: seconds, the stages', and the peak of this process."""
    config = EvaluateConfig(
        generated=world / "made", real=world / "real", out=world / "report", vae="none", device="cpu", wall=4
    )
    before_mb, began, began_cpu = peak_mb(), time.perf_counter(), time.process_time()
    result = evaluate(config, SilentProgress(), torch.device("cpu"))
    assert result.report is not None
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "before_mb": before_mb,
        "peak_mb": peak_mb(),
        "units": result.measured,
        "stages": dict(result.report.timing),
    }


def peak_mb() -> float:
    """This process's own peak: what `resource` says of a child begins at its parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--world", type=Path, help="run once in this folder and print JSON")
    options = parser.parse_args()
    if options.world is not None:
        print(json.dumps(measured(options.world)))
        return
    print(f"{len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads", flush=True)
    for clips in sorted({max(8, options.clips // 4), options.clips}):
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            write_worlds(Path(scratch), clips // 2)
            print(f"{clips:6} clips written in {time.perf_counter() - began:.1f} s", flush=True)
            for run in ("first run", "second run"):
                began = time.perf_counter()
                command = [sys.executable, "-m", "tests.benchmarks.bench_evaluate", "--world", scratch]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                whole = time.perf_counter() - began
                said = json.loads(done.stdout.splitlines()[-1])
                stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in said["stages"].items())
                print(
                    f"{clips:6} clips, {run:10} {said['seconds']:8.1f} s, {said['cpu_seconds']:.1f} of CPU, "
                    f"{whole:.1f} s with imports; peak {said['peak_mb']:.0f} MB, {said['before_mb']:.0f} MB "
                    f"after imports; {said['units']} units measured; {stages}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
