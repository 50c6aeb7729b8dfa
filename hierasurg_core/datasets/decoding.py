"""Frames out of a video file at given times, one after another.

The frame of time t is the last one whose time stamp is t or less, whatever the rate does; the time stamp of
the first frame is time 0. Videos that are cut off are refused, after all their whole frames were given.
Where the times of packets are missing, everything is decoded. Interlaced videos are decoded whole, because
the combs of a frame are taken away with the help of its neighbours.
"""

import heapq
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path

import av
from av.error import FFmpegError

from hierasurg_core.datasets.selection import Clock, Grid, idr_finder, needed, probe_times
from hierasurg_core.display import DEINTERLACED, Display, deinterlace
from hierasurg_core.errors import DataError
from hierasurg_core.video_file import End, VideoFile

_PROBE = 32  # packets that tell the nominal rate, and whether the first timestamp fits the others
_FASTEST = 300  # frames a second that a gap between two time stamps can tell; a shorter one is a slip
_CUT = "get the whole file and run it again, or take what is there with --end {end}"


@dataclass(frozen=True)
class VideoLook:
    """What a video is, before any work.

    Attributes:
        size_hw: Rows and columns of its frames as they are shown.
        seconds: How long it claims to be; None where it does not say.
        rate: The most frames a second that it shows; None where it does not say.
        done: What has to be done to the pixels of its first frame, in words.
    """

    size_hw: tuple[int, int]
    seconds: Fraction | None
    rate: float | None
    done: tuple[str, ...]


def look_at_video(path: Path, *, deinterlaces: bool) -> VideoLook:
    """Looks at the head and the first frame of a video.

    Raises:
        DataError: It is missing, no video, of a codec that FFmpeg does not decode, or too large.
    """
    with VideoFile(path) as file:
        packets = list(islice(file.packets(), _PROBE))
        stamps = sorted({packet.pts for packet in packets if packet.pts is not None})
        gaps = [(after - before) * file.tick_s for before, after in pairwise(stamps)]
        said = [file.stream.average_rate, file.stream.guessed_rate]
        rates = [float(rate) for rate in said if rate]
        if gaps:
            rates.append(min(_FASTEST, float(1 / min(gaps))))
        first = file.first_frame(packets)
        size_hw = (file.codec.height, file.codec.width) if first is None else file.display.size_hw(first)
        done = () if first is None else file.display.done(first)
        if first is not None and first.interlaced_frame and deinterlaces:
            done = (DEINTERLACED, *done)
        return VideoLook(size_hw, file.seconds, max(rates, default=None), done)


class VideoFrames:
    """An open video file, read once from its start.

    Attributes:
        codec: FFmpeg's name of its codec.
        display: How its frames are shown.
        comment: What its maker wrote into it; None for nothing.
        undecodable: After `frames`: frames that were asked of the decoder and came damaged or not at all.
        done: After `frames`: what has to be done to the pixels of the frames that it gave, in words.
    """

    def __init__(self, path: Path, *, deinterlaces: bool = True) -> None:
        """Opens the file.

        Args:
            path: The file.
            deinterlaces: Take the combs out of the frames that the file calls interlaced.

        Raises:
            DataError: It is missing, no video, of a codec that FFmpeg does not decode, or too large.
        """
        self._path = path
        self._deinterlaces = deinterlaces
        self.done: dict[str, None] = {}
        self._open()

    def _open(self) -> None:
        self._file = VideoFile(self._path)
        self._codec = self._file.codec
        self.codec: str = self._codec.name
        self.display: Display = self._file.display
        self.comment: str | None = self._file.container.metadata.get("comment")
        self._lost = 0
        self._timed = False

    @property
    def undecodable(self) -> int:
        """Packets that are damaged, and frames that came damaged or not at all."""
        return self._lost + self._file.broken_packets

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

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
        decoded before it takes its place, so that indices never shift. At the first interlaced frame the
        file is read from its start again, whole, and goes on from that frame.

        Args:
            grid: The moments.
            threads: Of the decoder.
            decode_all: Decode also what is not needed, so that every fault of the file is seen.
            stopped: Asked before each packet; True ends the iteration.

        Raises:
            DataError: The file is cut off or has no frame; all whole frames came before.
        """
        given = 0
        for whole in (True,) if decode_all else (False, True):
            for indices, frame, interlaced in self._pass(grid, threads, whole, stopped):
                if interlaced and not whole:
                    break
                if indices.stop > given:
                    words = (DEINTERLACED,) if interlaced else ()
                    self.done.update(dict.fromkeys((*words, *self.display.done(frame))))
                    yield range(max(given, indices.start), indices.stop), frame
                    given = indices.stop
            else:
                return
            self.close()
            self._open()

    def _pass(
        self, grid: Grid, threads: int, whole: bool, stopped: Callable[[], bool]
    ) -> Iterator[tuple[range, av.VideoFrame, bool]]:
        """Reads the file once; a frame comes with whether it is interlaced, and as `whole` without combs."""
        self._codec.thread_type = "FRAME" if threads > 1 else "SLICE"
        self._codec.thread_count = threads
        packets = self._file.packets()
        probe = list(islice(packets, _PROBE))
        rate, tick_s = self._file.rate, self._file.tick_s
        period, first_pts = probe_times(probe, 1 / (rate * tick_s) if rate else None)
        if first_pts is not None:
            probe[0].pts = first_pts
        clock = Clock(grid, tick_s, period)
        seen = [packet for packet in probe if not packet.is_discard]
        stamps = [packet.pts for packet in seen if packet.pts is not None]
        # AVI knows no presentation times; FFmpeg's are wrong there where pictures are reordered.
        self._timed = len(stamps) == len(seen) and self._file.container.format.name != "avi"
        origin = min(stamps, default=None) if self._timed else None
        ordered = chain(probe, packets)
        end = End()
        if origin is not None and not whole:
            is_idr = idr_finder(self.codec, self._codec.extradata)
            chosen = needed(ordered, clock, origin, end, self.codec, is_idr)
        else:
            chosen = ((packet, True) for packet in (end.watch(ordered) if self._timed else ordered))
        for indices, before, frame, after in self._sample(chosen, clock, origin, end, stopped):
            interlaced = self._deinterlaces and frame.interlaced_frame
            if interlaced and whole:
                frame = deinterlace(before, frame, after)
            yield indices, frame, interlaced

    def _sample(
        self,
        packets: Iterator[tuple[av.Packet, bool]],
        clock: Clock,
        origin: int | None,
        end: End,
        stopped: Callable[[], bool],
    ) -> Iterator[tuple[range, av.VideoFrame | None, av.VideoFrame, av.VideoFrame | None]]:
        """Frames shown at moments of the grid: indices, the frame before it, the frame, the one after."""
        index, shown, shown_at, limit = 0, None, -1, clock.grid.count
        before: av.VideoFrame | None = None
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
                    yield range(index, after), before, shown, frame
                    index = after
                if limit is not None and index >= limit:
                    return
            before, shown, shown_at = shown, frame, at
        if stopped():
            return
        ends = end.ticks(clock.period) - origin if end.known and origin is not None else None
        if ends is None and shown is not None:
            ends = shown_at + clock.period
        if ends is not None and not clock.within(0, Fraction(ends)):
            raise DataError(
                f"{self._path} lasts {float(ends * self._file.tick_s):.1f} s and ends before the first frame "
                "asked for: choose an earlier --start"
            )
        if shown is None or origin is None or ends is None:
            raise DataError(f"{self._path} is a video without a single frame that can be decoded")
        after = index
        while (limit is None or after < limit) and clock.within(after, Fraction(ends)):
            after += 1
        if after > index:
            yield range(index, after), before, shown, None
        asked_beyond = limit is None or after < limit
        if asked_beyond and (fault := self._file.cut(Fraction(ends), origin, _CUT)):
            raise DataError(fault)

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
                self._lost += frame.is_corrupt
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
                self._lost += 1
                continue
            if not self._timed and packet.dts is not None:
                heapq.heappush(decoding_times, packet.dts)
            yield from whole(frames)
        try:
            frames = self._codec.decode(None)
        except FFmpegError:
            self._lost += 1
            return
        yield from whole(frames)
