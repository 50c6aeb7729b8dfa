"""Distances of whole sets of features: each baseline's and the model's from the real clips.

Owns what is compared with what. The model, the VAE's reconstruction and the frozen first frames are compared
with all real clips. Real against real is one half of the real clips against the other; halves are made of
whole operations where there are two, else of the earlier and the later clips, because neighbours resemble
each other.

A Frechet distance of few samples is biased upwards, and a half is fewer than the whole; a clip that was made
of a real one resembles that one more than others do. So places between floor and trivial are computed apart:
one half of the real clips against the other half, and against the frozen, reconstructed and generated clips
of no operation of the first half, with the same counts for all.

Every distance has a bootstrap interval (see `intervals`), for which features are read once more.

Legend: N samples, D dimensions.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.frechet import FrechetSlope, frechet_distance, frechet_slopes
from hierasurg_core.evaluation.intervals import Slopes, drawn_names, linear_interval
from hierasurg_core.evaluation.kernel import KernelDistance, KernelName, kernel_distance, median_bandwidth
from hierasurg_core.evaluation.moments import Moments

REAL, VAE, FROZEN, MODEL = "real", "vae", "frozen", "model"
_BLOCK = 4096  # samples read at once
_CURVE = 5  # points of a metric against the number of samples


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of one role, in the order of its clips.

    Attributes:
        features_ND: float32, on disk or in memory; a clip may have several samples, its frames.
        operations: Of each clip.
        per_clip: Samples of a clip.
    """

    features_ND: NDArray[np.floating]
    operations: Sequence[str]
    per_clip: int = 1

    @property
    def clips(self) -> int:
        """Returns how many clips there are."""
        return len(self.operations)

    def rows(self, clips: NDArray[np.intp]) -> NDArray[np.intp]:
        """Returns the samples of some clips."""
        return (clips[:, None] * self.per_clip + np.arange(self.per_clip)).ravel()

    def drawn(self, clips: NDArray[np.intp]) -> list[str]:
        """Returns what a bootstrap draws, of some clips."""
        names = drawn_names(self.operations)
        return [names[clip] for clip in clips]


@dataclass(frozen=True)
class RoleValue:
    """A distance of one role."""

    value: float
    interval: tuple[float, float] | None
    count: int


@dataclass(frozen=True)
class Distances:
    """A metric over all roles.

    Attributes:
        values: By role.
        places: Of model and VAE, 0 at real against real and 1 at the frozen first frame; without those that
            have none.
        against_samples: (clips, value) of the model.
        notes: What a reader has to know.
        warnings: What no reader may overlook.
    """

    values: Mapping[str, RoleValue]
    places: Mapping[str, float]
    against_samples: tuple[tuple[int, float], ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def halves(operations: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Splits clips into two halves, of whole operations where there are two or more.

    Example:
        >>> halves(["video01", "video01", "video02"])
        (array([0, 1]), array([2]))
    """
    counts = Counter(operations)
    if len(counts) < 2:
        middle = (len(operations) + 1) // 2
        return np.arange(middle), np.arange(middle, len(operations))
    sides: tuple[set[str], set[str]] = (set(), set())
    sizes = [0, 0]
    for operation in sorted(counts, key=lambda name: (-counts[name], _shuffled(name))):
        smaller = int(sizes[1] < sizes[0])
        sides[smaller].add(operation)
        sizes[smaller] += counts[operation]
    first = np.array([operation in sides[0] for operation in operations])
    return np.flatnonzero(first), np.flatnonzero(~first)


def frechet_of_roles(sets: Mapping[str, FeatureSet], *, ddof: int, replicates: int, seed: int) -> Distances:
    """Returns the Frechet distances of all roles.

    Args:
        sets: By role; "real" and "model" are there.
        ddof: As in `frechet_distance`.
        replicates: Of the intervals; 0: none.
        seed: Of bootstrap and subsets.

    Raises:
        DataError: A side has fewer than two clips.
    """
    real = sets[REAL]
    _expect_two(sets)
    kept: dict[bytes, Moments] = {}  # of the real clips, to which several roles are compared

    def moments(
        real_clips: NDArray[np.intp], other: FeatureSet, clips: NDArray[np.intp]
    ) -> tuple[Moments, Moments]:
        key = real_clips.tobytes()
        if key not in kept:
            kept[key] = _moments_of_rows(real, real.rows(real_clips))
        return kept[key], _moments_of_rows(other, other.rows(clips))

    values: dict[str, RoleValue] = {}
    warnings: tuple[str, ...] = ()
    for role, (real_clips, other, clips) in _compared(sets).items():
        both = moments(real_clips, other, clips)
        interval = None
        if replicates:
            found, *slopes = frechet_slopes(*both, ddof=ddof)
            chosen = zip((real, other), (real_clips, clips), slopes, strict=True)
            sides = [_slopes(features, rows, slope) for features, rows, slope in chosen]
            interval = linear_interval(
                found.value, sides, replicates=replicates, seed=seed, lowest=0.0, squared=True
            )
        else:
            found = frechet_distance(*both, ddof=ddof)
        values[role] = RoleValue(found.value, interval, len(clips))
        warnings = found.notes  # the model's at the end
    if REAL in values:
        note = (
            "real against real is one half of the real clips against the other, and the fewer clips, the "
            "larger the distance; places are of equal counts"
        )
    else:
        note = f"{real.clips} real clips are too few for real against real: two halves of two are needed"

    curve = _curve(sets, seed, lambda a, b: frechet_distance(a, b, ddof=ddof).value)
    places = _places(sets, seed, lambda *clips: frechet_distance(*moments(*clips), ddof=ddof).value)
    return Distances(values, places, curve, (note,), warnings)


def kernel_of_roles(
    sets: Mapping[str, FeatureSet],
    *,
    kernel: KernelName,
    subsets: int,
    subset_size: int,
    seed: int,
    replicates: int = 0,
) -> Distances:
    """Returns the kernel distances of all roles; arguments as in `kernel_distance` and `frechet_of_roles`.

    Raises:
        DataError: A side has fewer than two clips.
    """
    _expect_two(sets)
    real = sets[REAL]
    bandwidth = median_bandwidth(real.features_ND) if kernel == "gaussian" else None

    def distance(real_clips: NDArray[np.intp], other: FeatureSet, clips: NDArray[np.intp]) -> KernelDistance:
        return kernel_distance(
            real.features_ND,
            other.features_ND,
            kernel=kernel,
            subsets=subsets,
            subset_size=subset_size,
            seed=seed,
            bandwidth=bandwidth,
            real_rows=real.rows(real_clips),
            generated_rows=other.rows(clips),
        )

    values: dict[str, RoleValue] = {}
    notes: tuple[str, ...] = ()
    for role, (real_clips, other, clips) in _compared(sets).items():
        found = distance(real_clips, other, clips)
        sides = [
            Slopes(slope_N.reshape(-1, features.per_clip).sum(axis=1)[rows], features.drawn(rows))
            for features, rows, slope_N in (
                (real, real_clips, found.real_slope_M),
                (other, clips, found.generated_slope_N),
            )
        ]
        interval = linear_interval(found.mean, sides, replicates=replicates, seed=seed)
        values[role] = RoleValue(found.mean, interval, len(clips))
        notes = found.notes  # the model's at the end
    places = _places(sets, seed, lambda *clips: distance(*clips).mean)
    return Distances(values, places, (), notes)


def by_second(sets: Mapping[str, FeatureSet], *, ddof: int, fps: float) -> tuple[tuple[float, float], ...]:
    """Returns the Frechet distance of the model's frames from the real ones, each moment of a clip alone."""
    real, model = sets[REAL], sets[MODEL]
    curve: list[tuple[float, float]] = []
    for frame in range(min(real.per_clip, model.per_clip)):
        pair = [_moments_of_rows(s, np.arange(s.clips) * s.per_clip + frame) for s in (real, model)]
        curve.append((frame / fps, frechet_distance(*pair, ddof=ddof).value))
    return tuple(curve)


def inception_score(features: FeatureSet, *, replicates: int = 0, seed: int = 0) -> RoleValue:
    """Returns exp of the mean divergence of each sample's classes from those of all (Salimans et al., 2016).

    All samples count as one split. Its slope is the score times a sample's own divergence / N.

    Args:
        features: Logits (N, classes) of a role's samples.
        replicates: Of the interval; 0: none.
        seed: Of the same.
    """
    logits_ND = features.features_ND
    count = len(logits_ND)
    mean_D, own_N = np.zeros(logits_ND.shape[1]), np.empty(count)
    blocks = [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]
    for block in blocks:
        log_p = _log_softmax(logits_ND[block])
        mean_D += np.exp(log_p).sum(axis=0) / count
        own_N[block] = (np.exp(log_p) * log_p).sum(axis=1)
    log_mean_D = np.log(np.maximum(mean_D, 1e-300))
    for block in blocks:
        own_N[block] -= np.exp(_log_softmax(logits_ND[block])) @ log_mean_D
    score = float(np.exp(own_N.mean()))
    slope_N = score * own_N.reshape(-1, features.per_clip).sum(axis=1) / count
    sides = [Slopes(slope_N, features.drawn(np.arange(features.clips)))]
    interval = linear_interval(score, sides, replicates=replicates, seed=seed, lowest=1.0)
    return RoleValue(score, interval, features.clips)


def _log_softmax(logits_ND: NDArray[np.floating]) -> NDArray[np.float64]:
    block = logits_ND.astype(np.float64)
    block = block - block.max(axis=1, keepdims=True)
    return block - np.log(np.exp(block).sum(axis=1, keepdims=True))


def place_between(floor: float, trivial: float, value: float, *, better: str = "lower") -> float | None:
    """Returns 0 at the floor, 1 at the trivial baseline; None where that is not worse than the floor."""
    way = trivial - floor if better == "lower" else floor - trivial
    if not way > 1e-12 * max(abs(trivial), abs(floor), 1e-300):
        return None
    return (value - floor) / (trivial - floor)


def _expect_two(sets: Mapping[str, FeatureSet]) -> None:
    for role in (REAL, MODEL):
        if sets[role].clips < 2:
            raise DataError(
                f"{sets[role].clips} clips on the side '{role}' make no distribution: 2 are needed"
            )


def _shuffled(name: str) -> str:
    """An order of names that has nothing to do with the time of their recording."""
    return hashlib.sha256(name.encode()).hexdigest()


def _compared(
    sets: Mapping[str, FeatureSet],
) -> dict[str, tuple[NDArray[np.intp], FeatureSet, NDArray[np.intp]]]:
    """What each role's distance is of: real clips, and clips of a set. The model is the last."""
    real = sets[REAL]
    first, second = halves(real.operations)
    found = {REAL: (first, real, second)} if len(first) > 1 and len(second) > 1 else {}
    others = {role: sets[role] for role in (VAE, FROZEN, MODEL) if role in sets}
    every = np.arange(real.clips)
    return found | {role: (every, other, np.arange(other.clips)) for role, other in others.items()}


def _moments_of_rows(features: FeatureSet, rows: NDArray[np.intp]) -> Moments:
    moments = Moments(features.features_ND.shape[1])
    for start in range(0, len(rows), _BLOCK):
        moments.update(features.features_ND[rows[start : start + _BLOCK]])
    return moments


def _slopes(features: FeatureSet, clips: NDArray[np.intp], slope: FrechetSlope) -> Slopes:
    """Slopes of clips, each the sum of its samples'."""
    rows = features.rows(clips)
    value_N = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        value_N[block] = slope.of(features.features_ND[rows[block]])
    return Slopes(value_N.reshape(-1, features.per_clip).sum(axis=1), features.drawn(clips))


def _places(
    sets: Mapping[str, FeatureSet],
    seed: int,
    distance: Callable[[NDArray[np.intp], FeatureSet, NDArray[np.intp]], float],
) -> dict[str, float]:
    """Places with equal counts, all against the first half of the real clips."""
    places: dict[str, float] = {}
    first, _ = halves(sets[REAL].operations)
    for role in (VAE, MODEL):
        judged = [sets[name] for name in (REAL, FROZEN, role) if name in sets]
        if len(judged) < 3:
            continue
        apart = [_apart_from_first_half(one, sets[REAL]) for one in judged]
        count = min(len(clips) for clips in apart)
        if count < 2 or len(first) < 2:
            continue
        random = np.random.default_rng(seed)
        floor, trivial, value = (
            distance(first, one, clips[random.permutation(len(clips))[:count]])
            for one, clips in zip(judged, apart, strict=True)
        )
        place = place_between(floor, trivial, value)
        if place is not None:
            places[role] = place
    return places


def _apart_from_first_half(features: FeatureSet, real: FeatureSet) -> NDArray[np.intp]:
    """The clips of no operation of the first real half; of one operation in all, the later clips."""
    first, _ = halves(real.operations)
    if len(set(real.operations)) < 2 and set(features.operations) == set(real.operations):
        return halves(features.operations)[1]
    names = {real.operations[clip] for clip in first}
    return np.flatnonzero([name not in names for name in features.operations])


def _curve(
    sets: Mapping[str, FeatureSet], seed: int, distance: Callable[[Moments, Moments], float]
) -> tuple[tuple[int, float], ...]:
    """The model's distance with fewer and fewer clips on both sides."""
    real, model = sets[REAL], sets[MODEL]
    most = min(real.clips, model.clips)
    random = np.random.default_rng(seed)
    orders = [random.permutation(features.clips)[:most] for features in (real, model)]
    counts = sorted({max(2, most >> power) for power in range(_CURVE)})
    curve: list[tuple[int, float]] = []
    running = [Moments(real.features_ND.shape[1]) for _ in range(2)]
    done = 0
    for count in counts:
        for moments, features, order in zip(running, (real, model), orders, strict=True):
            moments.merge(_moments_of_rows(features, features.rows(order[done:count])))
        done = count
        curve.append((count, distance(*running)))
    return tuple(curve)
