"""Metrics that are means over clips: values of all roles, intervals, place, and what they depend on.

Owns how one number a clip becomes a metric. NaN says that there was nothing to measure in a clip; it does not
count.

Legend: N clips, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.evaluation.distances import FROZEN, MODEL, REAL, VAE, RoleValue, place_between
from hierasurg_core.evaluation.intervals import ratio_interval
from hierasurg_core.evaluation.recordings import Labels, phase_name, triplet_name


@dataclass(frozen=True, eq=False)
class ClipValues:
    """One number a clip, of one role.

    Attributes:
        value_N: NaN where there was nothing to measure.
        operations: Of each clip.
        labels: Of each clip.
        names: Of each clip.
    """

    value_N: NDArray[np.float64]
    operations: Sequence[str]
    labels: Sequence[Labels]
    names: Sequence[str]


def mean_of(values: ClipValues, *, replicates: int, seed: int) -> RoleValue | None:
    """Returns the mean with a bootstrap interval over whole operations; None where no clip counts.

    Of one operation alone clips are resampled, neighbours and all.
    """
    known_N = np.isfinite(values.value_N)
    if not known_N.any():
        return None
    value_N = values.value_N[known_N]
    operations = [name for name, known in zip(values.operations, known_N, strict=True) if known]
    ones_N = np.ones(len(value_N))
    interval = ratio_interval(value_N, ones_N, operations, replicates=replicates, seed=seed)
    return RoleValue(float(value_N.mean()), interval, len(value_N))


def places_of(values: Mapping[str, RoleValue], *, better: str) -> dict[str, float]:
    """Returns the places of model and VAE between the real clips and the frozen first frame."""
    if not {REAL, FROZEN} <= set(values):
        return {}
    ends = values[REAL].value, values[FROZEN].value
    found = {
        role: place_between(*ends, values[role].value, better=better)
        for role in (VAE, MODEL)
        if role in values
    }
    return {role: place for role, place in found.items() if place is not None}


def by_label(values: ClipValues, name_of: Callable[[Labels], str | None]) -> dict[str, tuple[float, int]]:
    """Returns the mean and the number of clips by a label, in the order of the names."""
    groups: dict[str, list[float]] = {}
    for value, labels in zip(values.value_N, values.labels, strict=True):
        name = name_of(labels)
        if name is not None and np.isfinite(value):
            groups.setdefault(name, []).append(float(value))
    return {name: (float(np.mean(groups[name])), len(groups[name])) for name in sorted(groups)}


def by_phase(values: ClipValues) -> dict[str, tuple[float, int]]:
    """Returns the mean and the number of clips by phase."""
    return by_label(values, lambda labels: phase_name(labels.phase))


def by_triplet(values: ClipValues) -> dict[str, tuple[float, int]]:
    """Returns the mean and the number of clips by triplet."""
    return by_label(values, lambda labels: triplet_name(labels.triplet))


def by_second(value_NF: NDArray[np.float64], fps: float) -> tuple[tuple[float, float], ...]:
    """Returns (second, mean over clips) for each frame of which anything is known."""
    curve: list[tuple[float, float]] = []
    for frame in range(value_NF.shape[1]):
        known = value_NF[np.isfinite(value_NF[:, frame]), frame]
        if len(known):
            curve.append((frame / fps, float(known.mean())))
    return tuple(curve)


def phase_hits(logits_NP: NDArray[np.floating], labels: Sequence[Labels]) -> NDArray[np.float64]:
    """Returns 1 where the likeliest phase is the asked one, 0 where not, NaN where none was asked."""
    likeliest = logits_NP.argmax(axis=1)
    return np.array(
        [
            np.nan if asked.phase is None else float(found == asked.phase)
            for found, asked in zip(likeliest, labels, strict=True)
        ]
    )


def triplet_hits(logits_NT: NDArray[np.floating], labels: Sequence[Labels]) -> NDArray[np.float64]:
    """Returns 1 where the likeliest triplet is one of the clip's, 0 where not, NaN where none is known."""
    likeliest = logits_NT.argmax(axis=1)
    return np.array(
        [
            float(found in asked.triplets) if asked.triplets else np.nan
            for found, asked in zip(likeliest, labels, strict=True)
        ]
    )


def share_of_counts(counts_N5: NDArray[np.float64], top: int, bottom: int) -> NDArray[np.float64]:
    """Returns the ratio of two counts of each clip, NaN where the lower one is 0 or unknown."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts_N5[:, bottom] > 0, counts_N5[:, top] / counts_N5[:, bottom], np.nan)
