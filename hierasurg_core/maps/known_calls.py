"""What stands for numpy, zlib and operator while a map pickle is read.

Owns the checks of the arguments that a map file calls them with. A stand-in keeps them and computes nothing:
ids are unpacked, and arrays looked at, when the whole file has been found to be a clip (see `masks`).
"""

import math
import re
import zlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import shown
from hierasurg_core.maps.opcodes import Known, RefusedError, Stateful

MAX_MAP_BYTES = 1 << 29  # of the uncompressed id map: 48 frames of 4K are 398 MB
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class _Packed:
    """Stands for a zlib stream. Nothing is unpacked before the whole file has been found to be a clip."""

    data: bytes


@dataclass(frozen=True, eq=False)
class IdMap:
    """Stands for the unpacked ids, uint8 (frames, 1, rows, columns)."""

    data: bytes
    shape: tuple[int, int, int, int]

    def unpack_FHW(self) -> NDArray[np.uint8]:
        """Unpacks the ids, in no more memory than they take.

        Raises:
            RefusedError: The stream ends early, or holds more than the map.
            zlib.error: It is damaged.
        """
        frames, _, rows, columns = self.shape
        ids = np.empty(frames * rows * columns, np.uint8)
        machine, rest, begin = zlib.decompressobj(), self.data, 0
        while not machine.eof:
            # One byte more than there may be, so that a longer stream shows.
            part = machine.decompress(rest, min(_CHUNK_BYTES, ids.size - begin + 1))
            rest, end = machine.unconsumed_tail, begin + len(part)
            if end > ids.size or (not part and not rest and not machine.eof):
                break
            ids[begin:end] = np.frombuffer(part, np.uint8)
            begin = end
        if not machine.eof or machine.unused_data or begin != ids.size:
            raise RefusedError(f"its id map is cut off, or not {' x '.join(map(str, self.shape))}")
        return ids.reshape(frames, rows, columns)


@dataclass(frozen=True, eq=False)
class _Plane:
    """Stands for one frame of the ids."""

    map: IdMap
    frame: int


@dataclass(frozen=True, eq=False)
class Mask:
    """Stands for "plane == entity", which is never computed: the plane is already the id map."""

    plane: _Plane
    entity: int


class _Dtype(Stateful):
    """Stands for a numpy dtype of booleans or integers."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def set_state(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "=")):
            raise RefusedError("it holds a damaged dtype")
        self.code = state[1] + self.code.lstrip("<>|=")


class Array(Stateful):
    """Stands for an array of booleans or integers; its pixels are looked at when the file is found sound."""

    __slots__ = ("_by_columns", "_data", "_kind", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None

    def set_state(self, state: object) -> None:
        """Takes what numpy's own arrays keep: version, shape, dtype, order and bytes."""
        if not (isinstance(state, tuple) and len(state) == 5):
            raise RefusedError("it holds a damaged array")
        _, shape, dtype, is_fortran, data = state
        self.fill(data, dtype, shape, "F" if is_fortran else "C")

    def fill(self, data: object, dtype: object, shape: object, order: object) -> None:
        """Takes bytes that an array of this dtype and shape has.

        Raises:
            RefusedError: They do not belong together.
        """
        if not isinstance(dtype, _Dtype) or not _is_shape(shape) or order not in ("C", "F"):
            raise RefusedError("it holds a damaged array")
        if not isinstance(data, (bytes, bytearray, _Latin)):
            raise RefusedError("it holds an array without bytes")
        boolean = dtype.code.lstrip("<>|=") in ("b1", "?")  # whose bytes may be only 0, 1: read as numbers
        self._kind = np.dtype(np.uint8 if boolean else dtype.code)
        length = len(data.text) if isinstance(data, _Latin) else len(data)
        if length != math.prod(shape) * self._kind.itemsize:
            raise RefusedError(f"it holds {length} bytes for an array of shape {shape}")
        self.shape, self._data, self._by_columns = shape, data, order == "F"

    def array(self) -> NDArray[Any]:
        """Returns the array itself.

        Raises:
            RefusedError: It was never given a content.
        """
        if self.shape is None:
            raise RefusedError("it makes an array that has no content")
        data = self._data.text.encode("latin1") if isinstance(self._data, _Latin) else self._data
        return np.frombuffer(data, self._kind).reshape(self.shape, order="F" if self._by_columns else "C")


@dataclass(frozen=True, eq=False)
class _Latin:
    """Stands for bytes that protocols 0 to 2 write as text."""

    text: str


def _decompress(data: object) -> _Packed:
    if not isinstance(data, bytes):
        raise RefusedError("its compressed map is no bytes")
    return _Packed(data)


def _frombuffer(packed: object, dtype: object) -> _Packed:
    if not isinstance(packed, _Packed) or dtype != "uint8":
        raise RefusedError("its ids are no uint8")
    return packed


def _reshape(packed: object, shape: object) -> IdMap:
    if not isinstance(packed, _Packed) or not _is_shape(shape) or len(shape) != 4 or shape[1] != 1:
        raise RefusedError("its id map is not (frames, 1, rows, columns)")
    if not 0 < math.prod(shape) <= MAX_MAP_BYTES:
        raise RefusedError(
            f"its id map of {' x '.join(map(str, shape))} is empty or larger than {MAX_MAP_BYTES} bytes"
        )
    return IdMap(packed.data, (shape[0], 1, shape[2], shape[3]))


def _getitem(map_F1HW: object, frame: object) -> _Plane:
    if not isinstance(map_F1HW, IdMap) or type(frame) is not int:
        raise RefusedError("it takes a frame of what is no id map")
    if not 0 <= frame < map_F1HW.shape[0]:
        raise RefusedError(f"it asks for frame {shown(frame)} of {map_F1HW.shape[0]}")
    return _Plane(map_F1HW, frame)


def _equal(plane: object, entity: object) -> Mask:
    if not isinstance(plane, _Plane) or type(entity) is not int:
        raise RefusedError("it compares what is no frame of ids")
    return Mask(plane, entity)


def _dtype(code: object, *_: object) -> _Dtype:
    if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([biu][1248]|\?)", code):
        raise RefusedError(f"it holds an array of {shown(code)}; masks are boolean")
    return _Dtype(code)


def _reconstruct(*_: object) -> Array:
    return Array()


def _numeric_frombuffer(data: object, dtype: object, shape: object, order: object, *_: object) -> Array:
    made = Array()
    made.fill(data, dtype, shape, order)
    return made


def _scalar(dtype: object, data: object) -> int:
    return int(_numeric_frombuffer(data, dtype, (), "C").array())


def _encode(text: object, encoding: object) -> _Latin:
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError("it holds damaged bytes")
    return _Latin(text)


def _not_called(*_: object) -> None:
    raise RefusedError("it makes an array that has no content")


def _is_shape(shape: object) -> TypeGuard[tuple[int, ...]]:
    return (
        isinstance(shape, tuple)
        and len(shape) <= 4
        and all(type(length) is int and 0 <= length <= MAX_MAP_BYTES for length in shape)
    )


KNOWN = MappingProxyType(
    {
        ("zlib", "decompress"): Known(_decompress),
        ("numpy", "frombuffer"): Known(_frombuffer),
        ("numpy", "reshape"): Known(_reshape),
        ("numpy", "equal"): Known(_equal),
        ("operator", "getitem"): Known(_getitem),
        ("_operator", "getitem"): Known(_getitem),
        ("numpy", "ndarray"): Known(_not_called),
        ("numpy", "dtype"): Known(_dtype),
        ("_codecs", "encode"): Known(_encode),
        **{
            (f"numpy.{core}.{module}", name): Known(stand_in)
            for core in ("core", "_core")
            for module, name, stand_in in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _numeric_frombuffer),
            )
        },
    }
)
