"""What `extract` may be asked of a source: checked against rate, size and disk before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

from hierasurg_core.artifacts import check_free_space
from hierasurg_core.config import ExtractConfig
from hierasurg_core.datasets.decoding import look_at_video
from hierasurg_core.datasets.numbering import NumberedImages, Timeline, timeline
from hierasurg_core.datasets.operations import Source
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.pictures import read_picture
from hierasurg_core.pixels import MAX_PIXELS

IMAGES_FPS = 1  # CholecT45 and CholecT50
MOST_ENLARGED = 4
"""`--size` may be so many times the source's rows and columns."""

_LONGEST_LEAD_S = 10  # of missing images before the first one
_RATE_SLACK = 1.01  # 30 may be asked of 29.97
_LONGEST_SIDE = 65_500  # of a JPEG
_LEAST_BYTES_A_PIXEL = 0.05  # of a JPEG of a real scene; most take several times that


@dataclass(frozen=True)
class Look:
    """What a source is, and what becomes of it.

    Attributes:
        size_hw: Of the frames to come.
        seconds: How long the source claims to be; None where it does not say.
        done: What has to be done to the pixels of its first picture, in words.
    """

    size_hw: tuple[int, int]
    seconds: Fraction | None
    done: tuple[str, ...]

    def frames(self, config: ExtractConfig) -> int | None:
        """About how many frames there will be; None where the source does not say how long it is."""
        if self.seconds is None:
            return None
        end = float(self.seconds) if config.end is None else min(config.end, float(self.seconds))
        return max(0, round((end - config.start) * config.fps))


def look_at(source: Source, config: ExtractConfig) -> Look:
    """Looks at a source, and checks what is asked of it.

    Raises:
        DataError: It cannot be read, or is too small for the crop, or its images have another rate, no
            order, or none in the time that is asked for.
        UsageError: The rate is above its own, or the size is out of proportion to its own.
    """
    if source.images is not None:
        _, span, first = image_times(source.images, config)
        try:
            picture = read_picture(first)
        except DataError as error:
            raise DataError(f"{source.path} has no first frame: {error}") from error
        seconds = Fraction(span.stop, IMAGES_FPS)
        return Look(size_after(config, picture.size_hw, source.path), seconds, picture.done)
    look = look_at_video(source.path, deinterlaces=config.deinterlace == "auto")
    if look.rate is not None and config.fps > look.rate * _RATE_SLACK:
        raise UsageError(
            f"{source.path} shows {look.rate:g} frames a second: --fps {config.fps:g} asks for more; "
            f"give --fps {look.rate:g} or less"
        )
    return Look(size_after(config, look.size_hw, source.path), look.seconds, look.done)


def image_times(images: NumberedImages, config: ExtractConfig) -> tuple[Timeline, range, Path]:
    """Returns which second each image shows, which seconds become frames, and the first image of these.

    Where the first seconds have no image, the first image is that of a later second.

    Raises:
        DataError: Another rate than that of images is asked for, the images have no order, they end before
            the first of these seconds, or lack too many of the first ones.
    """
    folder = images.folder
    if config.fps != IMAGES_FPS:
        raise DataError(
            f"{folder} holds images at {IMAGES_FPS} fps: --fps {config.fps:g} needs the video file"
        )
    times = timeline(images, config.first_index)
    start, stop = int(config.start), max(times.by_second) + 1
    if start >= stop:
        raise DataError(f"{folder} holds {stop} s and ends before --start {config.start:g}")
    if config.end is not None:
        stop = min(stop, start + ceil(Fraction(str(config.end)) - Fraction(str(config.start))))
    first = min(second for second in times.by_second if second >= start)
    if first - start > _LONGEST_LEAD_S:
        raise DataError(
            f"{folder} lacks its first {first - start} seconds, counted from --first-index "
            f"{times.first_index}: give --start {first} as well"
        )
    return times, range(start, stop), times.by_second[first]


def size_after(config: ExtractConfig, size_hw: tuple[int, int], source: Path) -> tuple[int, int]:
    """Returns rows and columns of the frames made of pictures of one size.

    Raises:
        DataError: The pictures are smaller than the crop.
        UsageError: The frames would be far larger than the pictures, or than a JPEG can be.
    """
    crop_hw = config.crop_hw
    if crop_hw is not None and (crop_hw[0] > size_hw[0] or crop_hw[1] > size_hw[1]):
        raise DataError(
            f"{source} is {_text(size_hw)} (rows x columns), too small for --crop {_text(crop_hw)}"
        )
    cut_hw = crop_hw or size_hw
    result_hw = config.size_hw or cut_hw
    most_hw = (MOST_ENLARGED * cut_hw[0], MOST_ENLARGED * cut_hw[1])
    if result_hw[0] > most_hw[0] or result_hw[1] > most_hw[1]:
        raise UsageError(
            f"--size {_text(result_hw)} is more than {MOST_ENLARGED} times the {_text(cut_hw)} (rows x "
            f"columns) of {source}: give {_text(most_hw)} or less"
        )
    if result_hw[0] * result_hw[1] > MAX_PIXELS or max(result_hw) > _LONGEST_SIDE:
        raise UsageError(
            f"frames of {_text(result_hw)} (rows x columns) of {source} are too large: give a --size of at "
            f"most {MAX_PIXELS / 1e6:.0f} megapixels and {_LONGEST_SIDE} a side"
        )
    return result_hw


def check_space(looks: Mapping[str, Look], config: ExtractConfig) -> None:
    """Checks that the disk has room for the frames that are still missing, by a low estimate.

    Raises:
        ResourceError: It has not.
    """
    needed, missing = 0.0, 0
    for name, look in looks.items():
        there = sum(1 for _ in (config.out / name).glob("[0-9]*.jpg"))
        frames = max(0, (look.frames(config) or 0) - there)
        missing += frames
        needed += frames * look.size_hw[0] * look.size_hw[1] * _LEAST_BYTES_A_PIXEL
    check_free_space(config.out, int(needed), f"{missing} frames")


def _text(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
