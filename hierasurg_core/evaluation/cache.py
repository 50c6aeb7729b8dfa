"""Measured numbers on disk, so that nothing is measured twice.

Owns the files: one safetensors a unit of clips, role and measurer, named by the digest of all that its
numbers depend on. A file is whole or absent; one that cannot be read is made again. Several processes may
share a folder.

Legend: B clips of a unit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hierasurg_core.artifacts import atomic_file, ensure_writable_folder
from hierasurg_core.errors import DataError
from hierasurg_core.text_files import parse_json

_KEPT = "_kept"
_WHY = "why"


@dataclass(frozen=True, eq=False)
class Stored:
    """What a unit measured.

    Attributes:
        rows: Arrays (B, ...) by name; rows of clips that are not kept mean nothing.
        kept_B: Which clips have numbers.
        why: Reasons for the others, by their place in the unit.
    """

    rows: Mapping[str, NDArray[Any]]
    kept_B: NDArray[np.bool_]
    why: Mapping[int, str]


class Store:
    """A folder of measured numbers."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder.

        Raises:
            ResourceError: It cannot be written.
        """
        ensure_writable_folder(folder)
        self.folder = folder

    def path(self, key: str) -> Path:
        """Returns the file of a key, whether or not it is there."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def has(self, key: str) -> bool:
        """Tells whether numbers are there, in a file that is whole."""
        try:
            with safe_open(self.path(key), framework="numpy"):
                return True
        except (OSError, SafetensorError):
            return False

    def save(self, key: str, stored: Stored) -> None:
        """Writes numbers.

        Raises:
            ResourceError: The disk is full or may not be written.
        """
        path = self.path(key)
        ensure_writable_folder(path.parent)
        tensors = {
            _KEPT: stored.kept_B,
            **{name: np.ascontiguousarray(rows) for name, rows in stored.rows.items()},
        }
        metadata = {_WHY: json.dumps({str(place): why for place, why in stored.why.items()})}
        with atomic_file(path, durable=False) as part:
            save_file(tensors, part, metadata=metadata)

    def load(self, key: str, names: frozenset[str] | None = None) -> Stored | None:
        """Reads numbers, or only some of their arrays; None where there are none, or the file is damaged."""
        path = self.path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                wanted = [name for name in file.keys() if name != _KEPT]  # noqa: SIM118 - no mapping
                rows = {name: file.get_tensor(name) for name in wanted if names is None or name in names}
                said = parse_json((file.metadata() or {})[_WHY], str(path))
                why = {int(place): reason for place, reason in said.items()}
                kept_B = file.get_tensor(_KEPT)
        except (OSError, SafetensorError, LookupError, DataError, AttributeError, ValueError):
            path.unlink(missing_ok=True)
            return None
        return Stored(rows, kept_B, why)
