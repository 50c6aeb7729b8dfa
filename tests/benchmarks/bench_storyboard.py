"""A long story on the bundled models: joints against the frames inside clips, and memory over time.

    python tests/benchmarks/bench_storyboard.py --minutes 1
    python tests/benchmarks/bench_storyboard.py --minutes 10 --device cpu
    python tests/benchmarks/bench_storyboard.py --read samples/0000.mp4   # joints of a story that is there

Prints one JSON object. A joint is the step from the last frame of one clip to the first new frame of the
next; its difference (mean absolute, of 255) is divided by the median difference of successive frames inside
clips. Goal: 1.5 at most; resident memory of the last minute within 5 % of the first. The share above the goal
is told of joints and of frames inside clips: where these are alike, joints do not stand out.
"""

import argparse
import json
import statistics
import threading
import time
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from hierasurg_core.artifacts import read_json
from hierasurg_core.config import GenerateConfig
from hierasurg_core.generation import generate
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import iter_video

WINDOW_S = 60.0
GOAL = 1.5


class Aloud(SilentProgress):
    """Prints stages."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        print(f"{stage} ({total} {unit})", flush=True)


class Resident:
    """Samples this process's resident memory once a second."""

    def __init__(self) -> None:
        self.mb: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Resident":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.mb.append((time.monotonic(), pages * 4096 / 1e6))


def joints(video: Path) -> dict[str, Any]:
    """Compares steps at joints with those inside clips; cuts count as neither."""
    story = read_json(video.with_suffix(".json"))["story"]
    fps = read_json(video.with_suffix(".json"))["sampling"]["fps"]
    second, cuts = 0, set[int]()
    for segment in story["segments"]:
        if segment["start"] is not None:
            cuts.add(second * fps)
        second += segment["seconds"]
    steps = {
        index: float(np.abs(after.astype(int) - before).mean())
        for index, (before, after) in enumerate(pairwise(iter_video(video)), start=1)
    }
    at_joints = [steps[index] for index in story["joints"]]
    inside = [step for index, step in steps.items() if index not in {*story["joints"], *cuts}]
    median = statistics.median(inside)
    return {
        "frames": len(steps) + 1,
        "joints": len(at_joints),
        "median_inside": round(median, 3),
        "median_joint_ratio": round(statistics.median(at_joints) / median, 3),
        "worst_joint_ratio": round(max(at_joints) / median, 3),
        "worst_inside_ratio": round(max(inside) / median, 3),
        "share_of_joints_above_goal": _share_above(at_joints, GOAL * median),
        "share_inside_above_goal": _share_above(inside, GOAL * median),
        "joint_ratios": [round(step / median, 2) for step in at_joints],
        "mean_by_quarter": _by_quarter(video),
    }


def _share_above(steps: list[float], limit: float) -> float:
    return round(sum(step > limit for step in steps) / len(steps), 3)


def _by_quarter(video: Path) -> list[dict[str, float]]:
    """Brightness and contrast as the story goes on: what drifts shows here."""
    stats = [(float(frame.mean()), float(frame.std())) for frame in iter_video(video)]
    parts = np.array_split(np.array(stats), 4)
    return [
        {"mean": round(float(part[:, 0].mean()), 2), "std": round(float(part[:, 1].mean()), 2)}
        for part in parts
    ]


def main() -> None:
    """Tells a story, or reads one, and prints what was measured."""
    parser = argparse.ArgumentParser(description="Measure joints and memory of a story.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--phase", default="calot")
    parser.add_argument("--triplet", default="grasper,retract,gallbladder")
    parser.add_argument("--script", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--read", type=Path)
    given = parser.parse_args()
    if given.read is not None:
        print(json.dumps(joints(given.read), indent=2))
        return
    config = GenerateConfig(
        phase=None if given.script else given.phase,
        triplet=None if given.script else given.triplet,
        script=given.script,
        seconds=None if given.script else round(given.minutes * 60),
        steps=given.steps,
        device=given.device,
        out=given.out or Path(mkdtemp()),
    )
    began = time.monotonic()
    with Resident() as resident:
        result = generate(config, Aloud())
    loaded = [mb for at, mb in resident.mb if at > began + 0.1 * (time.monotonic() - began)]
    window = min(int(WINDOW_S), max(1, len(loaded) // 3))
    first, last = statistics.median(loaded[:window]), statistics.median(loaded[-window:])
    print(
        json.dumps(
            {
                **joints(result.samples[0].video),
                "seconds": round(result.seconds, 1),
                "resident_mb_first_minute": round(first),
                "resident_mb_last_minute": round(last),
                "resident_change": round(last / first - 1, 4),
                "video": str(result.samples[0].video),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
