"""Frames out of a video file at given times, one after another.

Owns the open file and its decoder. It refuses videos that are cut off, after all their whole frames were
given. Where the times of packets are missing, everything is decoded. Video files become arrays in
`hierasurg_core.video` for everything but this.
"""

import heapq
import re
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from hierasurg_core.datasets.selection import Clock, End, Grid, idr_finder, needed, probe_times
from hierasurg_core.errors import DataError

_PROBE = 32  # packets that tell the nominal rate, and whether the first timestamp fits the others
_MATROSKA_TIME = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
_SHORT_BY_S = Fraction(1, 2)  # so much less than announced is no rounding of a container
_SMOOTH = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_REPEATED = Interpolation.BILINEAR | Interpolation.ACCURATE_RND


class VideoFrames:
    """An open video file, read once from its start.

    Attributes:
        codec: FFmpeg's name of its codec.
        size_hw: Of its frames.
        seconds: How long it claims to be; None where it does not say.
        comment: What its maker wrote into it; None for nothing.
        undecodable: After `frames`: frames that were asked of the decoder and came damaged or not at all.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            DataError: It is missing, no video, or of a codec that FFmpeg does not decode.
        """
        self._path = path
        try:
            self._container = av.open(str(path))
        except FFmpegError as error:
            raise DataError(f"cannot read the video {path}: {error.strerror or error}") from error
        streams = self._container.streams.video
        if not streams:
            self.close()
            raise DataError(f"{path} holds no video stream")
        self._stream = streams[0]
        codec: Any = self._stream.codec_context  # None where there is no decoder
        if codec is None or self._stream.time_base is None:
            self.close()
            raise DataError(f"{path} is of a codec that cannot be decoded here")
        self._codec = codec
        self._tick_s: Fraction = self._stream.time_base
        self.codec: str = codec.name
        self.size_hw: tuple[int, int] = (codec.height, codec.width)
        length = self._container.duration
        self.seconds = Fraction(length, av.time_base) if length else None
        self.comment: str | None = self._container.metadata.get("comment")
        self.undecodable = 0
        self._timed = False
        self._broken = False

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def __enter__(self) -> "VideoFrames":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self.close()

    def frames(
        self, grid: Grid, *, threads: int, decode_all: bool, stopped: Callable[[], bool]
    ) -> Generator[tuple[range, av.VideoFrame], None, None]:
        """Yields, in order, each frame that is shown at a moment of the grid, with those moments' indices.

        A frame is shown from its presentation time to the next one's. Where it cannot be decoded, the one
        decoded before it takes its place, so that indices never shift.

        Args:
            grid: The moments.
            threads: Of the decoder.
            decode_all: Decode also what is not needed, so that every fault of the file is seen.
            stopped: Asked before each packet; True ends the iteration.

        Raises:
            DataError: The file is cut off or has no frame; all whole frames came before.
        """
        self._codec.thread_type = "FRAME" if threads > 1 else "SLICE"
        self._codec.thread_count = threads
        packets = self._packets()
        probe = list(islice(packets, _PROBE))
        period, first_pts = probe_times(probe, self._nominal())
        if first_pts is not None:
            probe[0].pts = first_pts
        clock = Clock(grid, self._tick_s, period)
        seen = [packet for packet in probe if not packet.is_discard]
        stamps = [packet.pts for packet in seen if packet.pts is not None]
        # AVI knows no presentation times; FFmpeg's are wrong there where pictures are reordered.
        self._timed = len(stamps) == len(seen) and self._container.format.name != "avi"
        origin = min(stamps, default=None) if self._timed else None
        ordered = chain(probe, packets)
        end = End()
        if origin is not None and not decode_all:
            chosen = needed(
                ordered, clock, origin, end, self.codec, idr_finder(self.codec, self._codec.extradata)
            )
        else:
            chosen = ((packet, True) for packet in (end.watch(ordered) if self._timed else ordered))
        yield from self._sample(chosen, clock, origin, end, stopped)

    def _sample(
        self,
        packets: Iterator[tuple[av.Packet, bool]],
        clock: Clock,
        origin: int | None,
        end: "End",
        stopped: Callable[[], bool],
    ) -> Generator[tuple[range, av.VideoFrame], None, None]:
        index, shown, shown_at, limit = 0, None, -1, clock.grid.count
        for stamp, frame in self._decoded(packets, stopped):
            if origin is None:
                origin = stamp if stamp is not None else 0
            at = shown_at + max(1, round(clock.period)) if stamp is None else stamp - origin
            if shown is not None:
                if at <= shown_at:
                    continue
                after = index
                while (limit is None or after < limit) and clock.target(after) < at:
                    after += 1
                if after > index:
                    yield range(index, after), shown
                    index = after
                if limit is not None and index >= limit:
                    return
            shown, shown_at = frame, at
        if stopped():
            return
        ends = end.ticks(clock.period) - origin if end.known and origin is not None else None
        if ends is None and shown is not None:
            ends = shown_at + clock.period
        if ends is not None and not clock.within(0, Fraction(ends)):
            raise DataError(
                f"{self._path} lasts {float(ends * self._tick_s):.1f} s and ends before the first frame "
                "asked for: choose an earlier --start"
            )
        if shown is None or origin is None or ends is None:
            raise DataError(f"{self._path} is a video without a single frame that can be decoded")
        after = index
        while (limit is None or after < limit) and clock.within(after, Fraction(ends)):
            after += 1
        if after > index:
            yield range(index, after), shown
        if limit is None or after < limit:
            self._refuse_cut(Fraction(ends), origin)

    def _decoded(
        self, packets: Iterator[tuple[av.Packet, bool]], stopped: Callable[[], bool]
    ) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Whole frames in the order in which they are shown, with their times; counts the others.

        Where packets bear no presentation times, the earliest decoding time that no frame has had yet is
        the frame's: pictures are reordered, but their times are the same as a set.
        """
        decoding_times: list[int] = []
        skipping = False

        def whole(frames: list[av.VideoFrame]) -> Iterator[tuple[int | None, av.VideoFrame]]:
            for frame in frames:
                stamp = frame.pts if self._timed else None
                if not self._timed and decoding_times:
                    stamp = heapq.heappop(decoding_times)
                self.undecodable += frame.is_corrupt
                if not frame.is_corrupt:
                    yield stamp, frame

        for packet, wanted in packets:
            if stopped():
                return
            if skipping == wanted:
                skipping = not wanted
                self._codec.skip_frame = "NONREF" if skipping else "DEFAULT"
            try:
                frames = self._codec.decode(packet)
            except FFmpegError:
                self.undecodable += 1
                continue
            if not self._timed and packet.dts is not None:
                heapq.heappush(decoding_times, packet.dts)
            yield from whole(frames)
        try:
            frames = self._codec.decode(None)
        except FFmpegError:
            self.undecodable += 1
            return
        yield from whole(frames)

    def _packets(self) -> Iterator[av.Packet]:
        """Whole packets, up to the end of the file or of what is left of it."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    self._broken = packet.is_corrupt  # as the last one, where the file ends inside it
                    self.undecodable += packet.is_corrupt
                    if not packet.is_corrupt:
                        yield packet
        except FFmpegError:
            self._broken = True

    def _refuse_cut(self, until: Fraction, origin: int) -> None:
        announced = self._announced_end()
        short = announced is not None and (announced - origin - until) * self._tick_s > _SHORT_BY_S
        if self._broken or short:
            whole = f" of {float(announced * self._tick_s):.1f} s" if announced is not None else ""
            raise DataError(
                f"{self._path} is cut off or damaged after {float(until * self._tick_s):.1f} s{whole}; "
                "get the whole file and run it again"
            )

    def _nominal(self) -> Fraction | None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return 1 / (rate * self._tick_s) if rate else None

    def _announced_end(self) -> int | None:
        """Where the file's head says that the stream ends, on the clock of its packets."""
        stream, container = self._stream, self._container
        first = stream.start_time or 0
        if container.format.name == "avi":  # its duration is guessed from the size of the file
            return first + stream.frames if stream.frames else None
        if stream.duration:
            return first + stream.duration
        if tag := _MATROSKA_TIME.fullmatch(stream.metadata.get("DURATION", "")):
            return round((3600 * int(tag[1]) + 60 * int(tag[2]) + Fraction(tag[3])) / self._tick_s)
        alone = len(container.streams) == 1 and container.duration
        return round(Fraction(container.duration or 0, av.time_base) / self._tick_s) if alone else None


def to_bgr(frame: av.VideoFrame, reformatter: VideoReformatter, *, smooth: bool) -> NDArray[np.uint8]:
    """Returns a decoded frame as uint8 (H, W, 3), blue first, full range.

    Args:
        frame: From the decoder.
        reformatter: One for each thread; it remembers its tables.
        smooth: Interpolate the colour's halved resolution, for pictures that are resized. Otherwise each
            sample is repeated, which costs a quarter, and which a JPEG of equal size averages back to
            the same sample.
    """
    picture = reformatter.reformat(
        frame,
        format="bgr24",
        dst_color_range=ColorRange.JPEG,
        interpolation=_SMOOTH if smooth else _REPEATED,
        threads=1,
    )
    return picture.to_ndarray().astype(np.uint8, copy=False)
