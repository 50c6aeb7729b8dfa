"""The one reader of pictures: photographs and single frames on disk become uint8 RGB, upright.

What is read, and how:

- 8 bit and 1 bit, grey, RGB and palette as they are; grey becomes three equal channels.
- 16 bit (PNG, TIFF, PGM) is scaled: value / 257, rounded, so that 65535 becomes 255.
- Transparency is laid over black, as nothing lies outside the round view of an endoscope.
- CMYK and YCbCr are converted to RGB (JPEGs of Adobe, which store CMYK inverted, too).
- An orientation in EXIF or XMP is applied once; the pixels have none any more.

Everything else is refused in one line: floating-point and 32-bit pictures, several frames in one file,
cut-off files, other formats, and more than `MAX_PIXELS`, which the file's head tells before decoding.

Legend: H rows, W columns, C channels.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.errors import DataError
from hierasurg_core.pixels import Orientation, check_pixels

_FORMATS = frozenset(
    {"AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
)
_ORIENTATION = 274  # tags of EXIF and TIFF
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_GREY_16 = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_SCALED = "16 bit scaled to 8"
_NAMES = {"I": "32-bit integers", "F": "32-bit floating point", "LAB": "CIE Lab"}
# What Pillow raises for files that are damaged in one way or another.
_DAMAGED = (
    *(OSError, ValueError, SyntaxError, LookupError, TypeError, OverflowError, struct.error, zlib.error),
    UserWarning,  # about damaged metadata, where the program was told to raise warnings
)
_TELLING_CHUNKS = frozenset({b"eXIf", b"iTXt", b"tEXt", b"zTXt"})
_OTHERS = (  # where, what, and what a file with it is
    (4, b"ftyphei", "a HEIC photo"),
    (4, b"ftypmif1", "a HEIF photo"),
    (4, b"ftyp", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (128, b"DICM", "a DICOM file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)
_opening = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels_HWC: uint8 RGB, upright.
        done: What was done to the stored pixels, in words; empty where they are as stored.
        plain_jpeg: The file is an upright JPEG of 8-bit grey or RGB, whose bytes any reader reads alike.
    """

    pixels_HWC: NDArray[np.uint8]
    done: tuple[str, ...]
    plain_jpeg: bool

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pixels_HWC.shape[0], self.pixels_HWC.shape[1]


@dataclass(frozen=True)
class PictureHead:
    """What the head of a picture file says.

    Attributes:
        size_hw: Rows and columns, upright.
        mode: Pillow's name of the form of its pixels ("RGB", "P", "I;16").
        plain_jpeg: As in `Picture`.
    """

    size_hw: tuple[int, int]
    mode: str
    plain_jpeg: bool


def read_picture(path: Path) -> Picture:
    """Reads a picture, and tells what was done to its pixels.

    Raises:
        DataError: The file is missing, damaged, too large, or no picture of those that are read (see the
            module).
    """
    with _opened(path) as image:
        rawmode = _rawmode(image)
        head, turn = _head(image, path)
        image.load()
        pixels_HWC, done = _as_rgb(image, rawmode, path)
        # Pillow turns a TIFF itself when it loads it, and takes the tag away.
        pixels_HWC = Orientation.from_exif(image.getexif().get(_ORIENTATION)).apply(pixels_HWC)
    if turn:
        done = (*done, f"{turn} (EXIF orientation)")
    return Picture(np.ascontiguousarray(pixels_HWC), done, head.plain_jpeg)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a picture as uint8 RGB (H, W, 3), upright.

    Raises:
        DataError: As `read_picture`.
    """
    return read_picture(path).pixels_HWC


def read_head(path: Path, what: str = "image") -> PictureHead:
    """Reads what the head of a picture file says, without decoding the picture.

    Args:
        path: The file.
        what: What it is meant to be, for messages.

    Raises:
        DataError: As `read_picture`, but for faults that only decoding shows.
    """
    with _opened(path, what) as image:
        return _head(image, path, what)[0]


def write_png(path: Path, image_HWC: NDArray[np.uint8]) -> None:
    """Writes uint8 (H, W, 3) as a PNG, atomically; the same pixels give the same bytes.

    Raises:
        ValueError: The array is no such picture.
        ResourceError: The file cannot be written.
    """
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[-1] != 3:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image_HWC.dtype} {image_HWC.shape}")
    with atomic_file(path) as part:
        Image.fromarray(image_HWC).save(part, format="PNG", optimize=True)


def centre_crop(size_hw: tuple[int, int], shape_of_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Returns rows and columns of the largest centred part that has the shape of another size.

    Example:
        >>> centre_crop((480, 854), (256, 384))
        (slice(0, 480, None), slice(67, 787, None))

    It is how the public HieraSurg takes 720x480 out of a frame of 854x480.
    """
    (height, width), (other_height, other_width) = size_hw, shape_of_hw
    rows = min(height, max(1, round(width * other_height / other_width)))
    columns = min(width, max(1, round(height * other_width / other_height)))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def fit_image(image_HWC: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Crops a picture to the shape of a size, centred, and resizes it: bicubic, antialiased. uint8 RGB."""
    rows, columns = centre_crop((image_HWC.shape[0], image_HWC.shape[1]), size_hw)
    part = image_HWC[rows, columns]
    if part.shape[:2] == size_hw:
        return np.ascontiguousarray(part)
    picture = Image.fromarray(np.ascontiguousarray(part))
    return np.array(picture.resize((size_hw[1], size_hw[0]), Image.Resampling.BICUBIC))


@contextlib.contextmanager
def _opened(path: Path, what: str = "image") -> Generator[Image.Image, None, None]:
    """Opens a file, and turns whatever is wrong with it into one line."""
    try:
        with path.open("rb") as file, _open(file) as image:
            yield image
    except UnidentifiedImageError as error:
        raise DataError(
            f"cannot read the {what} {path}: it is {_what_else(path)}; give a PNG or JPEG file"
        ) from error
    except _DAMAGED as error:
        said = isinstance(error, OSError) and error.strerror
        reason = said or f"it is damaged or cut off ({_one_line(error)})"
        raise DataError(f"cannot read the {what} {path}: {reason}; give a PNG or JPEG file") from error


def _open(file: BinaryIO) -> Image.Image:
    """Opens without Pillow's own limit of pixels: `check_pixels` follows, and names the size."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _head(image: Image.Image, path: Path, what: str = "image") -> tuple[PictureHead, Orientation]:
    """What the head says, and how the picture has to be turned; refuses what is not read, undecoded."""
    if image.format not in _FORMATS:
        raise DataError(
            f"cannot read the {what} {path}: it is of the format {image.format}; give a PNG or JPEG file"
        )
    # The further pictures in an MPO are previews of a phone's photo.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames != 1:
        raise DataError(
            f"cannot read the {what} {path}: it is a {image.format} with {frames} frames; give a file with "
            "one picture"
        )
    size_hw = (image.height, image.width)
    check_pixels(size_hw, str(path))
    turn = _orientation(image, path)
    if image.format != "TIFF":  # it says its size as it will be after turning
        size_hw = turn.size_hw(size_hw)
    plain = image.format == "JPEG" and image.mode in ("L", "RGB") and not turn
    return PictureHead(size_hw, image.mode, plain), turn


def _orientation(image: Image.Image, path: Path) -> Orientation:
    """How a picture has to be turned; decodes it only where the file says so behind the pixels."""
    if image.format == "PNG" and _says_more_behind_pixels(path):
        image.load()
    # Pillow's own method for PNGs would always decode them.
    return Orientation.from_exif(Image.Image.getexif(image).get(_ORIENTATION))


def _says_more_behind_pixels(path: Path) -> bool:
    """Whether a PNG has chunks that may hold an orientation behind its pixels."""
    with path.open("rb") as file:
        file.seek(8)
        pixels = False
        while len(head := file.read(8)) == 8:
            pixels = pixels or head[4:] == b"IDAT"
            if pixels and head[4:] in _TELLING_CHUNKS:
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _rawmode(image: Image.Image) -> str:
    """How the pixels lie in the file ("RGB;16B"), which an image tells until it is loaded."""
    arguments: Any = image.tile[0][3] if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _as_rgb(image: Image.Image, rawmode: str, path: Path) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """A loaded image as uint8 RGB, not turned yet, and what was done to it."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and (image.format == "PPM" or rawmode in _GREY_16)):
        return _rgb_of_grey_16(_grey_16(image, rawmode, path), image.info.get("transparency"))
    if ";16" in rawmode and mode in ("RGB", "RGBA", "RGBX", "LA"):
        return _rgb_of_colour_16(image, path)
    if mode in _ALPHA_MODES or "transparency" in image.info or _palette_has_alpha(image):
        return _over_black(np.asarray(image.convert("RGBA")))
    if mode not in _PLAIN_MODES:
        raise DataError(
            f"cannot read the image {path}: it is a {image.format} of {_NAMES.get(mode, mode)}; give one of "
            "8 or 16 bits"
        )
    return np.array(image.convert("RGB")), ("CMYK to RGB",) if mode == "CMYK" else ()


def _palette_has_alpha(image: Image.Image) -> bool:
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _grey_16(image: Image.Image, rawmode: str, path: Path) -> NDArray[Any]:
    """The values of 16-bit grey, (H, W)."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    if "12" in rawmode or tuple(bits) != (16,):
        raise DataError(
            f"cannot read the image {path}: it is a {image.format} of {bits[0]} bits; give one of "
            "8 or 16 bits"
        )
    value_HW = np.asarray(image).astype(np.int64)
    return 65535 - value_HW if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else value_HW


def _rgb_of_grey_16(value_HW: NDArray[Any], transparent: object) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    grey_HWC = np.repeat(_scaled(value_HW)[..., None], 3, axis=2)
    if not isinstance(transparent, int):
        return grey_HWC, (_SCALED,)
    alpha_HW = np.where(value_HW == transparent, 0, 255).astype(np.uint8)
    rgb_HWC, done = _over_black(np.concatenate([grey_HWC, alpha_HW[..., None]], axis=2))
    return rgb_HWC, (_SCALED, *done)


def _rgb_of_colour_16(image: Image.Image, path: Path) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """16-bit colour and 16-bit grey with alpha, of which Pillow would cut off the lower eight bits."""
    value_HWC = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if value_HWC is None or value_HWC.dtype != np.uint16 or value_HWC.ndim != 3:
        raise DataError(
            f"cannot read the image {path}: it is a {image.format} of 16-bit colour in a form that is not "
            "decoded; give a PNG"
        )
    scaled_HWC = _scaled(value_HWC)
    rgb_HWC = scaled_HWC[..., 2::-1]  # blue comes first
    if scaled_HWC.shape[2] == 3:
        return rgb_HWC, (_SCALED,)
    rgb_HWC, done = _over_black(np.concatenate([rgb_HWC, scaled_HWC[..., 3:]], axis=2))
    return rgb_HWC, (_SCALED, *done)


def _scaled(value: NDArray[Any]) -> NDArray[np.uint8]:
    """Values of 0 to 65535, divided by 257 and rounded."""
    return ((value.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _over_black(rgba_HWC: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Lays a picture with transparency over black."""
    alpha_HW1 = rgba_HWC[..., 3:].astype(np.uint32)
    if alpha_HW1.min() == 255:
        return rgba_HWC[..., :3], ()
    rgb_HWC = (rgba_HWC[..., :3] * alpha_HW1 + 127) // 255
    return rgb_HWC.astype(np.uint8), ("transparency laid over black",)


def _what_else(path: Path) -> str:
    """What a file is that no reader of pictures knows, as far as its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        return "empty"
    for at, mark, what in _OTHERS:
        if head[at:].startswith(mark):
            return what
    return "text" if head.isascii() and b"\0" not in head else "no readable image"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
