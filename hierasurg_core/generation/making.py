"""The making of samples that are one clip long: maps, edits, video, files, and the JSON at last.

Owns the order of these stages, alone or for several samples at once, and how long each took. What a sample
starts from is read already; which samples there are is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.artifacts import write_json
from hierasurg_core.generation.conditions import Sampling
from hierasurg_core.generation.edits import apply_edits, parse_edits
from hierasurg_core.generation.id_maps import left_out_note
from hierasurg_core.generation.outputs import Footage, output_paths, write_outputs
from hierasurg_core.generation.overlap import Overlap
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.generation.records import CLIP_SECONDS, Clock, Run, describe_sample, writing_sample
from hierasurg_core.generation.request import Start
from hierasurg_core.generation.requests import Job
from hierasurg_core.maps import PanopticClip, fit_maps
from hierasurg_core.pictures import fit_image
from hierasurg_core.progress import Progress, SilentProgress
from hierasurg_core.runtime import make_generator


@dataclass(frozen=True)
class Order:
    """A sample that has to be made.

    Attributes:
        job: Its name and seed.
        start: What it starts from.
        fingerprint: Of what decides its bytes.
    """

    job: Job
    start: Start
    fingerprint: str


def job_identity(job: Job, start: Start, edit: str | None) -> dict[str, Any]:
    """Returns what of a sample decides its bytes, as plain values."""
    return {
        "start": start.digest(),
        "phase": start.phase,
        "triplet": start.triplet,
        "seed": job.seed,
        "edit": edit,
        "source": job.source,
    }


def make_samples(
    run: Run, pipeline: HieraSurgPipeline, orders: Sequence[Order], overlap: Overlap, progress: Progress
) -> None:
    """Makes samples at once and writes them, or has them written while the next ones begin.

    Args:
        run: What they share.
        pipeline: The models.
        orders: At least one; must not change any more.
        overlap: Takes their end.
        progress: Is told each stage, but not of what runs beside the next samples.

    Raises:
        UsageError: An edit names an entity that the maps do not have.
        WeightsError: The models make NaN.
        ResourceError: A file cannot be written.
    """
    clock = Clock()
    called = orders[0].job.name if len(orders) == 1 else f"{orders[0].job.name} to {orders[-1].job.name}"
    for order in orders:
        for note in _notes(run, order):
            progress.note(f"{order.job.name}: {note}")
    samplings = [_sampling(run, order, progress) for order in orders]
    with clock.stage("maps"):
        maps = _all_maps(run, pipeline, orders, samplings, called, progress)
    progress.start(f"{called} video", run.m2v_steps, "steps")
    with clock.stage("video"):
        photos = [fit_image(order.start.photo_HWC, run.plan.m2v.size_hw) for order in orders]
        arrive = pipeline.begin_videos(photos, maps, run.fps, samplings)
    told = SilentProgress() if overlap.active else progress

    def finish() -> None:
        with clock.stage("video"):
            videos = arrive()
        told.start(f"{called} write", len(orders), "samples")
        for order, frames_FHWC, clip in zip(orders, videos, maps, strict=True):
            _write(run, order, frames_FHWC, clip, clock, len(orders))
            told.advance()

    overlap.hand(finish)


def _notes(run: Run, order: Order) -> list[str]:
    """What is said of a sample's start, with the entities that S2M has no numbers for."""
    notes, start, s2m = list(order.start.notes), order.start, run.plan.s2m
    if start.maps is None and s2m is not None and s2m.num_numbers is not None:
        left_out = left_out_note(start.first_map, s2m.num_numbers)
        notes += [] if left_out is None else [left_out]
    return notes


def _sampling(run: Run, order: Order, progress: Progress) -> Sampling:
    return Sampling(
        steps=run.config.steps,
        guidance=run.config.guidance,
        maps_guidance=run.config.maps_guidance,
        phase=order.start.phase,
        triplet=order.start.triplet,
        generator=make_generator(order.job.seed),
        on_step=progress.advance,
        solver=run.config.solver,
    )


def _all_maps(
    run: Run,
    pipeline: HieraSurgPipeline,
    orders: Sequence[Order],
    samplings: Sequence[Sampling],
    called: str,
    progress: Progress,
) -> list[PanopticClip]:
    """Returns the maps of each sample, given or made, and edited."""
    made: dict[int, PanopticClip] = {}
    missing = [index for index, order in enumerate(orders) if order.start.maps is None]
    if missing:
        progress.start(f"{called} maps", run.s2m_steps, "steps")
        clips = _made_maps(run, pipeline, [orders[i] for i in missing], [samplings[i] for i in missing])
        made = dict(zip(missing, clips, strict=True))
    maps: list[PanopticClip] = []
    for index, order in enumerate(orders):
        clip = made.get(index) or order.start.maps
        assert clip is not None
        clip = PanopticClip(clip.map_FHW[: CLIP_SECONDS[run.fps]], clip.num_entities)
        if run.config.edit is not None:
            fitted = PanopticClip(fit_maps(clip.map_FHW, run.plan.m2v.size_hw), clip.num_entities)
            clip = apply_edits(fitted, parse_edits(run.config.edit), order.start.names)
        maps.append(clip)
    return maps


def _made_maps(
    run: Run, pipeline: HieraSurgPipeline, orders: Sequence[Order], samplings: Sequence[Sampling]
) -> list[PanopticClip]:
    assert run.plan.s2m is not None
    size_hw = run.plan.s2m.size_hw
    photos = [fit_image(order.start.photo_HWC, size_hw) for order in orders]
    first_maps = [fit_maps(order.start.first_map.map_FHW[0], size_hw) for order in orders]
    numbers = [order.start.first_map.num_entities for order in orders]
    return pipeline.make_maps_batch(photos, first_maps, numbers, samplings)


def _write(
    run: Run, order: Order, frames_FHWC: NDArray[np.uint8], maps: PanopticClip, clock: Clock, made: int
) -> None:
    """Writes a sample's files, then its record; times of stages that several shared are divided."""
    name, start = order.job.name, order.start
    writing = Clock()
    with writing_sample(run.config.out, name, order.fingerprint):
        with writing.stage("write"):
            write_outputs(output_paths(run.config, name), Footage.of_clip(frames_FHWC, maps, run.fps))
        shared = {stage: round(seconds / made, 3) for stage, seconds in clock.seconds.items()}
        record = describe_sample(
            run,
            name,
            order.job.seed,
            told={
                "phase": start.describe_phase(),
                "triplet": start.describe_triplet(),
                "start": start.source,
                "source": order.job.source,
                "edit": run.config.edit,
                "notes": [*run.plan.notes, *_notes(run, order)],
            },
            num_frames=len(frames_FHWC),
            fingerprint=order.fingerprint,
            seconds={**shared, **writing.seconds},
        )
        write_json(run.config.out / f"{name}.json", record)
