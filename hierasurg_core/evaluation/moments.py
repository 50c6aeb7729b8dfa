"""Count, mean and scatter of features that pass by in any order and number.

Owns the float64 sums that a Frechet distance needs. Memory depends on the number of
dimensions alone. It refuses NaN and infinity, which would poison all later sums.

Legend: N samples, D dimensions.
"""

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError


class Moments:
    """Running statistics of feature vectors.

    Batches join by the pairwise formula of Chan, Golub and LeVeque ("Updating formulae and a pairwise
    algorithm for computing sample variances", 1979), each centred on its own mean, so that neither a large
    mean nor the order of samples changes the result beyond rounding.

    Attributes:
        count: N so far.
        mean_D: float64; zeros while there is no sample.
        scatter_DD: float64, the sum of (x - mean)(x - mean)^T, which is N times the covariance.

    Example:
        >>> moments = Moments(1)
        >>> moments.update(np.array([[1.0], [3.0]]))
        >>> moments.count, moments.mean_D.tolist(), moments.covariance_DD(ddof=1).tolist()
        (2, [2.0], [[2.0]])
    """

    def __init__(self, dimensions: int) -> None:
        """Starts without a sample."""
        if dimensions < 1:
            raise ValueError(f"features have at least one dimension, not {dimensions}")
        self.count = 0
        self.mean_D = np.zeros(dimensions)
        self.scatter_DD = np.zeros((dimensions, dimensions))

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean_D)

    def update(self, features_ND: NDArray[np.floating]) -> None:
        """Counts a batch of samples; an empty one changes nothing.

        Raises:
            ValueError: The array is not (N, D).
            DataError: A feature is NaN or infinite.
        """
        if features_ND.ndim != 2 or features_ND.shape[1] != self.dimensions:
            raise ValueError(f"features must be (samples, {self.dimensions}), not {features_ND.shape}")
        if not len(features_ND):
            return
        batch_ND = features_ND.astype(np.float64)
        if not np.isfinite(batch_ND).all():
            bad = int(np.flatnonzero(~np.isfinite(batch_ND).all(axis=1))[0])
            raise DataError(f"the features of sample {bad} of a batch hold NaN or infinity; leave it out")
        mean_D = batch_ND.mean(axis=0)
        batch_ND -= mean_D
        self._join(len(batch_ND), mean_D, batch_ND.T @ batch_ND)

    def merge(self, other: "Moments") -> None:
        """Counts all samples of another set, which stays as it is.

        Raises:
            ValueError: The other set has another number of dimensions.
        """
        if other.dimensions != self.dimensions:
            raise ValueError(f"cannot merge {other.dimensions} dimensions into {self.dimensions}")
        if other.count:
            self._join(other.count, other.mean_D, other.scatter_DD)

    def covariance_DD(self, *, ddof: int = 1) -> NDArray[np.float64]:
        """The covariance, scatter / (N - ddof).

        Raises:
            DataError: There are too few samples for one.
        """
        if self.count <= ddof:
            raise DataError(f"a covariance needs at least {ddof + 1} samples, not {self.count}")
        return self.scatter_DD / (self.count - ddof)

    def _join(self, count: int, mean_D: NDArray[np.float64], scatter_DD: NDArray[np.float64]) -> None:
        total = self.count + count
        apart_D = mean_D - self.mean_D
        self.scatter_DD += scatter_DD
        if self.count:
            self.scatter_DD += np.outer(apart_D, apart_D * (self.count * count / total))
        self.mean_D += apart_D * (count / total)
        self.count = total
