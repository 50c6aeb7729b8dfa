"""The pickle of one labelled clip: `{frame: {id: bool (1, H, W)}}`, written in kilobytes, read in safety.

Written files hold one zlib-compressed id map and, for each mask, the instruction "compare this frame's ids
with this id". A plain `pickle.load` carries that out with the public functions of numpy, zlib and operator
alone (names that numpy 1 and 2 share), so anyone gets the public code's dictionary without this package.

Reading executes nothing that a file names (see `opcodes`). Every name a map file may call stands in `KNOWN`
with a stand-in of ours that checks and keeps its arguments; any other name is refused. Nothing is unpacked
before the whole file has been found to be a clip of plausible size. Plain pickles of boolean arrays, as the
public code writes them with numpy 1 or 2, are read too.

Source: the files of HieraSurg's public code.
"""

import math
import pickle
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.errors import DataError, shown
from hierasurg_core.maps.clip import MAX_ENTITIES, PanopticClip
from hierasurg_core.maps.known_calls import KNOWN, MAX_MAP_BYTES, Array, Mask
from hierasurg_core.maps.opcodes import RefusedError, UnknownCallableError, load_plain

MAX_FILE_BYTES = 1 << 30

_DAMAGED = (ValueError, TypeError, LookupError, AttributeError)  # what damaged input raises


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

    Memory is bounded by what is in the file and by the id map it becomes, time by a million steps.

    Raises:
        DataError: The file is missing, larger than 1 GB, damaged, asks for a callable that a map file never
            needs, has an id outside of 0..255 or a map of more than 512 MB, or does not hold the maps of a
            clip. Nothing the file names has been run.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path} has {size} bytes; a map file has at most {MAX_FILE_BYTES}")
        with path.open("rb") as file:
            content = load_plain(file, KNOWN)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnknownCallableError as error:
        raise DataError(
            f"{path} asks for {error}, which no map file needs; it was not run. Do not load this file "
            "with plain pickle"
        ) from error
    except _DAMAGED as error:
        raise DataError(f"{path} is no map file: {_one_line(error)}") from error
    try:
        return _as_clip(content)
    except (DataError, RefusedError, zlib.error) as error:
        raise DataError(f"{path} does not hold the maps of a clip: {_one_line(error)}") from error


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


def _as_clip(content: object) -> PanopticClip:
    """Checks the dictionary that came out, all of it, and only then unpacks it and makes it a clip."""
    if not isinstance(content, dict) or not all(isinstance(frame, dict) for frame in content.values()):
        raise DataError("it is no dictionary of frames")
    highest = max((entity for frame in content.values() for entity in frame), default=0)
    lowest = min((entity for frame in content.values() for entity in frame), default=0)
    if lowest < 0 or highest > MAX_ENTITIES + 1:
        worst = lowest if lowest < 0 else highest
        raise DataError(f"it has the id {shown(worst)}; ids go from 0 to {MAX_ENTITIES + 1}")
    if not content or sorted(content) != list(range(len(content))):
        raise DataError(f"its frames do not count 0, 1, ... without a gap, but are {shown(sorted(content))}")
    masks = [mask for frame in content.values() for mask in frame.values()]
    if masks and all(isinstance(mask, Mask) for mask in masks):
        return _clip_of_planes(content)
    if not all(isinstance(mask, Array) for mask in masks):
        raise DataError("a mask is no array")
    return _clip_of_arrays(content)


def _clip_of_arrays(content: dict[int, dict[int, Array]]) -> PanopticClip:
    arrays = [array for frame in content.values() for array in frame.values()]
    pixels = [math.prod(array.shape or ()) for array in arrays]
    # Each mask is in the file once; a file that repeats one asks for more work than it could be worth.
    if sum(pixels) > MAX_FILE_BYTES or len(content) * max(pixels, default=0) > MAX_MAP_BYTES:
        raise DataError(f"its {len(pixels)} masks have {sum(pixels):,} pixels, more than a clip could")
    return PanopticClip.from_masks(
        {
            frame: {entity: array.array() for entity, array in entities.items()}
            for frame, entities in content.items()
        }
    )


def _clip_of_planes(content: dict[int, dict[int, Mask]]) -> PanopticClip:
    if not all(content.values()):
        raise DataError("a frame has no masks")
    highest = max(content[0])
    id_map = content[0][highest].plane.map
    if len(content) != id_map.shape[0]:
        raise DataError(f"it has {len(content)} frames, but ids of {id_map.shape[0]}")
    for frame, entities in content.items():
        if sorted(entities) != list(range(highest + 1)):
            raise DataError(f"frame {frame} does not have the ids 0 to {highest}")
        for entity, mask in entities.items():
            if mask.plane.map is not id_map or (mask.plane.frame, mask.entity) != (frame, entity):
                raise DataError(f"a mask of frame {frame} is not that of its id")
    return PanopticClip(id_map.unpack_FHW(), highest - 1)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
