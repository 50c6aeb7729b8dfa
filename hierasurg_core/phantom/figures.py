"""Means over clips of what is measured in each, with standard errors.

Owns the averaging: a figure may be undefined in a clip (None), which then does not count.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over clips.

    Attributes:
        value: None where no clip has a value.
        error: Standard error of it, as if clips were independent; None of fewer than two.
        count: Clips with a value.
    """

    value: float | None
    error: float | None
    count: int


def mean_of(values: Iterable[float | None]) -> Mean:
    """Averages the values that are not None."""
    found = [float(value) for value in values if value is not None]
    count = len(found)
    if not count:
        return Mean(None, None, 0)
    mean = math.fsum(found) / count
    if count == 1:
        return Mean(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in found) / (count - 1)
    return Mean(mean, math.sqrt(variance / count), count)


def means_of(rows: Sequence[Any]) -> dict[str, Mean]:
    """Averages each field of dataclasses of one kind, whose fields are numbers or None."""
    names = [field.name for field in dataclasses.fields(rows[0])]
    return {name: mean_of(getattr(row, name) for row in rows) for name in names}
