"""Seconds and peak memory of `evaluate` with the mini network, by the number of clips.

Run from the repository's root: `python -m tests.benchmarks.bench_evaluate --clips 1000`. Half of the clips
are generated, half real; 16 frames of 128x192. Each count runs in a process of its own, then again with all
kept. Memory must not grow with the count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hierasurg_core.config import EvaluateConfig
from hierasurg_core.evaluation.evaluate import evaluate
from hierasurg_core.phantom.draw import draw_clips
from hierasurg_core.phantom.measure import uint8_video
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import write_mp4

DRAWN = 16


def write_clips(folder: Path, count: int, seed: int) -> None:
    """Clips that all differ, of a few that are drawn."""
    folder.mkdir(parents=True)
    videos = uint8_video(draw_clips(torch.arange(DRAWN) % 7, torch.arange(DRAWN) * 5, seed))
    for index in range(count):
        turned = np.roll(videos[index % DRAWN], index // DRAWN, axis=2)
        write_mp4(folder / f"{index:05d}.mp4", np.ascontiguousarray(turned), 1)


def measured(world: Path) -> dict[str, float]:
    """Runs `evaluate` here; seconds and the peak of this process."""
    config = EvaluateConfig(
        generated=world / "made", real=world / "real", out=world / "report", vae="none", device="cpu", wall=4
    )
    began = time.perf_counter()
    result = evaluate(config, SilentProgress(), torch.device("cpu"))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_mb": peak_mb(), "units": result.measured}


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
    for clips in sorted({max(8, options.clips // 5), options.clips}):
        with tempfile.TemporaryDirectory() as scratch:
            world = Path(scratch)
            write_clips(world / "made", clips // 2, seed=1)
            write_clips(world / "real", clips // 2, seed=2)
            for run in ("first run", "second run"):
                command = [sys.executable, "-m", "tests.benchmarks.bench_evaluate", "--world", scratch]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                said = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{clips:6} clips, {run:10} {said['seconds']:8.1f} s, peak {said['peak_mb']:6.0f} MB, "
                    f"{said['units']:.0f} units measured",
                    flush=True,
                )


if __name__ == "__main__":
    main()
