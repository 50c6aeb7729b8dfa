"""Small videos whose frames carry their number in pixels, and the reading of it."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.pictures import read_image

HEIGHT, WIDTH, BLOCK, BITS = 64, 96, 16, 12


def numbered_frame(number: int) -> NDArray[np.uint8]:
    """Twelve blocks, white for 1, below a row that is always grey; no frame is black."""
    frame_HWC = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, WIDTH // BLOCK)
        top, left = BLOCK * (1 + row), BLOCK * column
        frame_HWC[top : top + BLOCK, left : left + BLOCK] = 230 if number >> bit & 1 else 20
    return frame_HWC


def read_number(frame_HWC: NDArray[np.uint8]) -> int:
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, WIDTH // BLOCK)
        top, left = BLOCK * (1 + row), BLOCK * column
        number |= int(frame_HWC[top + 4 : top + 12, left + 4 : left + 12].mean() > 128) << bit
    return number


def numbers_in(folder: Path) -> list[int]:
    """The numbers in a frame folder's frames, whose names have to follow each other from 000000."""
    paths = sorted(folder.glob("*.jpg"))
    assert [path.name for path in paths] == [f"{index:06d}.jpg" for index in range(len(paths))]
    return [read_number(read_image(path)) for path in paths]


def even_ticks(count: int, step: int = 512, first: int = 0) -> list[int]:
    return [first + step * index for index in range(count)]


def write_video(
    path: Path,
    ticks: Sequence[int],
    *,
    time_base: Fraction = Fraction(1, 12800),
    codec: str = "libx264",
    frames: Iterable[NDArray[np.uint8]] | None = None,
    key_every: int = 30,
    rate: int = 25,
    broken_first_by: int = 0,
) -> None:
    """Writes frames at given ticks, with B-frames; `broken_first_by` moves the first packet's time alone."""
    pictures = [numbered_frame(index) for index in range(len(ticks))] if frames is None else frames
    options = {"crf": "12", "threads": "1", "bf": "3", "g": str(key_every), "b-pyramid": "normal"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=rate, options=options if codec == "libx264" else {"qscale": "2", "bf": "2"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        first = True
        packets = []
        for tick, picture in zip(ticks, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            packets.extend(stream.encode(frame))
        packets.extend(stream.encode())
        for packet in packets:
            if broken_first_by and not first and packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts + broken_first_by, packet.dts + broken_first_by
            first = False
            container.mux(packet)
