"""The squared maximum mean discrepancy of two sets of features: what KID and KVD are.

Owns the unbiased estimator (Gretton et al., "A kernel two-sample test", 2012, lemma 6), two named kernels
and the averaging over random subsets (Binkowski et al., "Demystifying MMD GANs", 2018). Unlike a Frechet
distance it has no bias at small counts, can fall below 0, and needs the features themselves: arrays, or
memory maps of cached ones, of which only one subset a time is read as float64.

    cubic      (x.y / D + 1)^3                          KID, and the public KVD
    gaussian   exp(-|x - y|^2 / (2 bandwidth^2))        sees all moments, not only the first three

Legend: M and N samples, D dimensions, S samples of a subset.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError

KernelName = Literal["cubic", "gaussian"]


@dataclass(frozen=True)
class KernelDistance:
    """An MMD^2 over subsets.

    Attributes:
        mean: Over the subsets; the distance. It may be a little below 0.
        std: Over the subsets, divided by their number. Subsets overlap: this is no standard error.
        kernel: "cubic" or "gaussian".
        bandwidth: Of the gaussian kernel, in units of the features; None for the cubic one.
        subsets: How many were drawn.
        subset_size: Samples of each side in one.
        notes: What a reader has to know about it, one line each.
        real_slope_M: How the distance changes with the weight of each real sample (see `intervals`); 0 of
            those that are in no subset.
        generated_slope_N: The same of the generated ones.
    """

    mean: float
    std: float
    kernel: KernelName
    bandwidth: float | None
    subsets: int
    subset_size: int
    notes: tuple[str, ...]
    real_slope_M: NDArray[np.float64] = field(compare=False, repr=False)
    generated_slope_N: NDArray[np.float64] = field(compare=False, repr=False)


def kernel_distance(
    real_MD: NDArray[np.floating],
    generated_ND: NDArray[np.floating],
    *,
    kernel: KernelName = "cubic",
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    bandwidth: float | None = None,
    real_rows: NDArray[np.intp] | None = None,
    generated_rows: NDArray[np.intp] | None = None,
) -> KernelDistance:
    """Returns mean and spread of the unbiased MMD^2 over random subsets.

    Each subset takes the same number of samples of either side, without replacement. The samples are first
    put in the order of their bytes' digests, so that their order in the arrays changes nothing.

    Args:
        real_MD: Features of real samples.
        generated_ND: Features of generated samples.
        kernel: "cubic" or "gaussian".
        subsets: How many subsets.
        subset_size: Samples a subset; where a side has fewer, that many.
        seed: Of the subsets.
        bandwidth: Of the gaussian kernel; None takes `median_bandwidth` of the real samples, so that all
            generated sets are judged alike.
        real_rows: Which of the real samples take part; None: all.
        generated_rows: The same of the generated ones.

    Raises:
        ValueError: Shapes or numbers make no sense.
        DataError: A side has fewer than two samples, or a feature is NaN or infinite.
    """
    _check(real_MD, generated_ND)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"no distance over {subsets} subsets of {subset_size} samples")
    order_M, order_N = (
        _canonical_order(features, rows)
        for features, rows in ((real_MD, real_rows), (generated_ND, generated_rows))
    )
    size = min(len(order_M), len(order_N), subset_size)
    if size < 2:
        raise DataError(f"a kernel distance needs two samples a side, not {size}")
    is_whole = size == len(order_M) == len(order_N)
    if kernel == "gaussian" and bandwidth is None:
        bandwidth = median_bandwidth(real_MD)
    random = np.random.default_rng(seed)
    values = np.empty(1 if is_whole else subsets)
    slopes = np.zeros(len(real_MD)), np.zeros(len(generated_ND))
    for index in range(len(values)):
        rows = [order[random.choice(len(order), size, replace=False)] for order in (order_M, order_N)]
        values[index], *parts = _mmd2_and_slopes(real_MD[rows[0]], generated_ND[rows[1]], kernel, bandwidth)
        for slope, of_rows, part in zip(slopes, rows, parts, strict=True):
            slope[of_rows] += part / len(values)
    notes: list[str] = []
    if size < subset_size:
        notes.append(f"subsets hold {size} samples, not {subset_size}: a side has no more")
    if is_whole:
        notes.append("every subset is the whole of both sides, so that their spread says nothing")
    return KernelDistance(
        float(values.mean()),
        float(values.std()),
        kernel,
        bandwidth if kernel == "gaussian" else None,
        subsets,
        size,
        tuple(notes),
        *slopes,
    )


def mmd2(
    x_MD: NDArray[np.floating],
    y_ND: NDArray[np.floating],
    *,
    kernel: KernelName = "cubic",
    bandwidth: float | None = None,
) -> float:
    """Returns the unbiased MMD^2: mean k(x, x') + mean k(y, y') - 2 mean k(x, y), x' and y' being others.

    Raises:
        ValueError: Shapes differ, a side has fewer than two samples, or the gaussian kernel has no bandwidth
            above 0.
        DataError: A feature is NaN or infinite.
    """
    return _mmd2_and_slopes(x_MD, y_ND, kernel, bandwidth)[0]


def _mmd2_and_slopes(
    x_MD: NDArray[np.floating], y_ND: NDArray[np.floating], kernel: KernelName, bandwidth: float | None
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The MMD^2 and its derivatives by the weights of the samples, which sum to 0 on either side."""
    _check(x_MD, y_ND)
    count_x, count_y = len(x_MD), len(y_ND)
    if min(count_x, count_y) < 2:
        raise ValueError(f"MMD needs two samples a side, not {count_x} and {count_y}")
    x_MD, y_ND = x_MD.astype(np.float64), y_ND.astype(np.float64)
    if not (np.isfinite(x_MD).all() and np.isfinite(y_ND).all()):
        raise DataError("the features of a sample hold NaN or infinity; leave it out")
    within_M = _mean_of_others(_gram(x_MD, x_MD, kernel, bandwidth))
    within_N = _mean_of_others(_gram(y_ND, y_ND, kernel, bandwidth))
    between_MN = _gram(x_MD, y_ND, kernel, bandwidth)
    slopes = 2 * (within_M - between_MN.mean(axis=1)), 2 * (within_N - between_MN.mean(axis=0))
    slope_M, slope_N = ((slope - slope.mean()) / len(slope) for slope in slopes)
    return float(within_M.mean() + within_N.mean() - 2 * between_MN.mean()), slope_M, slope_N


def median_bandwidth(features_ND: NDArray[np.floating], *, at_most: int = 1000) -> float:
    """Returns the median distance between different samples, or 1 where that is 0.

    Args:
        features_ND: At least two samples.
        at_most: So many are looked at: the first in the order of their digests, whatever order they are in.
    """
    few_ND = features_ND[_canonical_order(features_ND)[:at_most]].astype(np.float64)
    upper = np.triu_indices(len(few_ND), 1)
    return float(np.sqrt(np.median(_squared_distances(few_ND, few_ND)[upper]))) or 1.0


def _check(x_MD: NDArray[np.floating], y_ND: NDArray[np.floating]) -> None:
    if x_MD.ndim != 2 or y_ND.ndim != 2 or x_MD.shape[1] != y_ND.shape[1] or not x_MD.shape[1]:
        raise ValueError(
            f"features must be (samples, dimensions) on both sides, not {x_MD.shape}, {y_ND.shape}"
        )


def _gram(
    x_MD: NDArray[np.float64], y_ND: NDArray[np.float64], kernel: KernelName, bandwidth: float | None
) -> NDArray[np.float64]:
    if kernel == "cubic":
        base_MN = x_MD @ y_ND.T / x_MD.shape[1] + 1
        return base_MN * base_MN * base_MN  # many times faster than a power
    if bandwidth is None or not bandwidth > 0:
        raise ValueError(f"the gaussian kernel needs a bandwidth above 0, not {bandwidth}")
    return np.exp(_squared_distances(x_MD, y_ND) / (-2 * bandwidth**2))


def _squared_distances(x_MD: NDArray[np.float64], y_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """|x - y|^2 of all pairs, both moved to one centre first, for a large mean would eat the digits."""
    centre_D = x_MD.mean(axis=0)
    x_MD, y_ND = x_MD - centre_D, y_ND - centre_D
    squares = (x_MD**2).sum(axis=1)[:, None] + (y_ND**2).sum(axis=1) - 2 * x_MD @ y_ND.T
    return np.maximum(squares, 0)


def _mean_of_others(gram_NN: NDArray[np.float64]) -> NDArray[np.float64]:
    return (gram_NN.sum(axis=1) - gram_NN.diagonal()) / (len(gram_NN) - 1)


def _canonical_order(
    features_ND: NDArray[np.floating], rows_M: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """The samples, or some of them, in the order of their digests."""
    rows_M = np.arange(len(features_ND)) if rows_M is None else rows_M
    digests = [
        hashlib.blake2b(np.ascontiguousarray(features_ND[row]).data, digest_size=16).digest()
        for row in rows_M
    ]
    return rows_M[np.array(sorted(range(len(digests)), key=digests.__getitem__), np.intp)]
