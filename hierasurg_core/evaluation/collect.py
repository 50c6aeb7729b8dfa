"""All measuring of an evaluation: clips in small units, each read once, each measured once.

Owns the pairing of clips with what belongs to them, and the units in which work is shared by processes, kept
on disk and gone on with. Memory holds one unit's clips, however many there are.

Legend: B clips of a unit, F frames, H rows, W columns, C the three channels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hierasurg_core
from hierasurg_core import runtime
from hierasurg_core.datasets.frames import file_digest
from hierasurg_core.errors import DataError, ResourceError, WeightsError
from hierasurg_core.evaluation.cache import Store, Stored
from hierasurg_core.evaluation.measuring import Measured, Measurer, Rows
from hierasurg_core.evaluation.recordings import Clip, Side
from hierasurg_core.maps import PanopticClip, fit_maps
from hierasurg_core.pictures import fit_image, read_image
from hierasurg_core.progress import Progress

UNIT_BYTES = 48 * 2**20  # pixels of a unit's clips, about
UNIT_CLIPS = 16
_SCENES = Path(hierasurg_core.__file__).parent / "assets" / "scenes"

Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Task:
    """A clip with what belongs to it.

    Attributes:
        clip: The clip.
        real: The real clip that it is to resemble, frame by frame; None without one.
        given: Gives the frame that it was to begin with; None where that is not known.
        given_name: Tells that frame from others.
        unsure: What was meant to belong to it and is not there.
    """

    clip: Clip
    real: Clip | None = None
    given: Callable[[], NDArray[np.uint8]] | None = None
    given_name: str = ""
    unsure: str | None = None

    @property
    def digest(self) -> str:
        """Changes with all that a measurement of it may depend on."""
        real = self.real.digest if self.real else ""
        maps = self.clip.recording.maps is not None
        return f"{self.clip.digest} {real} {self.given_name} {maps}"

    def read(self) -> Measured:
        """Reads everything.

        Raises:
            DataError: Something is missing or damaged.
        """
        video_FHWC, start_HWC = self.clip.read_with_start()
        size_hw = (video_FHWC.shape[1], video_FHWC.shape[2])
        real_FHWC = None if self.real is None else _fitted(self.real.read(), size_hw)
        given_HWC = None if self.given is None else fit_image(self.given(), size_hw)
        start = start_HWC if self.clip.lead else None
        return Measured(video_FHWC, real_FHWC, given_HWC, maps_of(self.clip, size_hw), start)


@dataclass(frozen=True)
class Role:
    """One set of clips that is measured: "real", "vae", "frozen" or "model".

    Attributes:
        name: Which.
        key: Of what is done to the clips; part of the cache's names.
        change: What is done to them; None: nothing.
    """

    name: str
    key: str = ""
    change: Change | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class Work:
    """A side with its roles, cut into units."""

    tasks: tuple[Task, ...]
    roles: tuple[Role, ...]

    def units(self) -> Iterator[tuple[Task, ...]]:
        """Yields the tasks by units, in order."""
        return iter([self.tasks[start : start + self.size] for start in range(0, len(self.tasks), self.size)])

    @property
    def size(self) -> int:
        """Clips of a unit."""
        clip = self.tasks[0].clip
        height, width = clip.recording.size_hw
        return max(1, min(UNIT_CLIPS, UNIT_BYTES // (len(clip.frames) * height * width * 3)))


@dataclass(frozen=True)
class Collected:
    """What measuring left behind.

    Attributes:
        failed: Measurers that could not go on, by role, and why; and roles whose clips could not be made.
        measured: Units that were measured now; the others were on disk.
    """

    failed: Mapping[str, str]
    measured: int


def unit_key(tasks: Sequence[Task], role: Role, measurer: Measurer) -> str:
    """Names what a unit measures, in the cache."""
    return f"{_digest(tasks)} {role.name} {role.key} {measurer.key}"


def _unit(work: Work, tasks: Sequence[Task]) -> str:
    """Tells a unit from those of other roles of the same clips."""
    return " ".join((_digest(tasks), *(role.name for role in work.roles)))


def _digest(tasks: Sequence[Task]) -> str:
    return hashlib.sha256("\n".join(task.digest for task in tasks).encode()).hexdigest()


def collect(
    works: Sequence[Work], measurers: Sequence[Measurer], store: Store, *, batch: int, progress: Progress
) -> Collected:
    """Measures whatever is not on disk yet; processes of a group share the units.

    Args:
        works: The sides.
        measurers: What measures them.
        store: Where numbers are kept.
        batch: Clips at once through a measurer.
        progress: Told of each clip.

    Raises:
        ResourceError: The disk is full, or a GPU's memory too small.
    """
    failed: dict[str, str] = {}
    measured = 0
    units = [(work, tasks) for work in works for tasks in work.units()]

    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            progress.note(line)

    def missing(work: Work, tasks: Sequence[Task]) -> list[tuple[Role, Measurer]]:
        pairs = itertools.product(work.roles, measurers)
        return [pair for pair in pairs if not store.has(unit_key(tasks, *pair), tell)]

    progress.start("measure clips", sum(len(work.tasks) for work in works), "clips")
    for work, tasks in units:
        wanted = missing(work, tasks)
        if wanted and runtime.claim(_unit(work, tasks)):
            try:
                with _exact_convolutions():
                    _measure(tasks, wanted, store, batch, failed)
            except torch.OutOfMemoryError as error:
                raise ResourceError(
                    f"the GPU's memory is too small to measure {batch} clips at once: give a smaller --batch"
                ) from error
            runtime.tell_done(_unit(work, tasks))
            measured += 1
        progress.advance(len(tasks))
    if runtime.rank() == 0:
        runtime.wait_for_units(_unit(work, tasks) for work, tasks in units if missing(work, tasks))
        for work, tasks in units:  # where another process gave up, it is learnt here why
            with _exact_convolutions():
                _measure(tasks, missing(work, tasks), store, batch, failed)
    return Collected(failed, measured)


def _measure(
    tasks: Sequence[Task],
    missing: Sequence[tuple[Role, Measurer]],
    store: Store,
    batch: int,
    failed: dict[str, str],
) -> None:
    missing = [
        (role, measurer)
        for role, measurer in missing
        if role.name not in failed and measurer.role not in failed
    ]
    if not missing:
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        read = dict(enumerate(pool.map(_read, tasks)))
    why = {place: found for place, found in read.items() if isinstance(found, str)}
    clips = {place: found for place, found in read.items() if isinstance(found, Measured)}
    for role, pairs in itertools.groupby(missing, key=lambda pair: pair[0]):
        measurers = [measurer for _, measurer in pairs if measurer.role not in failed]
        if not measurers:
            continue
        try:
            changed = {place: _changed(clip, role) for place, clip in clips.items()}
        except WeightsError as error:
            failed[role.name] = " ".join(str(error).split())
            continue
        for measurer in measurers:
            try:
                stored = _rows(changed, why, len(tasks), measurer, batch)
            except WeightsError as error:
                failed[measurer.role] = " ".join(str(error).split())
                continue
            store.save(unit_key(tasks, role, measurer), stored)


def _read(task: Task) -> Measured | str:
    """A clip, or why it cannot be read."""
    try:
        return task.read()
    except DataError as error:
        return " ".join(str(error).split())


def _exact_convolutions() -> contextlib.AbstractContextManager[None]:
    """Keeps a GPU from rounding the factors of convolutions to ten bits, as torch lets it."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _changed(clip: Measured, role: Role) -> Measured:
    """A clip in a role; what the real clips are changed into is held to the real ones themselves.

    A frame that does not count takes part in the change all the same: it is what a frozen clip is made of.
    """
    if role.change is None:
        return clip
    changed = dataclasses.replace(clip, real_FHWC=clip.video_FHWC, given_HWC=clip.first_HWC)
    if clip.start_HWC is None:
        return dataclasses.replace(changed, video_FHWC=role.change(clip.video_FHWC))
    whole_FHWC = role.change(np.concatenate([clip.start_HWC[None], clip.video_FHWC]))
    return dataclasses.replace(changed, video_FHWC=whole_FHWC[1:], start_HWC=whole_FHWC[0])


def _rows(
    clips: Mapping[int, Measured], why: Mapping[int, str], count: int, measurer: Measurer, batch: int
) -> Stored:
    """Measures a unit's clips, those of one size together, and looks for numbers that are none."""
    arrays: dict[str, NDArray[Any]] = {}
    kept_B, reasons = np.zeros(count, bool), dict(why)
    for _, group in itertools.groupby(clips, key=lambda place: clips[place].video_FHWC.shape):
        places = list(group)
        for start in range(0, len(places), batch):
            part = places[start : start + batch]
            rows = measurer.measure([clips[place] for place in part])
            for name, values in rows.items():
                if name not in arrays:
                    arrays[name] = np.zeros((count, *values.shape[1:]), values.dtype)
                arrays[name][part] = values
            for index, place in enumerate(part):
                if _is_broken(rows, index):
                    reasons[place] = f"{measurer.name} gives NaN or infinity for it"
                else:
                    kept_B[place] = True
    return Stored(arrays, kept_B, reasons)


def _is_broken(rows: Rows, index: int) -> bool:
    """Features are broken where one is; of comparisons, NaN says that there was nothing to compare."""
    features = [rows[name][index] for name in ("clip", "frame", "phase", "triplet") if name in rows]
    return any(not np.isfinite(values).all() for values in features)


def maps_of(clip: Clip, size_hw: tuple[int, int]) -> PanopticClip | None:
    """Returns the maps of a clip's frames at the video's size; None where it has none.

    Raises:
        DataError: They are damaged, or end before the clip.
    """
    recording = clip.recording
    if recording.maps is None:
        return None
    whole = recording.maps()
    a_map = max(1, round(recording.fps or 1))  # maps are one a second
    seconds = [frame // a_map for frame in clip.frames]
    if seconds[-1] >= len(whole.map_FHW):
        raise DataError(f"the maps of {clip.name} end after {len(whole.map_FHW)} s, before the clip does")
    return PanopticClip(fit_maps(whole.map_FHW[seconds], size_hw), whole.num_entities)


def pair_up(
    clips: Sequence[Clip],
    side: Side,
    real: Side,
    *,
    stride_ratio: float = 1.0,
    offsets: Sequence[int] | None = None,
) -> list[Task]:
    """Finds for each generated clip the real one and the given frame.

    A sample that was started from a clip of a data set is held to that clip; any other clip to the real one
    of the same name; a sample that was started from a scene or a picture has at least a given frame.

    Args:
        clips: Of the generated side.
        side: That side.
        real: The other.
        stride_ratio: Frames of the real side for one of the generated side.
        offsets: Frames of a real clip, counted from its start; None: those of the generated clip.
    """
    return [_paired(clip, side, real, stride_ratio, offsets) for clip in clips]


def _paired(clip: Clip, side: Side, real: Side, ratio: float, offsets: Sequence[int] | None) -> Task:
    start = clip.recording.start
    name = str(start["clip"]) if "clip" in start else clip.recording.name
    partner = real.find(name) if "clip" in start or side.kind != "samples" else None
    if partner is not None:
        start_frame = clip.frames[0] - clip.lead
        first = round(start_frame * ratio)
        own = [frame - start_frame for frame in clip.frames]
        frames = tuple(first + offset for offset in (own if offsets is None else offsets))
        given, given_name = (lambda: partner.read((first,))[0]), f"{partner.digest} {partner.size_hw} {first}"
        if frames[-1] < partner.num_frames:
            return Task(clip, Clip(clip.name, partner, frames), given, given_name)
        return Task(clip, None, given, given_name, f"{clip.name}: the real clip {name} ends before it does")
    if "clip" in start:
        return Task(clip, unsure=f"{clip.name}: {real.path} has no clip {name}, from which it was started")
    given = _given(start)
    return Task(clip) if given is None else Task(clip, None, *given)


def _given(start: Mapping[str, Any]) -> tuple[Callable[[], NDArray[np.uint8]], str] | None:
    """The frame that a record names: a scene of the gallery, or a picture that is still there."""
    said = start.get("frame")
    if isinstance(start.get("scene"), str):
        path = _scenes().get(start["scene"])
    else:
        path = Path(said["path"]) if isinstance(said, dict) and isinstance(said.get("path"), str) else None
    if path is None or not path.is_file():
        return None
    return (lambda: read_image(path)), f"frame {file_digest(path)}"


@functools.cache
def _scenes() -> Mapping[str, Path]:
    """The photographs of the gallery by name."""
    from hierasurg_core.generation.scenes import load_scenes  # brings diffusers, which takes seconds

    return {scene.name: scene.frame for scene in load_scenes(_SCENES)}


def real_tasks(clips: Sequence[Clip]) -> list[Task]:
    """Real clips as tasks; nothing belongs to them but their own maps."""
    return [Task(clip) for clip in clips]


def _fitted(video_FHWC: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    if video_FHWC.shape[1:3] == size_hw:
        return video_FHWC
    return np.stack([fit_image(frame_HWC, size_hw) for frame_HWC in video_FHWC])
