"""The samples of a run as jobs: a name, a seed, and a way to read what the sample starts from.

Owns what `--requests` may say and how `--num` counts. Everything is read once before any weight loads, so a
wrong line is found first; of many jobs nothing is kept in memory but the list.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierasurg_core.config import GenerateConfig
from hierasurg_core.config.paths import as_path
from hierasurg_core.errors import DataError, UsageError, WeightsError, shown
from hierasurg_core.generation.edits import expect_possible, parse_edits
from hierasurg_core.generation.entries import MAX_ENTRIES, Entry, read_entries
from hierasurg_core.generation.from_dataset import clips_of_dataset
from hierasurg_core.generation.request import Start, read_starts
from hierasurg_core.progress import Progress
from hierasurg_core.text_files import MAX_DIGITS

KEYS = ("phase", "triplet", "frame", "map", "maps", "seed", "name")
_MAX_NAME = 60  # a file's name has 255 bytes, a letter up to 4, and ours add to it
_NAME = re.compile(rf"\w[\w.-]{{0,{_MAX_NAME - 1}}}")
_MANY = 200  # requests, whose checks are told as a stage of their own
_OWN_ENDINGS = ("_maps", "_frames", "_overlay", "_side_by_side", "_parts")


@dataclass(frozen=True)
class Job:
    """One sample to be made.

    Attributes:
        name: Of its files.
        seed: Of its noise.
        read: Reads what it starts from.
        source: The clip of a data set that it shall resemble, for its JSON; None elsewhere.
        unmapped: It starts from a photograph whose map is still to be made (see `first_maps`).
    """

    name: str
    seed: int
    read: Callable[[], Start]
    source: dict[str, Any] | None = None
    unmapped: bool = False


def plan_jobs(
    config: GenerateConfig, seconds: int, fps: int, gallery: Path, progress: Progress
) -> tuple[Job, ...]:
    """Return the samples of a run; all that they start from has been read once and found good.

    Args:
        config: What was asked for. The clips of a data set load torch, other samples do not.
        seconds: Maps of a clip.
        fps: Frames a second.
        gallery: Folder of the scenes.
        progress: Is told of the checks where they take time.

    Raises:
        UsageError: As `read_starts`, or an edit of what a start does not have; for a file of requests the
            message names the line.
        DataError: Likewise.
    """
    if config.num > MAX_ENTRIES:
        raise UsageError(
            f"num must be {MAX_ENTRIES:,} or less, not {config.num}: make several runs, with seeds far apart"
        )
    if config.requests is not None:
        return tuple(_jobs_of_file(config, config.requests, seconds, gallery, progress))
    if config.from_dataset is not None:
        return plan_dataset_jobs(config, seconds, fps, progress)
    starts = read_starts(config, seconds, gallery)
    for start in starts:
        expect_edits(start, config, seconds)
    chosen = [starts[index % len(starts)] for index in range(config.num)]
    return tuple(
        Job(f"{index:04d}", config.seed + index, _Given(start), unmapped=start.unmapped)
        for index, start in enumerate(chosen)
    )


def plan_dataset_jobs(config: GenerateConfig, seconds: int, fps: int, progress: Progress) -> tuple[Job, ...]:
    """Return a data set's clips as samples; with edits each clip's maps have been held to them.

    Args:
        config: What was asked for, of a data set.
        seconds: Maps of a clip.
        fps: Frames a second.
        progress: Is told what was left out, and of the checks where they take time.

    Raises:
        UsageError: The data set has another rate, or an edit names what a clip does not have.
        DataError: It is no data set, or its frames or maps are gone or damaged.
    """
    assert config.from_dataset is not None
    clips = clips_of_dataset(config, config.from_dataset, seconds, fps, progress)
    jobs = tuple(Job(clip.name, config.seed + clip.number, clip.read, clip.source) for clip in clips)
    checked = jobs if config.edit is not None else jobs[:1]
    if config.edit is not None:
        progress.start("hold edits to clips", len(checked), "clips")
    for job in checked:
        try:
            expect_edits(job.read(), config, seconds)
        except UsageError as error:
            raise UsageError(f"{job.name}: {error}") from error
        if config.edit is not None:
            progress.advance()
    return jobs


def _jobs_of_file(
    config: GenerateConfig, file: Path, seconds: int, gallery: Path, progress: Progress
) -> list[Job]:
    _, entries = read_entries(file, section="requests", keys=KEYS)
    slow = len(entries) > _MANY
    if slow:
        progress.start("check requests", len(entries), "requests")
    jobs: list[Job] = []
    lines: dict[str, int] = {}
    for index, entry in enumerate(entries):
        wanted = _config_of(entry, index, config)
        name = entry.text("name") or f"{index:04d}"
        if not _NAME.fullmatch(name) or name.endswith(_OWN_ENDINGS):
            raise entry.error(
                f"name {shown(name)} is no name for files: use at most {_MAX_NAME} letters, digits, '-', '_' "
                "and '.'"
            )
        if name in lines:
            raise entry.error(f"name {name!r} is that of line {lines[name]} already")
        lines[name] = entry.line
        reader = _Reader(wanted, seconds, gallery)
        try:
            start = reader()
            expect_edits(start, config, seconds)
        except UsageError as error:
            raise entry.error(str(error)) from error
        except DataError as error:
            raise DataError(f"{file}, line {entry.line}: {error}") from error
        except WeightsError as error:
            raise WeightsError(f"{file}, line {entry.line}: {error}") from error
        jobs.append(Job(name, wanted.seed, reader, unmapped=start.unmapped))
        if slow:
            progress.advance()
    return jobs


@dataclass(frozen=True)
class _Given:
    """A start that is in memory."""

    start: Start

    def __call__(self) -> Start:
        return self.start


@dataclass(frozen=True)
class _Reader:
    """Reads the start of one request when it is called."""

    config: GenerateConfig
    seconds: int
    gallery: Path

    def __call__(self) -> Start:
        return read_starts(self.config, self.seconds, self.gallery)[0]


def _config_of(entry: Entry, index: int, config: GenerateConfig) -> GenerateConfig:
    """Returns the config that would make this sample alone."""
    seed = entry.text("seed")
    if seed is not None and not re.fullmatch(rf"\d{{1,{MAX_DIGITS}}}", seed):
        raise entry.error(f"seed must be a whole number, not {shown(seed)}")
    paths = {key: entry.text(key) for key in ("frame", "map", "maps")}
    try:
        return dataclasses.replace(
            config,
            requests=None,
            phase=entry.text("phase"),
            triplet=entry.text("triplet"),
            seed=config.seed + index if seed is None else int(seed),
            **{key: None if path is None else as_path(key, path) for key, path in paths.items()},
        )
    except UsageError as error:
        raise entry.error(str(error)) from error


def expect_edits(start: Start, config: GenerateConfig, seconds: int) -> None:
    """Refuse edits of entities that a start does not have; nothing where its map is still to be made.

    Raises:
        UsageError: The message names the edit, and the scene where the start is one.
    """
    if config.edit is None or start.unmapped:
        return
    try:
        expect_possible(parse_edits(config.edit), start.maps or start.first_map, seconds, start.names)
    except UsageError as error:
        scene = start.source.get("scene")
        raise (error if scene is None else UsageError(f"scene {scene}: {error}")) from error
