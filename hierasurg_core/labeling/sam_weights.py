"""Where the published weights of SAM 2.1 are, and how they are read: weights only, every tensor looked at.

Owns names, files and the messages for what is missing. It refuses to put another size in the place of the one
asked for. torch is loaded only to read a file, so a name can be checked before.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from hierasurg_core.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

MINI = "mini"
PUBLISHED: dict[str, tuple[str, str]] = {
    size: (f"facebook/sam2.1-hiera-{size}", f"sam2.1_hiera_{size.replace('-', '_')}.pt")
    for size in ("tiny", "small", "base-plus", "large")
}
"""Hub repository and file of each published size."""


def find_checkpoint(
    name: str, checkpoint: Path | None, weights_dir: Path | None, *, instead: str | None = None
) -> Path:
    """Return the file with a published size's weights, fetched from the Hub where nothing else is said.

    Args:
        name: "tiny", "small", "base-plus" or "large".
        checkpoint: The file itself.
        weights_dir: A folder that holds the file under its published name.
        instead: What the user can do where it is not to be had; None: what `label` offers.

    Raises:
        UsageError: No such size.
        WeightsError: The file is not there, and the Hub does not give it.
    """
    if name not in PUBLISHED:
        raise UsageError(f"unknown SAM 2 {name!r}: use {', '.join((*PUBLISHED, MINI))}")
    repository, file = PUBLISHED[name]
    if checkpoint is not None:
        if not checkpoint.is_file():
            raise WeightsError(f"there is no checkpoint {checkpoint}: give the file {file} of {repository}")
        return checkpoint
    if weights_dir is not None:
        if not (weights_dir / file).is_file():
            raise WeightsError(
                f"{weights_dir} holds no {file}: put the file of that name from {repository} there, or give "
                "it with --sam-checkpoint"
            )
        return weights_dir / file
    from hierasurg_core.models.hub import fetch_file

    advice = instead or (
        "fetch it elsewhere and give --sam-checkpoint FILE, or put it in a folder and give "
        "--weights-dir FOLDER"
    )
    try:
        return fetch_file(repository, file, instead=advice)
    except WeightsError as error:
        raise WeightsError(f"SAM 2.1 {name} needs its weights: {error}") from error


def expect_segmenter(name: str, checkpoint: Path | None, weights_dir: Path | None, *, instead: str) -> None:
    """Refuse a SAM 2 that is not to be had; loads nothing, but fetches a published file that is missing.

    Args:
        name: "mini", a published size, or the folder of a mini one.
        checkpoint: As `find_checkpoint`.
        weights_dir: Likewise.
        instead: Likewise.

    Raises:
        UsageError: No such name, or a checkpoint for what is no published size.
        WeightsError: As `find_checkpoint`.
    """
    if name == MINI or Path(name).is_dir():
        if checkpoint is not None:
            raise UsageError(f"--sam-checkpoint {checkpoint} is for a published size, but --sam is {name}")
        return
    find_checkpoint(name, checkpoint, weights_dir, instead=instead)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads a checkpoint of sam2 (a table of tensors under "model") or safetensors; nothing in it can run.

    Raises:
        WeightsError: The file is damaged, holds more than tensors, or is of another form.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message tells how to let it run code
        raise WeightsError(
            f"{path} can't be read: it is no checkpoint of SAM 2, is damaged, or holds more than tensors, "
            "which is never loaded; give the published file"
        ) from error
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} can't be read, it may be damaged: {reason}") from error
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise WeightsError(f"{path} is no checkpoint of SAM 2: it holds no table of tensors called 'model'")
    return tensors


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Compares a network's tensors with a file's.

    Raises:
        WeightsError: One is missing, extra, of another shape, of whole numbers, or holds NaN or infinity; the
            message names it.
    """
    problem = next(
        (
            f"it lacks {key}"
            if key not in found
            else f"{key} is {_described(found[key])}, not {_described(value)}"
            for key, value in expected.items()
            if key not in found
            or found[key].shape != value.shape
            or found[key].is_floating_point() != value.is_floating_point()
        ),
        None,
    )
    problem = problem or next((f"{key} has no place" for key in found if key not in expected), None)
    if problem:
        raise WeightsError(
            f"{path} does not fit SAM 2.1 {name}: {problem}; give the file of that size and version, or "
            "--sam with the size of the file"
        )
    from hierasurg_core.models.loading import expect_finite  # loads torch, as this function's caller has

    expect_finite(found, path)
