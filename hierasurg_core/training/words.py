"""How a batch's phases and triplets reach the model: as ids, or as text vectors looked up by name.

B clips, F labelled frames, E the vectors' width.
"""

from __future__ import annotations

from torch import Tensor

from hierasurg_core.models.text_vectors import TextVectors
from hierasurg_core.training.batch import Batch


def conditions(vectors: TextVectors | None, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Returns what the model is given for phase and triplet: ids (B, F), or vectors (B, F, E)."""
    phase, triplet = batch.phase_BF, batch.triplet_BF
    if vectors is None:
        return phase, triplet
    return (
        None if phase is None else vectors.phases(phase),
        None if triplet is None else vectors.triplets(triplet),
    )
