"""How decoded frames become the pictures that a player shows: RGB or BGR, upright, square pixels, no combs.

- The display matrix turns and mirrors, by quarter turns.
- Pixels that are not square are made so as `ffmpeg -vf scale=iw*sar:ih` does after turning: rows stay, the
  number of columns is scaled and rounded down. A header whose rounding asks for less than one column more
  or less (854x480 with pixels of 1280:1281) changes nothing.
- Interlaced frames lose their combs by FFmpeg's bwdif, which looks at the frames before and after; one frame
  comes out for each that goes in.
- Matrix (BT.601, BT.709, BT.2020) and range (limited, full) are what the file says; where it says nothing,
  BT.601 and limited range, as FFmpeg reads it at any size.

Legend: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.pixels import Orientation, check_pixels

DEINTERLACED = "deinterlaced (bwdif)"
_SMOOTH = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_REPEATED = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
_MOST_OBLONG = 16  # a pixel's longer side to its shorter one; beyond it the header is damaged
_MATRIX = "DISPLAYMATRIX"


class Display:
    """How the frames of one video are shown."""

    def __init__(self, name: str, sar: Fraction | None) -> None:
        """Keeps what the container says.

        Args:
            name: The file, for messages.
            sar: A pixel's width to its height; None or 0 for square ones.

        Raises:
            DataError: No camera has such pixels.
        """
        self._name = name
        self._sar = sar if sar else Fraction(1)
        self._by_angle: dict[int, Orientation] = {}
        if not Fraction(1, _MOST_OBLONG) <= self._sar <= _MOST_OBLONG:
            raise DataError(
                f"{name} claims pixels of {_ratio(self._sar)} (width to height), which no camera has: put "
                "its header right, for example with 'ffmpeg -aspect 16:9 -c copy'"
            )

    def size_hw(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Returns rows and columns of a decoded frame as it is shown."""
        return self._sized(self._orientation(frame), (frame.height, frame.width))

    def done(self, frame: av.VideoFrame) -> tuple[str, ...]:
        """Returns what has to be done to a decoded frame's pixels, in words; without deinterlacing."""
        turn, stored_hw = self._orientation(frame), (frame.height, frame.width)
        words = [str(turn)] if turn else []
        rows, columns = self._sized(turn, stored_hw)
        if (rows, columns) != turn.size_hw(stored_hw):
            words.append(f"sar {_ratio(self._sar)} -> {columns}x{rows} (width x height)")
        return tuple(words)

    def picture(
        self,
        frame: av.VideoFrame,
        reformatter: VideoReformatter,
        *,
        layout: str = "rgb24",
        smooth: bool = True,
        threads: int = 1,
    ) -> NDArray[np.uint8]:
        """Returns a decoded frame as it is shown, uint8 (H, W, 3), full range.

        Args:
            frame: From the decoder, deinterlaced if it has to be.
            reformatter: One for each thread; it remembers its tables.
            layout: "rgb24", or "bgr24" for blue first.
            smooth: Interpolate the colour's halved resolution, for pictures that are resized. Otherwise
                each sample is repeated, which costs a quarter, and which a JPEG of equal size averages back
                to the same sample.
            threads: For the conversion; 0: as many as there are cores.

        Raises:
            DataError: The frame is too large, or of a colour space that FFmpeg does not convert.
        """
        turn = self._orientation(frame)
        rows, columns = turn.size_hw(self._sized(turn, (frame.height, frame.width)))  # before turning
        scaled = (rows, columns) != (frame.height, frame.width)
        try:
            picture = reformatter.reformat(
                frame,
                width=columns,
                height=rows,
                format=layout,
                dst_color_range=ColorRange.JPEG,
                interpolation=_SMOOTH if smooth or scaled else _REPEATED,
                threads=threads,
            )
        except FFmpegError as error:
            raise DataError(
                f"{self._name}: a frame of the form {frame.format.name} cannot be turned into RGB "
                f"({error.strerror or error}); write the video anew as yuv420p"
            ) from error
        picture_HWC = picture.to_ndarray().astype(np.uint8, copy=False)
        return np.ascontiguousarray(turn.apply(picture_HWC))

    def _orientation(self, frame: av.VideoFrame) -> Orientation:
        """How a frame is turned; read once an angle, as a frame whose side data was read is freed late."""
        angle = frame.rotation
        if angle not in self._by_angle:
            matrix = frame.side_data.get(_MATRIX)
            turn = Orientation() if matrix is None else Orientation.from_matrix(bytes(matrix), self._name)
            self._by_angle[angle] = turn
        return self._by_angle[angle]

    def _sized(self, turn: Orientation, stored_hw: tuple[int, int]) -> tuple[int, int]:
        rows, columns = turn.size_hw(stored_hw)
        wide = columns * (1 / self._sar if turn.swap else self._sar)
        if abs(wide - columns) >= 1:
            columns = max(1, int(wide))
        check_pixels((rows, columns), self._name)
        return rows, columns


def deinterlace(
    before: av.VideoFrame | None, frame: av.VideoFrame, after: av.VideoFrame | None
) -> av.VideoFrame:
    """Returns an interlaced frame without combs, from itself and its neighbours.

    Args:
        before: The frame shown before it; None for the first.
        frame: The frame.
        after: The frame shown after it; None for the last.
    """
    around = [near for near in (before, frame, after) if near is frame or _alike(near, frame)]
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=all")
    sink = graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    for near in around:
        graph.vpush(near)
    graph.vpush(None)
    results = [graph.vpull() for _ in around]
    return results[around.index(frame)]


def deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Yields all frames in order, those without combs that the file calls interlaced; holds three."""
    before: av.VideoFrame | None = None
    frame: av.VideoFrame | None = None
    for after in frames:
        if frame is not None:
            yield deinterlace(before, frame, after) if frame.interlaced_frame else frame
        before, frame = frame, after
    if frame is not None:
        yield deinterlace(before, frame, None) if frame.interlaced_frame else frame


def _alike(near: av.VideoFrame | None, frame: av.VideoFrame) -> bool:
    """Whether a neighbour is there and of the same form."""
    return near is not None and _form(near) == _form(frame)


def _form(frame: av.VideoFrame) -> tuple[Any, ...]:
    return frame.width, frame.height, frame.format.name


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}:{value.denominator}"
