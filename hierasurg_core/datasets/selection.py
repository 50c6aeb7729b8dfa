"""Which frames of a video are shown at given times, and which packets that takes.

Owns the clock of `extract`: times are whole ticks of the stream's time base, counted from the first frame
that is shown, and no float ever takes part. It opens and decodes nothing.

Left out is only what provably changes no picture that is wanted: pictures that the codec itself marks as
unreferenced, and in H.264 the rest of a group of pictures behind its last wanted one (an IDR picture refers
to nothing before it).
"""

import bisect
import itertools
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import av

from hierasurg_core.video_file import End

_MOST_HELD = 512  # packets kept back at most, so that memory does not grow with a group of pictures
_UNREFERENCED_IS_EXACT = frozenset({"h264", "mpeg4"})  # HEVC's flag speaks only of its own sub-layer
_H264_IDR = 5


@dataclass(frozen=True)
class Grid:
    """The moments at which frames are taken: `start + k / rate` for k = 0, 1, ... while before `end`.

    Attributes:
        rate: Frames a second.
        start: Seconds from the first frame.
        end: Seconds from the first frame, not included; None: the end of the video.
    """

    rate: Fraction
    start: Fraction = Fraction(0)
    end: Fraction | None = None

    @property
    def count(self) -> int | None:
        """How many moments there are; None without an end."""
        return None if self.end is None else max(0, ceil((self.end - self.start) * self.rate))

    def seconds(self, index: int) -> Fraction:
        """The moment of frame `index`."""
        return self.start + index / self.rate


@dataclass(frozen=True)
class Clock:
    """Turns the grid's moments into ticks of one stream.

    A container with coarse ticks rounds the times of frames, by up to half a tick, so a frame counts as
    shown half a tick early; not where a tick is so long that this could reach another frame.
    """

    grid: Grid
    tick_s: Fraction
    period: Fraction  # nominal ticks between two frames

    @property
    def slack(self) -> Fraction:
        """Ticks by which a frame counts as shown early."""
        return Fraction(1, 2) if self.period >= 4 else Fraction(0)

    def target(self, index: int) -> int:
        """The latest tick, from the first frame on, of a frame that is shown at a moment of the grid."""
        return floor(self.grid.seconds(index) / self.tick_s + self.slack)

    def within(self, index: int, end: Fraction) -> bool:
        """Whether a moment lies before the end of the video."""
        return self.grid.seconds(index) / self.tick_s + 2 * self.slack < end


def probe_times(packets: list[av.Packet], nominal: Fraction | None) -> tuple[Fraction, int | None]:
    """The ticks between two frames, and the first packet's time where its own cannot be right.

    It cannot where all others follow each other evenly, and it alone is missing, behind them, or further
    from them than a second. (A first picture that a variable-rate file really shows for so long, before an
    even rate, is taken for such a fault.)
    """
    probe = [packet for packet in packets if not packet.is_discard]
    stamps = sorted({packet.pts for packet in probe if packet.pts is not None})
    steps = [b - a for a, b in itertools.pairwise(stamps)]
    period = Fraction(statistics.median_low(steps)) if steps else nominal or Fraction(1)
    rest = sorted(packet.pts for packet in probe[1:] if packet.pts is not None)
    if len(rest) < 4 or len(rest) != len(probe) - 1 or probe[0] is not packets[0]:
        return period, None
    first, tick_s = probe[0].pts, probe[0].time_base
    even = rest[: max(4, len(rest) - 4)]  # pictures in decoding order leave holes at the end of the probe
    gaps = [b - a for a, b in itertools.pairwise(even)]
    if max(gaps) - min(gaps) > 1 or tick_s is None:
        return period, None
    far = first is None or first > rest[0] or (rest[0] - first) * tick_s > 1 + 2 * period * tick_s
    return period, rest[0] - max(1, round(period)) if far else None


def needed(
    packets: Iterator[av.Packet],
    clock: Clock,
    origin: int,
    end: End,
    codec: str,
    is_idr: Callable[[av.Packet], bool] | None,
) -> Iterator[tuple[av.Packet, bool]]:
    """Leaves out packets that no wanted picture needs, and marks the others: wanted, or only referred to.

    A packet's fate is known once the decoding times have passed the moment it could be shown at: no later
    packet is shown before its own decoding time.
    """
    unreferenced_go = codec in _UNREFERENCED_IS_EXACT
    held: list[tuple[av.Packet, bool]] = []
    for packet, wanted in _chosen(packets, clock, origin, end):
        if is_idr is None:
            yield packet, wanted or not unreferenced_go
            continue
        if packet.is_keyframe and is_idr(packet):
            held.clear()
        held.append((packet, wanted))
        if wanted or len(held) >= _MOST_HELD:
            yield from held
            held.clear()


def _chosen(
    packets: Iterator[av.Packet], clock: Clock, origin: int, end: End
) -> Iterator[tuple[av.Packet, bool]]:
    """Every packet in decoding order, and whether its picture is shown at a moment of the grid."""
    waiting: deque[av.Packet] = deque()
    stamps: list[int] = []  # times that can still be chosen; the first is the best so far for `target`
    wanted: set[int] = set()
    index, limit = 0, clock.grid.count
    latest: int | None = None
    target = origin + clock.target(index)

    def settle(until: int | Fraction, final: bool) -> None:
        nonlocal index, latest, target
        while (limit is None or index < limit) and (
            clock.within(index, Fraction(until - origin)) if final else target < until
        ):
            del stamps[: max(0, bisect.bisect_right(stamps, target) - 1)]
            if stamps and stamps[0] != latest:
                latest = stamps[0]
                wanted.add(latest)
            index += 1
            target = origin + clock.target(index)
        del stamps[: max(0, bisect.bisect_right(stamps, target) - 1)]

    for packet in packets:
        end.see(packet)
        waiting.append(packet)
        shown_at = None if packet.is_discard else packet.pts
        if shown_at is not None and (not stamps or shown_at > stamps[0] or stamps[0] > target):
            bisect.insort(stamps, shown_at)
        if packet.dts is not None:
            settle(packet.dts, final=False)
        while waiting and _is_settled(waiting[0], stamps, wanted, target):
            yield _release(waiting, wanted)
        if limit is not None and index >= limit:
            break
        if len(waiting) >= _MOST_HELD:
            yield waiting.popleft(), True
    settle(end.ticks(clock.period), final=True)
    while waiting:
        yield _release(waiting, wanted)


def _is_settled(packet: av.Packet, stamps: list[int], wanted: set[int], target: int) -> bool:
    if packet.pts is None or packet.is_discard or packet.pts in wanted:
        return True
    return bool(stamps) and packet.pts < stamps[0] <= target


def _release(waiting: deque[av.Packet], wanted: set[int]) -> tuple[av.Packet, bool]:
    packet = waiting.popleft()
    if packet.pts is None or packet.is_discard:
        return packet, packet.pts is None
    is_wanted = packet.pts in wanted
    wanted.discard(packet.pts)
    return packet, is_wanted


def idr_finder(codec: str, extradata: bytes | None) -> Callable[[av.Packet], bool] | None:
    """A test whether a key frame of H.264 is one that nothing looks behind; None for other codecs."""
    if codec != "h264":
        return None
    head = extradata or b""
    length_size = (head[4] & 3) + 1 if len(head) > 4 and head[0] == 1 else 0

    def is_idr(packet: av.Packet) -> bool:
        data = bytes(packet)
        if not length_size:
            return any(data[at + 3] & 31 == _H264_IDR for at in _start_codes(data) if at + 3 < len(data))
        at = 0
        while at + length_size < len(data):
            if data[at + length_size] & 31 == _H264_IDR:
                return True
            at += length_size + int.from_bytes(data[at : at + length_size], "big")
        return False

    return is_idr


def _start_codes(data: bytes) -> Iterator[int]:
    at = data.find(b"\0\0\1")
    while at >= 0:
        yield at
        at = data.find(b"\0\0\1", at + 3)
