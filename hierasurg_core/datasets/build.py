"""`build-dataset`: clips become shards of latents, maps and labels.

One thread after another prepares clips while the encoder works; shards are written row by row. Frames that
several clips of a shard share are encoded once where a frame is encoded alone, that is for S2M's coloured
maps: equal pictures are found by their pixels, so it does not matter whether ids last for a clip or a video.
A video's latents depend on the frame it starts with, so each clip is encoded for itself.

Tensors of a shard (N clips, S seconds, T latent frames, K first frames, P pictures, M maps; h w latent sides
at the video's size, i j at S2M's):

    start N, max_id N, phase N S, triplet N S (first instance; -1: none), map_index N S, picture_index N S
    instance_count N S and instance, all triplet ids one after another
    map_end M, map_bytes: packed ids (see `packing`), each (H, W)
    video_mean, video_logvar N T C h w; first_frame N K C h w; photo N C i j; picture P C i j

All latents are float16 and carry the VAE's scaling factor (the log-variance too). An index has the labels
alone and, for each clip, whether S2M's colours can tell its ids apart: paintable N.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.artifacts import write_json
from hierasurg_core.config import write_config
from hierasurg_core.datasets.clips import UNKNOWN, ClipPixels, ClipReader
from hierasurg_core.datasets.encoder import LatentEncoder
from hierasurg_core.datasets.manifest import MANIFEST, describe_dataset
from hierasurg_core.datasets.numbering import Skipped
from hierasurg_core.datasets.operations import skipped_as_json
from hierasurg_core.datasets.packing import pack_map
from hierasurg_core.datasets.plan import DatasetPlan, ShardPlan, VideoPlan
from hierasurg_core.datasets.shards import ShardWriter
from hierasurg_core.datasets.usable import TOO_MANY_IDS
from hierasurg_core.errors import UsageError
from hierasurg_core.progress import Progress
from hierasurg_core.runtime import claim, rank, wait_for_all

Item = TypeVar("Item")
Made = TypeVar("Made")
_THREADS = 4
_AHEAD = 8  # clips prepared before the encoder asks for them


@dataclass(frozen=True)
class BuildDatasetResult:
    """What was built.

    Attributes:
        out: The folder.
        contents: "latents" or "index".
        videos: How many.
        clips: How many in each split.
        black: Clips dropped for a black frame.
        unlabelled: Clips dropped because they have no maps.
        s2m_unusable: Clips in each split that S2M cannot learn from; they count in `clips`, M2V takes them.
        s2m_reason: Why not.
        no_phase: Labels that name no phase (-1).
        built: Clips made by this call and process; the others were there.
        pictures: Coloured maps encoded for them.
        bytes: Of all shards.
        seconds: Time of this call.
        clips_per_second: `built` over the time spent on them.
        encoder_busy: Share of that time in which the encoder worked.
        skipped: What lay beside frame folders and labels and was neither.
        passed_over: How many hidden files and outputs of ours lay there.
    """

    out: Path
    contents: str
    videos: int
    clips: dict[str, int]
    black: int
    unlabelled: int
    s2m_unusable: dict[str, int]
    s2m_reason: str
    no_phase: int
    built: int
    pictures: int
    bytes: int
    seconds: float
    clips_per_second: float
    encoder_busy: float
    skipped: tuple[Skipped, ...] = ()
    passed_over: int = 0

    @property
    def bytes_a_clip(self) -> float:
        """Returns the bytes a clip takes on disk."""
        return self.bytes / max(1, sum(self.clips.values()))

    def to_dict(self) -> dict[str, Any]:
        """Returns the result for JSON."""
        return {
            **asdict(self),
            "out": str(self.out),
            "bytes_a_clip": self.bytes_a_clip,
            "skipped": skipped_as_json(self.skipped),
        }


@dataclass
class _Tally:
    clips: int = 0
    pictures: int = 0
    encoding: float = 0.0


def build_dataset(plan: DatasetPlan, encoder: LatentEncoder | None, progress: Progress) -> BuildDatasetResult:
    """Makes all shards that are not there yet, then the manifest, without which a data set does not exist.

    Interrupted or killed at any moment and called again, it goes on after the last whole shard and ends in
    the same bytes. Processes of one group share the work: each shard goes to the first that claims it.

    Args:
        plan: From `plan_dataset`.
        encoder: The VAE that was planned for; None only for an index.
        progress: Told of each clip.

    Raises:
        UsageError: There is no encoder, and latents were asked for.
        DataError: A frame or map turned out to be missing or damaged.
        ResourceError: The disk is full.
    """
    if encoder is None and not plan.config.on_the_fly:
        raise UsageError("latents need an encoder: give one, or build an index with on_the_fly")
    began = time.monotonic()
    out = plan.config.out
    shards = [(video, shard) for video in plan.videos for shard in video.shards]
    if rank() == 0:
        if not all(shard.done for _, shard in shards):
            (out / MANIFEST).unlink(missing_ok=True)
        for leftover in out.glob(".*.partial*"):  # of a build that was killed
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()
        if not plan.config.resume:
            for file in out.glob("*-[0-9][0-9][0-9][0-9][0-9].safetensors"):
                file.unlink()
    wait_for_all()
    progress.start("build clips", sum(len(shard.starts) for _, shard in shards), "clips")
    tally = _Tally()
    with ThreadPoolExecutor(_THREADS) as pool:
        for video, shard in shards:
            if shard.done:
                progress.advance(len(shard.starts))
            elif claim(f"{out}/{shard.path.name}"):
                _build_shard(video, shard, plan, encoder, pool, tally, progress)
                video.reader.forget()
    spent = time.monotonic() - began
    wait_for_all()
    manifest = describe_dataset(plan)
    if rank() == 0:
        write_config(out / "build-dataset.yaml", "build-dataset", plan.config)
        write_json(out / MANIFEST, manifest)
    return BuildDatasetResult(
        out=out,
        contents=plan.contents,
        videos=len(plan.videos),
        clips=manifest["clips"],
        black=sum(video.clips.black for video in plan.videos),
        unlabelled=sum(len(video.clips.unlabelled) for video in plan.videos),
        s2m_unusable=manifest["s2m_unusable"],
        s2m_reason=TOO_MANY_IDS,
        no_phase=sum(video.labels.num_unlabelled for video in plan.videos if video.labels is not None),
        built=tally.clips,
        pictures=tally.pictures,
        bytes=sum(shard.path.stat().st_size for _, shard in shards),
        seconds=time.monotonic() - began,
        clips_per_second=tally.clips / spent if spent else 0.0,
        encoder_busy=tally.encoding / spent if spent else 0.0,
        skipped=plan.skipped,
        passed_over=plan.passed_over,
    )


@dataclass(frozen=True, eq=False)
class EncodedClips:
    """Latents of B clips, as `build` stores them; see the module's docstring for shapes."""

    mean_BTChw: NDArray[np.float16]
    logvar_BTChw: NDArray[np.float16]
    first_BKChw: NDArray[np.float16]
    photo_BCij: NDArray[np.float16]


def encode_clips(encoder: LatentEncoder, clips: Sequence[ClipPixels]) -> EncodedClips:
    """Encodes videos, first frames and photos; coloured maps are the caller's, who may share them."""
    videos = torch.from_numpy(np.stack([clip.frames_FHWC for clip in clips]))
    mean, logvar = encoder.encode_video(videos)
    first = np.stack([clip.first_KHWC for clip in clips])
    flat = encoder.encode_frames(torch.from_numpy(first.reshape(-1, *first.shape[2:])))
    photo = encoder.encode_frames(torch.from_numpy(np.stack([clip.photo_HWC for clip in clips])))
    return EncodedClips(mean, logvar, flat.reshape(*first.shape[:2], *flat.shape[1:]), photo)


@dataclass(frozen=True, eq=False)
class _Prepared:
    clip: ClipPixels
    map_keys: tuple[bytes, ...]
    picture_keys: tuple[bytes, ...]


@dataclass
class _Shared:
    """Which maps and pictures a shard holds already."""

    maps: dict[bytes, int] = field(default_factory=dict)
    map_end: int = 0
    pictures: dict[bytes, int] = field(default_factory=dict)


def _build_shard(
    video: VideoPlan,
    shard: ShardPlan,
    plan: DatasetPlan,
    encoder: LatentEncoder | None,
    pool: ThreadPoolExecutor,
    tally: _Tally,
    progress: Progress,
) -> None:
    shared = _Shared()
    with ShardWriter(shard.path, shard.fingerprint) as writer:
        if encoder is None:
            paintable = _ahead(pool, video.reader.paintable, shard.starts, _AHEAD)
            for start, found in zip(shard.starts, paintable, strict=True):
                _append_labels(writer, video.reader, start)
                writer.append("paintable", np.array([found], np.uint8))
                tally.clips += 1
                progress.advance()
            return
        prepared = _ahead(pool, lambda start: _prepare(video.reader, start), shard.starts, _AHEAD)
        while clips := list(itertools.islice(prepared, plan.config.batch)):
            began = time.monotonic()
            latents = encode_clips(encoder, [item.clip for item in clips])
            new = _new_pictures(clips, shared)
            pictures = encoder.encode_frames(torch.from_numpy(np.stack(new))) if new else None
            tally.encoding += time.monotonic() - began
            for name, rows in (
                ("video_mean", latents.mean_BTChw),
                ("video_logvar", latents.logvar_BTChw),
                ("first_frame", latents.first_BKChw),
                ("photo", latents.photo_BCij),
                ("picture", pictures),
            ):
                if rows is not None:
                    writer.append(name, rows)
            for item in clips:
                _append_labels(writer, video.reader, item.clip.start)
                _append_maps(writer, item, shared)
            tally.clips += len(clips)
            tally.pictures += len(new)
            progress.advance(len(clips))


def _prepare(reader: ClipReader, start: int) -> _Prepared:
    clip = reader.read(start)
    coloured = () if clip.coloured_SHWC is None else clip.coloured_SHWC
    return _Prepared(clip, tuple(map(_key, clip.map_SHW)), tuple(map(_key, coloured)))


def _key(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def _new_pictures(clips: Sequence[_Prepared], shared: _Shared) -> list[NDArray[np.uint8]]:
    """Gives numbers to the coloured maps that the shard has not yet, and returns them in that order."""
    new: list[NDArray[np.uint8]] = []
    for item in clips:
        for second, key in enumerate(item.picture_keys):
            if key not in shared.pictures:
                assert item.clip.coloured_SHWC is not None
                shared.pictures[key] = len(shared.pictures)
                new.append(item.clip.coloured_SHWC[second])
    return new


def _append_labels(writer: ShardWriter, reader: ClipReader, start: int) -> None:
    phase_S, triplets_S = reader.labels(start)
    triplet_S = np.array([ids[0] if ids else UNKNOWN for ids in triplets_S], np.int16)
    writer.append("start", np.array([start], np.int32))
    writer.append("phase", phase_S[None])
    writer.append("triplet", triplet_S[None])
    writer.append("instance_count", np.array([[len(ids) for ids in triplets_S]], np.int16))
    writer.append("instance", np.array([id_ for ids in triplets_S for id_ in ids], np.int16))


def _append_maps(writer: ShardWriter, item: _Prepared, shared: _Shared) -> None:
    clip = item.clip
    for map_HW, key in zip(clip.map_SHW, item.map_keys, strict=True):
        if key in shared.maps:
            continue
        packed = np.frombuffer(pack_map(map_HW), np.uint8)
        shared.maps[key] = len(shared.maps)
        shared.map_end += len(packed)
        writer.append("map_bytes", packed)
        writer.append("map_end", np.array([shared.map_end], np.int64))
    numbers = [shared.pictures[key] for key in item.picture_keys] or [-1] * len(item.map_keys)
    writer.append("max_id", np.array([clip.max_id], np.int16))
    writer.append("map_index", np.array([[shared.maps[key] for key in item.map_keys]], np.int32))
    writer.append("picture_index", np.array([numbers], np.int32))


def _ahead(
    pool: ThreadPoolExecutor, make: Callable[[Item], Made], items: Iterable[Item], depth: int
) -> Iterator[Made]:
    """Yields what `make` returns for each item, in order, with up to `depth` in the making."""
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
