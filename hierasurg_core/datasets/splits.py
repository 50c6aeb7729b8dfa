"""Which videos train and which validate.

A list file has one video a line; empty lines and what follows a `#` do not count, and names are as forgiving
as everywhere (`VID01`, `video01`). Clips of one video overlap, so a split never divides a video.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierasurg_core.datasets.annotations import canonical_name
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.text_files import read_text

TRAIN, VAL = "train", "val"
_LISTS = Path(__file__).resolve().parent.parent / "assets" / "splits"


@dataclass(frozen=True)
class Splits:
    """The chosen split.

    Attributes:
        names: "train" and "val" to the names of their videos, rising.
        note: How it was chosen, for the user.
    """

    names: Mapping[str, tuple[str, ...]]
    note: str

    def of(self, video: str) -> str | None:
        """Returns the split that a video is in, None where it is in none."""
        return next((split for split, names in self.names.items() if video in names), None)


def published_lists() -> dict[str, tuple[str, ...]]:
    """Returns the published lists: 63 videos of Cholec80 to train, 2 to validate."""
    return {split: read_list(_LISTS / f"{split}_videos.txt") for split in (TRAIN, VAL)}


def read_list(path: Path, *, any_name: bool = False, known: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the video names of a list file, in its order.

    Args:
        path: The file.
        any_name: Take names of another form than "videoNN" as they stand.
        known: Names of another form that are there.

    Raises:
        DataError: The file is missing or no text, has a line that is no video's name, a name twice, or none.
    """
    lines = read_text(path, name=f"the list of videos {path}", form="text", utf_16=True).splitlines()
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            name = canonical_name(text)
        except DataError as error:
            if not any_name and text not in known:
                raise DataError(f"{path}, line {number}: {error}") from error
            name = text
        if name in names:
            raise DataError(f"{path}, line {number}: {name} is listed twice")
        names.append(name)
    if not names:
        raise DataError(f"the list of videos {path} names none")
    return tuple(names)


def choose_splits(
    found: Sequence[str],
    *,
    train: Path | None = None,
    val: Path | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
) -> Splits:
    """Divides the videos that are there.

    Lists come first. With one list alone, all other videos are the other split. Without lists, the published
    ones count where all videos are in them and both get some; else a seeded tenth, or `val_fraction`,
    validates.

    Args:
        found: Names of the videos on disk.
        train: List of the videos to train on.
        val: List of those to validate on.
        val_fraction: Share of the videos that validates, in place of lists.
        seed: Of that share.

    Raises:
        UsageError: Both lists and a fraction.
        DataError: A list names a video that is not there, both name the same, or none is left to train on.

    Example:
        >>> choose_splits(["video01", "video48"]).names
        {'train': ('video01',), 'val': ('video48',)}
    """
    if val_fraction is not None and (train is not None or val is not None):
        raise UsageError("val_fraction excludes train and val: give lists or a fraction")
    if train is not None or val is not None:
        return _by_lists(found, train, val)
    if val_fraction is None:
        lists = published_lists()
        chosen = {split: _those(found, names) for split, names in lists.items()}
        if all(chosen.values()) and sum(map(len, chosen.values())) == len(found):
            return Splits(chosen, f"published split: {_counts(chosen)}")
    fraction = 0.1 if val_fraction is None else val_fraction
    order = sorted(found)
    random.Random(seed).shuffle(order)  # noqa: S311 - a split is no secret
    count = min(len(order) - 1, max(1, round(len(order) * fraction))) if fraction > 0 else 0
    chosen = {TRAIN: tuple(sorted(order[count:])), VAL: tuple(sorted(order[:count]))}
    return Splits(chosen, f"split by chance (seed {seed}): {_counts(chosen)}")


def _by_lists(found: Sequence[str], train: Path | None, val: Path | None) -> Splits:
    chosen: dict[str, tuple[str, ...]] = {}
    for split, path in ((TRAIN, train), (VAL, val)):
        if path is None:
            continue
        names = read_list(path, known=found)
        missing = [name for name in names if name not in found]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(
                f"{path} names {missing[0]}{more}, which is not among the {len(found)} videos found"
            )
        chosen[split] = tuple(sorted(names))
    both = sorted(set(chosen.get(TRAIN, ())) & set(chosen.get(VAL, ())))
    if both:
        raise DataError(f"{both[0]} is in {train} and in {val}: a video trains or validates, not both")
    rest = tuple(sorted(set(found) - {name for names in chosen.values() for name in names}))
    chosen = {TRAIN: chosen.get(TRAIN, rest), VAL: chosen.get(VAL, rest)}
    if not chosen[TRAIN]:
        raise DataError(f"no video is left to train on: {val} names all that were found")
    unused = len(found) - sum(map(len, chosen.values()))
    left_out = f", {unused} in neither list" if unused else ""
    return Splits(chosen, f"split by list: {_counts(chosen)}{left_out}")


def _those(found: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(found) & set(names)))


def _counts(chosen: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{len(names)} {split}" for split, names in chosen.items())
