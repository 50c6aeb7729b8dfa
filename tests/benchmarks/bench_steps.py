"""Quality against steps, solvers and caches on the bundled mini models, and of few-step students.

Run ``python -m tests.benchmarks.bench_steps [--clips 256] [--device cuda] [--student FOLDER] [MODEL]``. M2V:
PSNR from true maps of held-out phantom clips; S2M: how often the asked target is reached. A line of JSON for
each way; the first line, 100 steps of the stochastic solver, is what the others are held against. The last
line is the student pipeline's own steps, beside its teacher's; ``--brief`` leaves out what lies between.
"""

import tests.benchmarks.without_av  # noqa: F401 - before all that imports PyAV

# isort: split

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hierasurg_core
from hierasurg_core.generation.acceleration import Speed, prepare
from hierasurg_core.generation.memory import ClipShape
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.phantom.held_out import held_out_clips
from hierasurg_core.phantom.making import Making, make_videos
from hierasurg_core.phantom.measure import measure_s2m
from hierasurg_core.phantom.video_scores import psnr

MINI = Path(hierasurg_core.__file__).parent / "assets" / "mini"
SIZE_HW = (128, 192)
WAYS: list[tuple[Any, int, Any]] = [
    ("sde-dpm++", 100, "none"),
    *[(solver, steps, "none") for steps in (4, 8, 10, 15, 20, 50) for solver in ("dpm++", "sde-dpm++")],
    ("dpm++", 20, "first-block"),
    ("dpm++", 20, "taylorseer"),
    ("dpm++", 20, "pab"),
]


def video_psnr(
    pipeline: HieraSurgPipeline, solver: Any, steps: int | None, asked: Any
) -> tuple[float, float]:
    """Mean and standard error over clips, in dB."""
    making = Making(steps, solver, batch=asked.batch)
    pairs = zip(make_videos(pipeline, asked.clips, making), held_out_clips(asked.clips), strict=True)
    scores = [psnr(video[1:], clip.video_FHWC[1:]) for video, clip in pairs]
    return float(np.mean(scores)), float(np.std(scores) / len(scores) ** 0.5)


def measured(pipeline: HieraSurgPipeline, solver: Any, steps: int | None, asked: Any) -> dict[str, Any]:
    """Both figures and the time they took; None is the model's own way."""
    began = time.perf_counter()
    found: dict[str, Any] = {}
    if asked.clips:
        found["m2v_db"], found["m2v_db_error"] = video_psnr(pipeline, solver, steps, asked)
    if asked.requests:
        score = measure_s2m(pipeline, asked.requests, steps, solver=solver, batch=asked.batch)
        found["s2m_share"], found["s2m_frame_share"] = score.share, score.frame_share
    return {**found, "seconds": time.perf_counter() - began}


def tell(way: dict[str, Any], found: dict[str, Any], first: dict[str, Any]) -> None:
    """Prints a line; `_ratio` is against the first line."""
    ratios = {f"{key}_ratio": found[key] / first[key] for key in ("m2v_db", "s2m_share") if first.get(key)}
    line = {key: round(value, 3) for key, value in {**found, **ratios}.items()}
    print(json.dumps({**way, **line}), flush=True)


def opened(folder: Path, device: torch.device, batch: int) -> HieraSurgPipeline:
    pipeline = HieraSurgPipeline.from_pretrained(folder)
    prepare(pipeline, device, ClipShape(SIZE_HW, SIZE_HW, 16, 16, batch), Speed(compile=False))
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", type=Path, default=MINI)
    parser.add_argument("--student", type=Path, default=None, help="pipeline of few-step students")
    parser.add_argument("--brief", action="store_true", help="only the first line, and the student")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--requests", type=int, default=64, help="starts of S2M, three requests each")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    pipeline = opened(asked.model, device, asked.batch)
    first: dict[str, Any] = {}
    for solver, steps, cache in WAYS[:1] if asked.brief else WAYS:
        if cache != "none":
            changed: Any = Speed(compile=False, cache=cache)
            prepare(pipeline, device, ClipShape(SIZE_HW, SIZE_HW, 16, 16, asked.batch), changed)
        found = measured(pipeline, solver, steps, asked)
        first = first or found
        tell({"solver": solver, "steps": steps, "cache": cache}, found, first)
        if cache != "none":
            for model in (pipeline.s2m, pipeline.m2v):
                if model is not None:
                    model.disable_cache()
    if asked.student is not None:
        student = opened(asked.student, device, asked.batch)
        own = {stage: student.sampling_of(stage).steps for stage in ("s2m", "m2v")}
        tell({"student": str(asked.student), "steps": own}, measured(student, None, None, asked), first)


if __name__ == "__main__":
    main()
