"""The command `generate`: everything is checked, models are loaded, samples are made and written.

Owns what a run leaves on disk: for each sample the files of `outputs` and `NAME.json`, which comes last and
holds all that is needed to make it again; `generate.yaml`, the resolved config, which is itself a valid
`--config`; and `contact_sheet.png`, of this request's samples, when asked. Names count from 0000 unless
requests name them. A sample that is there already, made by the same request, models and settings, is kept, so
a run that was stopped goes on where it was. Samples of other requests stay as they are: this one's get the
next free numbers, and its config and sheet the name of its first sample (see `naming`). A run that is refused
leaves nothing, not even the folder.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierasurg_core import runtime
from hierasurg_core.artifacts import check_free_space, ensure_writable_folder, read_json
from hierasurg_core.config import GenerateConfig, write_config
from hierasurg_core.datasets.clips import CLIP_FRAMES
from hierasurg_core.errors import ResourceError
from hierasurg_core.generation.acceleration import Speed, prepare
from hierasurg_core.generation.batching import largest_batch
from hierasurg_core.generation.first_maps import with_first_maps
from hierasurg_core.generation.listing import list_starts
from hierasurg_core.generation.making import Order, job_identity, make_samples
from hierasurg_core.generation.memory import ClipShape
from hierasurg_core.generation.naming import CONFIG_FILE, SHEET_FILE, own_file, settle_names
from hierasurg_core.generation.outputs import output_paths
from hierasurg_core.generation.overlap import Overlap
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.generation.planning import ASSETS, Planned
from hierasurg_core.generation.planning import plan as make_plan
from hierasurg_core.generation.preview import Strip, contact_sheet
from hierasurg_core.generation.records import CLIP_SECONDS, Run, Sample, as_sample, seconds_if_made
from hierasurg_core.generation.request import Start
from hierasurg_core.generation.requests import Job
from hierasurg_core.generation.sources import plan_models
from hierasurg_core.generation.storyboard import Story
from hierasurg_core.generation.telling import story_identity, tell
from hierasurg_core.maps import PanopticClip, load_clip
from hierasurg_core.pictures import write_png
from hierasurg_core.progress import Progress
from hierasurg_core.video import iter_video

ORDER_LOST = (
    "labels change within a clip, of which this S2M knows hardly more than the mean: which comes first is "
    "told by models of train-s2m --frame-labels, or by segments of a --script"
)


@dataclass(frozen=True)
class GenerateResult:
    """What a run has made.

    Attributes:
        samples: In their order.
        model: Which models, in words.
        seconds: From start to end.
        notes: What was chosen for the user.
        contact_sheet: The PNG, where one was asked for.
    """

    samples: tuple[Sample, ...]
    model: str
    seconds: float
    notes: tuple[str, ...]
    contact_sheet: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "samples": [sample.to_dict() for sample in self.samples],
            "model": self.model,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "contact_sheet": None if self.contact_sheet is None else str(self.contact_sheet),
        }


def generate(
    config: GenerateConfig,
    progress: Progress,
    *,
    assets: Path = ASSETS,
    working: Path | None = None,
    planned: Planned | None = None,
) -> GenerateResult:
    """Makes samples: a start, maps by S2M (or given ones), edits, video by M2V; or stories of many clips.

    A sample is made with its own seed alone, so it does not depend on how many are made. In a process group
    the samples are shared; every rank returns when all are done, and rank 0 knows of all of them.

    Args:
        config: What was asked for.
        progress: Is told the stages and what was chosen.
        assets: Folder with `mini/` and `scenes/`.
        working: Folder in which `runs/` is looked for; None is the current one.
        planned: What `planning.plan` returned for this call; None: it is made here.

    Raises:
        UsageError: Wrong words, options that exclude each other, or a rate the model does not make.
        DataError: Pictures or maps that are damaged or do not belong together.
        WeightsError: A model lacks a part, has tensors of another shape, or makes NaN.
        ResourceError: The folder cannot be written, the disk or memory is too small, or no such device.
    """
    began = time.monotonic()
    planned = make_plan(config, progress, assets=assets, working=working) if planned is None else planned
    plan = plan_models(config, assets, working or Path(), planned.choice)
    fps = plan.rate(config.fps)
    frame_bytes = plan.m2v.size_hw[0] * plan.m2v.size_hw[1] * len(output_paths(config, ""))
    work = planned.all_work(config, progress)
    with runtime.deterministic(config.deterministic), runtime.process_group(config.device) as device:
        run = Run(
            config=config,
            plan=plan,
            model=plan.describe(),
            fps=fps,
            device=device,
            dtype=runtime.resolve_dtype(config.dtype, device),
        )
        notes = [f"models: {plan.name}", *plan.notes]
        for note in notes:
            progress.note(note)
        work = with_first_maps(work, config, CLIP_SECONDS[fps], device, progress)
        if config.edit is not None:
            for listed in list_starts(work).starts:
                progress.note(f"--edit can name, in {listed}")
        with _output_folder(config.out), _memory_errors(device):
            names = [unit.name for unit in work]
            work = _named(run, work)
            moved = [unit.name for unit, name in zip(work, names, strict=True) if unit.name != name]
            if moved:
                notes.append(_others_stay(config.out, moved))
                progress.note(notes[-1])
            before = {unit.name: _changed(config, unit.name) for unit in work}
            runtime.wait_for_all()  # nobody writes before all have looked
            check_free_space(config.out, frame_bytes * _frames_needed(work, fps), f"{len(work)} samples")
            for note in _make_all(run, work, device, progress):
                notes += [note] if note not in notes else []
            runtime.wait_for_all()
            samples = tuple(_finished(config, unit, before[unit.name]) for unit in work)
            sheet = own_file(config, SHEET_FILE, work[0].name) if config.contact_sheet else None
            runtime.wait_for_all()  # the config that is there tells whose the plain names are
            if runtime.rank() == 0:
                if sheet is not None:
                    write_png(sheet, contact_sheet(_all_strips(samples, work, fps)))
                write_config(own_file(config, CONFIG_FILE, work[0].name), "generate", config)
    return GenerateResult(samples, plan.name, time.monotonic() - began, tuple(notes), sheet)


def _named(run: Run, work: Sequence[Job | Story]) -> Sequence[Job | Story]:
    """Returns the samples under the names that they have in this folder, the same in every process."""
    names = runtime.from_first(
        "names", lambda: settle_names(run.config, work, lambda unit: _identified(run, unit)[0])
    )
    return [dataclasses.replace(unit, name=name) for unit, name in zip(work, names, strict=True)]


def _identified(run: Run, unit: Job | Story) -> tuple[str, Start | None]:
    """Returns the fingerprint of a sample, and what it starts from where it is one clip."""
    if isinstance(unit, Story):
        return run.fingerprint(story_identity(unit), unit.num_frames), None
    start = unit.read()
    return run.fingerprint(job_identity(unit, start, run.config.edit), run.clip_frames), start


def _others_stay(out: Path, moved: Sequence[str]) -> str:
    """Returns what to say where samples of other requests hold the first numbers."""
    to = f" to {moved[-1]}" if len(moved) > 1 else ""
    return f"{out} holds samples of other requests, which stay: this one's are {moved[0]}{to}"


def _loses_order(run: Run, start: Start) -> bool:
    """Tells whether S2M is told different things of different seconds, and cannot tell when."""
    if start.maps is not None or run.plan.s2m is None or run.plan.s2m.frame_labels:
        return False
    return any(isinstance(ids, tuple) and len(set(ids)) > 1 for ids in (start.phase, start.triplet))


def _make_all(
    run: Run, work: Sequence[Job | Story], device: torch.device, progress: Progress
) -> Iterator[str]:
    """Makes what this process can claim and is not there yet; yields what was chosen for the user.

    Models are loaded when the first sample needs them.
    """
    pipeline: HieraSurgPipeline | None = None
    orders: list[Order] = []
    batch = 1
    warned = False
    with Overlap() as overlap:
        for unit in work:
            if not runtime.claim(unit.name):
                continue
            order: Order | None = None
            fingerprint, start = _identified(run, unit)
            if isinstance(unit, Job) and start is not None:
                order = Order(unit, start, fingerprint)
                yield from start.notes
                if not warned and _loses_order(run, start):
                    warned = True
                    progress.note(ORDER_LOST)
                    yield ORDER_LOST
            if run.config.resume and seconds_if_made(run.config, unit.name, fingerprint) is not None:
                progress.note(f"{unit.name}: kept, it was made by the same request, models and settings")
                continue
            if pipeline is None:
                pipeline, batch, notes = _load(run, work, device, progress)
                if pipeline.placement.side is not None:
                    overlap.begin()
                yield from notes
            if isinstance(unit, Story):
                tell(run, unit, pipeline, fingerprint, overlap, progress)
            elif order is not None:
                orders.append(order)
            if len(orders) == batch:
                make_samples(run, pipeline, orders, overlap, progress)
                orders = []
        if orders and pipeline is not None:
            make_samples(run, pipeline, orders, overlap, progress)


def _load(
    run: Run, work: Sequence[Job | Story], device: torch.device, progress: Progress
) -> tuple[HieraSurgPipeline, int, tuple[str, ...]]:
    """Returns the models on their device, how many samples are made at once, and what was chosen."""
    pipeline = run.plan.load(torch.device("cpu"), run.dtype, progress)
    config, m2v_hw = run.config, run.plan.m2v.size_hw
    s2m_hw = m2v_hw if run.plan.s2m is None else run.plan.s2m.size_hw
    speed = Speed(config.compile, config.cache, config.memory, config.quantize)
    answers = 2 if run.guided else 1
    clip = ClipShape(s2m_hw, m2v_hw, CLIP_FRAMES[run.fps], CLIP_SECONDS[run.fps], batch=answers)
    most = 1 if config.is_story else len(work)
    whole = config.memory in ("auto", "fast")
    batch = min(most, config.batch or (largest_batch(pipeline, device, clip, most) if whole else 1))
    calls = run.s2m_steps + run.m2v_steps
    calls *= sum(1 if isinstance(unit, Job) else len(unit.clips) for unit in work)
    many = dataclasses.replace(clip, batch=batch * clip.batch)
    several = len(work) > batch
    if config.is_story:  # what goes on from another clip can't begin beside its end
        several = any(
            sum(not clip.known for clip in unit.clips) > 1 for unit in work if isinstance(unit, Story)
        )
    notes = prepare(pipeline, device, many, speed, calls=calls // batch, several=several)
    run.remember_kernels({"s2m": pipeline.s2m, "m2v": pipeline.m2v})
    for note in notes:
        progress.note(note)
    return pipeline, batch, notes


def _changed(config: GenerateConfig, name: str) -> int | None:
    """Returns when a sample's record was written, None where there is none."""
    path = config.out / f"{name}.json"
    return path.stat().st_mtime_ns if path.is_file() else None


def _finished(config: GenerateConfig, unit: Job | Story, before: int | None) -> Sample:
    """Returns a sample that is on disk; one whose record has not changed was kept."""
    said = read_json(config.out / f"{unit.name}.json")
    return as_sample(
        config, unit.name, unit.seed, said["seconds"], kept=before == _changed(config, unit.name)
    )


def _all_strips(samples: Sequence[Sample], work: Sequence[Job | Story], fps: int) -> list[Strip]:
    return [
        strip
        for sample, unit in zip(samples, work, strict=True)
        for strip in _strips(sample, fps, _names_by_segment(unit))
    ]


def _names_by_segment(unit: Job | Story) -> list[Mapping[int, str]]:
    """Return what entities are called in each segment of a story, or in the one clip of a sample.

    A segment that goes on from the one before has its entities.
    """
    if isinstance(unit, Job):
        return [unit.read().names]
    names: list[Mapping[int, str]] = []
    for segment in unit.segments:
        names.append(names[-1] if segment.start is None else segment.start.names)
    return names


def _strips(sample: Sample, fps: int, names: Sequence[Mapping[int, str]]) -> list[Strip]:
    """Reads a sample for the contact sheet; a story has a strip for each segment."""
    said = read_json(sample.record)
    maps = load_clip(sample.maps)
    segments = said["story"]["segments"] if "story" in said else [{**said, "seconds": len(maps.map_FHW)}]
    strips: list[Strip] = []
    frames = iter_video(sample.video)
    second = 0
    for segment, called in zip(segments, names, strict=True):
        words = [_name_of(segment[kind], f"no {kind}") for kind in ("phase", "triplet")]
        frames_FHWC = np.stack(list(islice(frames, segment["seconds"] * fps)))
        end = second + segment["seconds"]
        at = f"{second} to {end} s" if "story" in said else f"seed {sample.seed}"
        caption = "   ".join([sample.record.stem, *words, at])
        shown = PanopticClip(maps.map_FHW[second:end], maps.num_entities)
        strips.append(Strip(caption, frames_FHWC, shown, called))
        second = end
    return strips


def _name_of(said: dict[str, Any] | None, otherwise: str) -> str:
    if said is None:
        return otherwise
    return f"{said['name']} and others" if "by_second" in said else said["name"]


def _frames_needed(work: Sequence[Job | Story], fps: int) -> int:
    """A generous estimate: an mp4 takes a small part of its pixels' bytes, a story's parts all of them."""
    return sum(CLIP_FRAMES[fps] if isinstance(unit, Job) else 3 * unit.num_frames for unit in work)


@contextlib.contextmanager
def _output_folder(path: Path) -> Iterator[None]:
    """Makes the folder; on an error takes away what was made of it and is still empty."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    with contextlib.ExitStack() as undo:
        undo.callback(_remove_empty, made)
        ensure_writable_folder(path)
        yield
        undo.pop_all()


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextlib.contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    """Says what to do where memory is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{device} has too little free memory for these models; use --memory offload or "
            "group-offload, --dtype bf16, or --device cpu"
        ) from error
    except MemoryError as error:
        raise ResourceError("this machine has too little free memory for these models") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise ResourceError("this machine has too little free memory for these models") from error
