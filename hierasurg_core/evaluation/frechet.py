"""The Frechet distance of two sets of features, and how each sample moves it.

    |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A B)^(1/2)

Owns the arithmetic behind FID and FVD (Dowson and Landau, "The Frechet distance between multivariate normal
distributions", 1982). With A = L L^T and B = M M^T the last trace is the sum of the singular values of
L^T M. The factors are Cholesky's or, where a covariance is singular, come from its symmetric
eigen-decomposition and have as many columns as it has rank: no complex root, no small number added to a
diagonal, and exact with fewer samples than dimensions.

Legend: D dimensions, R and S ranks, N samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.evaluation.moments import Moments

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


@dataclass(frozen=True, eq=False)
class FrechetSlope:
    """How a Frechet distance changes with the weight of each sample of one of its sets.

    Where A weighs its samples by w_i, the derivative of tr (A B)^(1/2) is half of x^T T x for the sample's
    deviation x from the mean, T = M (M^T A M)^(-1/2) M^T and B = M M^T. It exists for singular covariances
    too, because a weight moves A within the span of its samples.

    Attributes:
        mean_D: Of the set.
        apart_D: Its mean minus the other's.
        root_DR: T is root root^T.
        scale: N / (N - ddof).
        count: N.
    """

    mean_D: NDArray[np.float64]
    apart_D: NDArray[np.float64]
    root_DR: NDArray[np.float64]
    scale: float
    count: int

    def of(self, features_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns the slopes of some samples of the set, up to a constant (see `intervals.Slopes`)."""
        x_ND = features_ND.astype(np.float64) - self.mean_D
        shared_NR = x_ND @ self.root_DR
        spread_N = np.einsum("nd,nd->n", x_ND, x_ND) - np.einsum("nr,nr->n", shared_NR, shared_NR)
        return (2 * x_ND @ self.apart_D + self.scale * spread_N) / self.count


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
    cov_a_DD, cov_b_DD = _covariances(a, b, ddof)
    product_RS = _factor_DR(cov_a_DD).T @ _factor_DR(cov_b_DD)
    shared = float(np.linalg.svd(product_RS, compute_uv=False).sum()) if product_RS.size else 0.0
    return _distance(a, b, float(np.trace(cov_a_DD) + np.trace(cov_b_DD)), shared)


def frechet_slopes(a: Moments, b: Moments, *, ddof: int = 1) -> tuple[Frechet, FrechetSlope, FrechetSlope]:
    """Returns the Frechet distance of two sets and its slopes by the samples of the first and the second.

    Arguments and errors as in `frechet_distance`, which is some times faster.
    """
    cov_a_DD, cov_b_DD = _covariances(a, b, ddof)
    left_DR, right_DS = _factor_DR(cov_a_DD), _factor_DR(cov_b_DD)
    u_RK, s_K, v_KS = np.linalg.svd(left_DR.T @ right_DS, full_matrices=False)
    kept_K = s_K > (s_K[0] if len(s_K) else 0.0) * a.dimensions * np.finfo(np.float64).eps
    found = _distance(a, b, float(np.trace(cov_a_DD) + np.trace(cov_b_DD)), float(s_K.sum()))
    roots = (
        right_DS @ (v_KS[kept_K].T / np.sqrt(s_K[kept_K])),
        left_DR @ (u_RK[:, kept_K] / np.sqrt(s_K[kept_K])),
    )
    of_a, of_b = (
        FrechetSlope(
            one.mean_D, one.mean_D - other.mean_D, root_DR, one.count / (one.count - ddof), one.count
        )
        for one, other, root_DR in ((a, b, roots[0]), (b, a, roots[1]))
    )
    return found, of_a, of_b


def _covariances(a: Moments, b: Moments, ddof: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if a.dimensions != b.dimensions:
        raise ValueError(f"cannot compare {a.dimensions} dimensions with {b.dimensions}")
    return a.covariance_DD(ddof=ddof), b.covariance_DD(ddof=ddof)


def _distance(a: Moments, b: Moments, traces: float, shared: float) -> Frechet:
    apart_D = a.mean_D - b.mean_D
    mean_part = float(apart_D @ apart_D)
    covariance_part = max(traces - 2 * shared, 0.0)
    return Frechet(mean_part + covariance_part, mean_part, covariance_part, _notes(a, b))


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


def _notes(a: Moments, b: Moments) -> tuple[str, ...]:
    needed = a.dimensions + 1
    if a.count >= needed and b.count >= needed:
        return ()
    note = (
        f"{a.count} and {b.count} samples are fewer than the {needed} that {a.dimensions} dimensions need: "
        "the distance is biased upwards; compare it only with others of the same counts"
    )
    return (note,)
