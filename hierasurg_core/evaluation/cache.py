"""Measured numbers on disk, so that nothing is measured twice.

Owns the files: one safetensors for a unit of clips, a role and a measurer, named by the digest of all that
its numbers depend on (pixels and networks, never paths), so that every report shares one folder. A file is
written whole or not at all and holds the digest of its own content; a damaged one is named and measured
again. Several processes may use a folder at once: each holds a shared lock, and old files are removed only by
a process that is alone.

Legend: B clips of a unit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hierasurg_core.artifacts import atomic_file, ensure_writable_folder
from hierasurg_core.errors import DataError, ResourceError
from hierasurg_core.text_files import parse_json

_FORM = "2"  # of the files; part of their names
_KEPT = "_kept"
_WHY = "why"
_DIGEST = "sha256"
_LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}  # of some network file systems


def user_cache_folder() -> Path:
    """Returns the user's own folder for measured clips: in XDG_CACHE_HOME, else in ~/.cache.

    Raises:
        ResourceError: There is no home folder.
    """
    said = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(said):
        return Path(said) / "hierasurg" / "evaluate"
    try:
        return Path.home() / ".cache" / "hierasurg" / "evaluate"
    except RuntimeError as error:
        raise ResourceError("there is no home folder for measured clips: give --cache FOLDER") from error


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
    """A folder of measured numbers; as a context it ends with `close`."""

    def __init__(self, folder: Path, *, limit_bytes: int | None = None) -> None:
        """Makes the folder and joins the processes that use it.

        Args:
            folder: Where the files are.
            limit_bytes: `close` removes files beyond that, the least recently used first; None: it removes
                none.

        Raises:
            ResourceError: It cannot be written.
        """
        ensure_writable_folder(folder)
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._whole: set[str] = set()
        self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        self._leave = weakref.finalize(self, os.close, self._lock)
        self._is_locked = self._flock(fcntl.LOCK_SH)

    def __enter__(self) -> Store:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def close(self) -> int:
        """Leaves the folder, and keeps it below its limit if no other process uses it.

        Returns:
            How many files were removed.
        """
        removed = 0
        if self._limit_bytes is not None and self._is_locked and self._flock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            removed = self._prune(self._limit_bytes)
        self._leave()
        return removed

    def path(self, key: str) -> Path:
        """Returns the file of a key, whether or not it is there."""
        digest = hashlib.sha256(f"{_FORM} {key}".encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def has(self, key: str, tell: Callable[[str], None] = lambda line: None) -> bool:
        """Tells whether numbers are there, in a file that is whole.

        Args:
            key: Of the numbers.
            tell: Is given a line that names a damaged file.
        """
        if key in self._whole:
            return True
        try:
            metadata, arrays = _read(self.path(key), None)
        except FileNotFoundError:
            return False
        except (OSError, SafetensorError) as error:
            tell(f"{self.path(key)} is damaged ({_first_line(error)}): its clips are measured again")
            return False
        if metadata.get(_DIGEST) != _digest(arrays):
            tell(f"{self.path(key)} is damaged (another digest): its clips are measured again")
            return False
        self._whole.add(key)
        return True

    def save(self, key: str, stored: Stored) -> None:
        """Writes numbers.

        Raises:
            ResourceError: The disk is full or may not be written.
        """
        path = self.path(key)
        ensure_writable_folder(path.parent)
        arrays = {
            _KEPT: stored.kept_B,
            **{name: np.ascontiguousarray(rows) for name, rows in stored.rows.items()},
        }
        why = json.dumps({str(place): why for place, why in stored.why.items()})
        with atomic_file(path, durable=False) as part:
            save_file(arrays, part, metadata={_WHY: why, _DIGEST: _digest(arrays)})
        self._whole.add(key)

    def load(self, key: str, names: frozenset[str] | None = None) -> Stored | None:
        """Reads numbers, or only some of their arrays; None where there are none, or no whole file."""
        path = self.path(key)
        try:
            metadata, arrays = _read(path, names)
            why = {int(place): reason for place, reason in parse_json(metadata[_WHY], str(path)).items()}
        except (OSError, SafetensorError, LookupError, DataError, AttributeError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is removed last
        kept_B = arrays.pop(_KEPT)
        return Stored(arrays, kept_B, why)

    def _flock(self, operation: int) -> bool:
        """Locks; False where another process is in the way, or the file system knows no locks."""
        try:
            fcntl.flock(self._lock, operation)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _prune(self, limit_bytes: int) -> int:
        """Removes what killed processes left behind, and the least recently used files beyond the limit."""
        for part in self.folder.glob("*/.*.partial.safetensors"):
            part.unlink(missing_ok=True)
        found = [(path.stat(), path) for path in self.folder.glob("*/*.safetensors")]
        found.sort(key=lambda one: (-one[0].st_mtime_ns, one[1]))
        kept_bytes, removed = 0, 0
        for status, path in found:
            kept_bytes += status.st_size
            if kept_bytes > limit_bytes:
                path.unlink(missing_ok=True)
                removed += 1
        return removed


def _read(path: Path, names: frozenset[str] | None) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Returns the metadata and the arrays of a file: those kept, and all others or some of them."""
    with safe_open(path, framework="numpy") as file:
        wanted = [name for name in file.keys() if names is None or name == _KEPT or name in names]  # noqa: SIM118
        return file.metadata() or {}, {name: file.get_tensor(name) for name in wanted}


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Returns the digest of arrays with their names and forms."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:80]
