"""What pictures and frames of videos share: which way up they are shown, and how large they may be.

Legend: H rows, W columns, C channels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hierasurg_core.errors import DataError

MAX_PIXELS = 64_000_000
"""No picture or video frame with more pixels is decoded: as RGB it would take more than 192 MB."""

_FIXED_POINT = 65536  # 1.0 in a display matrix
_SLANT = 0.02  # of a unit vector: a matrix this close to a quarter turn is one

_WORDS = {
    (False, True, False): "mirrored left to right",
    (False, True, True): "rotated 180 degrees",
    (False, False, True): "mirrored top to bottom",
    (True, False, False): "rotated 90 degrees clockwise and mirrored left to right",
    (True, True, False): "rotated 90 degrees clockwise",
    (True, True, True): "rotated 90 degrees counterclockwise and mirrored left to right",
    (True, False, True): "rotated 90 degrees counterclockwise",
}


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn stored pixels upright: swap rows and columns first, then mirror.

    Attributes:
        swap: Rows become columns.
        mirror_columns: The first column becomes the last.
        mirror_rows: The first row becomes the last.
    """

    swap: bool = False
    mirror_columns: bool = False
    mirror_rows: bool = False

    @classmethod
    def from_exif(cls, value: object) -> Orientation:
        """Returns the orientation of EXIF's tag 274; a value outside 1 to 8 means upright."""
        return _EXIF.get(value, cls()) if isinstance(value, int) else cls()

    @classmethod
    def from_matrix(cls, matrix: bytes, name: str) -> Orientation:
        """Returns the orientation of a display matrix.

        Args:
            matrix: Nine 32-bit integers in the machine's byte order, as FFmpeg gives them.
            name: The file, for the message.

        Raises:
            DataError: The matrix turns by another angle than a multiple of 90 degrees.
        """
        a, b, _, c, d = struct.unpack("=5i", matrix[:20])
        # A stored (x, y) is shown at (a x + c y, b x + d y), with y downwards.
        scale = max(abs(a), abs(b), abs(c), abs(d)) or _FIXED_POINT
        if max(abs(b), abs(c)) <= _SLANT * scale and a and d:
            return cls(False, a < 0, d < 0)
        if max(abs(a), abs(d)) <= _SLANT * scale and b and c:
            return cls(True, c < 0, b < 0)
        raise DataError(
            f"{name} asks to be shown turned by an angle that is no multiple of 90 degrees (display matrix "
            f"{a / _FIXED_POINT:g} {b / _FIXED_POINT:g} {c / _FIXED_POINT:g} {d / _FIXED_POINT:g}): "
            "write the video anew, upright"
        )

    def __bool__(self) -> bool:
        """Tells whether anything has to be turned."""
        return self.swap or self.mirror_columns or self.mirror_rows

    def __str__(self) -> str:
        """Says what is done, in words; "upright" for nothing."""
        return _WORDS.get((self.swap, self.mirror_columns, self.mirror_rows), "upright")

    def size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns after turning."""
        return (size_hw[1], size_hw[0]) if self.swap else size_hw

    def apply(self, picture_HWC: NDArray[Any]) -> NDArray[Any]:
        """Returns a view of the pixels, upright; (H, W) or (H, W, C)."""
        if self.swap:
            picture_HWC = picture_HWC.swapaxes(0, 1)
        if self.mirror_columns:
            picture_HWC = picture_HWC[:, ::-1]
        return picture_HWC[::-1] if self.mirror_rows else picture_HWC


_EXIF = {
    2: Orientation(False, True, False),
    3: Orientation(False, True, True),
    4: Orientation(False, False, True),
    5: Orientation(True, False, False),
    6: Orientation(True, True, False),
    7: Orientation(True, True, True),
    8: Orientation(True, False, True),
}


def check_pixels(size_hw: tuple[int, int], name: str) -> None:
    """Refuses a picture or frame that is too large to decode.

    Raises:
        DataError: It has more than `MAX_PIXELS`.
    """
    rows, columns = size_hw
    if rows * columns > MAX_PIXELS:
        raise DataError(
            f"{name} is {rows}x{columns} (rows x columns), {rows * columns / 1e6:.1f} megapixels: at most "
            f"{MAX_PIXELS / 1e6:.0f} megapixels are read; make it smaller first"
        )
