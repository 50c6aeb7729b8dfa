"""From decoded pictures to the JPEGs of one frame folder, on a thread beside the decoder's.

Owns what is written and what is there already. It refuses pictures of a size that changes within a video.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter

from hierasurg_core.config import ExtractConfig
from hierasurg_core.datasets import frames as fr
from hierasurg_core.display import Display
from hierasurg_core.errors import DataError
from hierasurg_core.pictures import Picture

_PENDING = 6  # frames between the decoder and the encoder of JPEGs


class FrameWriter:
    """Writes the frames of one folder that are not there yet, and remembers which are black."""

    def __init__(self, folder: Path, config: ExtractConfig, advance: Callable[[int], None]) -> None:
        self._folder = folder
        self._config = config
        self._advance = advance
        self._reformatter = VideoReformatter()
        self._as_is = config.crop_hw is None and config.size_hw is None
        self.num_frames = 0
        self.black: set[int] = set()

    def video_frame(
        self, indices: range, frame: av.VideoFrame, display: Display, size_hw: tuple[int, int], source: Path
    ) -> None:
        """Writes a decoded frame as it is shown, unless it is there already."""
        image = self._written(indices)
        if image is None:
            smooth = self._config.size_hw is not None
            picture_HWC = display.picture(frame, self._reformatter, layout="bgr24", smooth=smooth)
            picture_HWC = fr.shape_picture(picture_HWC, self._config.crop_hw, self._config.size_hw)
            if picture_HWC.shape[:2] != size_hw:
                height, width = picture_HWC.shape[:2]
                raise DataError(
                    f"{source} changes its size from {size_hw[0]}x{size_hw[1]} to {height}x{width}: "
                    "give --size"
                )
            image = fr.encode_jpeg(picture_HWC, self._config.quality)
        self.put(indices, image)

    def jpeg_of(self, path: Path, picture: Picture) -> bytes:
        """Returns a source image as a frame's JPEG; an upright 8-bit JPEG is copied as it is.

        Args:
            path: The image.
            picture: What it holds, as `read_picture` gives it.

        Raises:
            DataError: It cannot be read any more.
        """
        if self._as_is and picture.plain_jpeg:
            return fr.read_bytes(path)
        picture_HWC = picture.pixels_HWC[..., ::-1]
        picture_HWC = fr.shape_picture(picture_HWC, self._config.crop_hw, self._config.size_hw)
        return fr.encode_jpeg(picture_HWC, self._config.quality)

    def put(self, indices: range, image: bytes) -> None:
        """Makes an encoded picture the frames of these numbers."""
        if self._written(indices) is None:
            fr.write_frame(self._folder, indices, image)
        if fr.is_black(image):
            self.black.update(indices)
        self.num_frames = max(self.num_frames, indices.stop)
        self._advance(len(indices))

    def _written(self, indices: range) -> bytes | None:
        """The picture of these numbers, where an earlier run wrote all of them."""
        paths = [self._folder / f"{index:06d}.jpg" for index in indices]
        if not all(path.exists() for path in paths):
            return None
        images = [fr.read_bytes(path) for path in paths]
        return images[0] if all(fr.is_whole_jpeg(image) for image in images) else None


class BesideDecoder:
    """Calls functions one after another on a thread beside the decoder's, of which few may wait."""

    def __init__(self, inline: bool) -> None:
        self._executor = None if inline else ThreadPoolExecutor(1, thread_name_prefix="jpeg")
        self._pending: deque[Future[None]] = deque()

    def put(self, work: Callable[[], None]) -> None:
        """Calls `work` now or soon; raises what an earlier one raised."""
        if self._executor is None:
            work()
            return
        self._pending.append(self._executor.submit(work))
        while len(self._pending) > _PENDING:
            self._pending.popleft().result()

    def __enter__(self) -> "BesideDecoder":
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for all; a fault of the decoder wins over the encoder's."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            while kind is None and self._pending:
                self._pending.popleft().result()
