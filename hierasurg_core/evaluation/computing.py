"""From measured numbers to metrics: which network's features become which metric, and with what title.

Owns the list of metrics. Each function adds what it can to the table and says what it leaves out and why.

Legend: N clips, F frames, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.cache import Store
from hierasurg_core.evaluation.collect import Work
from hierasurg_core.evaluation.detecting import COUNTS
from hierasurg_core.evaluation.distances import (
    MODEL,
    REAL,
    VAE,
    FeatureSet,
    RoleValue,
    by_second,
    frechet_of_roles,
    inception_score,
    kernel_of_roles,
)
from hierasurg_core.evaluation.gathering import Gathered, gather, unreadable
from hierasurg_core.evaluation.intervals import ratio_interval
from hierasurg_core.evaluation.measuring import Measurer
from hierasurg_core.evaluation.protocol import Protocol
from hierasurg_core.evaluation.recordings import Labels
from hierasurg_core.evaluation.scalars import (
    ClipValues,
    phase_hits,
    places_of,
    share_of_counts,
    triplet_hits,
)
from hierasurg_core.evaluation.scalars import by_second as mean_by_second
from hierasurg_core.evaluation.table import Table
from hierasurg_core.evaluation.taking import Taken

KERNELS = ("cubic", "gaussian")
DISTRIBUTIONS = {
    "mini": ("fvd-mini", "kvd-mini", "fid-mini"),
    "i3d": ("fvd", "kvd", "kvd-gaussian"),
    "videomae": ("fvd-videomae",),
    "inception": ("fid", "kid", "is"),
}
"""Metrics that need a network, by its role."""
CONDITIONS = {
    "classifier": ("phase-agreement", "triplet-agreement"),
    "maps": ("map-iou", "map-boundary-f"),
    "detector": ("box-iou", "box-real-hit", "box-generated-hit"),
    "lpips": ("first-frame-lpips",),
}
_MAX_CURVE_DIMENSIONS = 512  # above which a distance for every second would take minutes
_SECOND_CLIPS = 8  # clips below which a distance of one moment says nothing


@dataclass(frozen=True, eq=False)
class Numbers:
    """All that was measured, as arrays.

    Attributes:
        works: The clips and their roles: "real" and "frozen", perhaps "vae", and "model".
        store: Where numbers are.
        failed: Measurers that gave up, and why.
    """

    works: tuple[Work, ...]
    store: Store
    failed: Mapping[str, str]

    def of(self, measurer: Measurer, names: Sequence[str]) -> dict[str, Gathered]:
        """Returns what a measurer found, by role; without the roles of which it found nothing."""
        pairs = [(work, role) for work in self.works for role in work.roles]
        found = {role.name: gather(work, role, measurer, self.store, names) for work, role in pairs}
        return {role: gathered for role, gathered in found.items() if gathered is not None}

    def unreadable(self, measurer: Measurer, role_name: str) -> dict[str, str]:
        """Returns the clips of a role of which a measurer has no numbers, and why."""
        return {
            name: why
            for work in self.works
            for role in work.roles
            if role.name == role_name
            for name, why in unreadable(work, role, measurer, self.store).items()
        }


def distributions(
    numbers: Numbers, measurer: Measurer, protocol: Protocol, table: Table, *, replicates: int, fps: float
) -> None:
    """Adds Frechet and kernel distances of a network's features, and the Inception score.

    Args:
        numbers: What was measured.
        measurer: The network.
        protocol: Of divisor, kernel and seed.
        table: Is added to.
        replicates: Of the bootstrap.
        fps: Frames a second of a clip.
    """
    mine = DISTRIBUTIONS[measurer.role]
    per_frame = measurer.role == "inception"
    found = numbers.of(measurer, ("clip", "frame", "logits"))
    if REAL not in found or MODEL not in found:
        why = numbers.failed.get(measurer.role, "no clip of a side could be measured")
        table.leave_out(mine, why)
        return
    counts = {role: len(found[role].tasks) for role in (REAL, MODEL)}
    if min(counts.values()) < 2:
        side = "generated" if counts[MODEL] < 2 else "real"
        table.leave_out(mine, f"a distribution needs two clips a side, and one {side} clip is all there is")
        return
    mini = measurer.role == "mini"
    ddof, seed = protocol.ddof or 0, protocol.seed or 0
    subsets, size = protocol.kernel_subsets or 100, protocol.kernel_subset_size or 1000

    def kernels(name: str, title: str, sets: Mapping[str, FeatureSet], *, always: bool = False) -> None:
        """Adds a distance with the protocol's kernel, or with the gaussian one that its name says."""
        if protocol.kernel == "none":
            table.leave_out(name, f"the protocol '{protocol.name}' has no kernel distance (kernel none)")
            return
        if always and protocol.kernel == "gaussian":
            table.leave_out(name, f"the protocol '{protocol.name}' has this kernel for all kernel distances")
            return
        kernel = "gaussian" if always else protocol.kernel or "cubic"
        distances = kernel_of_roles(
            sets, kernel=kernel, subsets=subsets, subset_size=size, seed=seed, replicates=replicates
        )
        said = f"{title} (gaussian kernel)" if kernel == "gaussian" else title
        table.add_distances(name, said, distances, mini=mini, extractor=measurer.name)

    try:
        if not per_frame:
            clip_sets = {role: _features(gathered, "clip") for role, gathered in found.items()}
            distances = frechet_of_roles(clip_sets, ddof=ddof, replicates=replicates, seed=seed)
            title = {"mini": "FVD (mini)", "i3d": "FVD", "videomae": "FVD (VideoMAE)"}[measurer.role]
            table.add_distances(mine[0], title, distances, mini=mini, extractor=measurer.name)
            if measurer.role != "videomae":
                kernels(mine[1], "KVD (mini)" if mini else "KVD", clip_sets)
            if measurer.role == "i3d":
                kernels(mine[2], "KVD", clip_sets, always=True)
        if all("frame" in gathered.arrays for gathered in found.values()):
            frame_sets = {role: _features(gathered, "frame") for role, gathered in found.items()}
            name = "fid" if per_frame else mine[2]
            distances = frechet_of_roles(frame_sets, ddof=ddof, replicates=replicates, seed=seed)
            table.add_distances(
                name, "FID" if per_frame else "FID (mini)", distances, mini=mini, extractor=measurer.name
            )
            narrow = frame_sets[REAL].features_ND.shape[1] <= _MAX_CURVE_DIMENSIONS
            if narrow and min(counts.values()) >= _SECOND_CLIPS:
                table.add_seconds(name, by_second(frame_sets, ddof=ddof, fps=fps))
            if per_frame:
                kernels("kid", "KID", frame_sets)
                _inception(found, measurer, table, replicates, seed)
    except DataError as error:
        table.leave_out(
            tuple(name for name in mine if name not in table.metrics), " ".join(str(error).split())
        )


def _features(gathered: Gathered, name: str) -> FeatureSet:
    array = gathered.arrays[name]
    operations = [task.clip.recording.operation for task in gathered.tasks]
    if array.ndim == 2:
        return FeatureSet(array, operations)
    return FeatureSet(array.reshape(-1, array.shape[-1]), operations, per_clip=array.shape[1])


def _inception(
    found: Mapping[str, Gathered], measurer: Measurer, table: Table, replicates: int, seed: int
) -> None:
    values = {
        role: inception_score(_features(gathered, "logits"), replicates=replicates, seed=seed)
        for role, gathered in found.items()
    }
    note = "all frames count as one split; it never looks at the real clips"
    table.add(
        "is",
        "Inception score",
        values,
        better="higher",
        extractor=measurer.name,
        places=places_of(values, better="higher"),
        note=note,
    )


def agreements(numbers: Numbers, measurer: Measurer, table: Table, *, fps: float) -> None:
    """Adds phase and triplet agreement by a classifier's logits."""
    mini = measurer.role == "mini"
    suffix, after = ("-mini", " (mini)") if mini else ("", "")
    found = numbers.of(measurer, ("phase", "triplet", "frame_phase"))
    for kind, hits in (("phase", phase_hits), ("triplet", triplet_hits)):
        name = f"{kind}-agreement{suffix}"
        mine = {role: gathered for role, gathered in found.items() if kind in gathered.arrays}
        if MODEL not in mine:
            why = numbers.failed.get(measurer.role, f"the classifier {measurer.name} does not tell a {kind}")
            table.leave_out(name, why)
            continue
        values = {
            role: _clip_values(gathered, hits(gathered.arrays[kind], _labels(gathered)))
            for role, gathered in mine.items()
        }
        if not np.isfinite(values[MODEL].value_N).any():
            table.leave_out(name, f"the generated clips do not say which {kind} they were asked for")
            continue
        table.add_means(
            name,
            f"{kind.capitalize()} agreement{after}",
            values,
            better="higher",
            mini=mini,
            extractor=measurer.name,
            note=f"share of the clips whose likeliest {kind} is the asked one",
        )
        model = mine[MODEL]
        if kind == "phase" and "frame_phase" in model.arrays:
            frames_NFP = model.arrays["frame_phase"]
            hits_NF = np.stack(
                [phase_hits(frames_NFP[:, frame], _labels(model)) for frame in range(frames_NFP.shape[1])],
                axis=1,
            )
            table.add_seconds(name, mean_by_second(hits_NF, fps))


def comparisons(numbers: Numbers, measurer: Measurer, taken: Taken, table: Table, *, fps: float) -> list[str]:
    """Adds first-frame fidelity, likeness to the real clip, and warp error.

    Returns:
        What a reader has to know besides: clips of one colour.
    """
    found = numbers.of(measurer, ("psnr", "ssim", "first_psnr", "first_ssim", "warp", "motion_px", "spread"))
    if MODEL not in found:
        names = ("psnr", "ssim", "first-frame-psnr", "first-frame-ssim", "warp-error")
        table.leave_out(names, numbers.failed.get(measurer.role, "no generated clip could be read"))
        return []
    for key, title, unit in (("psnr", "PSNR", "dB"), ("ssim", "SSIM", "")):
        rows = {
            role: _clip_values(gathered, _mean_after_first(gathered.arrays[key]))
            for role, gathered in found.items()
            if role != REAL
        }
        if np.isfinite(rows[MODEL].value_N).any():
            note = "of all frames but the first, against the clip that each was started from"
            table.add_means(key, title, rows, better="higher", unit=unit, note=note)
            table.add_seconds(key, mean_by_second(found[MODEL].arrays[key], fps))
        else:
            table.leave_out(key, taken.no_real)
    for key, title, unit in (
        ("first_psnr", "First frame PSNR", "dB"),
        ("first_ssim", "First frame SSIM", ""),
    ):
        name = f"first-frame-{key.removeprefix('first_')}"
        rows = {
            role: _clip_values(gathered, gathered.arrays[key])
            for role, gathered in found.items()
            if role in (VAE, MODEL)
        }
        if np.isfinite(rows[MODEL].value_N).any():
            table.add_means(
                name, title, rows, better="higher", unit=unit, note="against the frame that was given"
            )
        else:
            table.leave_out(name, taken.no_given)
    motion = {role: float(np.nanmean(gathered.arrays["motion_px"])) for role, gathered in found.items()}
    said = ", ".join(f"{role} {motion[role]:.2f}" for role in (REAL, VAE, MODEL) if role in motion)
    table.add_means(
        "warp-error",
        "Warp error",
        {role: _clip_values(gathered, gathered.arrays["warp"]) for role, gathered in found.items()},
        better="lower",
        has_place=False,
        note=f"a still video has none: read it beside the motion a frame in pixels ({said})",
    )
    notes: list[str] = []
    for role, side in ((MODEL, "generated"), (REAL, "real")):
        spreads = found[role].arrays["spread"] if role in found else ()
        flat = [index for index, spread in enumerate(spreads) if spread < 1]
        if flat:
            first = found[role].tasks[flat[0]].clip.name
            notes.append(
                f"{len(flat)} {side} clips are of one colour (first {first}); they count like the others"
            )
    return notes


def adherence(numbers: Numbers, measurer: Measurer, table: Table, *, mini: bool) -> None:
    """Adds map adherence."""
    found = numbers.of(measurer, ("map_iou", "boundary_f"))
    names = CONDITIONS["maps"]
    if MODEL not in found or not np.isfinite(found[MODEL].arrays["map_iou"]).any():
        why = numbers.failed.get(measurer.role, "the generated clips have no maps with entities")
        table.leave_out(names, why)
        return
    for name, key, title in zip(
        names, ("map_iou", "boundary_f"), ("Map mIoU", "Map boundary F"), strict=True
    ):
        table.add_means(
            name,
            title,
            {role: _clip_values(gathered, gathered.arrays[key]) for role, gathered in found.items()},
            better="higher",
            mini=mini,
            extractor=measurer.name,
            note="entities of the first map, followed by SAM 2, against the maps that each clip was "
            "to follow (the real clips' are the data set's); not the first frame",
        )


def detections(
    numbers: Numbers, measurer: Measurer, taken: Taken, table: Table, *, replicates: int, seed: int
) -> None:
    """Adds the three numbers of detector agreement."""
    found = {role: gathered for role, gathered in numbers.of(measurer, ("boxes",)).items() if role != REAL}
    rows = CONDITIONS["detector"]
    if MODEL not in found or not np.isfinite(found[MODEL].arrays["boxes"]).any():
        table.leave_out(rows, numbers.failed.get(measurer.role, taken.no_real))
        return
    what = (
        (rows[0], "Box IoU", "iou_sum", "pairs"),
        (rows[1], "Real boxes hit", "hits", "real_boxes"),
        (rows[2], "Generated boxes hit", "hits", "generated_boxes"),
    )
    for name, title, top, bottom in what:
        above, below = COUNTS.index(top), COUNTS.index(bottom)
        values: dict[str, RoleValue] = {}
        for role, gathered in found.items():
            known = np.flatnonzero(np.isfinite(gathered.arrays["boxes"]).all(axis=1))
            counts_N5 = gathered.arrays["boxes"][known]
            whole = counts_N5.sum(axis=0)
            if whole[below] > 0:
                interval = ratio_interval(
                    counts_N5[:, above],
                    counts_N5[:, below],
                    [gathered.tasks[place].clip.recording.operation for place in known],
                    replicates=replicates,
                    seed=seed,
                )
                values[role] = RoleValue(float(whole[above] / whole[below]), interval, len(counts_N5))
        note = "over all boxes above 0.5, matched by IoU in each frame; the real clip is the truth"
        table.add(name, title, values, better="higher", extractor=measurer.name, note=note)
        model = found[MODEL]
        of_clips = share_of_counts(model.arrays["boxes"], above, below)
        for task, value in zip(model.tasks, of_clips, strict=True):
            if np.isfinite(value) and name in table.metrics:
                table.of_clips.setdefault(task.clip.name, {})[name] = float(value)


def perceptual(numbers: Numbers, measurer: Measurer, taken: Taken, table: Table) -> None:
    """Adds LPIPS of the first frame."""
    found = numbers.of(measurer, ("first_lpips",))
    name = CONDITIONS["lpips"][0]
    if MODEL not in found or not np.isfinite(found[MODEL].arrays["first_lpips"]).any():
        table.leave_out(name, numbers.failed.get(measurer.role, taken.no_given))
        return
    rows = {
        role: _clip_values(gathered, gathered.arrays["first_lpips"])
        for role, gathered in found.items()
        if role in (VAE, MODEL)
    }
    note = "against the frame that was given"
    table.add_means(name, "First frame LPIPS", rows, better="lower", extractor=measurer.name, note=note)


def _mean_after_first(value_NF: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over all frames but the first; NaN where a clip has no real one."""
    return value_NF[:, 1:].mean(axis=1)


def _labels(gathered: Gathered) -> list[Labels]:
    return [task.clip.recording.labels for task in gathered.tasks]


def _clip_values(gathered: Gathered, value_N: NDArray[np.floating]) -> ClipValues:
    recordings = [task.clip.recording for task in gathered.tasks]
    return ClipValues(
        np.asarray(value_N, np.float64),
        [recording.operation for recording in recordings],
        [recording.labels for recording in recordings],
        [task.clip.name for task in gathered.tasks],
    )
