"""Distances of whole sets of features: each baseline's and the model's from the real clips.

Owns what is compared with what. The model, the VAE's reconstruction and the frozen first frames are compared
with all real clips. Real against real is one half of the real clips against the other; halves are made of
whole operations where there are two, else of the earlier and the later clips, because neighbours resemble
each other.

A Frechet distance of few samples is biased upwards, and a half is fewer than the whole. So the place of a
model between floor and trivial is computed apart, with the same counts for all: halves against one half.

Legend: N samples, D dimensions, G groups.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.frechet import bootstrap, frechet_distance
from hierasurg_core.evaluation.kernel import KernelName, kernel_distance, median_bandwidth
from hierasurg_core.evaluation.moments import Moments, group_of, merged

GROUPS = 16
REAL, VAE, FROZEN, MODEL = "real", "vae", "frozen", "model"
_WIDEST_WITH_INTERVAL = 1024  # dimensions above which a bootstrap would take minutes and gigabytes
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
        place: 0 at real against real, 1 at the frozen first frame; None where one of them is missing.
        against_samples: (clips, value) of the model.
        notes: What a reader has to know.
    """

    values: Mapping[str, RoleValue]
    place: float | None
    against_samples: tuple[tuple[int, float], ...]
    notes: tuple[str, ...] = field(default=())


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
        replicates: Of the intervals of model and VAE; 0: none.
        seed: Of bootstrap and subsets.

    Raises:
        DataError: A side has fewer than two clips.
    """
    real = sets[REAL]
    _expect_two(sets)
    width = real.features_ND.shape[1]
    with_interval = replicates > 0 and width <= _WIDEST_WITH_INTERVAL
    groups = GROUPS if with_interval else 1
    real_groups = _moments(real, groups)
    whole = merged(real_groups)
    values: dict[str, RoleValue] = {}
    notes: list[str] = []
    first, second = halves(real.operations)
    if len(first) > 1 and len(second) > 1:
        parts = [merged(_moments(real, 1, clips)) for clips in (first, second)]
        values[REAL] = RoleValue(frechet_distance(*parts, ddof=ddof).value, None, len(second))
    for role in (VAE, FROZEN, MODEL):
        if role not in sets:
            continue
        role_groups = _moments(sets[role], groups)
        found = frechet_distance(whole, merged(role_groups), ddof=ddof)
        interval = None
        if with_interval and role == MODEL:
            interval = _interval(real_groups, role_groups, ddof, replicates, seed)
        values[role] = RoleValue(found.value, interval, sets[role].clips)
        if role == MODEL:
            notes += found.notes
    if REAL in values:
        notes.append("real against real is one half of the real clips against the other")
    else:
        notes.append(
            f"{real.clips} real clips are too few for real against real: two halves of two are needed"
        )
    curve = _curve(sets, seed, lambda a, b: frechet_distance(a, b, ddof=ddof).value)
    return Distances(values, _frechet_place(sets, ddof, seed), curve, tuple(notes))


def kernel_of_roles(
    sets: Mapping[str, FeatureSet], *, kernel: KernelName, subsets: int, subset_size: int, seed: int
) -> Distances:
    """Returns the kernel distances of all roles; arguments as in `kernel_distance`.

    Raises:
        DataError: A side has fewer than two clips.
    """
    _expect_two(sets)
    real = sets[REAL]
    bandwidth = median_bandwidth(real.features_ND) if kernel == "gaussian" else None

    def distance(
        other: FeatureSet, rows: NDArray[np.intp] | None = None, other_rows: NDArray[np.intp] | None = None
    ) -> tuple[float, tuple[str, ...]]:
        found = kernel_distance(
            real.features_ND,
            other.features_ND,
            kernel=kernel,
            subsets=subsets,
            subset_size=subset_size,
            seed=seed,
            bandwidth=bandwidth,
            real_rows=rows,
            generated_rows=other_rows,
        )
        return found.mean, found.notes

    values: dict[str, RoleValue] = {}
    notes: tuple[str, ...] = ()
    first, second = halves(real.operations)
    if len(first) > 1 and len(second) > 1:
        values[REAL] = RoleValue(distance(real, real.rows(first), real.rows(second))[0], None, len(second))
    for role in (VAE, FROZEN, MODEL):
        if role in sets:
            value, said = distance(sets[role])
            values[role] = RoleValue(value, None, sets[role].clips)
            notes = said if role == MODEL else notes
    place = None
    if REAL in values and FROZEN in values:
        place = place_between(values[REAL].value, values[FROZEN].value, values[MODEL].value)
    return Distances(values, place, (), notes)


def by_second(sets: Mapping[str, FeatureSet], *, ddof: int, fps: float) -> tuple[tuple[float, float], ...]:
    """Returns the Frechet distance of the model's frames from the real ones, each moment of a clip alone."""
    real, model = sets[REAL], sets[MODEL]
    curve: list[tuple[float, float]] = []
    for frame in range(min(real.per_clip, model.per_clip)):
        pair = [_moments_of_rows(s, np.arange(s.clips) * s.per_clip + frame) for s in (real, model)]
        curve.append((frame / fps, frechet_distance(*pair, ddof=ddof).value))
    return tuple(curve)


def inception_score(logits_ND: NDArray[np.floating]) -> float:
    """Returns exp of the mean divergence of each sample's classes from those of all (Salimans et al., 2016).

    All samples count as one split.
    """
    entropy, mean_D, count = 0.0, np.zeros(logits_ND.shape[1]), len(logits_ND)
    for start in range(0, count, _BLOCK):
        block = logits_ND[start : start + _BLOCK].astype(np.float64)
        block = block - block.max(axis=1, keepdims=True)
        log_p = block - np.log(np.exp(block).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        entropy += float((p * log_p).sum())
        mean_D += p.sum(axis=0)
    mean_D /= count
    return float(np.exp(entropy / count - (mean_D * np.log(np.maximum(mean_D, 1e-300))).sum()))


def place_between(floor: float, trivial: float, value: float) -> float | None:
    """Returns 0 at the floor, 1 at the trivial baseline; None where they are one."""
    if abs(trivial - floor) <= 1e-12 * max(abs(trivial), abs(floor), 1e-300):
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


def _moments(features: FeatureSet, groups: int, clips: NDArray[np.intp] | None = None) -> list[Moments]:
    """Moments by group; the groups of operations, or of clips where there is one operation."""
    names = features.operations
    if len(set(names)) < 2:
        names = [f"{name} {index}" for index, name in enumerate(names)]
    group_N = np.array([group_of(name, groups) for name in names])
    result: list[Moments] = []
    for group in range(groups):
        members = np.flatnonzero(group_N == group)
        members = members if clips is None else np.intersect1d(members, clips)
        result.append(_moments_of_rows(features, features.rows(members)))
    return result


def _moments_of_rows(features: FeatureSet, rows: NDArray[np.intp]) -> Moments:
    moments = Moments(features.features_ND.shape[1])
    for start in range(0, len(rows), _BLOCK):
        moments.update(features.features_ND[rows[start : start + _BLOCK]])
    return moments


def _interval(
    real: Sequence[Moments], model: Sequence[Moments], ddof: int, replicates: int, seed: int
) -> tuple[float, float] | None:
    try:
        found = bootstrap(real, model, ddof=ddof, replicates=replicates, seed=seed)
    except DataError:  # too few groups: there is a number, but no interval
        return None
    return found.low, found.high


def _frechet_place(sets: Mapping[str, FeatureSet], ddof: int, seed: int) -> float | None:
    """The place with equal counts: halves of real, frozen and model, each against the first real half."""
    if FROZEN not in sets:
        return None
    real, frozen, model = sets[REAL], sets[FROZEN], sets[MODEL]
    first, second = halves(real.operations)
    frozen_half = halves(frozen.operations)[1]
    count = min(len(second), len(frozen_half), model.clips)
    if count < 2 or len(first) < 2:
        return None
    random = np.random.default_rng(seed)
    chosen = [
        (features, clips[random.permutation(len(clips))[:count]])
        for features, clips in ((real, second), (frozen, frozen_half), (model, np.arange(model.clips)))
    ]
    base = _moments_of_rows(real, real.rows(first))
    floor, trivial, value = (
        frechet_distance(base, _moments_of_rows(features, features.rows(clips)), ddof=ddof).value
        for features, clips in chosen
    )
    return place_between(floor, trivial, value)


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
