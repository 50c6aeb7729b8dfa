"""Count, mean and scatter of features that pass by in any order and number.

Owns the float64 sums that a Frechet distance needs, and their file. Memory depends on the number of
dimensions alone. It refuses NaN and infinity, which would poison all later sums.

Legend: N samples, D dimensions, G groups.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.errors import DataError

_NAMES = {"count", "mean_D", "scatter_DD"}


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

    def merge(self, other: "Moments", *, weight: int = 1) -> None:
        """Counts all samples of another set, each `weight` times.

        Raises:
            ValueError: The other set has another number of dimensions, or the weight is below 0.
        """
        if other.dimensions != self.dimensions:
            raise ValueError(f"cannot merge {other.dimensions} dimensions into {self.dimensions}")
        if weight < 0:
            raise ValueError(f"a weight is 0 or more, not {weight}")
        if other.count and weight:
            self._join(weight * other.count, other.mean_D, weight * other.scatter_DD)

    def covariance_DD(self, *, ddof: int = 1) -> NDArray[np.float64]:
        """The covariance, scatter / (N - ddof).

        Raises:
            DataError: There are too few samples for one.
        """
        if self.count <= ddof:
            raise DataError(f"a covariance needs at least {ddof + 1} samples, not {self.count}")
        return self.scatter_DD / (self.count - ddof)

    def save(self, path: Path) -> None:
        """Writes the statistics as safetensors, atomically.

        Raises:
            ResourceError: The file cannot be written.
        """
        tensors = {
            "count": np.array([self.count], np.int64),
            "mean_D": self.mean_D,
            "scatter_DD": self.scatter_DD,
        }
        with atomic_file(path) as part:
            save_file(tensors, part)

    @classmethod
    def load(cls, path: Path) -> "Moments":
        """Reads what `save` wrote, bit for bit.

        Raises:
            DataError: The file is missing, damaged, or holds something else.
        """
        try:
            tensors = load_file(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except SafetensorError as error:
            raise DataError(f"{path} is no whole safetensors file ({error}); delete it") from error
        if set(tensors) != _NAMES:
            raise DataError(
                f"{path} holds no feature statistics, but {', '.join(sorted(tensors)) or 'nothing'}"
            )
        count, mean_D, scatter_DD = tensors["count"], tensors["mean_D"], tensors["scatter_DD"]
        well_formed = (
            count.shape == (1,)
            and count.dtype == np.int64
            and mean_D.ndim == 1
            and mean_D.size
            and scatter_DD.shape == (mean_D.size, mean_D.size)
            and mean_D.dtype == scatter_DD.dtype == np.float64
            and bool(np.isfinite(mean_D).all() and np.isfinite(scatter_DD).all() and count[0] >= 0)
        )
        if not well_formed:
            raise DataError(f"{path} holds damaged feature statistics; delete it")
        moments = cls(mean_D.size)
        moments.count, moments.mean_D, moments.scatter_DD = int(count[0]), mean_D, scatter_DD
        return moments

    def _join(self, count: int, mean_D: NDArray[np.float64], scatter_DD: NDArray[np.float64]) -> None:
        total = self.count + count
        apart_D = mean_D - self.mean_D
        self.scatter_DD += scatter_DD
        if self.count:
            self.scatter_DD += np.outer(apart_D, apart_D * (self.count * count / total))
        self.mean_D += apart_D * (count / total)
        self.count = total


def merged(parts: Iterable[Moments]) -> Moments:
    """Returns the statistics of all samples of several sets, which stay as they are.

    Raises:
        ValueError: There is no set, or their dimensions differ.
    """
    whole: Moments | None = None
    for part in parts:
        whole = whole or Moments(part.dimensions)
        whole.merge(part)
    if whole is None:
        raise ValueError("there is nothing to merge")
    return whole


def group_of(name: str, groups: int) -> int:
    """Returns the group 0..G-1 of everything that comes from one operation, by its name alone.

    Clips of one operation resemble each other, so they are resampled together (see `frechet.bootstrap`);
    and a name's group is the same in every run, order and process.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % groups
