"""What a call of `generate` comes to, read and checked before torch is loaded.

Owns the order of the checks: models' folders, rate, other paths, then everything that samples start from.
What needs torch comes later: the parts of the models (`sources`), maps of photographs (`first_maps`), and
the clips of a data set.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hierasurg_core
from hierasurg_core.artifacts import check_free_space
from hierasurg_core.config import GenerateConfig
from hierasurg_core.config.existing import expect_file, expect_folder_possible
from hierasurg_core.datasets.clips import CLIP_FRAMES
from hierasurg_core.errors import UsageError
from hierasurg_core.generation.edits import parse_edits
from hierasurg_core.generation.from_dataset import expect_dataset
from hierasurg_core.generation.model_choice import ModelChoice, choose_models, scheduler_steps
from hierasurg_core.generation.outputs import output_paths
from hierasurg_core.generation.request import Start
from hierasurg_core.generation.requests import Job, plan_dataset_jobs, plan_jobs
from hierasurg_core.generation.storyboard import Story, plan_stories, with_starts
from hierasurg_core.pictures import centre_crop
from hierasurg_core.progress import Progress

ASSETS = Path(hierasurg_core.__file__).parent / "assets"
_KEPT = 0.98  # of a photograph; less is cropped aloud


@dataclass(frozen=True)
class Planned:
    """A call that has passed the checks.

    Attributes:
        choice: The models' folders.
        fps: Frames a second.
        work: Samples or stories; None for those of a data set, which `all_work` lists.
    """

    choice: ModelChoice
    fps: int
    work: tuple[Job | Story, ...] | None

    @property
    def seconds(self) -> int:
        """Seconds of a clip, each of which has a map."""
        return CLIP_FRAMES[self.fps] // self.fps

    def all_work(self, config: GenerateConfig, progress: Progress) -> Sequence[Job | Story]:
        """Return samples or stories; the clips of a data set are listed now.

        Raises:
            UsageError: As `plan_dataset_jobs`.
            DataError: Likewise.
        """
        if self.work is not None:
            return self.work
        return plan_dataset_jobs(config, self.seconds, self.fps, progress)


def plan(
    config: GenerateConfig, progress: Progress, *, assets: Path = ASSETS, working: Path | None = None
) -> Planned:
    """Check a call and read what its samples start from.

    Args:
        config: What was asked for.
        progress: Is told of the checks where they take time.
        assets: Folder with `mini/` and `scenes/`.
        working: Folder in which `runs/` is looked for; None is the current one.

    Raises:
        UsageError: Wrong words, options that exclude each other, edits of entities that a scene does not
            have, or a rate the model does not make.
        DataError: Pictures, maps or a data set that are missing, damaged or do not belong together.
        WeightsError: A model's folder, SAM 2 or text vectors are missing.
        ResourceError: The output folder is a file, cannot be written, or lies on a disk that is too small.
    """
    if config.edit is not None:
        parse_edits(config.edit)
    choice = choose_models(config, assets, working or Path())
    fps = choice.rate(config.fps)
    _expect_steps(config, choice)
    expect_file("--text-vectors", config.text_vectors)
    expect_folder_possible(config.out)
    size_hw = choice.video_size_hw()
    clip_bytes = CLIP_FRAMES[fps] * math.prod(size_hw) * len(output_paths(config, ""))
    check_free_space(config.out, config.num * clip_bytes, f"{config.num} samples")  # before they are listed
    seconds = CLIP_FRAMES[fps] // fps
    gallery = assets / "scenes"
    work: tuple[Job | Story, ...] | None
    if config.is_story:
        noted = functools.partial(with_crop_noted, size_hw=size_hw)
        work = tuple(with_starts(s, noted) for s in plan_stories(config, seconds, fps, gallery))
    elif config.from_dataset is not None:
        expect_dataset(config, config.from_dataset, fps)
        work = None
    else:
        jobs = plan_jobs(config, seconds, fps, gallery, progress)
        work = tuple(dataclasses.replace(job, read=_Noted(job.read, size_hw)) for job in jobs)
    return Planned(choice, fps, work)


@dataclass(frozen=True)
class _Noted:
    """Reads a start, and notes what of its photograph is cropped."""

    read: Callable[[], Start]
    size_hw: tuple[int, int]

    def __call__(self) -> Start:
        return with_crop_noted(self.read(), self.size_hw)


def with_crop_noted(start: Start, size_hw: tuple[int, int]) -> Start:
    """Return a start with a note where its photograph loses more than 2 % to get the shape of the video."""
    height, width = start.photo_HWC.shape[:2]
    rows, columns = centre_crop((height, width), size_hw)
    kept_hw = rows.stop - rows.start, columns.stop - columns.start
    if "frame" not in start.source or math.prod(kept_hw) >= _KEPT * height * width:
        return start
    note = (
        f"frame: {width}x{height} px, of which the middle {kept_hw[1]}x{kept_hw[0]} px are used: the model "
        f"makes {size_hw[1]}x{size_hw[0]} px"
    )
    return dataclasses.replace(start, notes=(*start.notes, note))


def _expect_steps(config: GenerateConfig, choice: ModelChoice) -> None:
    longest = scheduler_steps(choice)
    if config.steps is not None and longest is not None and config.steps > longest:
        raise UsageError(f"--steps {config.steps} is not possible: the scheduler has {longest} steps")
