"""The Frechet distance of two sets of features, and how sure it is.

    |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A B)^(1/2)

Owns the arithmetic behind FID and FVD (Dowson and Landau, "The Frechet distance between multivariate normal
distributions", 1982). With A = L L^T and B = M M^T the last trace is the sum of the singular values of
L^T M. The factors are Cholesky's or, where a covariance is singular, come from its symmetric
eigen-decomposition and have as many columns as it has rank: no complex root, no small number added to a
diagonal, and exact with fewer samples than dimensions.

Legend: D dimensions, R and S ranks, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.moments import Moments, merged

_CLEARLY = 1e-9  # of the largest variance: a smaller pivot may be rounding


@dataclass(frozen=True)
class Frechet:
    """A Frechet distance.

    Attributes:
        value: mean_part + covariance_part, never below 0.
        mean_part: The squared distance of the means.
        covariance_part: What the covariances add.
        notes: What a reader has to know about it, one line each; mostly none.
    """

    value: float
    mean_part: float
    covariance_part: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval.

    Attributes:
        low: Lower end, not below 0.
        high: Upper end.
        level: Share of the replicates inside.
        replicates: How many there were.
        groups: Groups of samples that were resampled, of the first and the second set.
    """

    low: float
    high: float
    level: float
    replicates: int
    groups: tuple[int, int]


def frechet_distance(a: Moments, b: Moments, *, ddof: int = 1) -> Frechet:
    """Returns the Frechet distance of two sets; which is first makes no difference beyond rounding.

    Args:
        a: One set, with more than `ddof` samples.
        b: The other.
        ddof: 1 divides the scatter by N - 1 (torchmetrics), 0 by N (StyleGAN-V, cd-fvd).

    Raises:
        ValueError: The dimensions differ.
        DataError: A set has too few samples for a covariance.
    """
    if a.dimensions != b.dimensions:
        raise ValueError(f"cannot compare {a.dimensions} dimensions with {b.dimensions}")
    cov_a_DD, cov_b_DD = a.covariance_DD(ddof=ddof), b.covariance_DD(ddof=ddof)
    apart_D = a.mean_D - b.mean_D
    mean_part = float(apart_D @ apart_D)
    product_RS = _factor_DR(cov_a_DD).T @ _factor_DR(cov_b_DD)
    shared = float(np.linalg.svd(product_RS, compute_uv=False).sum()) if product_RS.size else 0.0
    covariance_part = max(float(np.trace(cov_a_DD) + np.trace(cov_b_DD)) - 2 * shared, 0.0)
    return Frechet(mean_part + covariance_part, mean_part, covariance_part, _notes(a, b))


def bootstrap(
    groups_a: Sequence[Moments],
    groups_b: Sequence[Moments],
    *,
    ddof: int = 1,
    replicates: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Returns a bootstrap interval around the Frechet distance, without the features themselves.

    While features stream by, each operation's go to the moments of its group (`moments.group_of`), so that
    G matrices are held and no sample is. A replicate draws G groups with replacement on either side and
    merges them, which keeps clips of one operation together. Drawing groups twice lowers the rank and so
    raises every replicate; hence the interval is the spread of the replicates around their own mean, laid
    around the distance of the whole sets.

    Args:
        groups_a: Moments of the first set's groups; empty ones are passed over.
        groups_b: The same of the second set.
        ddof: As in `frechet_distance`.
        replicates: How often to draw; each costs one distance.
        level: Share of the replicates inside.
        seed: Of the draws.

    Raises:
        ValueError: There are no replicates, or the level is not between 0 and 1.
        DataError: A set has fewer than two groups with samples, or too few samples.
    """
    if replicates < 1 or not 0 < level < 1:
        raise ValueError(f"no interval from {replicates} replicates at level {level}")
    sides = [[group for group in groups if group.count] for groups in (groups_a, groups_b)]
    for groups in sides:
        if len(groups) < 2:
            raise DataError(f"an interval needs at least two groups of samples, not {len(groups)}")
        if min(group.count for group in groups) * len(groups) <= ddof:
            raise DataError("an interval needs more samples in each group")
    random = np.random.default_rng(seed)
    values = np.empty(replicates)
    for index in range(replicates):
        drawn = [_resampled(groups, random) for groups in sides]
        values[index] = frechet_distance(drawn[0], drawn[1], ddof=ddof).value
    centre = frechet_distance(merged(sides[0]), merged(sides[1]), ddof=ddof).value
    low, high = np.quantile(values - values.mean(), [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        max(centre + float(low), 0.0), centre + float(high), level, replicates, (len(sides[0]), len(sides[1]))
    )


def _factor_DR(covariance_DD: NDArray[np.float64]) -> NDArray[np.float64]:
    """A factor L with L L^T = covariance, one column for each eigenvalue above rounding.

    Where all of them clearly are, Cholesky gives one many times faster.
    """
    try:
        lower_DD = np.linalg.cholesky(covariance_DD)
    except np.linalg.LinAlgError:
        lower_DD = np.zeros_like(covariance_DD)
    if lower_DD.diagonal().min() ** 2 > _CLEARLY * covariance_DD.diagonal().max():
        return np.asarray(lower_DD, np.float64)
    values_D, vectors_DD = np.linalg.eigh((covariance_DD + covariance_DD.T) / 2)
    kept_D = values_D > values_D[-1] * len(values_D) * np.finfo(np.float64).eps
    return vectors_DD[:, kept_D] * np.sqrt(values_D[kept_D])


def _resampled(groups: Sequence[Moments], random: np.random.Generator) -> Moments:
    times_G = random.multinomial(len(groups), np.full(len(groups), 1 / len(groups)))
    drawn = Moments(groups[0].dimensions)
    for group, times in zip(groups, times_G, strict=True):
        drawn.merge(group, weight=int(times))
    return drawn


def _notes(a: Moments, b: Moments) -> tuple[str, ...]:
    needed = a.dimensions + 1
    if a.count >= needed and b.count >= needed:
        return ()
    note = (
        f"{a.count} and {b.count} samples are fewer than the {needed} that {a.dimensions} dimensions need: "
        "the distance is biased upwards; compare it only with others of the same counts"
    )
    return (note,)
