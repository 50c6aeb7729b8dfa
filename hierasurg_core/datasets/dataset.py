"""The data set that training reads: a sequence of clips, from latents on disk or encoded on the fly.

Both kinds return the same `ClipSample`, so training does not know which it has. Reading latents is a memory
map, decompressing sixteen maps, and nothing else; threads may share a data set.

Legend: S seconds (labels, maps) of a clip, T latent frames, K first frames, C channels, h w latent sides at
the video's size, i j at S2M's, H W pixels.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.datasets.build import encode_clips
from hierasurg_core.datasets.clips import ClipReader
from hierasurg_core.datasets.encoder import LatentEncoder
from hierasurg_core.datasets.fingerprint import expect_same
from hierasurg_core.datasets.frames import read_manifest
from hierasurg_core.datasets.manifest import Manifest, ShardEntry, read_dataset_manifest
from hierasurg_core.datasets.mapfiles import VideoMaps
from hierasurg_core.datasets.operations import MASKS, find_videos
from hierasurg_core.datasets.packing import unpack_map
from hierasurg_core.datasets.plan import INDEX, LATENTS
from hierasurg_core.datasets.shards import Shard
from hierasurg_core.datasets.splits import TRAIN
from hierasurg_core.errors import DataError

_AGAIN = "run 'hierasurg build-dataset' again"


@dataclass(frozen=True, eq=False)
class ClipSample:
    """One clip as training takes it; latents are float16 and scaled.

    Attributes:
        id: "video01/000480", video and first frame.
        second: Where it starts in its video.
        video_mean_TChw: Of the posterior of the video's latents.
        video_logvar_TChw: Its log-variance.
        first_frame_KChw: The first frame at the video's size, clean and then with noise.
        photo_Cij: The first frame at S2M's size.
        coloured_SCij: Latents of S2M's coloured maps, each encoded alone; None where the clip has more ids
            than colours exist.
        map_SHW: uint8 ids; None if they were not asked for.
        max_id: Highest id, the black border.
        phase_S: Phase ids, -1 unknown.
        triplet_S: Triplet ids of each second's first instance, -1 none.
        triplets_S: All triplet ids of each second.
    """

    id: str
    second: int
    video_mean_TChw: NDArray[np.float16]
    video_logvar_TChw: NDArray[np.float16]
    first_frame_KChw: NDArray[np.float16]
    photo_Cij: NDArray[np.float16]
    coloured_SCij: NDArray[np.float16] | None
    map_SHW: NDArray[np.uint8] | None
    max_id: int
    phase_S: NDArray[np.int16]
    triplet_S: NDArray[np.int16]
    triplets_S: tuple[tuple[int, ...], ...]


class ClipDataset(Protocol):
    """A map-style data set of clips."""

    @property
    def manifest(self) -> Manifest:
        """Returns what the data set says of itself."""
        ...

    def __len__(self) -> int:
        """Returns how many clips there are."""
        ...

    def get(self, index: int, epoch: int = 0, *, with_maps: bool = True) -> ClipSample:
        """Returns a clip; of a data set that is encoded on the fly, as it is drawn in this epoch."""
        ...

    def paintable(self) -> list[int]:
        """Returns the clips that have coloured maps, which S2M needs."""
        ...


def open_dataset(folder: Path, split: str = TRAIN, encoder: LatentEncoder | None = None) -> ClipDataset:
    """Opens one split of a data set.

    Args:
        folder: What `build-dataset` made.
        split: "train" or "val".
        encoder: The VAE for an index (`--on-the-fly`); latents on disk need none.

    Raises:
        DataError: It is no finished data set, a shard is missing, damaged, stale or foreign, the split is
            empty, or the encoder is another one than the data set was made for.

    Example:
        >>> clips = open_dataset(Path("dataset"))
        >>> clips.get(0).video_mean_TChw.shape
        (5, 16, 60, 90)
    """
    manifest = read_dataset_manifest(folder)
    if encoder is not None and encoder.identity.sha256 != manifest.vae.sha256:
        raise DataError(
            f"{folder} was made for the VAE of {manifest.vae.name} ({manifest.vae.sha256[:8]}), not that of "
            f"{encoder.identity.name} ({encoder.identity.sha256[:8]}): give the same base, or build it again"
        )
    entries = [entry for entry in manifest.shards if entry.split == split]
    if not sum(entry.clips for entry in entries):
        raise DataError(f"{folder} has no clip in its split '{split}': build it again with other lists")
    if manifest.contents == LATENTS:
        return LatentDataset(manifest, entries)
    if encoder is None:
        raise DataError(
            f"{folder} is an index without latents: it needs a VAE to encode clips while training"
        )
    return PixelDataset(manifest, entries, encoder)


_LABELS = ("start", "phase", "triplet", "instance_count")
_LATENTS = ("video_mean", "video_logvar", "first_frame", "photo", "max_id", "map_index", "picture_index")
_OF_A_CLIP = {INDEX: _LABELS, LATENTS: (*_LABELS, *_LATENTS)}  # tensors with a row for each clip


class _Shards:
    """The open shards of a split, and which clip lies where."""

    def __init__(self, manifest: Manifest, entries: Sequence[ShardEntry]) -> None:
        self.manifest = manifest
        self._shards: list[tuple[ShardEntry, Shard]] = []
        for entry in entries:
            if not entry.path.exists():
                raise DataError(f"{entry.path} is missing, which {manifest.folder} names: {_AGAIN}")
            shard = Shard(entry.path)
            expect_same(entry.path, shard.fingerprint, entry.fingerprint, _AGAIN)
            for name in _OF_A_CLIP[manifest.contents]:
                if len(shard.tensors.get(name, ())) != entry.clips:
                    raise DataError(
                        f"{entry.path} does not hold the {entry.clips} clips it should ({name}): {_AGAIN}"
                    )
            self._shards.append((entry, shard))
        self._ends = list(itertools.accumulate(entry.clips for entry in entries))

    def __len__(self) -> int:
        """Returns how many clips there are."""
        return self._ends[-1]

    def locate(self, index: int) -> tuple[ShardEntry, Shard, int]:
        """Returns the shard of a clip and the row in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        entry, shard = self._shards[number]
        return entry, shard, index - (self._ends[number] - entry.clips)

    def labels(self, shard: Shard, row: int) -> dict[str, Any]:
        """Returns what a `ClipSample` says of labels."""
        count_NS, instance_I = shard.tensors["instance_count"], shard.tensors["instance"]
        end = int(count_NS[:row].sum())
        triplets: list[tuple[int, ...]] = []
        for count in count_NS[row].tolist():
            triplets.append(tuple(instance_I[end : end + count].tolist()))
            end += count
        return {
            "phase_S": shard.tensors["phase"][row],
            "triplet_S": shard.tensors["triplet"][row],
            "triplets_S": tuple(triplets),
        }


class LatentDataset(_Shards):
    """Clips whose latents are on disk."""

    def get(self, index: int, epoch: int = 0, *, with_maps: bool = True) -> ClipSample:
        """Returns a clip; its latents are read-only views of the file. Every epoch is the same."""
        entry, shard, row = self.locate(index)
        try:
            return self._sample(entry, shard, row, with_maps)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"the shard {shard.path} is damaged ({error!r}): delete it, then {_AGAIN}"
            ) from error

    def _sample(self, entry: ShardEntry, shard: Shard, row: int, with_maps: bool) -> ClipSample:
        tensors = shard.tensors
        pictures = tensors["picture_index"][row]
        start = int(tensors["start"][row])
        return ClipSample(
            id=f"{entry.video}/{start:06d}",
            second=start // self.manifest.form.fps,
            video_mean_TChw=tensors["video_mean"][row],
            video_logvar_TChw=tensors["video_logvar"][row],
            first_frame_KChw=tensors["first_frame"][row],
            photo_Cij=tensors["photo"][row],
            coloured_SCij=tensors["picture"][pictures] if pictures[0] >= 0 else None,
            map_SHW=self._maps(shard, row) if with_maps else None,
            max_id=int(tensors["max_id"][row]),
            **self.labels(shard, row),
        )

    def paintable(self) -> list[int]:
        """Returns the clips that have coloured maps."""
        found_N = np.concatenate([shard.tensors["picture_index"][:, 0] >= 0 for _, shard in self._shards])
        return np.flatnonzero(found_N).tolist()

    def _maps(self, shard: Shard, row: int) -> NDArray[np.uint8]:
        end_M, packed = shard.tensors["map_end"], shard.tensors["map_bytes"]
        height, width = self.manifest.form.size_hw
        index_S = shard.tensors["map_index"][row].tolist()
        map_SHW = np.empty((len(index_S), height, width), np.uint8)
        unpacked: dict[int, int] = {}
        for second, index in enumerate(index_S):
            if index in unpacked:
                map_SHW[second] = map_SHW[unpacked[index]]
                continue
            begin = int(end_M[index - 1]) if index else 0
            try:
                unpack_map(packed[begin : int(end_M[index])].data, map_SHW[second])
            except ValueError as error:
                raise DataError(
                    f"the shard {shard.path} is damaged ({error}): delete it, then {_AGAIN}"
                ) from error
            unpacked[index] = second
        return map_SHW


class PixelDataset(_Shards):
    """Clips that are decoded, changed and encoded when they are asked for, anew in every epoch."""

    def __init__(self, manifest: Manifest, entries: Sequence[ShardEntry], encoder: LatentEncoder) -> None:
        """Finds the videos that the index was made of.

        Raises:
            DataError: A video or its maps are gone, or are others now.
        """
        super().__init__(manifest, entries)
        self._encoder = encoder
        self._readers: dict[str, ClipReader] = {}
        videos, maps = manifest.folder_of("videos"), manifest.folder_of("maps")
        found = find_videos(videos)
        for entry in entries:
            if entry.video in self._readers:
                continue
            path = found.require(
                entry.video, f"{videos} has no {entry.video} any more, which {manifest.folder} indexes"
            )
            folder = dataclasses.replace(read_manifest(path), name=entry.video)
            map_files = VideoMaps(maps / f"{path.name}{MASKS}")
            now = {**entry.fingerprint, "frames": folder.digest, "maps": map_files.digest()}
            expect_same(entry.path, entry.fingerprint, now, _AGAIN)
            trains = entry.split == TRAIN
            self._readers[entry.video] = ClipReader(
                folder,
                map_files,
                None,
                manifest.form,
                flip=manifest.flip if trains else 0.0,
                dropout=manifest.object_dropout if trains else 0.0,
            )

    def get(self, index: int, epoch: int = 0, *, with_maps: bool = True) -> ClipSample:
        """Returns a clip as flips, dropout and noise are drawn for it in this epoch."""
        entry, shard, row = self.locate(index)
        start = int(shard.tensors["start"][row])
        clip = self._readers[entry.video].read(start, epoch)
        latents = encode_clips(self._encoder, [clip])
        coloured = None
        if clip.coloured_SHWC is not None:
            coloured = self._encoder.encode_frames(torch.from_numpy(clip.coloured_SHWC))
        return ClipSample(
            id=clip.id,
            second=start // self.manifest.form.fps,
            video_mean_TChw=latents.mean_BTChw[0],
            video_logvar_TChw=latents.logvar_BTChw[0],
            first_frame_KChw=latents.first_BKChw[0],
            photo_Cij=latents.photo_BCij[0],
            coloured_SCij=coloured,
            map_SHW=clip.map_SHW if with_maps else None,
            max_id=clip.max_id,
            **self.labels(shard, row),
        )

    def paintable(self) -> list[int]:
        """Returns the clips whose ids S2M's colours can tell apart.

        Raises:
            DataError: The index is of a version that did not ask.
        """
        for entry, shard in self._shards:
            if "paintable" not in shard.tensors:
                raise DataError(f"{entry.path} does not say which clips S2M can learn from: {_AGAIN}")
        return np.flatnonzero(
            np.concatenate([shard.tensors["paintable"] for _, shard in self._shards])
        ).tolist()
