"""`extract`: operations as video files, or as folders of images, become frame folders.

Owns which videos are found, which are done already, and how the work is shared among threads. It refuses to
write over what it did not make, and over frames that have maps unless `overwrite` says so. It never calls a
video done that is not whole: the faults of one video are told at the end, and the others go on. Loads no
torch.

A folder's manifest is written before its first frame, as unfinished, with the source's digest and the
settings; frames appear whole; the manifest becomes finished last. So whatever ends the process, the same
command line goes on from there, and the result is the same.
"""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from hierasurg_core import artifacts
from hierasurg_core.config import ExtractConfig, write_config
from hierasurg_core.datasets import frames as fr
from hierasurg_core.datasets.decoding import VideoFrames
from hierasurg_core.datasets.frames import MANIFEST, SCHEMA, FrameFolder, read_manifest
from hierasurg_core.datasets.replacing import LEFT_OVER, expect_no_maps_lost, is_same, make_room
from hierasurg_core.datasets.selection import Grid
from hierasurg_core.datasets.sources import Source, find_sources
from hierasurg_core.datasets.writing import BesideDecoder, FrameWriter
from hierasurg_core.errors import DataError, HieraSurgError, UsageError
from hierasurg_core.progress import Progress

__all__ = ["ExtractResult", "ExtractedVideo", "Failure", "FrameFolder", "extract", "read_manifest"]

_IMAGES_FPS = 1  # CholecT45 and CholecT50


@dataclass(frozen=True)
class ExtractedVideo:
    """A frame folder that is done.

    Attributes:
        name: "videoNN".
        source: The file or folder it comes from.
        folder: Where the frames are.
        num_frames: How many.
        black: How many of them are all black.
        undecodable: Frames of the source that could not be decoded; the ones before took their places.
        skipped: It was done already.
    """

    name: str
    source: Path
    folder: Path
    num_frames: int
    black: int
    undecodable: int
    skipped: bool


@dataclass(frozen=True)
class Failure:
    """A video that is not done: why, and the exit code that this has."""

    name: str
    message: str
    exit_code: int


@dataclass(frozen=True)
class ExtractResult:
    """What one call of `extract` did.

    Attributes:
        out: The folder of frame folders.
        videos: Those that are done, by name.
        failures: Those that are not, by name.
        seconds: How long it took.
    """

    out: Path
    videos: tuple[ExtractedVideo, ...]
    failures: tuple[Failure, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0, or the highest of the failures' codes."""
        return max((failure.exit_code for failure in self.failures), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for JSON."""
        videos = [
            {**dataclasses.asdict(video), "source": str(video.source), "folder": str(video.folder)}
            for video in self.videos
        ]
        failures = [dataclasses.asdict(failure) for failure in self.failures]
        return {
            "out": str(self.out),
            "videos": videos,
            "failures": failures,
            "seconds": round(self.seconds, 3),
        }


def extract(config: ExtractConfig, progress: Progress) -> ExtractResult:
    """Takes frames out of videos at a steady rate.

    Frame j of a folder is what the video shows j / fps seconds after its first frame: at 8 fps out of 25,
    frame floor(25 j / 8). Folders of images (CholecT45 and CholecT50, 1 fps) are renumbered into the same
    form; JPEGs that are neither cut nor resized are copied as they are.

    Args:
        config: What to extract, how and where to.
        progress: Told of each frame.

    Returns:
        The videos that are done, and the faults of the others.

    Raises:
        UsageError: No source was given, or the rate is none that the source has.
        DataError: There is no video at all, two are of one operation, or frames that have maps would be
            replaced and `overwrite` is off.
        ResourceError: The target cannot be written.

    Example:
        >>> extract(ExtractConfig(source=Path("cholec80/videos"), fps=8), SilentProgress())
    """
    started = time.monotonic()
    if config.source is None:
        raise UsageError("IN is missing: name a video, or a folder of videos or of image folders")
    sources = find_sources(config.source, config.out, config.only, progress)
    if not config.overwrite:
        expect_no_maps_lost(
            (config.out / source.name, partial(_identity, source, config)) for source in sources
        )
    artifacts.ensure_writable_folder(config.out)
    write_config(config.out / "extract.yaml", "extract", config)
    cores = _cores()
    workers = max(1, min(config.workers or cores, len(sources)))
    job = _Job(
        config, progress, threads=1 if cores < 2 * workers else cores // workers + 1, total=len(sources)
    )
    executor = ThreadPoolExecutor(workers, thread_name_prefix="extract")
    try:
        progress.start("extract", _estimate(sources, config), "frames")
        futures = [executor.submit(job.attempt, source) for source in sources]
        wait(futures)
        outcomes = [future.result() for future in futures]
    finally:
        job.stop()
        executor.shutdown(cancel_futures=True)
    return ExtractResult(
        out=config.out,
        videos=tuple(outcome for outcome in outcomes if isinstance(outcome, ExtractedVideo)),
        failures=tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
        seconds=time.monotonic() - started,
    )


class _Job:
    """What the threads of one call share."""

    def __init__(self, config: ExtractConfig, progress: Progress, threads: int, total: int) -> None:
        self._config = config
        self._progress = progress
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = threads
        self._total = total

    def stop(self) -> None:
        """Ends all threads soon, between two frames."""
        self._stopped.set()

    def attempt(self, source: Source) -> ExtractedVideo | Failure | None:
        """Extracts one video; None where it was stopped."""
        try:
            return self._extract(source)
        except HieraSurgError as error:
            return Failure(source.name, str(error), error.exit_code)

    def _extract(self, source: Source) -> ExtractedVideo | None:
        config, folder = self._config, self._config.out / source.name
        identity = _identity(source, config)
        found = fr.manifest_state(folder) if folder.is_dir() else {}
        same = is_same(found, identity)
        if same and found.get("complete") is True and not fr.missing_frames(folder, found["num_frames"]):
            self._advance(found["num_frames"])
            self._refuse_if_strict(source, found["undecodable"])
            return _extracted(source, folder, found, skipped=True)
        if not same:
            for message in make_room(folder, found):
                self._note(message)
        artifacts.write_json(folder / MANIFEST, {**identity, "complete": False})
        writer = FrameWriter(folder, config, self._advance)
        rest = self._images(source, writer) if source.images else self._video(source, writer)
        if rest is None:
            return None
        self._refuse_if_strict(source, rest["undecodable"])
        manifest: dict[str, Any] = {
            **identity,
            **rest,
            "fps": config.fps,
            "num_frames": writer.num_frames,
            "kept": writer.num_frames,
            "black": sorted(writer.black),
            "complete": True,
        }
        _remove_behind(folder, writer.num_frames)
        artifacts.write_json(folder / MANIFEST, manifest)
        return _extracted(source, folder, manifest, skipped=False)

    def _video(self, source: Source, writer: FrameWriter) -> dict[str, Any] | None:
        with VideoFrames(source.path) as video:
            size_hw = _size_after(self._config, video.size_hw, source.path)
            picks = video.frames(
                _grid(self._config),
                threads=self._threads,
                decode_all=self._config.strict,
                stopped=self._stopped.is_set,
            )
            with contextlib.closing(picks), BesideDecoder(inline=self._threads == 1) as beside:
                for indices, frame in picks:
                    beside.put(lambda i=indices, f=frame: writer.video_frame(i, f, size_hw, source.path))
            undecodable, codec, comment = video.undecodable, video.codec, video.comment
        if self._stopped.is_set():
            return None
        if undecodable:
            self._note(
                f"{source.path}: {undecodable} frames cannot be decoded; the ones before take their places"
            )
        said = {} if comment is None else {"comment": comment}
        return {"codec": codec, **said, "size_hw": list(size_hw), "undecodable": undecodable}

    def _images(self, source: Source, writer: FrameWriter) -> dict[str, Any] | None:
        """Images at 1 fps, of which a missing or unreadable one is the one before it."""
        config, grid = self._config, _grid(self._config)
        if config.fps != _IMAGES_FPS:
            raise DataError(
                f"{source.path} holds images at {_IMAGES_FPS} fps: --fps {config.fps:g} needs the video file"
            )
        first = int(source.images[0].stem)
        numbered = {int(path.stem) - first: path for path in source.images}
        last = max(numbered)
        size_hw: tuple[int, int] | None = None
        lost, at, before = 0, int(grid.start), b""
        limit = last + 1 if grid.end is None else min(last + 1, at + (grid.count or 0))
        if at >= limit:
            raise DataError(f"{source.path} holds {last + 1} s and ends before --start {config.start:g}")
        for number in range(at, limit):
            if self._stopped.is_set():
                return None
            path = numbered.get(number)
            image, shape = writer.image(path) if path is not None else (None, None)
            if image is None or shape is None:
                lost += 1
                if not before:
                    raise DataError(f"{path or source.path}: the first frame is missing or no readable image")
                image = before
            elif size_hw is None:
                size_hw = _size_after(config, shape, source.path)
            writer.put(range(number - at, number - at + 1), image)
            before = image
        if lost:
            self._note(
                f"{source.path}: {lost} images are missing or unreadable; the ones before take their places"
            )
        suffixes = sorted({path.suffix.lower()[1:] for path in source.images})
        return {"codec": "+".join(suffixes), "size_hw": list(size_hw or ()), "undecodable": lost}

    def _refuse_if_strict(self, source: Source, undecodable: int) -> None:
        if self._config.strict and undecodable:
            raise DataError(f"{source.path}: {undecodable} frames cannot be decoded, which --strict refuses")

    def _advance(self, count: int) -> None:
        with self._lock:
            self._progress.advance(count)

    def _note(self, message: str) -> None:
        with self._lock:
            self._progress.note(message)


def _settings(config: ExtractConfig) -> dict[str, Any]:
    """What of a config decides about the frames."""
    return {
        "fps": config.fps,
        "size": list(config.size_hw) if config.size_hw else None,
        "crop": list(config.crop_hw) if config.crop_hw else None,
        "quality": config.quality,
        "start": config.start,
        "end": config.end,
    }


def _grid(config: ExtractConfig) -> Grid:
    end = None if config.end is None else Fraction(str(config.end))
    return Grid(Fraction(str(config.fps)), Fraction(str(config.start)), end)


def _size_after(config: ExtractConfig, size_hw: tuple[int, int], source: Path) -> tuple[int, int]:
    crop_hw = config.crop_hw
    if crop_hw is not None and (crop_hw[0] > size_hw[0] or crop_hw[1] > size_hw[1]):
        raise DataError(
            f"{source} is {size_hw[0]}x{size_hw[1]} (rows x columns), too small for --crop "
            f"{crop_hw[0]}x{crop_hw[1]}"
        )
    return config.size_hw or crop_hw or size_hw


def _identity(source: Source, config: ExtractConfig) -> dict[str, Any]:
    """Returns the part of a manifest that decides about the frames."""
    return {
        "schema": SCHEMA,
        "name": source.name,
        "source": source.path.name,
        "digest": fr.images_digest(source.images) if source.images else fr.file_digest(source.path),
        "settings": _settings(config),
    }


def _remove_behind(folder: Path, num_frames: int) -> None:
    """Removes what a killed process left half-written."""
    for path in folder.iterdir():
        if LEFT_OVER.fullmatch(path.name) and (path.name.startswith(".") or int(path.stem) >= num_frames):
            path.unlink(missing_ok=True)


def _extracted(source: Source, folder: Path, manifest: dict[str, Any], *, skipped: bool) -> ExtractedVideo:
    return ExtractedVideo(
        name=source.name,
        source=source.path,
        folder=folder,
        num_frames=manifest["num_frames"],
        black=len(manifest["black"]),
        undecodable=manifest["undecodable"],
        skipped=skipped,
    )


def _estimate(sources: Sequence[Source], config: ExtractConfig) -> int | None:
    """About how many frames there will be; None where a video does not say how long it is."""
    total = 0
    for seconds in _lengths(sources):
        if seconds is None:
            return None
        end = float(seconds) if config.end is None else min(config.end, float(seconds))
        total += max(0, round((end - config.start) * config.fps))
    return total


def _lengths(sources: Sequence[Source]) -> Iterator[Fraction | None]:
    for source in sources:
        if source.images:
            yield Fraction(len(source.images), _IMAGES_FPS)
            continue
        try:
            with VideoFrames(source.path) as video:
                yield video.seconds
        except DataError:
            yield Fraction(0)  # told when its turn comes


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
