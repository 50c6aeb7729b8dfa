"""The command `generate`: everything is checked, models are loaded, samples are made and written.

Owns what a run leaves on disk: for each sample `NNNN.mp4`, `NNNN_maps.mp4` (coloured, one map a second) and
`NNNN.json`, which comes last and holds all that is needed to make it again; `generate.yaml`, the resolved
config, which is itself a valid `--config`; and `contact_sheet.png` when asked. NNNN counts from 0000 in
every run, so the same command replaces its own samples, each file atomically. A run that is refused leaves
nothing, not even the folder.
"""

import contextlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hierasurg_core
from hierasurg_core.artifacts import check_free_space, ensure_writable_folder, write_json
from hierasurg_core.config import GenerateConfig, to_dict, write_config
from hierasurg_core.errors import ResourceError
from hierasurg_core.generation.pipelines import NUM_MAPS, HieraSurgPipeline, Sampling
from hierasurg_core.generation.preview import Strip, coloured, contact_sheet
from hierasurg_core.generation.request import Start, read_starts
from hierasurg_core.generation.sources import ModelPlan, plan_models
from hierasurg_core.maps import PanopticClip, fit_maps
from hierasurg_core.progress import Progress
from hierasurg_core.runtime import make_generator, resolve_device, resolve_dtype
from hierasurg_core.video import fit_image, write_mp4, write_png

ASSETS = Path(hierasurg_core.__file__).parent / "assets"
CONFIG_FILE = "generate.yaml"
SHEET_FILE = "contact_sheet.png"
_SCHEMA = 1
_SECONDS = {1: NUM_MAPS, 8: 6}  # a clip's length by its frames a second: 16 or 48 frames
_LIBRARIES = ("torch", "diffusers", "numpy", "av")


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        video: The mp4.
        maps: The mp4 of coloured maps.
        record: Its JSON.
        seed: Which made it.
    """

    video: Path
    maps: Path
    record: Path
    seed: int


@dataclass(frozen=True)
class GenerateResult:
    """What a run has made.

    Attributes:
        samples: In the order of their seeds.
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
            "samples": [
                {
                    "video": str(sample.video),
                    "maps": str(sample.maps),
                    "record": str(sample.record),
                    "seed": sample.seed,
                }
                for sample in self.samples
            ],
            "model": self.model,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "contact_sheet": None if self.contact_sheet is None else str(self.contact_sheet),
        }


@dataclass(frozen=True)
class _Run:
    """What all samples of a run share."""

    config: GenerateConfig
    plan: ModelPlan
    fps: int
    device: torch.device
    dtype: torch.dtype
    steps: int
    guidance: float

    @property
    def num_frames(self) -> int:
        return self.fps * _SECONDS[self.fps]


def generate(
    config: GenerateConfig, progress: Progress, *, assets: Path = ASSETS, working: Path | None = None
) -> GenerateResult:
    """Makes samples: a starting scene, maps by S2M (or given ones), video by M2V.

    Sample i is made with seed + i alone, so it does not depend on how many are made.

    Args:
        config: What was asked for.
        progress: Is told the stages and what was chosen.
        assets: Folder with `mini/` and `scenes/`.
        working: Folder in which `runs/` is looked for; None is the current one.

    Raises:
        UsageError: Wrong words, options that exclude each other, or a rate the model does not make.
        DataError: Pictures or maps that are damaged or do not belong together.
        WeightsError: A model lacks a part, has tensors of another shape, or makes NaN.
        ResourceError: The folder cannot be written, the disk or memory is too small, or no such device.
    """
    began = time.monotonic()
    plan = plan_models(config, assets, working or Path())
    fps = plan.rate(config.fps)
    starts = read_starts(config, _SECONDS[fps], assets / "scenes")
    device = resolve_device(config.device)
    run = _Run(
        config=config,
        plan=plan,
        fps=fps,
        device=device,
        dtype=resolve_dtype(config.dtype, device),
        steps=config.steps or plan.steps,
        guidance=plan.guidance if config.guidance is None else config.guidance,
    )
    notes = [f"models: {plan.name}", *plan.notes]
    for note in notes:
        progress.note(note)
    with _output_folder(config.out), _memory_errors(device):
        check_free_space(config.out, _bytes_needed(run), f"{config.num} samples")
        pipeline = plan.load(device, run.dtype, progress)
        model = plan.describe()
        samples: list[Sample] = []
        strips: list[Strip] = []
        for index in range(config.num):
            start = starts[index % len(starts)]
            sample, strip = _make_sample(run, pipeline, start, index, model, progress)
            samples.append(sample)
            strips += [strip] if config.contact_sheet else []
            notes += [note for note in start.notes if note not in notes]
        sheet = config.out / SHEET_FILE if config.contact_sheet else None
        if sheet is not None:
            write_png(sheet, contact_sheet(strips))
        write_config(config.out / CONFIG_FILE, "generate", config)
    return GenerateResult(tuple(samples), plan.name, time.monotonic() - began, tuple(notes), sheet)


def _make_sample(
    run: _Run,
    pipeline: HieraSurgPipeline,
    start: Start,
    index: int,
    model: dict[str, Any],
    progress: Progress,
) -> tuple[Sample, Strip]:
    """Makes and writes sample number `index`."""
    seed = run.config.seed + index
    name = f"{index:04d}"
    sampling = Sampling(
        steps=run.steps,
        guidance=run.guidance,
        phase=start.phase,
        triplet=start.triplet,
        generator=make_generator(seed),
        on_step=progress.advance,
    )
    for note in start.notes:
        progress.note(f"{name}: {note}")
    clock = _Clock()
    maps = start.maps
    if maps is None:
        progress.start(f"{name} maps", run.steps, "steps")
        maps = _make_maps(run.plan, pipeline, start, sampling)
        maps = PanopticClip(maps.map_FHW[: _SECONDS[run.fps]], maps.num_entities)
        clock.lap("maps")
    progress.start(f"{name} video", run.steps, "steps")
    photo_HWC = fit_image(start.photo_HWC, run.plan.m2v.size_hw)
    frames_FHWC = pipeline.make_video(photo_HWC, maps, run.fps, sampling)
    clock.lap("video")
    sample = Sample(
        video=run.config.out / f"{name}.mp4",
        maps=run.config.out / f"{name}_maps.mp4",
        record=run.config.out / f"{name}.json",
        seed=seed,
    )
    _write(sample, frames_FHWC, maps, run.fps)
    clock.lap("write")
    write_json(sample.record, _record(run, start, sample, model, clock.seconds))
    caption = (
        f"{name}   {start.phase_name or 'no phase'}   {start.triplet_name or 'no triplet'}   seed {seed}"
    )
    return sample, Strip(caption, frames_FHWC, maps)


def _make_maps(
    plan: ModelPlan, pipeline: HieraSurgPipeline, start: Start, sampling: Sampling
) -> PanopticClip:
    assert plan.s2m is not None
    photo_HWC = fit_image(start.photo_HWC, plan.s2m.size_hw)
    first_map_HW = fit_maps(start.first_map.map_FHW[0], plan.s2m.size_hw)
    return pipeline.make_maps(photo_HWC, first_map_HW, start.first_map.num_entities, sampling)


def _write(sample: Sample, frames_FHWC: NDArray[np.uint8], maps: PanopticClip, fps: int) -> None:
    coloured_FHWC, comment = coloured(maps)
    write_mp4(sample.maps, coloured_FHWC, 1, comment)
    write_mp4(sample.video, frames_FHWC, fps)


def _record(
    run: _Run, start: Start, sample: Sample, model: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """Everything needed to make the sample again, and how long it took."""
    height, width = run.plan.m2v.size_hw
    libraries = {library: version(library) for library in _LIBRARIES}
    return {
        "schema": _SCHEMA,
        "video": sample.video.name,
        "maps": sample.maps.name,
        "seed": sample.seed,
        "phase": None if start.phase_name is None else {"id": start.phase, "name": start.phase_name},
        "triplet": None if start.triplet_name is None else {"id": start.triplet, "name": start.triplet_name},
        "start": start.source,
        "notes": [*run.plan.notes, *start.notes],
        "sampling": {
            "steps": run.steps,
            "guidance": run.guidance,
            "fps": run.fps,
            "num_frames": run.num_frames,
            "size_hw": [height, width],
            "device": str(run.device),
            "dtype": str(run.dtype).removeprefix("torch."),
        },
        "model": model,
        "config": to_dict(run.config),
        "versions": {
            "hierasurg": hierasurg_core.__version__,
            "python": platform.python_version(),
            **libraries,
        },
        "seconds": seconds,
    }


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


def _bytes_needed(run: _Run) -> int:
    """A generous estimate: an mp4 takes a small part of its pixels' bytes."""
    height, width = run.plan.m2v.size_hw
    return run.config.num * 2 * run.num_frames * height * width


@contextlib.contextmanager
def _output_folder(path: Path) -> Iterator[None]:
    """Makes the folder; on an error takes away what was made of it and is still empty."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        ensure_writable_folder(path)
        yield
    except BaseException:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    """Says what to do where memory is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{device} has too little free memory for these models; use --dtype bf16, or --device cpu"
        ) from error
    except MemoryError as error:
        raise ResourceError("this machine has too little free memory for these models") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise ResourceError("this machine has too little free memory for these models") from error
