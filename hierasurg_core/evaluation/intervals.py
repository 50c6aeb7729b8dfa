"""How sure a number is: bootstrap intervals over whole operations.

Owns the resampling. What is drawn are operations, because clips of one resemble each other; of one operation
alone, its clips. A draw depends on names and seed, not on the order of clips.

Means and shares are computed anew for each draw. A distance of sets would take a matrix root or all pairs of
samples each time, and resampled features have ties and a lower rank, which make replicates larger and their
spread wider than the truth. So its linear part is resampled: each sample's slope, which is the derivative of
the distance by the sample's weight (the infinitesimal jackknife: Efron, "Nonparametric estimates of standard
error: the jackknife, the bootstrap and other methods", 1981). Slopes are computed while features stream by,
and what stays is one number a clip. Of Gaussian features, intervals hold the mean over new sets in 91 % of
cases with 20 operations a side and in 94 % with 100.

Legend: N clips, G operations, R replicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_AT_ONCE = 2**20  # drawn numbers held at a time


@dataclass(frozen=True, eq=False)
class Slopes:
    """How a number changes with the weight of each clip of a set.

    Attributes:
        value_N: Derivatives; a constant added to all of them means nothing.
        names: Of each clip's operation, as `drawn_names` gives them.
    """

    value_N: NDArray[np.float64]
    names: Sequence[str]


def drawn_names(operations: Sequence[str]) -> list[str]:
    """Returns what is drawn, by clip: its operation or, where there is only one, itself."""
    if len(set(operations)) > 1:
        return list(operations)
    return [f"{name} {index}" for index, name in enumerate(operations)]


def linear_interval(
    value: float,
    sides: Sequence[Slopes],
    *,
    replicates: int,
    seed: int,
    lowest: float | None = None,
    squared: bool = False,
) -> tuple[float, float] | None:
    """Returns the interval of a number of one or two sets from its slopes; None without two operations.

    An operation of this name in both sets is drawn for both. The spread is widened by sqrt(G / (G - 1)),
    which a bootstrap of G operations lacks.

    Args:
        value: The number.
        sides: The sets.
        replicates: How often to draw; 0: no interval.
        seed: Of the draws.
        lowest: What the number cannot be below.
        squared: The number is a squared distance, whose root scatters more evenly: the ends are the root's,
            squared.
    """
    names = np.concatenate([np.array(list(side.names), dtype=np.str_) for side in sides])
    slope_N = np.concatenate([side.value_N - side.value_N.mean() for side in sides])
    _, group_N = np.unique(names, return_inverse=True)
    slope_G = np.bincount(group_N, slope_N)
    groups = len(slope_G)
    if not replicates or groups < 2:
        return None
    wider = np.sqrt(groups / (groups - 1))
    moved_R = np.concatenate([times_RG @ slope_G for times_RG in _draws(groups, replicates, seed)])
    low, high = (wider * end for end in _ends(moved_R - slope_G.sum()))
    if squared and value > 0:
        low, high = (max(value**0.5 + end / (2 * value**0.5), 0.0) ** 2 for end in (low, high))
    else:
        low, high = value + low, value + high
    return (low if lowest is None else max(low, lowest)), high


def ratio_interval(
    top_N: NDArray[np.float64],
    bottom_N: NDArray[np.float64],
    operations: Sequence[str],
    *,
    replicates: int,
    seed: int,
) -> tuple[float, float] | None:
    """Returns the interval of sum(top) / sum(bottom), each draw's own; None without two operations.

    Draws in which nothing is below the line do not count.
    """
    _, group_N = np.unique(np.array(drawn_names(operations), dtype=np.str_), return_inverse=True)
    top_G, bottom_G = np.bincount(group_N, top_N), np.bincount(group_N, bottom_N)
    if not replicates or len(top_G) < 2:
        return None
    ratios: list[NDArray[np.float64]] = []
    for times_RG in _draws(len(top_G), replicates, seed):
        below_R = times_RG @ bottom_G
        ratios.append((times_RG @ top_G)[below_R > 0] / below_R[below_R > 0])
    ratio_R = np.concatenate(ratios)
    return _ends(ratio_R) if len(ratio_R) else None


def _draws(groups: int, replicates: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yields how often each operation is drawn, (R, G) for some replicates a time."""
    random = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // groups)
    for start in range(0, replicates, rows):
        count = min(rows, replicates - start)
        yield random.multinomial(groups, np.full(groups, 1 / groups), size=count)


def _ends(value_R: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(value_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
