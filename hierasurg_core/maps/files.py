"""Maps on disk: clips as pickles, folders of indexed PNGs or coloured mp4, and single indexed PNGs.

Owns which file is which and what a file says about its own ids. A map picture keeps ids as pixel values;
its colours are for looking only. Files of ours carry the number of entities (a PNG in a text field, an mp4
in its comment); of other people's files the two highest ids are taken for background and black border.
"""

import itertools
import json
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.errors import DataError, shown
from hierasurg_core.maps.clip import MAX_ENTITIES, PanopticClip
from hierasurg_core.maps.colours import MAX_LEVELS, decode_colours, palette_rgb_N3
from hierasurg_core.maps.masks import read_masks, write_masks
from hierasurg_core.text_files import parse_json
from hierasurg_core.video import read_comment, read_video

_NUM_ENTITIES = "num_entities"
_FRAME_NAME = re.compile(r"\d+\.png", re.IGNORECASE)
MAX_MAP_PIXELS = 1 << 26  # 8192 x 8192
MAX_FOLDER_PIXELS = 1 << 32
_VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi"}
_LEAST_SHARE = 5e-4  # of a clip's pixels, for a colour to count as one of its levels


def save_clip(path: Path, clip: PanopticClip) -> None:
    """Writes a clip as `NNNNNN.pkl` (see `masks`), atomically.

    Raises:
        ResourceError: The file cannot be written.
    """
    write_masks(path, clip)


def load_clip(path: Path, num_frames: int | None = None) -> PanopticClip:
    """Reads a clip of maps in any of the three forms.

    Args:
        path: A `.pkl`; a folder of indexed PNGs named by number; or a video of coloured maps, whose ids are
            those of its comment, else 0, 1, ... in the order of the palette that fits its colours best.
        num_frames: Take so many frames from the start; None takes all.

    Raises:
        DataError: Nothing is there, it is none of these, it is damaged, or it has fewer frames.
    """
    if path.is_dir():
        clip = _load_folder(path, num_frames)
    elif not path.exists():
        raise DataError(f"there are no maps at {path}: give a .pkl, a folder of indexed PNGs, or an mp4")
    elif path.suffix.lower() == ".pkl":
        clip = read_masks(path)
    elif path.suffix.lower() in _VIDEO_SUFFIXES:
        clip = _load_coloured(path, num_frames)
    else:
        raise DataError(f"{path} is no form of maps: give a .pkl, a folder of indexed PNGs, or an mp4")
    if num_frames is None:
        return clip
    if len(clip.map_FHW) < num_frames:
        raise DataError(f"{path} holds maps of {len(clip.map_FHW)} frames, but {num_frames} are needed")
    return PanopticClip(clip.map_FHW[:num_frames], clip.num_entities)


def load_map_image(path: Path) -> NDArray[np.uint8]:
    """Reads an indexed (or 8-bit grey) PNG as ids, uint8 (H, W).

    Raises:
        DataError: The file is missing, damaged, no PNG, a picture of colours, or has more than 8192 x 8192
            pixels.
    """
    return _open_map(path)[0]


def map_num_entities(path: Path) -> int:
    """Returns how many entities a map PNG has: what the file says, else its highest id minus 1.

    Raises:
        DataError: As `load_map_image`, or the map does not have two ids.
    """
    map_HW, stated = _open_map(path)
    return _num_entities(path, int(map_HW.max()), stated)


def save_map_png(path: Path, map_HW: NDArray[np.uint8], num_entities: int | None = None) -> None:
    """Writes ids as an indexed PNG that is coloured with `tab20`, atomically.

    Args:
        path: Target; its folder exists.
        map_HW: uint8 ids.
        num_entities: K of the clip, kept in the file. None keeps nothing; a reader then takes the two
            highest ids of the map for background and border.

    Raises:
        ValueError: The array is no uint8 (H, W), or holds an id above K + 1.
        ResourceError: The file cannot be written.
    """
    if map_HW.dtype != np.uint8 or map_HW.ndim != 2 or not map_HW.size:
        raise ValueError(f"a map is uint8 (H, W), not {map_HW.dtype} {map_HW.shape}")
    highest = int(map_HW.max()) if num_entities is None else num_entities + 1
    if map_HW.max() > highest:
        raise ValueError(f"the map holds id {map_HW.max()}, above {highest}")
    count = highest + 1
    palette_N3 = palette_rgb_N3(min(count, MAX_LEVELS))[np.arange(count) % MAX_LEVELS]
    picture = Image.fromarray(map_HW)
    picture.putpalette(palette_N3.tobytes())
    info = PngInfo()
    if num_entities is not None:
        info.add_text(_NUM_ENTITIES, str(num_entities))
    with atomic_file(path) as part:
        picture.save(part, format="PNG", optimize=True, pnginfo=info)


def describe_levels(levels: Sequence[int], num_entities: int) -> str:
    """Returns the comment that makes an mp4 painted with these levels readable by `load_clip`."""
    return json.dumps({"levels": list(levels), _NUM_ENTITIES: num_entities})


def _load_folder(path: Path, num_frames: int | None) -> PanopticClip:
    files = sorted(
        (file for file in path.iterdir() if _FRAME_NAME.fullmatch(file.name)), key=lambda f: int(f.stem)
    )
    if not files:
        clips = any(file.suffix == ".pkl" for file in path.iterdir())
        hint = (
            "it holds clips as .pkl: give one of those files"
            if clips
            else "name them 000000.png, 000001.png, ..."
        )
        raise DataError(f"{path} holds no indexed PNGs with a number for a name; {hint}")
    for before, file in itertools.pairwise(files):
        if int(file.stem) != int(before.stem) + 1:
            raise DataError(f"{path} has a gap: {before.name} is followed by {file.name}")
    opened: list[tuple[NDArray[np.uint8], int | None]] = []
    total = 0
    for file in files[:num_frames]:
        opened.append(_open_map(file))
        total += opened[-1][0].size
        if total > MAX_FOLDER_PIXELS:
            raise DataError(
                f"the maps in {path} have more than {MAX_FOLDER_PIXELS:,} pixels: take fewer of them"
            )
    shapes = {map_HW.shape for map_HW, _ in opened}
    if len(shapes) != 1:
        raise DataError(
            f"the maps in {path} differ in size: {', '.join(f'{w}x{h}' for h, w in sorted(shapes))}"
        )
    stated = {number for _, number in opened if number is not None}
    if len(stated) > 1:
        raise DataError(f"the maps in {path} are of different clips: they state {sorted(stated)} entities")
    map_FHW = np.stack([map_HW for map_HW, _ in opened])
    return PanopticClip(map_FHW, _num_entities(path, int(map_FHW.max()), next(iter(stated), None)))


def _load_coloured(path: Path, num_frames: int | None) -> PanopticClip:
    video_FHWC, _ = read_video(path, num_frames)
    described = _described(path)
    if described is None:
        count = _guess_level_count(video_FHWC)
        if count < 2:
            raise DataError(
                f"{path} shows a single colour; coloured maps have background and border at least"
            )
        described = tuple(range(count)), count - 2
    levels, num_entities = described
    return PanopticClip(decode_colours(video_FHWC, levels), num_entities)


def _described(path: Path) -> tuple[tuple[int, ...], int] | None:
    """Reads what `describe_levels` wrote; another program's comment says nothing."""
    try:
        said = parse_json(read_comment(path) or "null", f"the comment of {path}")
    except DataError:
        return None
    if not isinstance(said, dict) or _NUM_ENTITIES not in said:
        return None
    levels, number = said.get("levels"), said[_NUM_ENTITIES]
    whole = isinstance(levels, list) and all(type(value) is int for value in (number, *levels))
    if (
        not whole
        or not levels
        or levels != sorted(set(levels))
        or not 0 <= levels[0] <= levels[-1] <= number + 1
    ):
        raise DataError(f"the comment of {path} names wrong levels: {shown(said)}")
    if number > MAX_ENTITIES:
        raise DataError(f"the comment of {path} names {number} entities; at most {MAX_ENTITIES} are possible")
    return tuple(levels), number


def _guess_level_count(video_FHWC: NDArray[np.uint8]) -> int:
    """Finds n so that the colours of n levels are those that the video shows, else the least n with all."""
    everything = palette_rgb_N3(MAX_LEVELS)
    rank_FHW = decode_colours(video_FHWC, range(MAX_LEVELS))
    share = np.bincount(rank_FHW.ravel(), minlength=MAX_LEVELS) / rank_FHW.size
    seen = {tuple(colour) for colour in everything[share >= _LEAST_SHARE].tolist()}
    palettes = {n: {tuple(colour) for colour in palette_rgb_N3(n).tolist()} for n in range(1, MAX_LEVELS + 1)}
    exact = [n for n, colours in palettes.items() if colours == seen]
    return (exact or [n for n, colours in palettes.items() if colours >= seen])[0]


def _open_map(path: Path) -> tuple[NDArray[np.uint8], int | None]:
    """Returns the ids and the number of entities that the file states."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_MAP_PIXELS:
                raise DataError(
                    f"{path} says that it is {image.width}x{image.height}: a map has at most "
                    f"{MAX_MAP_PIXELS:,} pixels"
                )
            if image.mode not in ("P", "L"):
                raise DataError(
                    f"{path} is a picture of mode {image.mode}; a map is an indexed or 8-bit grey PNG of ids"
                )
            map_HW, text = np.array(image), image.info.get(_NUM_ENTITIES)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large for a map: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else "it is no readable image"
        )
        raise DataError(f"cannot read the map {path}: {reason}; give an indexed PNG of ids") from error
    if text is None:
        return map_HW, None
    if not re.fullmatch(r"\d{1,3}", str(text)):
        raise DataError(f"the map {path} states {text!r} entities, which is no number")
    return map_HW, int(text)


def _num_entities(path: Path, highest: int, stated: int | None) -> int:
    number = highest - 1 if stated is None else stated
    if number < 0:
        raise DataError(
            f"the map {path} holds the id 0 only; it needs background and black border, the highest ids"
        )
    if highest > number + 1 or number > MAX_ENTITIES:
        raise DataError(f"the map {path} holds id {highest}, but states {number} entities")
    return number
