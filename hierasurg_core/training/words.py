"""How a batch's phases and triplets reach the model: as ids, or as text vectors looked up by name.

The published variant with text vectors takes SurgVLP's; here a file stands for whatever model made them:
safetensors with one float vector of equal width for each phase's and each triplet's name.
B clips, F labelled frames, E the vectors' width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hierasurg_core.errors import DataError
from hierasurg_core.taxonomy import PHASES, TRIPLETS
from hierasurg_core.training.batch import Batch


@dataclass(frozen=True, eq=False)
class TextVectors:
    """A vector for each class; an id of -1 is a vector of zeros, which stands for a dropped condition.

    Attributes:
        phase_PE: One row a phase, then one of zeros.
        triplet_TE: The same for triplets.
    """

    phase_PE: Tensor
    triplet_TE: Tensor

    @property
    def width(self) -> int:
        """E."""
        return self.phase_PE.shape[1]


def conditions(vectors: TextVectors | None, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Returns what the model is given for phase and triplet: ids (B, F), or vectors (B, F, E)."""
    if vectors is None:
        return batch.phase_BF, batch.triplet_BF
    return _rows(vectors.phase_PE, batch.phase_BF), _rows(vectors.triplet_TE, batch.triplet_BF)


def load_text_vectors(path: Path, device: torch.device) -> TextVectors:
    """Reads text vectors, float32.

    Raises:
        DataError: The file cannot be read, lacks a phase or triplet, or its vectors are no vectors of equal
            width.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read the text vectors {path}: {error}; give a safetensors file") from error
    names = [*PHASES, *(triplet.name for triplet in TRIPLETS)]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise DataError(
            f"{path} lacks vectors of {len(missing)} classes, as {missing[0]!r}; it needs one for each of "
            f"the {len(PHASES)} phases and {len(TRIPLETS)} triplets by its name"
        )
    shape = tensors[names[0]].shape
    for name in names:
        if tensors[name].ndim != 1 or tensors[name].shape != shape or not tensors[name].is_floating_point():
            raise DataError(
                f"{path}: {name!r} is {tensors[name].dtype} {tuple(tensors[name].shape)}, not a float vector "
                f"of width {shape[0] if shape else 0}"
            )
    zeros = torch.zeros(shape)

    def table(classes: list[str]) -> Tensor:
        return torch.stack([*(tensors[name].float() for name in classes), zeros]).to(device)

    return TextVectors(table(names[: len(PHASES)]), table(names[len(PHASES) :]))


def _rows(table_NE: Tensor, index_BF: Tensor | None) -> Tensor | None:
    """Looks up rows; -1 is the last one, the zeros."""
    return None if index_BF is None else table_NE[index_BF % len(table_NE)]
