"""Pictures and videos between disk and memory: H.264 mp4, and single images.

Owns every use of PyAV and of Pillow for photographs, and all colour conversion: arrays are uint8, RGB, and
an mp4 is written and tagged as BT.709 with limited range. It refuses floating-point pixels, so that a NaN
can never become a grey square; scaling and rounding belong to whoever made the numbers.

Legend: F frames, H rows, W columns.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.errors import DataError

_BT709 = 1  # the same code in ISO/IEC 23091-2 for matrix, primaries and transfer
_LIMITED_RANGE = 1
# Quality 16 is visually lossless; a map of flat colours decodes back to the same ids. One thread, and code
# that does not depend on the processor: x264's assembly for AVX-512 gives other bytes from run to run.
_X264 = {"crf": "16", "threads": "1", "x264-params": "cpu-independent=1"}
_TO_YUV = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def write_mp4(
    path: Path, frames_FHWC: Iterable[NDArray[np.uint8]], fps: float, comment: str | None = None
) -> None:
    """Writes a video that browsers play: H.264, yuv420p, BT.709, index at the front. Atomic.

    The same frames give the same bytes on the same software: one encoder thread, no dates. yuv420p halves
    the colour's resolution, so an odd height or width is made even by repeating the last row or column;
    reading gives the even size back.

    Args:
        path: Target; its folder exists.
        frames_FHWC: uint8, RGB, at least one frame: an array, or an iterator of frames (H, W, 3), of which
            only one is held at a time.
        fps: Frames a second, above 0.
        comment: Text kept in the file's metadata (see `read_comment`).

    Raises:
        ValueError: A frame is no uint8 (H, W, 3) or of another size than the first, there is none, or fps
            is not above 0.
        ResourceError: The file cannot be written.
    """
    if not fps > 0:
        raise ValueError(f"fps must be above 0, not {fps}")
    frames = iter(frames_FHWC)
    first_HWC = next(frames, None)
    if first_HWC is None:
        raise ValueError("a video needs at least one frame")
    height, width = first_HWC.shape[:2]
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with atomic_file(path) as part, av.open(str(part), "w", format="mp4", options=options) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=_X264)
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED_RANGE
        for index, frame_HWC in enumerate(chain((first_HWC,), frames)):
            if frame_HWC.dtype != np.uint8 or frame_HWC.shape != (height, width, 3):
                raise ValueError(
                    f"frame {index} is {frame_HWC.dtype} {frame_HWC.shape}, not uint8 ({height}, {width}, 3)"
                )
            even_HWC = np.pad(frame_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even_HWC), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                interpolation=_TO_YUV,
            )
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def iter_video(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yields the frames of a video one by one, each uint8 (H, W, 3), with the memory of one frame.

    Raises:
        DataError: The file is missing, holds no video, is damaged, or has no frame.
    """
    count = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video stream")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                picture = frame.reformat(
                    format="rgb24", dst_color_range=ColorRange.JPEG, interpolation=_TO_RGB
                )
                yield picture.to_ndarray()
                count += 1
    except FFmpegError as error:
        raise DataError(_unreadable(path, error)) from error
    if not count:
        raise DataError(f"{path} is a video without a single frame")


def read_video(path: Path, num_frames: int | None = None) -> tuple[NDArray[np.uint8], float]:
    """Reads a video into memory.

    Args:
        path: Any file that FFmpeg decodes.
        num_frames: At most so many frames from its start; None reads all.

    Returns:
        The frames, uint8 (F, H, W, 3), and the average frames a second.

    Raises:
        DataError: As `iter_video`.
    """
    frames: list[NDArray[np.uint8]] = []
    for frame_HWC in iter_video(path):
        frames.append(frame_HWC)
        if len(frames) == num_frames:
            break
    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
    except FFmpegError as error:
        raise DataError(_unreadable(path, error)) from error
    return np.stack(frames), float(rate or 1)


def probe_video(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Returns frames, frames a second, and rows and columns of a video, from its header where that says so.

    Raises:
        DataError: The file is missing, holds no video, or is damaged so far that not even this is known.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video stream")
            stream = container.streams.video[0]
            size_hw = stream.codec_context.height, stream.codec_context.width
            frames, rate = stream.frames, float(stream.average_rate or 1)
    except FFmpegError as error:
        raise DataError(_unreadable(path, error)) from error
    return frames or sum(1 for _ in iter_video(path)), rate, size_hw


def read_comment(path: Path) -> str | None:
    """Returns the comment that `write_mp4` kept in a video, None where there is none.

    Raises:
        DataError: The file is missing or no video.
    """
    try:
        with av.open(str(path)) as container:
            return container.metadata.get("comment")
    except FFmpegError as error:
        raise DataError(_unreadable(path, error)) from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a photograph as uint8 (H, W, 3), turned upright where its camera says so.

    Raises:
        DataError: The file is missing, no image, damaged, or of absurd size.
    """
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large for an image: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else "it is no readable image"
        )
        raise DataError(f"cannot read the image {path}: {reason}; give a PNG or JPEG file") from error


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

    Of a frame of 854x480, as in Cholec80, that is the 720x480 of CogVideoX.
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


def _unreadable(path: Path, error: FFmpegError) -> str:
    return f"cannot read the video {path}: {error.strerror or error}"
