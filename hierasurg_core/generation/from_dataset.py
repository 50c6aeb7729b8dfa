"""The clips of a data set as requests: start frames, maps, phases and triplets of real (or phantom) clips.

This is how a set of samples for `evaluate` is made: each sample's JSON names its clip and where the frames
of it lie. Frames and maps are read from the folders that the data set was built of, unflipped and at their
own size; its latents are not looked at. It refuses data sets whose frames are gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hierasurg_core.config import GenerateConfig
from hierasurg_core.datasets.manifest import Manifest, ShardEntry, read_dataset_manifest
from hierasurg_core.datasets.mapfiles import VideoMaps
from hierasurg_core.datasets.numbering import number_images
from hierasurg_core.datasets.operations import MASKS, find_videos
from hierasurg_core.datasets.usable import TOO_MANY_IDS
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.generation.request import Start
from hierasurg_core.maps import PanopticClip
from hierasurg_core.pictures import read_image
from hierasurg_core.progress import Progress


@dataclass(frozen=True)
class DatasetClip:
    """One clip of a data set.

    Attributes:
        name: "video01_000480", video and first frame.
        number: Its place in the split, which is added to the seed.
        frame: The first frame's file.
        maps: Of its video.
        second: At which it starts.
        seconds: Maps that it needs.
        phase: Id, or one a second.
        triplet: Likewise.
        true_maps: Take its maps in place of S2M's.
        source: For the sample's JSON.
    """

    name: str
    number: int
    frame: Path
    maps: VideoMaps = field(repr=False)
    second: int
    seconds: int
    phase: int | tuple[int, ...]
    triplet: int | tuple[int, ...]
    true_maps: bool
    source: dict[str, Any] = field(repr=False)

    def read(self) -> Start:
        """Reads its first frame and its maps.

        Raises:
            DataError: A file is missing or damaged.
        """
        maps = self.maps.clip(self.second, self.seconds)
        return Start(
            photo_HWC=read_image(self.frame),
            first_map=PanopticClip(maps.map_FHW[:1], maps.num_entities),
            maps=maps if self.true_maps else None,
            phase=self.phase,
            triplet=self.triplet,
            source={"frame": {"path": str(self.frame)}, "maps": {"path": str(self.maps.folder)}},
        )


def expect_dataset(config: GenerateConfig, folder: Path, fps: int) -> tuple[Manifest, list[ShardEntry]]:
    """Check what a data set's manifest says, without torch.

    Args:
        config: Its `split` chooses.
        folder: What `build-dataset` made.
        fps: Frames a second of the run.

    Returns:
        The manifest, and its shards of the split.

    Raises:
        UsageError: The data set is of another rate.
        DataError: It is no data set, or the split is empty.
    """
    manifest = read_dataset_manifest(folder)
    if manifest.form.fps != fps:
        raise UsageError(
            f"{folder} has {manifest.form.fps} frames a second, but this run makes {fps}: give a model and "
            f"--fps of {manifest.form.fps}"
        )
    entries = [entry for entry in manifest.shards if entry.split == config.split]
    if not sum(entry.clips for entry in entries):
        raise DataError(f"{folder} has no clip in its split '{config.split}': choose the other --split")
    return manifest, entries


def clips_of_dataset(
    config: GenerateConfig, folder: Path, seconds: int, fps: int, progress: Progress
) -> tuple[DatasetClip, ...]:
    """Lists the clips of a split; that their files are there has been seen.

    Args:
        config: Its `split`, `true_maps` and `limit` choose.
        folder: What `build-dataset` made.
        seconds: Maps of a clip.
        fps: Frames a second of the run.
        progress: Is told what was left out.

    Raises:
        UsageError: The data set is of another rate.
        DataError: It is no data set, the split is empty, or frames or maps are gone.
    """
    manifest, entries = expect_dataset(config, folder, fps)
    from hierasurg_core.datasets.dataset import LatentDataset  # loads torch

    clips = LatentDataset(manifest, entries)  # of an index too: only its labels are read
    chosen = list(range(len(clips)))
    if not config.true_maps and manifest.contents == "latents":
        chosen = clips.paintable()
        if len(chosen) < len(clips):
            progress.note(f"{len(clips) - len(chosen)} clips have {TOO_MANY_IDS}: left out")
        if not chosen:
            raise DataError(
                f"no clip of {folder} in its split '{config.split}' can be used: they have {TOO_MANY_IDS}; "
                "give --true-maps, choose the other --split, or label with fewer objects"
            )
    if config.limit is not None and config.limit < len(chosen):
        chosen = [chosen[at] for at in np.linspace(0, len(chosen) - 1, config.limit).round().astype(int)]
    videos, maps = manifest.folder_of("videos"), manifest.folder_of("maps")
    found = find_videos(videos)
    paths: dict[str, Path] = {}
    frames: dict[str, dict[int, Path]] = {}
    maps_of: dict[str, VideoMaps] = {}
    result: list[DatasetClip] = []
    for number in chosen:
        entry, shard, row = clips.locate(number)
        if entry.video not in frames:
            path = found.require(entry.video, f"{videos} has no {entry.video}, of which {folder} was made")
            paths[entry.video], frames[entry.video] = path, number_images(path).by_number
            maps_of[entry.video] = VideoMaps(maps / f"{path.name}{MASKS}")
        start = int(shard.tensors["start"][row])
        second = start // fps
        if start not in frames[entry.video]:
            raise DataError(
                f"{paths[entry.video]} lacks frame {start:06d}, from which a clip of {folder} starts"
            )
        if not maps_of[entry.video].has(second, seconds):
            raise DataError(
                f"the maps {maps_of[entry.video].file(second)} are missing, which {folder} was made of"
            )
        labels = clips.labels(shard, row)
        result.append(
            DatasetClip(
                name=f"{entry.video}_{start:06d}",
                number=number,
                frame=frames[entry.video][start],
                maps=maps_of[entry.video],
                second=second,
                seconds=seconds,
                phase=_one_or_all(labels["phase_S"].tolist()),
                triplet=_one_or_all(labels["triplet_S"].tolist()),
                true_maps=config.true_maps,
                source={
                    "dataset": str(folder),
                    "split": config.split,
                    "clip": f"{entry.video}/{start:06d}",
                    "frames": str(paths[entry.video]),
                    "first_frame": start,
                    "num_frames": manifest.form.num_frames,
                    "fps": fps,
                    "maps": str(maps_of[entry.video].folder),
                    "true_maps": config.true_maps,
                },
            )
        )
    return tuple(result)


def _one_or_all(ids: list[int]) -> int | tuple[int, ...]:
    return ids[0] if len(set(ids)) == 1 else tuple(ids)
