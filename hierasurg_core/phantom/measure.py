"""Measures the mini models on held-out phantom clips: ``python -m hierasurg_core.phantom.measure [MODEL]``.

Prints a line of JSON for each of four measurements. ``vae``: clips through the VAE and back. ``m2v``: videos
made from true maps. ``s2m``: maps made from starts whose instrument is sent to three other targets.
``courses``: maps made for clips in which instruments come and go. Progress goes to standard error, and
``--sheet FILE.png`` writes FILE-vae.png, FILE-m2v.png and so on, which show the first clips of each. All of
it is mini: it says that the models obey, nothing about real surgery.

Owns the command; the figures are explained in `scoring`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hierasurg_core import artifacts, runtime, taxonomy
from hierasurg_core.errors import HieraSurgError, UsageError
from hierasurg_core.generation.folders import part_folder
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.generation.solvers import SOLVERS, Solver
from hierasurg_core.models import AutoencoderKLCogVideoX, load_transformer, load_vae
from hierasurg_core.phantom.held_out import (
    REQUESTS_A_START,
    comparable,
    held_out_clips,
    held_out_courses,
    requests_of,
    true_answers,
)
from hierasurg_core.phantom.making import (
    Making,
    Maps,
    Videos,
    code_videos,
    make_course_maps,
    make_request_maps,
    make_videos,
)
from hierasurg_core.phantom.printed import PrintedProgress
from hierasurg_core.phantom.result_sheet import Row, painted, write_sheet
from hierasurg_core.phantom.scoring import (
    TargetScore,
    VideoScore,
    measure_courses,
    measure_requests,
    measure_vae,
    measure_videos,
    score_all_videos,
    score_courses,
    score_requests,
)

_MINI = Path(__file__).resolve().parents[1] / "assets" / "mini"


def measure_m2v(
    pipeline: HieraSurgPipeline, clips: int = 64, steps: int | None = None, *, solver: Solver | None = None
) -> VideoScore:
    """Makes videos from true maps of held-out clips and measures them; see `Making` for the arguments."""
    making = Making(steps, solver)
    coded = code_videos(pipeline.vae, clips, making)
    return measure_videos(make_videos(pipeline, clips, making), coded, pipeline.device)


def measure_s2m(
    pipeline: HieraSurgPipeline,
    starts: int = 64,
    steps: int | None = None,
    *,
    solver: Solver | None = None,
    batch: int = 8,
) -> TargetScore:
    """Makes maps from held-out starts and measures them; see `Making` for the arguments."""
    return measure_requests(make_request_maps(pipeline, starts, Making(steps, solver, batch=batch)))


def _measured(
    options: argparse.Namespace, device: torch.device, making: Making
) -> Iterator[tuple[str, Any, list[Row]]]:
    """Yields each measurement's name, its score, and its rows of the sheet."""
    only, shown = options.only, options.sheet_clips if options.sheet else 0
    vae = load_vae(options.vae or part_folder(options.model, "vae"), torch.float32, device)
    coded: Videos = []
    if only != "s2m":
        coded = code_videos(vae, options.clips, making)
    if only in (None, "vae"):
        yield "vae", measure_vae(coded, device, making.batch), _clip_rows(shown, {"VAE": coded})
    if only == "vae":
        return
    pipeline = _opened(options, vae, device)
    if only != "s2m":
        made = make_videos(pipeline, options.clips, making)
        rows = _clip_rows(shown, {"VAE": coded, "M2V": made})
        yield "m2v", measure_videos(made, coded, device, making.batch), rows
    if only != "m2v":
        maps = make_request_maps(pipeline, options.starts, making)
        yield "s2m", measure_requests(maps), _request_rows(maps, shown)
        maps = make_course_maps(pipeline, options.courses, making)
        yield "courses", measure_courses(maps), _course_rows(maps[:shown])


def _opened(
    options: argparse.Namespace, vae: AutoencoderKLCogVideoX, device: torch.device
) -> HieraSurgPipeline:
    parts: dict[str, Any] = {"vae": vae}
    for name in ("s2m", "m2v"):
        folder = getattr(options, name)
        if folder is not None:
            parts[name] = load_transformer(folder, dtype=torch.float32, device=device)
    return HieraSurgPipeline.from_pretrained(options.model, torch.float32, device, **parts)


def _clip_rows(shown: int, made: dict[str, Videos]) -> list[Row]:
    """Maps and frames of the first clips, and what came of them."""
    rows: list[Row] = []
    shown = min(shown, *map(len, made.values()))
    figures = {name: score_all_videos(videos[:shown]) for name, videos in made.items()}
    for number, clip in enumerate(held_out_clips(shown)):
        done = f"{taxonomy.PHASES[clip.phase]}, {taxonomy.TRIPLETS[clip.triplet].name}"
        rows.append(Row(f"clip {number}, maps", painted(comparable(clip.maps))))
        rows.append(Row(f"clip {number}, truth: {done}", clip.video_FHWC))
        for name, videos in made.items():
            rows.append(Row(f"clip {number}, {name}: {_told(figures[name][number])}", videos[number]))
    return rows


def _request_rows(made: Maps, shown: int) -> list[Row]:
    """One request of each of the first starts."""
    rows: list[Row] = []
    starts = min(shown, len(made) // REQUESTS_A_START)
    figures, answers = score_requests(made[: starts * REQUESTS_A_START]), true_answers(starts)
    for number in range(0, starts * REQUESTS_A_START, REQUESTS_A_START):
        asked = taxonomy.TRIPLETS[requests_of(starts)[number][1]].name
        rows.append(Row(f"request {number}, an answer: {asked}", painted(answers[number])))
        rows.append(Row(f"request {number}, S2M: {_told(figures[number])}", painted(made[number])))
    return rows


def _course_rows(made: Maps) -> list[Row]:
    rows: list[Row] = []
    figures = score_courses(made)
    for number, (map_FHW, course) in enumerate(zip(made, held_out_courses(len(made)), strict=True)):
        names = [taxonomy.TRIPLETS[triplet].name for triplet in dict.fromkeys(course.triplet)]
        rows.append(Row(f"course {number}, truth: {', then '.join(names)}", painted(course.map_FHW)))
        rows.append(Row(f"course {number}, S2M: {_told(figures[number])}", painted(map_FHW)))
    return rows


def _told(figures: Any) -> str:
    """Figures of one clip in words."""
    values = dataclasses.asdict(figures)
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items() if value is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hierasurg_core.phantom.measure", description=__doc__)
    parser.add_argument(
        "model", type=Path, nargs="?", default=_MINI, help="pipeline folder (default: bundled)"
    )
    for name in ("vae", "s2m", "m2v"):
        parser.add_argument(f"--{name}", type=Path, help="folder or run of another one than MODEL's")
    parser.add_argument("--clips", type=int, default=64, help="of the VAE and of M2V")
    parser.add_argument("--starts", type=int, default=64, help="of S2M, three requests each")
    parser.add_argument("--courses", type=int, default=96, help="of S2M")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--solver", choices=SOLVERS, default=None)
    parser.add_argument("--guidance", type=float, default=None, help="scale of guidance; 1 is off")
    parser.add_argument("--batch", type=int, default=8, help="clips made at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", choices=("vae", "s2m", "m2v"), default=None, help="s2m includes courses")
    parser.add_argument(
        "--sheet", type=Path, default=None, help="FILE.png: FILE-NAME.png shows first clips of each"
    )
    parser.add_argument("--sheet-clips", type=int, default=6, help="how many of each it shows")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuses numbers that mean nothing, and a sheet that cannot be written."""
    for name in ("clips", "starts", "courses", "batch", "sheet_clips", "steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    if options.sheet is not None:
        artifacts.ensure_writable_folder(options.sheet.parent)


def main() -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args()
    try:
        _check(options)
        device = runtime.resolve_device(options.device)
        making = Making(
            options.steps, options.solver, options.guidance, options.batch, PrintedProgress(sys.stderr)
        )
        for name, score, rows in _measured(options, device, making):
            print(json.dumps({name: dataclasses.asdict(score)}), flush=True)
            if options.sheet is not None:
                write_sheet(options.sheet.with_name(f"{options.sheet.stem}-{name}.png"), rows)
    except HieraSurgError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
