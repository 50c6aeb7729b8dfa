"""The frames of one video that get maps: one a second, read and checked.

Owns which frame shows which second, the digest of what they hold, and what happens to a bad one: it is an
error that names the file, or, where bad ones may be skipped, the frame before takes its place.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.datasets.frames import FrameFolder, read_bytes
from hierasurg_core.errors import DataError
from hierasurg_core.pictures import read_head, read_image

_THREADS = 4


class SecondFrames:
    """The frame of every second of a video.

    Attributes:
        num_frames: Seconds.
        size_hw: Of every frame.
        bad: Frames that could not be used, and why.
    """

    def __init__(self, folder: FrameFolder, *, limit: int | None = None, skip_bad: bool = False) -> None:
        """Lists the frames.

        Args:
            folder: As `extract` made it; a folder of others has a frame a second.
            limit: Take the first so many seconds only.
            skip_bad: Let another frame take the place of a bad one.

        Raises:
            DataError: The rate is no whole number, so that no frame shows a second's beginning.
        """
        rate = 1.0 if folder.fps is None else folder.fps
        if rate < 1 or rate != round(rate):
            raise DataError(
                f"{folder.folder} was extracted at {rate:g} fps, and maps are one a second: extract it at 1 "
                "or 8 fps"
            )
        self.paths = [folder.frame_path(index) for index in range(0, folder.num_frames, round(rate))][:limit]
        self.num_frames = len(self.paths)
        self.size_hw = folder.size_hw
        self.bad: dict[int, str] = {}
        self._skip_bad = skip_bad

    def digest(self) -> str:
        """Returns a SHA-256 over names and content of all these frames.

        Raises:
            DataError: One is missing or unreadable.
        """
        total = hashlib.sha256()
        with ThreadPoolExecutor(_THREADS) as pool:
            for path, content in zip(self.paths, pool.map(_content_digest, self.paths), strict=True):
                total.update(f"{path.name} ".encode() + content)
        return total.hexdigest()

    def check_sizes(self) -> None:
        """Looks at the sizes that the files state, which is quick.

        Raises:
            DataError: One is no image or of another size, and bad ones may not be skipped.
        """
        if not self._skip_bad:
            for path in self.paths:
                fault = self._stated_fault(path)
                if fault:
                    raise DataError(f"{fault}; leave bad frames out with --skip-bad")

    def read(self, span: range) -> NDArray[np.uint8]:
        """Reads frames, uint8 RGB (F, H, W, 3).

        Raises:
            DataError: One is bad and may not be skipped, or all are.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            return np.stack(list(pool.map(self._read_or_near, span)))

    def _read_or_near(self, index: int) -> NDArray[np.uint8]:
        frame = self._read(index)
        if not isinstance(frame, str):
            return frame
        if not self._skip_bad:
            raise DataError(f"{frame}; leave bad frames out with --skip-bad")
        self.bad[index] = frame
        for near in (*range(index - 1, -1, -1), *range(index + 1, self.num_frames)):
            other = self._read(near)
            if not isinstance(other, str):
                return other
        raise DataError(f"{self.paths[0].parent} holds no frame that can be read: {frame}")

    def _read(self, index: int) -> NDArray[np.uint8] | str:
        """A frame, or what is wrong with it."""
        path = self.paths[index]
        try:
            frame_HWC = read_image(path)
        except DataError as error:
            return str(error)
        return _size_fault(path, frame_HWC.shape[:2], self.size_hw) or frame_HWC

    def _stated_fault(self, path: Path) -> str | None:
        try:
            return _size_fault(path, read_head(path).size_hw, self.size_hw)
        except DataError as error:
            return str(error)


def _size_fault(path: Path, size_hw: tuple[int, ...], wanted_hw: tuple[int, int]) -> str | None:
    if tuple(size_hw) == wanted_hw:
        return None
    return (
        f"{path} is {size_hw[0]}x{size_hw[1]}, but the video's frames are {wanted_hw[0]}x{wanted_hw[1]} "
        "(rows x columns)"
    )


def _content_digest(path: Path) -> bytes:
    return hashlib.sha256(read_bytes(path)).digest()
