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
from hierasurg_core.datasets.annotations import canonical_name
from hierasurg_core.datasets.frames import FrameFolder, is_frame_folder, maps_folder, read_manifest
from hierasurg_core.datasets.manifest import NOTICE
from hierasurg_core.datasets.plan import find_videos
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

MINI, DEFAULT, OWN_FEATURES, _MASKS = "mini", "large", "sam", "_masks"


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
        videos: All of them, by name.
        seconds: How long it took.
    """

    out: Path
    videos: tuple[LabelledVideo, ...]
    seconds: float

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
        return {"out": str(self.out), "videos": videos, "seconds": round(self.seconds, 3)}


def label(
    config: LabelConfig, device: torch.device, progress: Progress, models: Models | None = None
) -> LabelResult:
    """Makes the maps of all videos that have none yet, or whose frames or settings changed.

    Args:
        config: What to label, how and where to.
        device: Where to compute.
        progress: Told of each frame.
        models: Other models than those that the config asks for.

    Raises:
        UsageError: The list of videos is unreadable, or a backbone brings code.
        DataError: There are no frame folders, one is incomplete or too short, a frame is bad, or maps of
            others are in the way.
        WeightsError: A model is not to be had.
        ResourceError: The target cannot be written, or memory is too small.

    Example:
        >>> label(LabelConfig(sam="mini"), torch.device("cpu"), SilentProgress())
    """
    began = time.monotonic()
    folders = find_frame_folders(config.videos, config.only)
    out = out_folder(config)
    progress.start("look at videos", len(folders), "videos")
    jobs: list[_Job] = []
    for name, path in folders.items():
        folder = dataclasses.replace(read_manifest(path), name=name)
        jobs.append(_Job(folder, SecondFrames(folder, limit=config.limit, skip_bad=config.skip_bad)))
        progress.advance()
    for job in jobs:
        _store(job, out, {}, config)  # refuses what is too short, before any weight is read
    artifacts.ensure_writable_folder(out)
    before = {job.folder.name: _stamp(out, job) for job in jobs}
    wait_for_all()
    if rank() == 0:
        write_config(out / "label.yaml", "label", config)
    models = ModelsAsked(config, device, progress) if models is None else models
    progress.start("label", sum(job.frames.num_frames for job in jobs), "frames")
    for job in jobs:
        if claim(_unit(job)):
            _label_video(job, out, models, config, progress)
            tell_done(_unit(job))
    wait_for_units(map(_unit, jobs))
    videos = [_described(job, out, config, before[job.folder.name]) for job in jobs]
    return LabelResult(out, tuple(videos), time.monotonic() - began)


def find_frame_folders(videos: Path, only: Path | None) -> dict[str, Path]:
    """Returns the frame folders in a folder by name; or the one that the folder itself is.

    Raises:
        UsageError: The list is unreadable.
        DataError: There is none, or none of the list.
    """
    found = {_name_of(videos.resolve()): videos} if is_frame_folder(videos) else find_videos(videos)
    if only is None:
        return found
    names = read_list(only, any_name=True)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{videos} lacks {len(missing)} of the videos in {only}: {', '.join(missing[:5])}")
    return {name: found[name] for name in sorted(names)}


def _name_of(folder: Path) -> str:
    """The operation's one name, or the folder's where that names none."""
    try:
        return canonical_name(folder.name)
    except DataError:
        return folder.name


def out_folder(config: LabelConfig) -> Path:
    """Returns where `videoNN_masks` go: beside the frame folders, unless told otherwise."""
    return maps_folder(config.videos) if config.out is None else config.out


@dataclass(frozen=True)
class _Job:
    folder: FrameFolder
    frames: SecondFrames

    @property
    def maps(self) -> str:
        """The name of its folder of maps."""
        return f"{self.folder.name}{_MASKS}"


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
    job.frames.check_sizes()
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
