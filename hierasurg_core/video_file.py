"""An open video file: its packets, its time stamps, how its frames are shown, and whether it is whole.

Every reader of videos opens them here. A file counts as cut off where it ends inside a packet, or more than
half a second before the end that its head announces.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from hierasurg_core.display import Display
from hierasurg_core.errors import DataError
from hierasurg_core.pixels import check_pixels

_MATROSKA_TIME = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
_SHORT_BY_S = Fraction(1, 2)  # so much less than announced is no rounding of a container


class VideoFile:
    """An open video file.

    Attributes:
        path: The file.
        container: FFmpeg's view of it.
        stream: Its first video stream.
        codec: The stream's decoder.
        tick_s: Seconds of one tick of its time stamps.
        display: How its frames are shown.
        broken_packets: Packets read so far that are damaged or cut off.
        ends_broken: The last packet read is one of them.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            DataError: It is missing, no video, of a codec that FFmpeg does not decode, or too large.
        """
        self.path = path
        try:
            self.container = av.open(str(path))
        except FFmpegError as error:
            raise DataError(unreadable(path, error)) from error
        with contextlib.ExitStack() as closing:
            closing.callback(self.container.close)
            self._look()
            closing.pop_all()

    def _look(self) -> None:
        path, streams = self.path, self.container.streams.video
        if not streams:
            raise DataError(f"{path} holds no video stream")
        self.stream = streams[0]
        codec: Any = self.stream.codec_context  # None where there is no decoder
        if codec is None or self.stream.time_base is None:
            raise DataError(f"{path} is of a codec that cannot be decoded here")
        check_pixels((codec.height, codec.width), str(path))
        self.codec = codec
        self.tick_s: Fraction = self.stream.time_base
        self.display = Display(str(path), self.stream.sample_aspect_ratio)
        self.broken_packets = 0
        self.ends_broken = False
        self._complete_until: int | None = None

    def close(self) -> None:
        """Closes the file."""
        self.container.close()

    def __enter__(self) -> VideoFile:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self.close()

    @property
    def seconds(self) -> Fraction | None:
        """How long the file claims to be; None where it does not say."""
        length = self.container.duration
        return Fraction(length, av.time_base) if length else None

    @property
    def rate(self) -> Fraction | None:
        """Frames a second, on average; None where the file does not say."""
        return self.stream.average_rate or self.stream.guessed_rate

    def packets(self) -> Iterator[av.Packet]:
        """Yields whole packets, up to the end of the file or of what is left of it."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    self.ends_broken = packet.is_corrupt  # as the last one, where the file ends inside it
                    self.broken_packets += packet.is_corrupt
                    if packet.is_corrupt:
                        continue
                    if packet.dts is not None:  # what comes later is shown later than this
                        self._complete_until = packet.dts + (packet.duration or 0)
                    yield packet
        except FFmpegError:
            self.ends_broken = True

    def first_frame(self, packets: Iterable[av.Packet]) -> av.VideoFrame | None:
        """Returns the first frame that can be decoded from packets; None where there is none."""
        for packet in chain(packets, (None,)):
            try:
                frames = self.codec.decode(packet)
            except FFmpegError:
                continue
            for frame in frames:
                if not frame.is_corrupt:
                    return frame
        return None

    def is_complete_at(self, stamp: int | None) -> bool:
        """Tells, after all packets were read, whether every frame up to a time stamp was among them."""
        return stamp is None or self._complete_until is None or stamp < self._complete_until

    def cut(self, until: Fraction, origin: int, advice: str) -> str:
        """Returns in one line how much of a file is missing, after all of it was read; "" for a whole one.

        Args:
            until: Ticks from the first frame to the end of the last whole one.
            origin: The first frame's time stamp.
            advice: What to do about it; "{end}" becomes the second up to which there are frames.
        """
        announced = self._announced_end()
        missing_s = None if announced is None else (announced - origin - until) * self.tick_s
        short = missing_s is not None and missing_s > _SHORT_BY_S
        if not (self.ends_broken or short):
            return ""
        whole_s = None if missing_s is None else float(until * self.tick_s + missing_s)
        if self._complete_until is not None:  # pictures are reordered: some behind it may be there
            until = max(Fraction(0), min(until, Fraction(self._complete_until - origin)))
        left_s = float(until * self.tick_s)
        of = ""
        if whole_s is not None and whole_s > left_s:
            of = f" of {whole_s:.1f} s, {whole_s - left_s:.1f} s are missing"
        return (
            f"{self.path} is cut off or damaged after {left_s:.1f} s{of}; {advice.format(end=_floor(left_s))}"
        )

    def _announced_end(self) -> int | None:
        """Where the file's head says that the stream ends, on the clock of its packets."""
        stream, container = self.stream, self.container
        first = stream.start_time or 0
        if container.format.name == "avi":  # its duration is guessed from the size of the file
            return first + stream.frames if stream.frames else None
        if stream.duration:
            return first + stream.duration
        if tag := _MATROSKA_TIME.fullmatch(stream.metadata.get("DURATION", "")):
            return round((3600 * int(tag[1]) + 60 * int(tag[2]) + Fraction(tag[3])) / self.tick_s)
        alone = len(container.streams) == 1 and container.duration
        return round(Fraction(container.duration or 0, av.time_base) / self.tick_s) if alone else None


class End:
    """Where the last packet that was read ends, on the clock of the packets themselves."""

    def __init__(self) -> None:
        self.known = False
        self.last = 0
        self._duration = 0

    def see(self, packet: av.Packet) -> None:
        """Counts a packet."""
        if packet.pts is not None and not packet.is_discard and (not self.known or packet.pts > self.last):
            self.known, self.last, self._duration = True, packet.pts, packet.duration or 0

    def watch(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Counts packets on their way."""
        for packet in packets:
            self.see(packet)
            yield packet

    def ticks(self, period: Fraction) -> Fraction:
        """The end of the frame that is shown last."""
        return self.last + (Fraction(self._duration) if self._duration else period)


def unreadable(path: Path, error: FFmpegError) -> str:
    """Returns the line for a file that FFmpeg does not read."""
    return f"cannot read the video {path}: {error.strerror or error}"


def _floor(seconds: float) -> str:
    return f"{int(seconds * 10) / 10:g}"
