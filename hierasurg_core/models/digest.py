"""A digest that tells whether weights have changed, in seconds even where they fill gigabytes.

It is a SHA-256 over each tensor's name, type, shape and values, in the order of names. Of a tensor above one
MiB only 16 pieces of 64 KiB count, spread evenly from its first byte to its last: training, conversion or
another model change nearly every value, so they show. It finds accidents; it is no seal against forgery.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from hierasurg_core.models.loading import named_tensors

_WHOLE = 1 << 20  # bytes up to which all of a tensor counts
_PIECE = 1 << 16
_PIECES = 16


def weights_digest(folder: Path) -> str:
    """Returns the digest of a transformer's folder as 64 hexadecimal digits.

    Of safetensors only the pieces that count are read. The names are those that our classes give the tensors.

    Raises:
        WeightsError: The weights cannot be read.
    """
    tensors = named_tensors(folder, torch.device("cpu"))
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in _pieces(tensor):
            digest.update(piece.numpy().tobytes())
    return digest.hexdigest()


def _pieces(tensor: Tensor) -> list[Tensor]:
    """Returns the bytes that count, as tensors of uint8."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if flat.numel() <= _WHOLE:
        return [flat]
    last = flat.numel() - _PIECE
    return [flat[start : start + _PIECE] for start in (last * k // (_PIECES - 1) for k in range(_PIECES))]
