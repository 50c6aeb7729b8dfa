"""Shards: safetensors files that are written row by row and read by memory map.

Owns the file. A shard under its final name is whole. It is written in the memory of a few rows, whatever its
size: each tensor grows in a file of its own, and at the end they are put together behind the header. It
is read without copying or unpickling anything; any safetensors reader can read it as well.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import shutil
import struct
import tempfile
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.artifacts import atomic_file, disk_faults_named
from hierasurg_core.errors import DataError, shown
from hierasurg_core.text_files import parse_json

_FORMAT = "hierasurg dataset"
_DTYPES = MappingProxyType(
    {
        "I64": np.dtype("<i8"),
        "I32": np.dtype("<i4"),
        "F16": np.dtype("<f2"),
        "I16": np.dtype("<i2"),
        "U8": np.dtype("u1"),
    }
)
_CODES = MappingProxyType({dtype: code for code, dtype in _DTYPES.items()})
_LARGEST_HEADER = 1 << 20
_ALIGNMENT = 8


class ShardWriter:
    """Writes one shard; used as a context, whose end without an error puts it in place.

    Example:
        >>> with ShardWriter(Path("dataset/video01-00000.safetensors"), {"schema": 1}) as shard:
        ...     shard.append("start", np.array([0], np.int32))
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, object]) -> None:
        """Opens nothing yet.

        Args:
            path: Target; its folder exists.
            fingerprint: Kept in the header.
        """
        self._path, self._fingerprint = path, dict(fingerprint)
        self._spools: dict[str, tuple[FileIO, np.dtype[Any], tuple[int, ...]]] = {}
        self._rows: dict[str, int] = {}
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> ShardWriter:
        """Makes a hidden folder for the growing tensors."""
        self._folder = Path(
            tempfile.mkdtemp(prefix=f".{self._path.stem}.", suffix=".partial", dir=self._path.parent)
        )
        self._closing.callback(shutil.rmtree, self._folder, ignore_errors=True)
        return self

    def append(self, name: str, rows_Nx: NDArray[Any]) -> int:
        """Adds rows to a tensor and returns the number of the first of them.

        Raises:
            ValueError: The rows have another type or shape than those before.
            ResourceError: The disk is full.
        """
        dtype, shape = rows_Nx.dtype.newbyteorder("<"), rows_Nx.shape[1:]
        if name not in self._spools:
            if dtype not in _CODES:
                raise ValueError(f"a shard holds no {dtype} ({name})")
            # Without a buffer, whose rest a full disk would refuse once more when the file is closed.
            file = self._closing.enter_context((self._folder / name).open("w+b", buffering=0))
            self._spools[name], self._rows[name] = (file, dtype, shape), 0
        file, known_dtype, known_shape = self._spools[name]
        if (dtype, shape) != (known_dtype, known_shape):
            raise ValueError(f"{name} is {known_dtype} {known_shape} a row, not {dtype} {shape}")
        with disk_faults_named(self._path):
            left = np.ascontiguousarray(rows_Nx).reshape(-1).view(np.uint8).data
            while left:
                left = left[file.write(left) :]
        first = self._rows[name]
        self._rows[name] += len(rows_Nx)
        return first

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Puts the shard together and in place, unless there was an error."""
        with self._closing:
            if error is None:
                self._assemble()

    def _assemble(self) -> None:
        # The widest numbers first, so that every tensor starts at a multiple of its numbers' size.
        names = sorted(self._spools, key=lambda name: (-self._spools[name][1].itemsize, name))
        metadata = {"format": _FORMAT, "fingerprint": json.dumps(self._fingerprint)}
        header: dict[str, Any] = {"__metadata__": metadata}
        offset = 0
        for name in names:
            _, dtype, shape = self._spools[name]
            rows = self._rows[name]
            end = offset + rows * dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            header[name] = {"dtype": _CODES[dtype], "shape": [rows, *shape], "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        with atomic_file(self._path) as part, part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                spool = self._spools[name][0]
                spool.seek(0)
                shutil.copyfileobj(spool, file, 1 << 20)


class Shard:
    """A shard that is open for reading.

    Attributes:
        path: The file.
        fingerprint: What it was made from.
        tensors: Read-only views of the file, by name.
    """

    def __init__(self, path: Path) -> None:
        """Maps the file.

        Raises:
            DataError: It is missing, cut short, or no shard of a data set of ours.
        """
        self.path = path
        header, start, size = _read_header(path)
        try:
            metadata = header.pop("__metadata__")
            if metadata["format"] != _FORMAT:
                raise KeyError(metadata["format"])
            self.fingerprint: dict[str, object] = parse_json(metadata["fingerprint"], str(path))
        except (KeyError, TypeError, DataError) as error:
            raise DataError(
                f"{path} is no shard of a hierasurg data set: build the data set into a folder of its own"
            ) from error
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            _expect_apart(header, size - start)
            self.tensors: Mapping[str, NDArray[Any]] = {
                name: _view(mapped, entry, start) for name, entry in header.items()
            }
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"the shard {path} is damaged ({error}): delete it and build the data set again"
            ) from error


def read_fingerprint(path: Path) -> dict[str, object]:
    """Returns the fingerprint of a shard.

    Raises:
        DataError: As `Shard`.
    """
    return Shard(path).fingerprint


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > min(size, _LARGEST_HEADER):
                raise ValueError("its header has no end")
            header = parse_json(file.read(length), str(path))
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror}") from error
    except (struct.error, ValueError, DataError) as error:
        raise DataError(f"{path} is no safetensors file: delete it and build the data set again") from error
    if not isinstance(header, dict):
        raise DataError(f"{path} is no safetensors file: delete it and build the data set again")
    return header, 8 + length, size


def _expect_apart(header: dict[str, Any], size: int) -> None:
    """Holds the tensors to numbers that can be, and to one place each within the file.

    Raises:
        ValueError, LookupError, TypeError: The header is damaged.
    """
    before = 0
    for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
        begin, end = entry["data_offsets"]
        shape = entry["shape"]
        if not all(type(number) is int and 0 <= number <= size for number in (begin, end)):
            raise ValueError(f"its offsets are {shown([begin, end])}")
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
            raise ValueError(f"a shape is {shown(shape)}")
        if end - begin != math.prod(shape) * _DTYPES[entry["dtype"]].itemsize:
            raise ValueError("a tensor reaches beyond its end")
        if begin != before:
            raise ValueError("its tensors do not lie one behind the other")
        before = end


def _view(mapped: mmap.mmap, entry: dict[str, Any], start: int) -> NDArray[Any]:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    return np.frombuffer(mapped, dtype, math.prod(shape), start + entry["data_offsets"][0]).reshape(shape)
