"""`label`: frame folders become panoptic maps, video by video.

Owns the choice of models and the order of work. It refuses videos that cannot become maps before any weight
is read, and never takes a smaller model than the one asked for. Processes of one group share the videos:
each goes to the first that claims it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from hierasurg_core import artifacts
from hierasurg_core.config import LabelConfig, write_config
from hierasurg_core.datasets.frames import FrameFolder, read_manifest
from hierasurg_core.datasets.manifest import NOTICE
from hierasurg_core.datasets.numbering import Skipped
from hierasurg_core.datasets.operations import (
    MASKS,
    Failure,
    Found,
    find_videos,
    maps_folder,
    skipped_as_json,
    skipped_in_words,
)
from hierasurg_core.datasets.splits import read_list
from hierasurg_core.errors import DataError
from hierasurg_core.labeling.features import (
    MINI_COSINE,
    RADIO,
    SAME_COSINE,
    Backbone,
    SegmenterBackbone,
    load_vision_backbone,
)
from hierasurg_core.labeling.frames import SecondFrames
from hierasurg_core.labeling.overlay import write_overlay
from hierasurg_core.labeling.segmenter import Segmenter, load_segmenter
from hierasurg_core.labeling.store import MANIFEST, VideoStore, identity_of, read_label_manifest
from hierasurg_core.labeling.windows import LENGTH, STRIDE, FollowedWindow, Segmenting, VideoLabeller
from hierasurg_core.progress import Progress
from hierasurg_core.runtime import claim, rank, resolve_dtype, tell_done, wait_for_all, wait_for_units

MINI, DEFAULT, OWN_FEATURES = "mini", "large", "sam"


@dataclass(frozen=True)
class LabelledVideo:
    """A video whose maps are done.

    Attributes:
        name: "videoNN".
        folder: `videoNN_masks`.
        frames: That have maps, one a second.
        clips: Files of 16 frames; 0 for maps as PNG.
        entities: In the whole video.
        bad_frames: Whose place others took.
        segmenter: Which model.
        features: Which backbone.
        same_below: Mean squared error below which two descriptors were of one entity; None without any.
        frames_per_second: Of labelling it.
        overlay: The video to look at, if there is one.
        skipped: It was done already.
    """

    name: str
    folder: Path
    frames: int
    clips: int
    entities: int
    bad_frames: int
    segmenter: str
    features: str
    same_below: float | None
    frames_per_second: float
    overlay: Path | None
    skipped: bool


@dataclass(frozen=True)
class LabelResult:
    """What one call of `label` did.

    Attributes:
        out: The folder of `videoNN_masks`.
        videos: Those that are done, by name.
        seconds: How long it took.
        failures: Those that are not, by name.
        skipped: Files and folders beside the frame folders that were left out, failures included.
        passed_over: How many hidden files, files of the operating system and outputs of ours there were.
    """

    out: Path
    videos: tuple[LabelledVideo, ...]
    seconds: float
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    passed_over: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for JSON."""
        videos = [
            {
                **dataclasses.asdict(video),
                "folder": str(video.folder),
                "overlay": None if video.overlay is None else str(video.overlay),
            }
            for video in self.videos
        ]
        return {
            "out": str(self.out),
            "videos": videos,
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
            "seconds": round(self.seconds, 3),
            "skipped": skipped_as_json(self.skipped),
            "passed_over": self.passed_over,
        }


def label(
    config: LabelConfig, device: torch.device, progress: Progress, models: Models | None = None
) -> LabelResult:
    """Makes the maps of all videos that have none yet, or whose frames or settings changed.

    A video that cannot be labelled is a failure of the result, and the others are done.

    Args:
        config: What to label, how and where to.
        device: Where to compute.
        progress: Told of each frame.
        models: Other models than those that the config asks for.

    Raises:
        UsageError: The list of videos is unreadable, or a backbone brings code.
        DataError: There are no frame folders, or the only one cannot be labelled: it is incomplete or too
            short, a frame is bad, or maps of others are in the way.
        WeightsError: A model is not to be had.
        ResourceError: The target cannot be written, or memory is too small.

    Example:
        >>> label(LabelConfig(sam="mini"), torch.device("cpu"), SilentProgress())
    """
    began = time.monotonic()
    found = choose_frame_folders(config.videos, config.only)
    for line in skipped_in_words(found.skipped):
        progress.note(line)
    out = out_folder(config, found)
    failures = {failure.name: failure for failure in found.failures}
    jobs = _look_at(found, out, failures, config, progress)
    artifacts.ensure_writable_folder(out)
    before = {job.folder.name: _stamp(out, job) for job in jobs}
    wait_for_all()
    if rank() == 0:
        write_config(out / "label.yaml", "label", config)
    models = ModelsAsked(config, device, progress) if models is None else models
    progress.start("label", sum(job.frames.num_frames for job in jobs), "frames")
    for job in jobs:
        if claim(_unit(job)):
            try:
                _label_video(job, out, models, config, progress)
            except DataError as error:
                failures[job.folder.name] = Failure(job.folder.name, str(error))
            tell_done(_unit(job))
    wait_for_units(map(_unit, jobs))
    videos: list[LabelledVideo] = []
    for job in jobs:
        name = job.folder.name
        if name in failures:
            continue
        try:
            videos.append(_described(job, out, config, before[name]))
        except DataError as error:  # of a video that another process could not do
            failures[name] = Failure(name, str(error))
    _raise_if_alone(failures, videos)
    return LabelResult(
        out,
        tuple(videos),
        time.monotonic() - began,
        tuple(failures[name] for name in sorted(failures)),
        found.all_skipped,
        found.passed_over,
    )


def _look_at(
    found: Found, out: Path, failures: dict[str, Failure], config: LabelConfig, progress: Progress
) -> list[_Job]:
    """Refuses what cannot become maps before any weight is read; adds that to the failures."""
    progress.start("look at videos", len(found.sources), "videos")
    jobs: list[_Job] = []
    for name, path in found.paths.items():
        try:
            folder = dataclasses.replace(read_manifest(path), name=name)
            job = _Job(folder, SecondFrames(folder, limit=config.limit, skip_bad=config.skip_bad))
            _store(job, out, {}, config)  # refuses what is too short
            job.frames.check_sizes()
        except DataError as error:
            failures[name] = Failure(name, str(error))
        else:
            jobs.append(job)
        progress.advance()
    if not jobs:
        _raise_if_alone(failures, jobs)
        first = failures[min(failures)].message
        raise DataError(f"none of {len(failures)} videos can be labelled; the first: {first}")
    return jobs


def _raise_if_alone(failures: dict[str, Failure], done: Sequence[object]) -> None:
    if len(failures) == 1 and not done:
        raise DataError(next(iter(failures.values())).message)


def choose_frame_folders(videos: Path, only: Path | None) -> Found:
    """Finds the frame folders in a folder, or the one that the folder itself is; all, or those of a list.

    Raises:
        UsageError: The list is unreadable.
        DataError: There is none, or one of the list is missing.
    """
    found = find_videos(videos)
    if only is None:
        return found
    names = read_list(only, any_name=True)
    known = {*found.sources, *(fault.name for fault in found.faults)}
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(f"{videos} lacks {len(missing)} of the videos in {only}: {', '.join(missing[:5])}")
    return found.only(names)


def out_folder(config: LabelConfig, found: Found) -> Path:
    """Returns where `videoNN_masks` go: beside the frame folders, unless told otherwise."""
    return maps_folder(config.videos, found) if config.out is None else config.out


@dataclass(frozen=True)
class _Job:
    folder: FrameFolder
    frames: SecondFrames

    @property
    def maps(self) -> str:
        """The name of its folder of maps."""
        return f"{self.folder.name}{MASKS}"


class Models(Protocol):
    """Where a run's models come from.

    Attributes:
        precision: The number type that they compute in.
    """

    precision: str

    def segmenter(self, folder: FrameFolder) -> Segmenting:
        """What finds and follows masks in a video."""
        ...

    def backbone(self, segmenter: Segmenting) -> Backbone:
        """What tells them apart."""
        ...


class ModelsAsked:
    """The models that a config asks for, each loaded when a video first needs it."""

    def __init__(self, config: LabelConfig, device: torch.device, progress: Progress) -> None:
        self._config, self._device, self._progress = config, device, progress
        self._dtype = resolve_dtype(config.dtype, device)
        self._segmenters: dict[str, Segmenter] = {}
        self._backbones: dict[str, Backbone] = {}
        self.precision = str(self._dtype).removeprefix("torch.")

    def segmenter(self, folder: FrameFolder) -> Segmenting:
        """The one asked for; else the mini one for the phantom's frames, and the large one for others."""
        name = self._config.sam or (MINI if folder.is_phantom else DEFAULT)
        if self._config.sam is None and name == MINI:
            self._progress.note(f"{folder.name}: frames of the phantom, so --sam {MINI}")
        return self._load(name)

    def backbone(self, segmenter: Segmenting) -> Backbone:
        """The one asked for; else the segmenter's own with the mini one, and RADIO with others."""
        mini = segmenter.name == MINI
        name = self._config.features or (OWN_FEATURES if mini else RADIO)
        key = f"{segmenter.name}/{name}" if name == OWN_FEATURES else name
        if key not in self._backbones:
            self._backbones[key] = self._load_backbone(name, segmenter)
        return self._backbones[key]

    def _load_backbone(self, name: str, segmenter: Segmenting) -> Backbone:
        if name == OWN_FEATURES or (name == MINI and segmenter.name == MINI):
            cosine = MINI_COSINE if segmenter.name == MINI else SAME_COSINE
            return SegmenterBackbone(f"{segmenter.name} SAM 2", segmenter.digest, None, cosine)
        if name == MINI:
            mini = self._load(MINI)
            return SegmenterBackbone("mini SAM 2", mini.digest, mini.encode, MINI_COSINE)
        return load_vision_backbone(
            name,
            trust_remote_code=self._config.trust_remote_code,
            weights_dir=self._config.weights_dir,
            device=self._device,
            dtype=self._dtype,
        )

    def _load(self, name: str) -> Segmenter:
        if name not in self._segmenters:
            config = self._config
            self._segmenters[name] = load_segmenter(
                name,
                checkpoint=config.sam_checkpoint if name == config.sam else None,
                weights_dir=config.weights_dir,
                device=self._device,
                dtype=self._dtype,
                compile=config.compile,
            )
        return self._segmenters[name]


def _label_video(job: _Job, out: Path, models: Models, config: LabelConfig, progress: Progress) -> None:
    began = time.monotonic()
    segmenter = models.segmenter(job.folder)
    backbone = models.backbone(segmenter)
    store = _store(job, out, _identity(job, segmenter, backbone, models.precision, config), config)
    manifest = store.finished()
    if manifest is None:
        if read_label_manifest(store.folder).get("complete") is True:
            progress.note(f"{store.folder}: its maps are of other frames or settings and made anew")
        for path in _pictures(job, out):
            path.unlink(missing_ok=True)
        manifest = _label_windows(job, store, segmenter, backbone, config, progress, began)
    else:
        progress.advance(job.frames.num_frames)
    if config.visualize and not all(path.exists() for path in _pictures(job, out)):
        write_overlay(
            out, job.folder.name, job.frames, store.folder, config.format, manifest.get("clip_ids", {})
        )


def _label_windows(
    job: _Job,
    store: VideoStore,
    segmenter: Segmenting,
    backbone: Backbone,
    config: LabelConfig,
    progress: Progress,
    began: float,
) -> dict[str, Any]:
    """Goes through the windows that are not done; one is painted and written while the next is seen."""
    state = store.begin()
    labeller = VideoLabeller(
        job.frames,
        segmenter,
        backbone,
        same_below=config.match,
        batch=config.batch,
        max_objects=config.max_objects,
        progress=progress,
    )
    if state.windows:
        done = labeller.plan.span(state.windows - 1).stop
        progress.note(f"{job.folder.name}: goes on behind the {done} frames that are done")
    labeller.skip(state.windows)
    job.frames.bad.update(state.bad)
    spent_before = state.seconds

    def commit(window: int, followed: FollowedWindow) -> None:
        store.commit(window, followed.maps(), labeller.same_below(followed.channels), state)

    with ThreadPoolExecutor(1) as pool:
        writing: Future[None] | None = None
        for window in range(state.windows, labeller.plan.count):
            followed = labeller.follow(window)
            if writing is not None:
                writing.result()
            state.bad = dict(job.frames.bad)
            state.seconds = spent_before + time.monotonic() - began
            writing = pool.submit(commit, window, followed)
        if writing is not None:
            writing.result()
    seconds = spent_before + time.monotonic() - began
    for index, why in sorted(state.bad.items()):
        progress.note(f"frame {index}: {why}; the frame before took its place")
    rest: dict[str, Any] = {"notice": NOTICE} if config.notice and not job.folder.is_phantom else {}
    rest["same_below"] = next(
        (labeller.same_below(len(k.look_C)) for k in state.registry.known.values()), None
    )
    rest["timing"] = {
        "seconds": round(seconds, 3),
        "frames_per_second": round(job.frames.num_frames / seconds, 3),
    }
    return store.finish(state, rest)


def _identity(
    job: _Job, segmenter: Segmenting, backbone: Backbone, precision: str, config: LabelConfig
) -> dict[str, Any]:
    return identity_of(
        job.folder.name,
        frames={
            "digest": job.frames.digest(),
            "count": job.frames.num_frames,
            "size_hw": list(job.frames.size_hw),
        },
        segmenter={"name": segmenter.name, "digest": segmenter.digest, "precision": precision},
        features={"name": backbone.name, "digest": backbone.digest},
        settings={
            "format": config.format,
            "match": config.match,
            "max_objects": config.max_objects,
            "skip_bad": config.skip_bad,
            "window": [LENGTH, STRIDE],
        },
    )


def _unit(job: _Job) -> str:
    return f"label/{job.folder.name}"


def _store(job: _Job, out: Path, identity: dict[str, Any], config: LabelConfig) -> VideoStore:
    return VideoStore(out / job.maps, identity, config.format, job.frames.num_frames)


def _pictures(job: _Job, out: Path) -> Sequence[Path]:
    return (out / f"{job.folder.name}_overlay.mp4", out / f"{job.folder.name}_sheet.png")


def _stamp(out: Path, job: _Job) -> int | None:
    """Tells versions of a manifest apart."""
    path = out / job.maps / MANIFEST
    return path.stat().st_mtime_ns if path.exists() else None


def _described(job: _Job, out: Path, config: LabelConfig, before: int | None) -> LabelledVideo:
    manifest = read_label_manifest(out / job.maps)
    overlay = _pictures(job, out)[0]
    return LabelledVideo(
        name=job.folder.name,
        folder=out / job.maps,
        frames=manifest["counts"]["frames"],
        clips=manifest["counts"]["clips"],
        entities=manifest["counts"]["entities"],
        bad_frames=len(manifest["bad_frames"]),
        segmenter=manifest["segmenter"]["name"],
        features=manifest["features"]["name"],
        same_below=manifest["same_below"],
        frames_per_second=manifest["timing"]["frames_per_second"],
        overlay=overlay if overlay.exists() else None,
        skipped=_stamp(out, job) == before,
    )
