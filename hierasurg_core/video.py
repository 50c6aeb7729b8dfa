"""Videos between disk and memory: H.264 mp4 is written, and whatever FFmpeg decodes is read.

Arrays are uint8, RGB, and an mp4 is written and tagged as BT.709 with limited range. Floating-point pixels
are refused, so that a NaN can never become a grey square; scaling and rounding belong to whoever made the
numbers. Videos are read whole here; `hierasurg_core.datasets.decoding` takes single frames out of long ones.

Legend: F frames, H rows, W columns.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from hierasurg_core.artifacts import atomic_file
from hierasurg_core.display import deinterlaced
from hierasurg_core.errors import DataError
from hierasurg_core.video_file import End, VideoFile, unreadable

_BT709 = 1  # the same code in ISO/IEC 23091-2 for matrix, primaries and transfer
_LIMITED_RANGE = 1
# Quality 16 is visually lossless; a map of flat colours decodes back to the same ids. One thread, and code
# that does not depend on the processor: x264's assembly for AVX-512 gives other bytes from run to run.
_X264 = {"crf": "16", "threads": "1", "x264-params": "cpu-independent=1"}
_TO_YUV = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
_REORDERED = 512  # packets among which the one that is shown first lies


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
    """Yields the frames of a video one by one, with the memory of a few frames.

    Each is uint8 RGB (H, W, 3) as a player shows it: upright, with square pixels, without the combs of
    interlaced video (see `hierasurg_core.display`).

    Raises:
        DataError: The file is missing, holds no video, is damaged, or has no frame. Of a file that is cut
            off, all whole frames come before the error, which says how much is missing.
    """
    with VideoFile(path) as file:
        yield from _pictures(file)


def read_video(path: Path, num_frames: int | None = None) -> tuple[NDArray[np.uint8], float]:
    """Reads a video into memory.

    Args:
        path: Any file that FFmpeg decodes.
        num_frames: At most so many frames from its start; None reads all.

    Returns:
        The frames, uint8 (F, H, W, 3), as `iter_video`, and the average frames a second.

    Raises:
        DataError: As `iter_video`, or the frames differ in size.
    """
    with VideoFile(path) as file:
        frames = list(islice(_pictures(file), num_frames))
        if len({frame_HWC.shape for frame_HWC in frames}) > 1:
            raise DataError(f"{path} changes its size from one frame to another: write it anew with one size")
        return np.stack(frames), float(file.stream.average_rate or 1)


def probe_video(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Returns how many frames a video has, frames a second, and rows and columns as it is shown.

    The count is the header's where that has one; the first frame alone is decoded, so that faults behind it
    go unseen.

    Raises:
        DataError: The file is missing, holds no video, or is damaged so far that not even this is known.
    """
    with VideoFile(path) as file:
        first = file.first_frame(file.packets())
        if first is None and file.broken_packets:
            raise DataError(f"{path} is cut off or damaged before its first frame; get the whole file")
        if first is None:
            raise DataError(_empty(path))
        size_hw = file.display.size_hw(first)
        frames, rate = file.stream.frames, float(file.stream.average_rate or 1)
    return frames or sum(1 for _ in iter_video(path)), rate, size_hw


def read_comment(path: Path) -> str | None:
    """Returns the comment that `write_mp4` kept in a video, None where there is none.

    Raises:
        DataError: The file is missing or no video.
    """
    with VideoFile(path) as file:
        return file.container.metadata.get("comment")


def _pictures(file: VideoFile) -> Iterator[NDArray[np.uint8]]:
    file.codec.thread_type = "AUTO"
    reformatter = VideoReformatter()
    empty = True
    for frame in deinterlaced(_decoded(file)):
        yield file.display.picture(frame, reformatter, threads=0)
        empty = False
    if empty:
        raise DataError(_empty(file.path))


def _decoded(file: VideoFile) -> Iterator[av.VideoFrame]:
    """All frames in the order in which they are shown; refuses files that are damaged or cut off."""
    end, stamps, count = End(), list[int](), 0
    try:
        for packet in file.packets():
            if file.broken_packets:
                raise DataError(f"{file.path} is damaged in the middle; get the file again")
            end.see(packet)
            if packet.pts is not None and not packet.is_discard and len(stamps) < _REORDERED:
                stamps.append(packet.pts)
            for frame in file.codec.decode(packet):
                yield frame
                count += 1
        rest = file.codec.decode(None)
    except FFmpegError as error:
        raise DataError(unreadable(file.path, error)) from error
    period = 1 / (file.rate * file.tick_s) if file.rate else Fraction(1)
    timed = end.known and file.container.format.name != "avi"  # AVI knows no times of showing
    origin = min(stamps) if timed else file.stream.start_time or 0
    until = end.ticks(period) - origin if timed else (count + len(rest)) * period
    fault = file.cut(until, origin, "get the whole file")
    yield from (frame for frame in rest if not fault or file.is_complete_at(frame.pts))
    if fault:
        raise DataError(fault)


def _empty(path: Path) -> str:
    return f"{path} is a video without a single frame"
