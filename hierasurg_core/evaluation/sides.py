"""The two sides of an evaluation: which clips a folder holds, what is known of them, and their pixels.

Owns the forms that a side may have: samples of `generate` (mp4 files with a JSON each), a data set of
`build-dataset` (whose frames are read where it found them), a folder of mp4 files, a folder of frame
folders, or one frame folder. It names what cannot be read and goes on; it refuses a folder with nothing in
it. Nothing is decoded before `Clip.read`.

Legend: F frames, H rows, W columns, C the three channels.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierasurg_core import taxonomy
from hierasurg_core.artifacts import read_json
from hierasurg_core.datasets.clips import ClipForm
from hierasurg_core.datasets.dataset import LatentDataset
from hierasurg_core.datasets.frames import file_digest, numbered_images, read_manifest
from hierasurg_core.datasets.manifest import MANIFEST, Manifest, read_dataset_manifest
from hierasurg_core.datasets.mapfiles import VideoMaps
from hierasurg_core.datasets.plan import find_videos
from hierasurg_core.datasets.splits import TRAIN
from hierasurg_core.errors import DataError
from hierasurg_core.maps import PanopticClip, fit_maps, load_clip
from hierasurg_core.video import fit_image, iter_video, probe_video, read_image

VAL = "val"
_VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi"}
_MAPS_SUFFIX = "_maps"  # of the coloured maps beside a sample
_BESIDE = (_MAPS_SUFFIX, "_overlay", "_side_by_side")  # what else lies beside a sample
_LONGEST_FILE = 4096  # frames of a video file that counts as a clip
_FORMS = "samples of 'generate', a data set of 'build-dataset', mp4 files, or folders of 000000.jpg, ..."

Read = Callable[[Sequence[int]], "NDArray[np.uint8]"]


@dataclass(frozen=True)
class Labels:
    """What is done in a clip.

    Attributes:
        phase: Id; None where it is not known.
        triplet: Id of what is done most of the time; None as for the phase.
        triplets: Ids of all that is done in it.
    """

    phase: int | None = None
    triplet: int | None = None
    triplets: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Recording:
    """A stretch of frames on disk, of which a clip is cut or several are.

    Attributes:
        name: "0000" of a sample, "video01/000480" of a data set's clip, the file's or folder's name else.
        operation: What clips that resemble each other have in common.
        digest: Of its content.
        num_frames: How many.
        fps: Frames a second; None where nobody says.
        size_hw: Pixels.
        read: Gives frames by their rising numbers, uint8 (F, H, W, 3).
        many: Whether it may be cut into several clips.
        black: Frames outside the body.
        labels: What is done in it.
        maps: Gives its maps, one a second, or those it was made of.
        maps_video: The same as a coloured video, where there is a file.
        seed: Of a sample.
        start: Of a sample, its record's "source" or "start": what it began with.
        made_by: Of a sample, its record's "model".
    """

    name: str
    operation: str
    digest: str
    num_frames: int
    fps: float | None
    size_hw: tuple[int, int]
    read: Read
    many: bool = False
    black: frozenset[int] = frozenset()
    labels: Labels = field(default_factory=Labels)
    maps: Callable[[], PanopticClip] | None = None
    maps_video: Path | None = None
    seed: int | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    """A file that was left out."""

    file: str
    why: str


@dataclass(frozen=True, eq=False)
class Side:
    """All that a folder holds.

    Attributes:
        path: The folder.
        kind: "samples", "dataset", "videos" or "frames".
        recordings: In the order of their names.
        unreadable: What was left out.
        notes: What was chosen for the user.
        find: Gives the recording of this name, also of another split.
        manifest: Of a data set.
    """

    path: Path
    kind: str
    recordings: tuple[Recording, ...]
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]
    find: Callable[[str], Recording | None]
    manifest: Manifest | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a recording that are measured together.

    Attributes:
        name: The recording's, with the first frame where it has several clips.
        recording: Where they are.
        frames: Their numbers, rising.
    """

    name: str
    recording: Recording
    frames: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Tells this clip's pixels from all others'."""
        text = f"{self.recording.digest} {self.frames} {self.recording.size_hw}"
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self) -> NDArray[np.uint8]:
        """Decodes the frames, uint8 (F, H, W, 3).

        Raises:
            DataError: A frame is missing or damaged.
        """
        return self.recording.read(self.frames)


def open_side(path: Path, split: str | None = None) -> Side:
    """Looks at a folder.

    Args:
        path: The folder.
        split: Of a data set; None: "val" where it has clips, else "train".

    Raises:
        DataError: It is missing or empty, or the data set is damaged or its frames are gone.
    """
    if not path.is_dir():
        raise DataError(f"there is no folder {path}: give {_FORMS}")
    if (path / MANIFEST).is_file():
        return _dataset(path, split)
    videos = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _VIDEO_SUFFIXES]
    videos = [file for file in videos if not file.stem.endswith(_BESIDE)]
    if videos:
        return _videos(path, videos)
    folders = [path] if numbered_images(path) else sorted(f for f in path.iterdir() if f.is_dir())
    folders = [folder for folder in folders if not folder.name.endswith("_masks")]
    if folders:
        return _frame_folders(path, folders)
    raise DataError(f"{path} holds nothing to evaluate: give {_FORMS}")


def cut(
    side: Side, *, frames: int, stride: int, skip: int, num: int | None
) -> tuple[list[Clip], list[Unreadable]]:
    """Cuts a side into clips.

    A sample, a data set's clip and a video file give one clip, from their start; a frame folder as many as
    fit without overlap and without a black frame.

    Args:
        side: The folder.
        frames: Of a clip.
        stride: Every so manieth frame.
        skip: Frames of each clip that are passed over first.
        num: At most so many, spread evenly over the side.

    Returns:
        The clips, and what is too short for one.
    """
    clips: list[Clip] = []
    short: list[Unreadable] = []
    span = skip + (frames - 1) * stride + 1
    for recording in side.recordings:
        found = list(_cut(recording, span, frames, stride, skip))
        clips += found
        if not found:
            why = f"it has {recording.num_frames} frames, and a clip takes {span}"
            short.append(
                Unreadable(recording.name, why if not recording.black else f"{why} that are not black")
            )
    if num is not None and len(clips) > num:
        clips = [clips[index * len(clips) // num] for index in range(num)]
    return clips, short


def _cut(recording: Recording, span: int, frames: int, stride: int, skip: int) -> Iterator[Clip]:
    start = 0
    while start + span <= recording.num_frames:
        black = [frame for frame in range(start, start + span) if frame in recording.black]
        if black:
            start = black[-1] + 1
            continue
        numbers = tuple(range(start + skip, start + span, stride))[:frames]
        yield Clip(f"{recording.name}/{start:06d}" if recording.many else recording.name, recording, numbers)
        if not recording.many:
            return
        start += span


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
    recordings = tuple(reader.of_split(chosen))

    def find(name: str) -> Recording | None:
        return reader.by_name().get(name)

    return Side(path, "dataset", recordings, (), notes, find, manifest)


class _DatasetReader:
    """Clips of a data set with pixels, labels and maps from where it was built of."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._form = manifest.form
        videos = _existing(manifest, "videos")
        self._maps = _existing(manifest, "maps")
        self._found = find_videos(videos)
        self._all: dict[str, Recording] | None = None

    def by_name(self) -> dict[str, Recording]:
        if self._all is None:
            splits = sorted({entry.split for entry in self._manifest.shards if entry.clips})
            self._all = {recording.name: recording for split in splits for recording in self.of_split(split)}
        return self._all

    def of_split(self, split: str) -> Iterator[Recording]:
        entries = [entry for entry in self._manifest.shards if entry.split == split and entry.clips]
        clips = LatentDataset(self._manifest, entries)
        folders = {}
        for index in range(len(clips)):
            entry, shard, row = clips.locate(index)
            if entry.video not in folders:
                if entry.video not in self._found:
                    source = self._manifest.sources["videos"]
                    raise DataError(
                        f"{source} has no {entry.video} any more, of which {self._manifest.folder} was made"
                    )
                path = self._found[entry.video]
                folders[entry.video] = (read_manifest(path), VideoMaps(self._maps / f"{path.name}_masks"))
            folder, maps = folders[entry.video]
            start = int(shard.tensors["start"][row])
            said = clips.labels(shard, row)
            yield Recording(
                name=f"{entry.video}/{start:06d}",
                operation=entry.video,
                digest=f"{folder.digest} {start}",
                num_frames=self._form.num_frames,
                fps=float(self._form.fps),
                size_hw=self._form.size_hw,
                read=_FolderFrames(folder.frame_path, start, self._form.size_hw),
                labels=_labels_of_seconds(said["phase_S"].tolist(), said["triplets_S"]),
                maps=_DatasetMaps(maps, start // self._form.fps, self._form),
            )


def _existing(manifest: Manifest, kind: str) -> Path:
    """Where the frames or maps of a data set are: as it says, or beside it."""
    said = Path(manifest.sources[kind])
    for folder in (said, manifest.folder.parent / said):
        if folder.is_dir():
            return folder
    raise DataError(
        f"the data set {manifest.folder} was made of {said}, which is not there: evaluation reads its {kind} "
        "from it; run in the folder in which it was built, or give the frames themselves as --real"
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


def _frame_folders(path: Path, folders: Sequence[Path]) -> Side:
    recordings: list[Recording] = []
    unreadable: list[Unreadable] = []
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
                digest=found.digest,
                num_frames=found.num_frames,
                fps=found.fps,
                size_hw=found.size_hw,
                read=_FolderFrames(found.frame_path, 0, found.size_hw),
                many=True,
                black=found.black,
            )
        )
    return _side(path, "frames", recordings, unreadable)


def _side(path: Path, kind: str, recordings: list[Recording], unreadable: list[Unreadable]) -> Side:
    if not recordings:
        first = f", first {unreadable[0].file}: {unreadable[0].why}" if unreadable else ""
        raise DataError(f"nothing in {path} can be read{first}; give {_FORMS}")
    return Side(path, kind, tuple(recordings), tuple(unreadable), (), _by_name(recordings))


def _reason(error: DataError) -> str:
    return " ".join(str(error).split())


def phase_name(phase: int | None) -> str | None:
    """A phase's name in the data set's own spelling."""
    return None if phase is None else taxonomy.PHASES[phase]


def triplet_name(triplet: int | None) -> str | None:
    """A triplet's name, "grasper,retract,gallbladder"."""
    return None if triplet is None else taxonomy.TRIPLETS[triplet].name
