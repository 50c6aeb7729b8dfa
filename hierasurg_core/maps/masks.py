"""The pickle of one labelled clip: `{frame: {id: bool (1, H, W)}}`, written in kilobytes, read in safety.

Written files hold one zlib-compressed id map and, for each mask, the instruction "compare this frame's ids
with this id". A plain `pickle.load` carries that out with the public functions of numpy, zlib and operator
alone (names that numpy 1 and 2 share), so anyone gets the public code's dictionary without this package.

Reading executes nothing that a file names. Every name a map file may call stands in `_KNOWN` with a
stand-in of ours that checks its arguments; any other name is refused. Plain pickles of boolean arrays, as
the public code writes them with numpy 1 or 2, are read too.

Source: the files of HieraSurg's public code.
"""

import pickle
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.errors import DataError
from hierasurg_core.maps.clip import PanopticClip

MAX_FILE_BYTES = 1 << 30
MAX_MAP_BYTES = 1 << 29  # of the uncompressed id map: 48 frames of 4K are 398 MB

# What the pickle machine raises on damaged input.
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    MemoryError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)


def write_masks(path: Path, clip: PanopticClip) -> None:
    """Writes a clip as a map pickle, atomically; the same clip gives the same bytes.

    Raises:
        ResourceError: The file cannot be written.
    """
    frames, rows, columns = clip.map_FHW.shape
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)  # maps are runs; 17 x faster
    packed = packer.compress(clip.map_FHW.tobytes()) + packer.flush()
    ids = _Call("numpy", "frombuffer", (_Call("zlib", "decompress", (packed,)), "uint8"))
    map_F1HW = _Call("numpy", "reshape", (ids, (frames, 1, rows, columns)))
    planes = [_Call("operator", "getitem", (map_F1HW, frame)) for frame in range(frames)]
    masks = {
        frame: {entity: _Call("numpy", "equal", (plane, entity)) for entity in range(clip.max_id + 1)}
        for frame, plane in enumerate(planes)
    }
    with atomic_file(path) as part:
        part.write_bytes(_pickled(masks))


def read_masks(path: Path) -> PanopticClip:
    """Reads a map pickle, ours or the public code's.

    Raises:
        DataError: The file is missing, too large, damaged, asks for a callable that a map file never needs,
            or does not hold the maps of a clip. Nothing the file names has been run.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path} has {size} bytes; a map file has at most {MAX_FILE_BYTES}")
        with path.open("rb") as file:
            content = _MapUnpickler(file, path).load()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise DataError(f"{path} is no map file: {_one_line(error)}") from error
    try:
        return _as_clip(content)
    except DataError as error:
        raise DataError(f"{path} does not hold the maps of a clip: {error}") from error


@dataclass(frozen=True, eq=False)
class _Call:
    """A call that the reader of the pickle makes; one object is made once, however often it occurs."""

    module: str
    name: str
    args: tuple[object, ...]


def _pickled(value: object) -> bytes:
    """Returns a protocol 4 pickle. Ours, because `pickle` finds a numpy function's module by itself.

    What it finds (`numpy._core._multiarray_umath`) is private and differs between numpy 1 and 2.
    """
    out = [pickle.PROTO, b"\x04"]
    memo: dict[object, int] = {}
    _emit(value, out, memo)
    return b"".join((*out, pickle.STOP))


def _emit(value: object, out: list[bytes], memo: dict[object, int]) -> None:
    if isinstance(value, int):
        out += pickle.BININT, struct.pack("<i", value)
    elif isinstance(value, str):
        out += pickle.BINUNICODE, struct.pack("<I", len(value.encode())), value.encode()
    elif isinstance(value, bytes):
        out += pickle.BINBYTES, struct.pack("<I", len(value)), value
    elif isinstance(value, tuple):
        out.append(pickle.MARK)
        for item in value:
            _emit(item, out, memo)
        out.append(pickle.TUPLE)
    elif isinstance(value, dict):
        out += pickle.EMPTY_DICT, pickle.MARK
        for key, item in value.items():
            _emit(key, out, memo)
            _emit(item, out, memo)
        out.append(pickle.SETITEMS)
    elif isinstance(value, _Call):
        _emit_call(value, out, memo)
    else:
        raise TypeError(f"a map file holds no {type(value).__name__}")


def _emit_call(call: _Call, out: list[bytes], memo: dict[object, int]) -> None:
    if call in memo:
        out += pickle.LONG_BINGET, struct.pack("<I", memo[call])
        return
    function = (call.module, call.name)
    if function in memo:
        out += pickle.LONG_BINGET, struct.pack("<I", memo[function])
    else:
        out += pickle.GLOBAL, f"{call.module}\n{call.name}\n".encode()
        _memoise(function, out, memo)
    _emit(call.args, out, memo)
    out.append(pickle.REDUCE)
    _memoise(call, out, memo)


def _memoise(key: object, out: list[bytes], memo: dict[object, int]) -> None:
    memo[key] = len(memo)
    out += pickle.LONG_BINPUT, struct.pack("<I", memo[key])


class _RefusedError(ValueError):
    """A map file's call with arguments that no map file has; the reader adds the file's name."""


class _Known:
    """A callable that a map file may name. It can be called and nothing else: no state can be set on it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("it sets state on a function")


@dataclass(frozen=True)
class _Mask:
    """Stands for "plane == entity", which is never computed: the plane is already the id map."""

    plane_1HW: NDArray[np.uint8]
    entity: int

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("it sets state on a mask")


class _Dtype:
    """Stands for a numpy dtype of booleans or integers."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "=")):
            raise _RefusedError("it holds a damaged dtype")
        self.code = state[1] + self.code.lstrip("<>|=")


class _Array:
    """Stands for an array between its making and the setting of its state."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.empty(0, np.bool_)

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise _RefusedError("it holds a damaged array")
        _, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, "F" if is_fortran else "C")


class _MapUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> object:
        known = _KNOWN.get((module_name, global_name))
        if known is None:
            raise DataError(
                f"{self._path} asks for {module_name}.{global_name}, which no map file needs; "
                "it was not run. Do not load this file with plain pickle"
            )
        return known


def _decompress(data: object) -> bytes:
    if not isinstance(data, bytes):
        raise _RefusedError("its compressed map is no bytes")
    machine = zlib.decompressobj()
    plain = machine.decompress(data, MAX_MAP_BYTES)
    if not machine.eof or machine.unused_data:
        raise _RefusedError(f"its compressed map is cut off or larger than {MAX_MAP_BYTES} bytes")
    return plain


def _frombuffer(data: object, dtype: object) -> NDArray[np.uint8]:
    if not isinstance(data, bytes) or dtype != "uint8":
        raise _RefusedError("its ids are no uint8")
    return np.frombuffer(data, np.uint8)


def _reshape(ids: object, shape: object) -> NDArray[np.uint8]:
    if not isinstance(ids, np.ndarray) or not _is_shape(shape) or len(shape) != 4 or shape[1] != 1:
        raise _RefusedError("its id map is not (frames, 1, rows, columns)")
    if ids.size != _count(shape):
        raise _RefusedError(f"its id map has {ids.size} pixels, not {' x '.join(map(str, shape))}")
    return ids.reshape(shape)


def _getitem(map_F1HW: object, frame: object) -> NDArray[np.uint8]:
    if not isinstance(map_F1HW, np.ndarray) or map_F1HW.ndim != 4 or type(frame) is not int:
        raise _RefusedError("it takes a frame of what is no id map")
    if not 0 <= frame < len(map_F1HW):
        raise _RefusedError(f"it asks for frame {frame} of {len(map_F1HW)}")
    return map_F1HW[frame]


def _equal(plane_1HW: object, entity: object) -> _Mask:
    if not isinstance(plane_1HW, np.ndarray) or plane_1HW.ndim != 3 or type(entity) is not int:
        raise _RefusedError("it compares what is no frame of ids")
    return _Mask(plane_1HW, entity)


def _dtype(code: object, *_: object) -> _Dtype:
    if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([biu][1248]|\?)", code):
        raise _RefusedError(f"it holds an array of {code!r}; masks are boolean")
    return _Dtype(code)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _numeric_frombuffer(
    data: object, dtype: object, shape: object, order: object, *_: object
) -> NDArray[Any]:
    return _array(data, dtype, shape, order)


def _scalar(dtype: object, data: object) -> int:
    return int(_array(data, dtype, (), "C"))


def _encode(text: object, encoding: object) -> bytes:
    """Protocol 2 writes bytes as text in latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError("it holds damaged bytes")
    return text.encode("latin1")


def _not_called(*_: object) -> None:
    raise _RefusedError("it makes an array that has no content")


def _array(data: object, dtype: object, shape: object, order: object) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not _is_shape(shape) or order not in ("C", "F"):
        raise _RefusedError("it holds a damaged array")
    if not isinstance(data, (bytes, bytearray)):
        raise _RefusedError("it holds an array without bytes")
    kind = np.dtype(
        np.uint8 if dtype.code.lstrip("<>|=") in ("b1", "?") else dtype.code
    )  # a bool may be only 0, 1
    if len(data) != _count(shape) * kind.itemsize:
        raise _RefusedError(f"it holds {len(data)} bytes for an array of shape {shape}")
    return np.frombuffer(data, kind).reshape(shape, order=order)


def _is_shape(shape: object) -> TypeGuard[tuple[int, ...]]:
    return (
        isinstance(shape, tuple)
        and len(shape) <= 4
        and all(type(length) is int and 0 <= length <= MAX_MAP_BYTES for length in shape)
    )


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


_KNOWN = MappingProxyType(
    {
        ("zlib", "decompress"): _Known(_decompress),
        ("numpy", "frombuffer"): _Known(_frombuffer),
        ("numpy", "reshape"): _Known(_reshape),
        ("numpy", "equal"): _Known(_equal),
        ("operator", "getitem"): _Known(_getitem),
        ("_operator", "getitem"): _Known(_getitem),
        ("numpy", "ndarray"): _Known(_not_called),
        ("numpy", "dtype"): _Known(_dtype),
        ("_codecs", "encode"): _Known(_encode),
        **{
            (f"numpy.{core}.{module}", name): _Known(stand_in)
            for core in ("core", "_core")
            for module, name, stand_in in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _numeric_frombuffer),
            )
        },
    }
)


def _as_clip(content: object) -> PanopticClip:
    """Checks the dictionary that came out and makes it a clip."""
    if not isinstance(content, dict) or not all(isinstance(frame, dict) for frame in content.values()):
        raise DataError("it is no dictionary of frames")
    keys = [*content, *(entity for frame in content.values() for entity in frame)]
    if not all(type(key) is int for key in keys):
        raise DataError("a frame or id is no number")
    masks = [mask for frame in content.values() for mask in frame.values()]
    if masks and all(isinstance(mask, _Mask) for mask in masks):
        return _clip_of_planes(content)
    if not all(isinstance(mask, (np.ndarray, _Array)) for mask in masks):
        raise DataError("a mask is no array")
    return PanopticClip.from_masks(
        {
            frame: {
                entity: mask.value if isinstance(mask, _Array) else mask for entity, mask in entities.items()
            }
            for frame, entities in content.items()
        }
    )


def _clip_of_planes(content: dict[int, dict[int, _Mask]]) -> PanopticClip:
    if sorted(content) != list(range(len(content))):
        raise DataError("its frames do not count 0, 1, ... without a gap")
    if not all(content.values()):
        raise DataError("a frame has no masks")
    planes = [next(iter(content[frame].values())).plane_1HW for frame in range(len(content))]
    highest = max(content[0])
    for frame, plane_1HW in enumerate(planes):
        entities = content[frame]
        if sorted(entities) != list(range(highest + 1)):
            raise DataError(f"frame {frame} does not have the ids 0 to {highest}")
        if any(mask.entity != key or mask.plane_1HW is not plane_1HW for key, mask in entities.items()):
            raise DataError(f"a mask of frame {frame} is not that of its id")
    if len({plane_1HW.shape for plane_1HW in planes}) != 1:
        raise DataError("its frames differ in size")
    return PanopticClip(np.concatenate(planes), highest - 1)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
