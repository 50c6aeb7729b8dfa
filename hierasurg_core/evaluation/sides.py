"""The two sides of an evaluation: which recordings a folder holds, and what is known of them.

Owns the kinds of folder that a side may be: samples of `generate` (mp4 files with a JSON each), a data set of
`build-dataset` (whose frames are read where it found them), a folder of mp4 files, a folder of frame
folders, or one frame folder. It names what cannot be read and goes on; it refuses a folder with nothing in
it. Digests change with every file that a measurement may read.

Legend: F frames, H rows, W columns, C the three channels.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.artifacts import read_json
from hierasurg_core.datasets.clips import ClipForm
from hierasurg_core.datasets.dataset import LatentDataset
from hierasurg_core.datasets.frames import (
    FrameFolder,
    file_digest,
    images_digest,
    read_manifest,
)
from hierasurg_core.datasets.manifest import MANIFEST, Manifest, ShardEntry, read_dataset_manifest
from hierasurg_core.datasets.mapfiles import VideoMaps
from hierasurg_core.datasets.operations import MASKS, find_frame_folders, find_videos
from hierasurg_core.datasets.splits import TRAIN
from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.checking import FORMS, expect_side
from hierasurg_core.evaluation.recordings import Labels, Recording, Side, Unreadable
from hierasurg_core.maps import PanopticClip, fit_maps, load_clip
from hierasurg_core.pictures import fit_image, read_image
from hierasurg_core.video import iter_video, probe_video

VAL = "val"
_VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi"}
_MAPS_SUFFIX = "_maps"  # of the coloured maps beside a sample
_BESIDE = (_MAPS_SUFFIX, "_overlay", "_side_by_side")  # what else lies beside a sample
_WITHOUT_FOLDER = "bring it back, or give the frames themselves instead of the data set"
_LONGEST_FILE = 4096  # frames of a video file that counts as a clip


def open_side(path: Path, split: str | None = None) -> Side:
    """Looks at a folder.

    Args:
        path: The folder.
        split: Of a data set; None: "val" where it has clips, else "train".

    Raises:
        DataError: It is missing or empty, or the data set is damaged or its frames are gone.
        UsageError: A split was asked for, and it is no data set.
    """
    expect_side(path, split)
    if (path / MANIFEST).is_file():
        return _dataset(path, split)
    videos = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _VIDEO_SUFFIXES]
    videos = [file for file in videos if not file.stem.endswith(_BESIDE)]
    if videos:
        return _videos(path, videos)
    found = find_frame_folders(path)
    others = [Unreadable(one.path.name, one.reason) for one in found.all_skipped if one.path.is_dir()]
    if found.sources or others:
        return _frame_folders(path, list(found.paths.values()), others)
    raise DataError(f"{path} holds nothing to evaluate: give {FORMS}")


def _by_name(recordings: Sequence[Recording]) -> Callable[[str], Recording | None]:
    return {recording.name: recording for recording in recordings}.get


def _dataset(path: Path, split: str | None) -> Side:
    manifest = read_dataset_manifest(path)
    has = {entry.split for entry in manifest.shards if entry.clips}
    chosen = split or (VAL if VAL in has else TRAIN)
    if chosen not in has:
        raise DataError(
            f"the data set {path} has no clip in its split '{chosen}'; it has {', '.join(sorted(has))}"
        )
    notes = () if split else (f"real: the split '{chosen}' of {path}",)
    reader = _DatasetReader(manifest)
    return Side(path, "dataset", tuple(reader.of_split(chosen)), (), notes, reader.find, manifest)


class _DatasetReader:
    """Clips of a data set with pixels, labels and maps from where it was built of."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._form = manifest.form
        videos = manifest.folder_of("videos", _WITHOUT_FOLDER)
        self._maps = manifest.folder_of("maps", _WITHOUT_FOLDER)
        self._found = find_videos(videos)
        self._of_video: dict[str, dict[str, Recording]] = {}

    def of_split(self, split: str) -> Iterator[Recording]:
        wanted = [entry for entry in self._manifest.shards if entry.split == split and entry.clips]
        for video in dict.fromkeys(entry.video for entry in wanted):
            yield from self._recordings([entry for entry in wanted if entry.video == video])

    def find(self, name: str) -> Recording | None:
        """The clip of this name in any split; looks at its own video only."""
        video = name.split("/")[0]
        if video not in self._of_video:
            entries = [entry for entry in self._manifest.shards if entry.video == video and entry.clips]
            recordings = self._recordings(entries) if entries else ()
            self._of_video[video] = {recording.name: recording for recording in recordings}
        return self._of_video[video].get(name)

    def _recordings(self, entries: Sequence[ShardEntry]) -> Iterator[Recording]:
        """Clips of some shards of one video."""
        video = entries[0].video
        source = self._manifest.sources["videos"]
        path = self._found.require(
            video, f"{source} has no {video} any more, of which {self._manifest.folder} was made"
        )
        folder, maps = read_manifest(path), VideoMaps(self._maps / f"{path.name}{MASKS}")
        digest = f"{_frames_digest(folder)} {maps.digest()} {self._form.fps}"
        clips = LatentDataset(self._manifest, list(entries))
        for index in range(len(clips)):
            _, shard, row = clips.locate(index)
            start = int(shard.tensors["start"][row])
            said = clips.labels(shard, row)
            yield Recording(
                name=f"{video}/{start:06d}",
                operation=video,
                digest=f"{digest} {start}",
                num_frames=self._form.num_frames,
                fps=float(self._form.fps),
                size_hw=self._form.size_hw,
                read=_FolderFrames(folder.frame_path, start, self._form.size_hw),
                labels=_labels_of_seconds(said["phase_S"].tolist(), said["triplets_S"]),
                maps=_DatasetMaps(maps, start // self._form.fps, self._form),
            )


@dataclass(frozen=True)
class _FolderFrames:
    """Reads frames by number, cropped and resized to one size."""

    path_of: Callable[[int], Path]
    start: int
    size_hw: tuple[int, int]

    def __call__(self, frames: Sequence[int]) -> NDArray[np.uint8]:
        pictures = [read_image(self.path_of(self.start + frame)) for frame in frames]
        return np.stack([fit_image(picture_HWC, self.size_hw) for picture_HWC in pictures])


@dataclass(frozen=True)
class _DatasetMaps:
    maps: VideoMaps
    second: int
    form: ClipForm

    def __call__(self) -> PanopticClip:
        whole = self.maps.clip(self.second, self.form.seconds)
        return PanopticClip(fit_maps(whole.map_FHW, self.form.size_hw), whole.num_entities)


def _labels_of_seconds(phases: Sequence[int], triplets: Sequence[Sequence[int]]) -> Labels:
    """The phase and the triplet that most seconds have, and all triplets."""
    known = Counter(phase for phase in phases if phase >= 0)
    done = Counter(triplet for second in triplets for triplet in second if triplet >= 0)
    return Labels(
        known.most_common(1)[0][0] if known else None,
        done.most_common(1)[0][0] if done else None,
        frozenset(done),
    )


@dataclass(frozen=True)
class _FileFrames:
    """Reads frames of a video file by their rising numbers, in one pass."""

    path: Path

    def __call__(self, frames: Sequence[int]) -> NDArray[np.uint8]:
        wanted, kept = set(frames), list[NDArray[np.uint8]]()
        for number, frame_HWC in enumerate(iter_video(self.path)):
            if number in wanted:
                kept.append(frame_HWC)
            if len(kept) == len(wanted):
                return np.stack(kept)
        raise DataError(f"{self.path} ends after fewer frames than its header says; it is cut short")


def _file(path: Path) -> Recording:
    """A video file as a recording without any label."""
    frames, fps, size_hw = probe_video(path)
    if frames > _LONGEST_FILE:
        raise DataError(
            f"it holds {frames} frames: cut whole operations into frames with 'hierasurg extract'"
        )
    digest = file_digest(path)
    return Recording(path.stem, path.stem, digest, frames, fps, size_hw, _FileFrames(path))


def _videos(path: Path, files: Sequence[Path]) -> Side:
    """Video files, each a sample where a record of `generate` lies beside it."""
    recordings: list[Recording] = []
    unreadable: list[Unreadable] = []
    records = {file: file.with_suffix(".json") for file in files if file.with_suffix(".json").is_file()}
    for file in files:
        try:
            recordings.append(_sample(file, records[file]) if file in records else _file(file))
        except DataError as error:
            unreadable.append(Unreadable(file.name, _reason(error)))
    return _side(path, "samples" if records else "videos", recordings, unreadable)


def _sample(video: Path, record: Path) -> Recording:
    said = read_json(record)
    if not isinstance(said, dict):
        raise DataError(f"{record} is no record of a sample")
    plain = _file(video)
    phase, triplet = (_id(said.get(key), count) for key, count in (("phase", 7), ("triplet", 100)))
    maps = record.with_name(f"{record.stem}{_MAPS_SUFFIX}.mp4")
    start = said.get("source") or said.get("start")
    start = start if isinstance(start, dict) else {}
    seed = said.get("seed")
    has_maps = maps.is_file()
    return dataclasses.replace(
        plain,
        operation=str(start.get("clip", plain.name)).split("/")[0],
        labels=Labels(phase, triplet, _all_triplets(said.get("triplet"), triplet)),
        maps=(lambda: load_clip(maps)) if has_maps else None,
        maps_video=maps if has_maps else None,
        digest=plain.digest + (file_digest(maps) if has_maps else ""),
        seed=seed if isinstance(seed, int) else None,
        start=start,
        made_by=said["model"] if isinstance(said.get("model"), dict) else {},
    )


def _all_triplets(said: object, triplet: int | None) -> frozenset[int]:
    """All triplets of a record whose triplet changes by the second; else the one."""
    seconds = said.get("by_second") if isinstance(said, dict) else None
    ids = seconds if isinstance(seconds, list) else [triplet]
    return frozenset(known for known in ids if isinstance(known, int) and known >= 0)


def _id(said: object, count: int) -> int | None:
    found = said.get("id") if isinstance(said, dict) else None
    return found if isinstance(found, int) and 0 <= found < count else None


def _frame_folders(path: Path, folders: Sequence[Path], others: Sequence[Unreadable]) -> Side:
    recordings: list[Recording] = []
    unreadable = [*others]
    for folder in folders:
        try:
            found = read_manifest(folder)
        except DataError as error:
            unreadable.append(Unreadable(folder.name, _reason(error)))
            continue
        recordings.append(
            Recording(
                name=found.name,
                operation=found.name,
                digest=_frames_digest(found),
                num_frames=found.num_frames,
                fps=found.fps,
                size_hw=found.size_hw,
                read=_FolderFrames(found.frame_path, 0, found.size_hw),
                many=True,
                black=found.black,
            )
        )
    return _side(path, "frames", recordings, unreadable)


def _frames_digest(folder: FrameFolder) -> str:
    """Of the pictures: what `extract` notes is the video's, whatever rate, size and crop were asked for."""
    if folder.fps is None:
        return folder.digest
    return images_digest([folder.frame_path(index) for index in range(folder.num_frames)])


def _side(path: Path, kind: str, recordings: list[Recording], unreadable: list[Unreadable]) -> Side:
    if not recordings:
        first = f", first {unreadable[0].file}: {unreadable[0].why}" if unreadable else ""
        raise DataError(f"nothing in {path} can be read{first}; give {FORMS}")
    return Side(path, kind, tuple(recordings), tuple(unreadable), (), _by_name(recordings))


def _reason(error: DataError) -> str:
    return " ".join(str(error).split())
