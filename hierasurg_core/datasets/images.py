"""Folders of numbered images, one a second, become the frames of one frame folder.

Owns what takes the place of images that are missing or unreadable, and the lines that tell of them. Images of
several sizes are refused unless all are made one size.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hierasurg_core.config import ExtractConfig
from hierasurg_core.datasets.bounds import image_times, size_after
from hierasurg_core.datasets.numbering import NumberedImages
from hierasurg_core.datasets.writing import FrameWriter
from hierasurg_core.errors import DataError
from hierasurg_core.pictures import Picture, read_picture


def write_images(
    images: NumberedImages,
    writer: FrameWriter,
    config: ExtractConfig,
    note: Callable[[str], None],
    stopped: Callable[[], bool],
) -> dict[str, Any] | None:
    """Writes the frames of a folder of images; a missing or unreadable image is the one before it.

    Args:
        images: Of one folder, without a fault.
        writer: Of the frame folder.
        config: What to extract.
        note: Told in one line each what was assumed, filled, and done to pixels.
        stopped: Asked before each image; True ends the work.

    Returns:
        What the frame folder's manifest says of the images; None where it was stopped.

    Raises:
        DataError: As `image_times`; the first image is unreadable, or one is of another size.
    """
    times, span, first = image_times(images, config)
    for line in times.notes:
        note(line)
    # Images before the first one are missing: it takes their places, as any image does of those after it.
    picture = read_picture(first)
    before = writer.jpeg_of(first, picture)
    first_hw, size_hw = picture.size_hw, size_after(config, picture.size_hw, images.folder)
    filled: list[int] = []
    faults: dict[Path, DataError] = {}
    done = Counter(dict.fromkeys(picture.done, 0))
    for second in span:
        if stopped():
            return None
        path = times.by_second.get(second)
        picture = None if path is None else _readable(path, faults)
        if path is None or picture is None:
            filled.append(second - span.start)
        else:
            _expect_size(path, picture.size_hw, first_hw, config)
            before = writer.jpeg_of(path, picture)
            done.update(picture.done)
        writer.put(range(second - span.start, second - span.start + 1), before)
    if filled:
        note(_filled_in_words(images.folder, filled, faults))
    count = len(span) - len(filled)
    tell_pixels(
        images.folder,
        [word if n == count else f"{word} in {n} of {count} images" for word, n in done.items()],
        note,
    )
    return {
        "codec": "+".join(sorted({path.suffix.lower()[1:] for path in images.paths})),
        "size_hw": list(size_hw),
        "undecodable": len(filled),
        "pixels": list(done),
        "first_index": times.first_index,
        "index_step": times.step,
        "filled": filled,
    }


def tell_pixels(source: Path, done: Iterable[str], note: Callable[[str], None]) -> None:
    """Tells in one line what was done to a source's pixels, where anything was."""
    if words := ", ".join(done):
        note(f"{source}: {words}")


def _readable(path: Path, faults: dict[Path, DataError]) -> Picture | None:
    """Reads a picture; None for one that cannot be read, whose fault is kept."""
    try:
        return read_picture(path)
    except DataError as error:
        faults[path] = error
        return None


def _expect_size(
    path: Path, size_hw: tuple[int, int], first_hw: tuple[int, int], config: ExtractConfig
) -> None:
    """Refuses an image of another size than the first one, unless all get one size."""
    if size_hw == first_hw:
        return
    if config.size_hw is None:
        raise DataError(
            f"{path} is {size_hw[0]}x{size_hw[1]} (rows x columns), but the images before it are "
            f"{first_hw[0]}x{first_hw[1]}: give --size"
        )
    size_after(config, size_hw, path)


def _filled_in_words(folder: Path, filled: Sequence[int], faults: Mapping[Path, DataError]) -> str:
    """Says in one line which images are missing, which are unreadable, and why the first of these is."""
    missing = len(filled) - len(faults)
    parts = [f"{missing} images are missing"] if missing else []
    why = ""
    if faults:
        first, fault = next(iter(faults.items()))
        parts.append(f"{len(faults)} images are no readable images (first {first.name})")
        why = f"; {fault}"
    return (
        f"{folder}: {' and '.join(parts)}, the first at frame {filled[0]:06d}; the ones before take their "
        f"places{why}"
    )
