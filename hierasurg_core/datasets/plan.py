"""What a data set will be, decided and checked before any weight is loaded: videos, splits, clips, shards.

Owns which clips go into which shard, and the fingerprint of each. A shard holds clips of one video, in their
order, and does not depend on any other, so shards can be made in any order, by any process, and again.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierasurg_core.artifacts import check_free_space, ensure_writable_folder
from hierasurg_core.config import BuildDatasetConfig
from hierasurg_core.datasets.annotations import OperationLabels, find_labels, rate_in_words, with_rate_of
from hierasurg_core.datasets.clips import ClipForm, ClipReader, ClipStarts, list_clips, require_maps
from hierasurg_core.datasets.encoder import VaeIdentity
from hierasurg_core.datasets.fingerprint import SCHEMA, Fingerprint, digest_of, digest_of_labels, expect_same
from hierasurg_core.datasets.frames import read_manifest
from hierasurg_core.datasets.mapfiles import VideoMaps
from hierasurg_core.datasets.numbering import Skipped
from hierasurg_core.datasets.operations import MASKS, find_videos, skipped_in_words
from hierasurg_core.datasets.shards import read_fingerprint
from hierasurg_core.datasets.splits import TRAIN, Splits, choose_splits
from hierasurg_core.errors import DataError
from hierasurg_core.progress import Progress

LATENTS, INDEX = "latents", "index"
_S2M_SIZE_HW = (256, 384)  # what the public S2M is trained at
_BYTES_OF_MAPS = 40_000  # a clip's compressed maps, a guess for the free space


@dataclass(frozen=True)
class ShardPlan:
    """One shard.

    Attributes:
        path: Its file.
        starts: First frames of its clips.
        fingerprint: What it is made from.
        done: It is on disk, whole, and of this fingerprint.
    """

    path: Path
    starts: tuple[int, ...]
    fingerprint: Fingerprint
    done: bool


@dataclass(frozen=True)
class VideoPlan:
    """One video.

    Attributes:
        name: "video01".
        split: "train" or "val".
        reader: Of its clips.
        clips: Which, and how many were dropped.
        shards: In order.
        labels: Phases and triplets; None without any.
    """

    name: str
    split: str
    reader: ClipReader
    clips: ClipStarts
    shards: tuple[ShardPlan, ...]
    labels: OperationLabels | None = None


@dataclass(frozen=True)
class DatasetPlan:
    """The whole data set.

    Attributes:
        config: As given.
        form: What clips look like.
        vae: Whose latents they become.
        splits: Which videos are in which split.
        videos: In order of their names.
        skipped: What lies beside the frame folders and labels and is neither.
        passed_over: How many hidden files and outputs of ours lie there.
    """

    config: BuildDatasetConfig
    form: ClipForm
    vae: VaeIdentity
    splits: Splits
    videos: tuple[VideoPlan, ...]
    skipped: tuple[Skipped, ...] = ()
    passed_over: int = 0

    @property
    def contents(self) -> str:
        """Returns "latents", or "index" for a data set that is encoded while training."""
        return INDEX if self.config.on_the_fly else LATENTS


def plan_dataset(
    config: BuildDatasetConfig, vae: VaeIdentity, precision: str, progress: Progress
) -> DatasetPlan:
    """Looks at everything that is on disk and says what has to be made.

    Args:
        config: What was asked for.
        vae: Whose latents.
        precision: The number type that it computes in.
        progress: Told of each video, and of what was chosen for the user.

    Raises:
        DataError: Videos, frames, maps or labels are missing or do not belong together, or a shard on disk
            was made from something else.
        ResourceError: The folder cannot be written, or the disk is too small.
    """
    form = clip_form(config, vae)
    found = find_videos(config.videos)
    for line in skipped_in_words(found.skipped):
        progress.note(line)
    there = sorted([*found.sources, *(fault.name for fault in found.faults)])
    splits = choose_splits(
        there, train=config.train, val=config.val, val_fraction=config.val_fraction, seed=config.seed
    )
    progress.note(splits.note)
    names = [name for name in there if splits.of(name) is not None]
    folders = {name: found.require(name, f"{config.videos} has no {name}") for name in names}
    labels, no_labels = _labels(config, names)
    for line in skipped_in_words(no_labels):
        progress.note(line)
    ensure_writable_folder(config.out)
    progress.start("look at videos", len(names), "videos")
    videos: list[VideoPlan] = []
    for name in names:
        split = splits.of(name)
        assert split is not None
        videos.append(_plan_video(name, folders[name], split, labels[name], config, form, vae, precision))
        progress.advance()
    for line in _about_labels([video.labels for video in videos if video.labels is not None]):
        progress.note(line)
    if not config.drop_unlabelled:
        require_maps((video.reader.maps, video.clips) for video in videos)
    if not any(video.clips.starts for video in videos):
        raise DataError(
            f"no clip of {form.num_frames} frames without black frames was found in {len(videos)} videos of "
            f"{config.videos}"
        )
    left = sum(len(shard.starts) for video in videos for shard in video.shards if not shard.done)
    check_free_space(config.out, left * (bytes_a_clip(form, vae, config) + _BYTES_OF_MAPS), f"{left} clips")
    skipped = (*found.skipped, *no_labels)
    return DatasetPlan(config, form, vae, splits, tuple(videos), skipped, found.passed_over)


def clip_form(config: BuildDatasetConfig, vae: VaeIdentity) -> ClipForm:
    """Returns what clips look like; sizes not asked for are those of the VAE and of the public S2M."""
    size_hw = vae.size_hw if config.size is None else _as_size(config.size)
    if config.map_size is not None:
        map_size_hw = _as_size(config.map_size)
    else:
        map_size_hw = min(size_hw, _S2M_SIZE_HW, key=math.prod)
    step = config.fps if config.step is None else config.step
    return ClipForm(config.fps, step, size_hw, map_size_hw, config.first_frames, config.seed)


def bytes_a_clip(form: ClipForm, vae: VaeIdentity, config: BuildDatasetConfig) -> int:
    """Returns the bytes of a clip's own latents in a shard; maps and shared pictures come on top."""
    if config.on_the_fly:
        return 1000
    plane = vae.channels * form.size_hw[0] * form.size_hw[1] // 64
    small = vae.channels * form.map_size_hw[0] * form.map_size_hw[1] // 64
    latent_frames = form.num_frames // 4 + 1
    return 2 * ((2 * latent_frames + form.first_frames) * plane + 2 * small)


def _as_size(text: str) -> tuple[int, int]:
    rows, columns = map(int, text.split("x"))
    return rows, columns


def _labels(
    config: BuildDatasetConfig, names: list[str]
) -> tuple[dict[str, OperationLabels | None], tuple[Skipped, ...]]:
    """The labels of these operations, and what else lies there."""
    if config.labels is None:
        return dict.fromkeys(names), ()
    found = find_labels(config.labels, names)
    for name in names:
        if name in found.faults:
            raise DataError(found.faults[name])
    missing = [name for name in names if name not in found.labels]
    if missing:
        more = f" (and {len(missing) - 1} more videos)" if len(missing) > 1 else ""
        raise DataError(
            f"{config.labels} has no labels of {missing[0]}{more}: add them, leave the video out with "
            "--train and --val, or build without any (--set labels=null)"
        )
    others = (Skipped(config.labels, fault) for name, fault in found.faults.items() if name not in names)
    return {name: found.labels[name] for name in names}, (*found.skipped, *others)


def _about_labels(labels: Sequence[OperationLabels]) -> list[str]:
    """What was taken for the rate of phase files, and how many labels have no phase."""
    rates = Counter(rate_in_words(of.fps, of.fps_from) for of in labels if of.fps_from != "file")
    lines = [f"{count} phase files: {rate}" for rate, count in sorted(rates.items())]
    none = [of.num_unlabelled for of in labels if of.num_unlabelled]
    if none:
        lines.append(f"{sum(none)} labels of {len(none)} videos have no phase (-1): they count as unlabelled")
    return lines


def _plan_video(
    name: str,
    path: Path,
    split: str,
    labels: OperationLabels | None,
    config: BuildDatasetConfig,
    form: ClipForm,
    vae: VaeIdentity,
    precision: str,
) -> VideoPlan:
    folder = dataclasses.replace(read_manifest(path), name=name)
    kept = 2 * form.num_frames
    maps = VideoMaps((config.maps or config.videos) / f"{path.name}{MASKS}", kept)
    trains = split == TRAIN
    flip, dropout = (config.flip, config.object_dropout) if trains else (0.0, 0.0)
    if labels is not None:
        labels = with_rate_of(labels, folder.start + folder.num_frames / form.fps)
    reader = ClipReader(folder, maps, labels, form, flip=flip, dropout=dropout, kept_frames=kept)
    clips = list_clips(folder, maps, form)
    base: Fingerprint = {
        "schema": SCHEMA,
        "contents": INDEX if config.on_the_fly else LATENTS,
        "vae": vae.sha256,
        "precision": precision,
        "fps": form.fps,
        "step": form.step,
        "size": "{}x{}".format(*form.size_hw),
        "map_size": "{}x{}".format(*form.map_size_hw),
        "first_frames": form.first_frames,
        "seed": form.seed,
        "flip": flip,
        "object_dropout": dropout,
        "frames": folder.digest,
        "maps": maps.digest(),
        "labels": digest_of_labels(labels),
    }
    if config.on_the_fly:
        # What is drawn and encoded while training is training's affair.
        base.update(precision="none", flip=0.0, object_dropout=0.0)
    a_shard = max(1, int(config.shard_mb * 1_000_000) // bytes_a_clip(form, vae, config))
    shards: list[ShardPlan] = []
    for number, first in enumerate(range(0, len(clips.starts), a_shard)):
        starts = clips.starts[first : first + a_shard]
        fingerprint: Fingerprint = {**base, "clips": digest_of(starts)}
        file = config.out / f"{name}-{number:05d}.safetensors"
        shards.append(ShardPlan(file, starts, fingerprint, _is_done(file, fingerprint, config.resume)))
    return VideoPlan(name, split, reader, clips, tuple(shards), labels)


def _is_done(path: Path, fingerprint: Mapping[str, object], resume: bool) -> bool:
    if not resume or not path.exists():
        return False
    advice = "build into another folder, or make everything anew with --no-resume"
    expect_same(path, read_fingerprint(path), fingerprint, advice)
    return True
