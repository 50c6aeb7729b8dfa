"""Text vectors, which take the place of learned labels: one for each phase and triplet, by its name.

The published variant takes SurgVLP's; here a file stands for whatever model made them: safetensors with one
float vector of equal width for each name. Owns the file's form and where it lies beside a model.
Refuses: making such vectors, and files that lack a class.

Legend: B clips, F labelled frames, E the vectors' width, P phases, T triplets, N rows of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.errors import DataError
from hierasurg_core.models.conditioning import expect_ids
from hierasurg_core.models.defaults import MODEL_INDEX
from hierasurg_core.models.files import find_beside
from hierasurg_core.models.stack import CogVideoXStack
from hierasurg_core.taxonomy import PHASES, TRIPLETS

TEXT_VECTORS = "text_vectors.safetensors"


@dataclass(frozen=True, eq=False)
class TextVectors:
    """A vector for each class; an id of -1 is a vector of zeros, which stands for a dropped condition.

    Attributes:
        phase_PE: One row a phase, then one of zeros; float32.
        triplet_TE: The same for triplets.
    """

    phase_PE: Tensor
    triplet_TE: Tensor

    @property
    def width(self) -> int:
        """E."""
        return self.phase_PE.shape[1]

    def phases(self, index_BF: Tensor) -> Tensor:
        """Returns the vectors (B, F, E) of phase ids -1..6, on the tables' device.

        Raises:
            UsageError: An id does not exist (ids on a GPU are not looked at, which would wait for it).
        """
        return _rows("phase", self.phase_PE, index_BF)

    def triplets(self, index_BF: Tensor) -> Tensor:
        """Returns the vectors (B, F, E) of triplet ids -1..99 likewise."""
        return _rows("triplet", self.triplet_TE, index_BF)


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


def save_text_vectors(vectors: TextVectors, path: Path) -> None:
    """Writes the file that `load_text_vectors` reads.

    Raises:
        ResourceError: The disk is full.
    """
    tensors = dict(zip(PHASES, vectors.phase_PE[:-1].cpu().unbind(), strict=True))
    tensors |= {t.name: row for t, row in zip(TRIPLETS, vectors.triplet_TE[:-1].cpu().unbind(), strict=True)}
    with atomic_file(path) as part:
        save_file({name: row.clone() for name, row in tensors.items()}, part)


def takes_text_vectors(model: CogVideoXStack) -> bool:
    """Tells whether a transformer is given vectors in place of ids."""
    return model.config["text_cond"] == "vectors" and bool(model.config.get("hierarchical", True))


def find_text_vectors(part: Path) -> Path | None:
    """Returns the file that belongs to a transformer's folder; None where there is none.

    It lies in the folder, in the run that holds it, or in the pipeline whose part it is.
    """
    found = find_beside(part, TEXT_VECTORS)
    of_pipeline = part.parent / TEXT_VECTORS
    if found is None and (part.parent / MODEL_INDEX).is_file() and of_pipeline.is_file():
        return of_pipeline
    return found


def _rows(name: str, table_NE: Tensor, index_BF: Tensor) -> Tensor:
    """Looks up rows; -1 is the last one, the zeros."""
    if index_BF.device.type == "cpu":
        expect_ids(name, index_BF.unique().tolist(), len(table_NE) - 1)
    index_BF = index_BF.to(table_NE.device)
    return table_NE[torch.where(index_BF < 0, len(table_NE) - 1, index_BF)]
