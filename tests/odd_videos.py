"""Small videos that players have to turn, stretch or deinterlace, made with PyAV alone."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 180, 30), (30, 30, 200), (220, 220, 220)
_BY_EXIF = {  # a, b, c, d of the display matrix that does the same as an EXIF orientation
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
UPRIGHT_CORNERS = {  # of a picture with these corners: top left, top right, bottom left, bottom right
    1: (RED, GREEN, BLUE, WHITE),
    2: (GREEN, RED, WHITE, BLUE),
    3: (WHITE, BLUE, GREEN, RED),
    4: (BLUE, WHITE, RED, GREEN),
    5: (RED, BLUE, GREEN, WHITE),
    6: (BLUE, RED, WHITE, GREEN),
    7: (WHITE, GREEN, BLUE, RED),
    8: (GREEN, WHITE, RED, BLUE),
}


def four_colours(height: int, width: int) -> NDArray[np.uint8]:
    """A picture whose quarters are red, green, blue and white."""
    picture_HWC = np.empty((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    picture_HWC[:top, :left], picture_HWC[:top, left:] = RED, GREEN
    picture_HWC[top:, :left], picture_HWC[top:, left:] = BLUE, WHITE
    return picture_HWC


def corners(picture_HWC: NDArray[np.uint8]) -> list[list[int]]:
    """The colours in the middle of a picture's quarters."""
    rows, columns = picture_HWC.shape[0] // 4, picture_HWC.shape[1] // 4
    return [picture_HWC[r, c].tolist() for r in (rows, 3 * rows) for c in (columns, 3 * columns)]


def write_odd(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    rate: int = 25,
    sar: Fraction | None = None,
    interlaced: bool = False,
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    space: Colorspace | None = None,
    full_range: bool = False,
    options: dict[str, str] | None = None,
) -> None:
    """Writes a video with an unusual header or form of pixels."""
    settings = {"crf": "8", "threads": "1"} if codec == "libx264" else {}
    if interlaced:
        settings["x264-params"] = "interlaced=1"
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=settings)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        context = stream.codec_context
        if sar is not None:
            context.sample_aspect_ratio = sar
        if space is not None:
            context.colorspace = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}[space]
        if full_range:
            context.color_range = 2
        for index, frame_HWC in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24").reformat(
                format=pix_fmt,
                dst_colorspace=space or Colorspace.ITU601,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
            )
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def turn_by_header(path: Path, matrix_abcd: tuple[float, float, float, float]) -> None:
    """Writes a display matrix into an mp4's track header, where the identity stands."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix is 40 bytes behind the box's name
    one = 65536
    assert struct.unpack_from(">9i", data, at) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(one * value) for value in matrix_abcd)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def turn_as_exif(path: Path, orientation: int) -> None:
    """Gives an mp4 the display matrix that does what an EXIF orientation does."""
    turn_by_header(path, _BY_EXIF[orientation])


def combed_frames(count: int, height: int = 64, width: int = 96, speed: int = 6) -> list[NDArray[np.uint8]]:
    """A white bar that moves between the two fields of each frame, lower field first, as PyAV encodes it."""
    frames = []
    for index in range(count):
        frame_HWC = np.full((height, width, 3), 30, np.uint8)
        for field in (0, 1):
            left = 8 + speed * (2 * index + field)
            frame_HWC[1 - field :: 2, left : left + 20] = 220
        frames.append(frame_HWC)
    return frames


def combs(picture_HWC: NDArray[np.uint8]) -> float:
    """How far neighbouring rows differ beyond rows of the same field; near 0 without combs."""
    grey_HW = picture_HWC.astype(float).mean(axis=2)
    apart = np.abs(np.diff(grey_HW, axis=0)).mean()
    return float(apart - np.abs(grey_HW[2:] - grey_HW[:-2]).mean())
