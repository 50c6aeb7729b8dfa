"""The seam of everything that measures clips: a batch goes in, an array with a row for each clip comes out.

Owns the two forms. Whatever measures (a network, a comparison with the real clip, a segmenter) has a key that
changes with everything its numbers depend on, so that they can be kept on disk.

Legend: B clips, F frames, H rows, W columns, C the three channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.maps import PanopticClip

Rows = Mapping[str, NDArray[Any]]
"""Measured numbers by name, each with one row a clip."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One clip, and what belongs to it.

    Attributes:
        video_FHWC: uint8 RGB, the frames that count.
        start_HWC: The frame that it begins with; None: the first that counts.
        real_FHWC: The real clip that it is to resemble, of the same size and length; None without one.
        given_HWC: The frame that it was to begin with, of the same size; None where that is not known.
        maps: The maps that it was to follow, one for each frame; None without.
    """

    video_FHWC: NDArray[np.uint8]
    real_FHWC: NDArray[np.uint8] | None = None
    given_HWC: NDArray[np.uint8] | None = None
    maps: PanopticClip | None = None
    start_HWC: NDArray[np.uint8] | None = None

    @property
    def first_HWC(self) -> NDArray[np.uint8]:
        """Returns the frame that it begins with."""
        return self.video_FHWC[0] if self.start_HWC is None else self.start_HWC


class Measurer(Protocol):
    """Something that measures clips."""

    @property
    def role(self) -> str:
        """Returns what it is in this evaluation ("mini", "i3d", "pairs")."""
        ...

    @property
    def name(self) -> str:
        """Returns what it is called in a report."""
        ...

    @property
    def digest(self) -> str:
        """Returns the digest of its weights; "" where it has none."""
        ...

    @property
    def key(self) -> str:
        """Returns its name in the cache: changes with weights, preparation and definition."""
        ...

    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns its numbers; a clip for which one makes no sense has NaN there."""
        ...
