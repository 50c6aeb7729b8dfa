"""The table of an evaluation: each metric with its baselines, its place, its plots and each clip's own value.

Owns the form of `report.json` (see `evaluation.report.schema`) as it grows while metrics are computed, and
the list of what was left out.

Legend: N clips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hierasurg_core.evaluation.distances import FROZEN, MODEL, VAE, Distances, RoleValue
from hierasurg_core.evaluation.report.schema import FEWEST_CLIPS
from hierasurg_core.evaluation.scalars import ClipValues, by_phase, by_triplet, mean_of, places_of

ROLES = ("real", "vae", "frozen", "model")
_DIGITS = 10


class Table:
    """Metrics as they are computed."""

    def __init__(self, *, replicates: int, seed: int) -> None:
        """Starts empty.

        Args:
            replicates: Of bootstrap intervals.
            seed: Of those.
        """
        self.metrics: dict[str, dict[str, Any]] = {}
        self.left_out: list[dict[str, str]] = []
        self.plots: dict[str, dict[str, Any]] = {
            "against_samples": {},
            "per_phase": {},
            "per_triplet": {},
            "per_second": {},
        }
        self.of_clips: dict[str, dict[str, float]] = {}
        self.warnings: list[str] = []
        self._replicates, self._seed = replicates, seed

    def leave_out(self, names: str | tuple[str, ...], why: str) -> None:
        """Says why metrics are not there."""
        for name in (names,) if isinstance(names, str) else names:
            self.left_out.append({"metric": name, "why": why})

    def add(
        self,
        name: str,
        title: str,
        values: Mapping[str, RoleValue],
        *,
        better: str,
        unit: str = "",
        mini: bool = False,
        extractor: str | None = None,
        places: Mapping[str, float] | None = None,
        note: str | None = None,
    ) -> None:
        """Adds a metric; one without the model's value is left out, and one of few clips has no place."""
        finite = {role: value for role, value in values.items() if math.isfinite(value.value)}
        if MODEL not in finite:
            self.leave_out(name, "there is nothing to measure in the generated clips")
            return
        self.metrics[name] = {
            "title": title,
            "unit": unit,
            "better": better,
            "mini": mini,
            "extractor": extractor,
            "values": {role: _plain(finite[role]) for role in ROLES if role in finite},
            **{
                key: _place(places or {}, role) if _is_of_enough(finite, role) else None
                for key, role in (("place", MODEL), ("vae_place", VAE))
            },
            "note": note,
        }

    def add_distances(
        self, name: str, title: str, found: Distances, *, mini: bool, extractor: str, note: str | None = None
    ) -> None:
        """Adds a distance of whole sets."""
        notes = [*found.notes, *([note] if note else [])]
        self.add(
            name,
            title,
            found.values,
            better="lower",
            mini=mini,
            extractor=extractor,
            places=found.places,
            note="; ".join(notes) or None,
        )
        if name not in self.metrics:
            return
        self.warnings += [f"{title}: {warning}" for warning in found.warnings]
        if found.against_samples:
            self.plots["against_samples"][name] = _curve(found.against_samples)

    def add_means(
        self,
        name: str,
        title: str,
        values: Mapping[str, ClipValues],
        *,
        better: str,
        unit: str = "",
        mini: bool = False,
        extractor: str | None = None,
        note: str | None = None,
        has_place: bool = True,
    ) -> None:
        """Adds a mean over clips, with its plots by phase and triplet and each clip's value."""
        means = {
            role: mean
            for role, clips in values.items()
            if (mean := mean_of(clips, replicates=self._replicates, seed=self._seed)) is not None
        }
        places = places_of(means, better=better) if has_place else {}
        self.add(
            name,
            title,
            means,
            better=better,
            unit=unit,
            mini=mini,
            extractor=extractor,
            places=places,
            note=note,
        )
        if name not in self.metrics:
            return
        model = values[MODEL]
        for plot, parts in (("per_phase", by_phase(model)), ("per_triplet", by_triplet(model))):
            if parts:
                self.plots[plot][name] = {
                    label: {"value": _rounded(value), "count": count}
                    for label, (value, count) in parts.items()
                }
        for clip, value in zip(model.names, model.value_N, strict=True):
            if np.isfinite(value):
                self.of_clips.setdefault(clip, {})[name] = _rounded(float(value))

    def add_seconds(self, name: str, curve: tuple[tuple[float, float], ...]) -> None:
        """Adds a plot by second of a metric that is there."""
        if name in self.metrics and curve:
            self.plots["per_second"][name] = _curve(curve)


def _plain(value: RoleValue) -> dict[str, Any]:
    interval = None if value.interval is None else [_rounded(end) for end in value.interval]
    return {"value": _rounded(value.value), "interval": interval, "count": value.count}


def _is_of_enough(values: Mapping[str, RoleValue], role: str) -> bool:
    """Tells whether a role and the frozen first frames of the real clips rest on enough clips for a place."""
    counts = [values[name].count for name in (role, FROZEN) if name in values]
    return min(counts, default=0) >= FEWEST_CLIPS


def _place(places: Mapping[str, float], role: str) -> float | None:
    place = places.get(role)
    return None if place is None or not math.isfinite(place) else _rounded(place)


def _curve(points: tuple[tuple[float, float], ...]) -> list[list[float]]:
    return [[x, _rounded(y)] for x, y in points]


def _rounded(value: float) -> float:
    """Ten digits: what is left of them beyond is rounding of sums, and differs between machines."""
    return float(f"{value:.{_DIGITS}g}")
