"""`label --check`: the maps that `label` made, beside true ones.

Owns which stretches are compared and how their measures become a video's. Stretches are at most a clip long,
for that is how long ids have to last; what is measured is `agreement`'s affair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hierasurg_core.config import LabelConfig
from hierasurg_core.datasets.mapfiles import CLIP_SECONDS, VideoMaps
from hierasurg_core.datasets.numbering import Skipped
from hierasurg_core.datasets.operations import (
    Failure,
    find_map_folders,
    skipped_as_json,
    skipped_in_words,
)
from hierasurg_core.datasets.splits import read_list
from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.agreement import compare_maps
from hierasurg_core.labeling.truth import TruthMaps, find_truth
from hierasurg_core.maps import PanopticClip, fit_maps
from hierasurg_core.progress import Progress


@dataclass(frozen=True)
class LabelScores:
    """Means over stretches of at most 16 frames, weighted by their frames; None where nothing counts.

    Attributes:
        panoptic_quality: Of the segments of each frame.
        clip_quality: Of entities as bodies in space and time.
        mean_iou: Of the true entities and their partners.
        boundary_f: Of the borders between ids.
        background_iou: Of the backgrounds.
        id_consistency: Share of the chances to change an id at which it did not.
        temporal_iou: Of each found entity with itself a second before.
        temporal_iou_truth: The same of the true ones, which move, too.
        id_switches: In all.
        frames: That were compared.
    """

    panoptic_quality: float | None
    clip_quality: float | None
    mean_iou: float | None
    boundary_f: float | None
    background_iou: float | None
    id_consistency: float | None
    temporal_iou: float | None
    temporal_iou_truth: float | None
    id_switches: int
    frames: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Returns the scores as plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class CheckedVideo:
    """One video's scores."""

    name: str
    scores: LabelScores


@dataclass(frozen=True)
class LabelCheck:
    """The scores of all videos that have both maps.

    Attributes:
        maps: Where the found maps are.
        truth: Where the true ones are.
        videos: By name.
        mean: Over the videos, each counting once.
        failures: Videos that could not be compared.
        skipped: Folders of maps that have no true ones, and listed videos that have no maps.
    """

    maps: Path
    truth: Path
    videos: tuple[CheckedVideo, ...]
    mean: LabelScores
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for JSON."""
        return {
            "maps": str(self.maps),
            "truth": str(self.truth),
            "videos": [{"name": video.name, **video.scores.to_dict()} for video in self.videos],
            "mean": self.mean.to_dict(),
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
            "skipped": skipped_as_json(self.skipped),
        }


def check_labels(config: LabelConfig, progress: Progress) -> LabelCheck:
    """Compares the maps of a folder with true ones.

    Args:
        config: `check` is the truth, `out` or `videos` holds the maps.
        progress: Told of each video.

    Raises:
        UsageError: The list of videos is unreadable.
        DataError: There are no maps or no truth of them, or no video can be compared.
    """
    truth_folder = config.check or Path()
    maps_folder = config.out or config.videos
    if not truth_folder.is_dir():
        raise DataError(f"there is no folder {truth_folder} of true maps")
    listed = find_map_folders(maps_folder)
    found, skipped, failures = listed.paths, list(listed.skipped), list(listed.failures)
    if not found and not failures:
        raise DataError(f"{maps_folder} holds no maps (video01_masks): make them with 'hierasurg label'")
    names = list(found) if config.only is None else list(read_list(config.only, any_name=True))
    progress.start("compare", len(names), "videos")
    videos: list[CheckedVideo] = []
    for name in names:
        truth = find_truth(truth_folder, name) if name in found else None
        if name not in found:
            skipped.append(Skipped(maps_folder / name, f"{maps_folder} holds no maps of it"))
        elif truth is None:
            skipped.append(Skipped(found[name], f"{truth_folder} holds no true maps of it"))
        else:
            try:
                videos.append(CheckedVideo(name, compare_video(truth, VideoMaps(found[name]), name)))
            except DataError as error:
                failures.append(Failure(name, str(error)))
        progress.advance()
    for line in skipped_in_words(skipped):
        progress.note(line)
    if failures and not videos:
        raise DataError(failures[0].message)
    if not videos:
        raise DataError(
            f"{truth_folder} holds no true maps of the {len(found)} videos in {maps_folder}: name them "
            "video01_masks, or give CholecSeg8k's folder"
        )
    mean = _mean([video.scores for video in videos])
    return LabelCheck(maps_folder, truth_folder, tuple(videos), mean, tuple(failures), tuple(skipped))


def compare_video(truth: TruthMaps, found: VideoMaps, name: str) -> LabelScores:
    """Compares all seconds for which there are both maps.

    Raises:
        DataError: There is no such second.
    """
    both = [second for second in truth.seconds if found.has(second, 1)]
    scores = [
        compare_clips(truth.clip(run.start, len(run)), found.clip(run.start, len(run))) for run in _runs(both)
    ]
    if not scores:
        raise DataError(f"{name}: no second has both a true and a found map")
    return _mean(scores, weighted=True)


def compare_clips(wanted: PanopticClip, found: PanopticClip) -> LabelScores:
    """Compares one stretch; true maps of another size are cropped and resized as frames are."""
    size_hw = (found.map_FHW.shape[1], found.map_FHW.shape[2])
    if wanted.map_FHW.shape[1:] != size_hw:
        wanted = PanopticClip(fit_maps(wanted.map_FHW, size_hw), wanted.num_entities)
    agreement = compare_maps(wanted, found)
    return LabelScores(
        panoptic_quality=agreement.frame_pq,
        clip_quality=agreement.clip_pq,
        mean_iou=agreement.mean_iou,
        boundary_f=agreement.boundary_f,
        background_iou=agreement.background_iou,
        id_consistency=agreement.id_consistency,
        temporal_iou=temporal_iou(found),
        temporal_iou_truth=temporal_iou(wanted),
        id_switches=agreement.id_switches,
        frames=len(wanted.map_FHW),
    )


def temporal_iou(clip: PanopticClip) -> float | None:
    """Mean IoU of each entity with itself one frame before, where it is in both; None where none is."""
    shared: list[float] = []
    for before_HW, after_HW in zip(clip.map_FHW[:-1], clip.map_FHW[1:], strict=True):
        one = np.bincount(before_HW.ravel(), minlength=256)[: clip.num_entities]
        other = np.bincount(after_HW.ravel(), minlength=256)[: clip.num_entities]
        same = np.bincount(before_HW[before_HW == after_HW], minlength=256)[: clip.num_entities]
        both = (one > 0) & (other > 0)
        shared.extend((same[both] / (one + other - same)[both]).tolist())
    return float(np.mean(shared)) if shared else None


def _runs(seconds: Sequence[int]) -> Iterator[range]:
    """Consecutive seconds in stretches of at most a clip."""
    first = 0
    for index in range(1, len(seconds) + 1):
        full = index - first == CLIP_SECONDS
        if index == len(seconds) or full or seconds[index] != seconds[index - 1] + 1:
            yield range(seconds[first], seconds[index - 1] + 1)
            first = index


def _mean(scores: Sequence[LabelScores], *, weighted: bool = False) -> LabelScores:
    means = {
        field.name: _mean_of(
            (getattr(score, field.name), score.frames if weighted else 1) for score in scores
        )
        for field in dataclasses.fields(LabelScores)
        if field.name not in ("id_switches", "frames")
    }
    switches, frames = sum(score.id_switches for score in scores), sum(score.frames for score in scores)
    return LabelScores(**means, id_switches=switches, frames=frames)


def _mean_of(values: Iterable[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None]
    weight = sum(weight for _, weight in known)
    return sum(value * share for value, share in known) / weight if weight else None
