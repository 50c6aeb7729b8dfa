"""Images that are numbered in their names, and which second each of them shows.

Owns the reading of image names: any common suffix in either case, and the number wherever it stands
(`7.png`, `IMG_0001.JPG`, `video05_000001.png`). It looks at names alone and opens no file. A folder whose
names leave the order open has a fault, which says what to do.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierasurg_core.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

_DIGITS = re.compile(r"\d+", re.ASCII)
_MASK = re.compile(r"(?:.*[^a-z])?masks?", re.IGNORECASE)
_BESIDE_FRAMES = re.compile(r".*_(?:sheet|overlay)", re.IGNORECASE)  # pictures that `label` writes
_CLUTTER = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
        *("__macosx", "@eadir", "$recycle.bin", "system volume information"),
    }
)
_SMALLEST_STEP = 5  # below it, numbers that are not used are images that are missing
_HOLES_ALLOWED = 10  # however few images there are


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class NumberedImages:
    """The images of one folder.

    Attributes:
        folder: Where they lie.
        by_number: Each image by the number in its name, rising.
        fault: Why the images have no order; None where they have one. With a fault, `by_number` is empty.
        skipped: Images that do not belong to the sequence.
        num_clutter: How many files of the operating system were passed over.
    """

    folder: Path
    by_number: dict[int, Path]
    fault: str | None
    skipped: tuple[Skipped, ...]
    num_clutter: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """The images in the order of their numbers."""
        return tuple(self.by_number.values())

    @property
    def is_sequence(self) -> bool:
        """Whether the folder holds images that are meant as a sequence, with or without a fault."""
        return bool(self.by_number) or self.fault is not None


@dataclass(frozen=True)
class Timeline:
    """The images of one folder at one a second.

    Attributes:
        by_second: Each image by the second that it shows, rising; seconds may be missing.
        first_index: The number of the image that shows second 0, whether it is there or not.
        step: By how much numbers rise from one second to the next.
        notes: What was assumed, a line each, for the user.
    """

    by_second: dict[int, Path]
    first_index: int
    step: int
    notes: tuple[str, ...]


def is_clutter(path: Path) -> bool:
    """Whether a file or folder is hidden, or of the operating system's making (Thumbs.db, __MACOSX)."""
    return path.name.startswith(".") or path.name.lower() in _CLUTTER


def number_images(folder: Path) -> NumberedImages:
    """Finds the images of a folder and reads their numbers.

    Where a name holds several numbers, the last one that differs between the images counts. Masks beside
    the images, images without a number, and images named otherwise than all the rest are left out.

    Example: `video05_000001.png` and `video05_000002.png` have the numbers 1 and 2.

    Raises:
        DataError: The folder cannot be read.
    """
    images: list[Path] = []
    num_clutter = 0
    try:
        for path in sorted(folder.iterdir()):
            if is_clutter(path):
                num_clutter += 1
            elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                images.append(path)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    skipped: list[Skipped] = []
    by_form: dict[str, list[Path]] = {}
    for path in images:
        if _MASK.fullmatch(path.stem):
            skipped.append(Skipped(path, "a mask, not a frame"))
        elif _BESIDE_FRAMES.fullmatch(path.stem):
            skipped.append(Skipped(path, "a picture of maps, as label writes it, not a frame"))
        elif _DIGITS.search(path.stem) is None:
            skipped.append(Skipped(path, "its name holds no number"))
        else:
            by_form.setdefault(_DIGITS.sub("#", path.stem).casefold(), []).append(path)
    if not by_form:
        return NumberedImages(folder, {}, None, tuple(skipped), num_clutter)
    most, *others = sorted(by_form.values(), key=len, reverse=True)
    strangers = [path for paths in others for path in paths]
    if len(strangers) >= len(most):
        forms = ", ".join(f"{paths[0].name} ({len(paths)})" for paths in (most, *others)[:3])
        fault = f"{folder} mixes several kinds of names: {forms}; keep one kind in a folder"
        return NumberedImages(folder, {}, fault, tuple(skipped), num_clutter)
    skipped += [Skipped(path, f"not named as the other images are ({most[0].name})") for path in strangers]
    by_number, fault = _by_number(folder, most)
    return NumberedImages(folder, by_number, fault, tuple(skipped), num_clutter)


def timeline(images: NumberedImages, first_index: int | None = None) -> Timeline:
    """Says which second each image shows, at one image a second.

    Numbers that all rise by a fixed step of 5 or more (every 25th frame) count as consecutive.

    Args:
        images: Of one folder, without a fault.
        first_index: The number that belongs to second 0; None: that of the first image.

    Raises:
        DataError: The images have no order, none is left, most are missing, or `first_index` lies between
            two of them.

    Example: images 1, 2, 4 show the seconds 0, 1, 3; with `first_index` 0 they show 1, 2, 4.
    """
    folder, numbers = images.folder, list(images.by_number)
    if images.fault is not None:
        raise DataError(images.fault)
    first = numbers[0]
    step = math.gcd(*(number - first for number in numbers))
    step = step if step >= _SMALLEST_STEP and len(numbers) > 2 else 1
    zero = first if first_index is None else first_index
    if (first - zero) % step:
        raise DataError(
            f"{folder} holds every {step}th number from {first} on, which never meets --first-index {zero}: "
            f"give one that does, such as {first}"
        )
    notes: list[str] = []
    if suffixes := suffixes_in_words(images.paths):
        notes.append(f"{folder}: its images are of several kinds ({suffixes}); all are taken")
    if first_index is None and first != 0:
        notes.append(
            f"{folder}: numbered from {images.by_number[first].name}, which is taken as second 0 and becomes "
            "000000; if number 0 is second 0, give --first-index 0"
        )
    if step > 1:
        notes.append(f"{folder}: numbers rise by {step}; the images are taken as one a second")
    by_second = {(number - zero) // step: path for number, path in images.by_number.items()}
    kept = {second: path for second, path in by_second.items() if second >= 0}
    if not kept:
        raise DataError(
            f"{folder} ends with number {numbers[-1]}, before --first-index {zero}: give a lower one"
        )
    if len(kept) < len(by_second):
        before = len(by_second) - len(kept)
        notes.append(f"{folder}: {before} images lie before --first-index {zero} and are left out")
    holes = max(kept) - min(kept) + 1 - len(kept)
    if holes > max(len(kept), _HOLES_ALLOWED):
        raise DataError(
            f"{folder} holds {len(kept)} images numbered {numbers[0]} to {numbers[-1]}, so most numbers are "
            "missing: one image a second is wanted; number them anew, without such gaps"
        )
    return Timeline(kept, zero, step, tuple(notes))


def suffixes_in_words(paths: Iterable[Path]) -> str | None:
    """Names the kinds of files where there are several: "3 .jpg, 1 .png"; None where there is one."""
    counts: dict[str, int] = {}
    for path in paths:
        suffix = path.suffix.lower().replace(".jpeg", ".jpg").replace(".tiff", ".tif")
        counts[suffix] = counts.get(suffix, 0) + 1
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.items()) if len(counts) > 1 else None


def _by_number(folder: Path, paths: Sequence[Path]) -> tuple[dict[int, Path], str | None]:
    """The images of one form of name by number, or why two of them have the same."""
    runs = [[int(digits) for digits in _DIGITS.findall(path.stem)] for path in paths]
    varying = [place for place in range(len(runs[0])) if len({run[place] for run in runs}) > 1]
    place = varying[-1] if varying else len(runs[0]) - 1
    found: dict[int, Path] = {}
    for path, run in zip(paths, runs, strict=True):
        number = run[place]
        if number in found:
            return {}, (
                f"{folder} holds number {number} twice, as {found[number].name} and {path.name}: keep one"
            )
        found[number] = path
    return dict(sorted(found.items())), None
