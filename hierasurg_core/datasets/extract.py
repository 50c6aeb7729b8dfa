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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hierasurg_core import artifacts
from hierasurg_core.config import ExtractConfig, write_config
from hierasurg_core.datasets import frames as fr
from hierasurg_core.datasets.bounds import Look, check_space, look_at
from hierasurg_core.datasets.decoding import VideoFrames
from hierasurg_core.datasets.frames import MANIFEST, SCHEMA, FrameFolder, read_manifest
from hierasurg_core.datasets.images import tell_pixels, write_images
from hierasurg_core.datasets.numbering import Skipped
from hierasurg_core.datasets.operations import Failure, Found, Source, skipped_as_json
from hierasurg_core.datasets.replacing import expect_no_maps_lost, is_same, make_room, remove_behind
from hierasurg_core.datasets.selection import Grid
from hierasurg_core.datasets.sources import choose_sources
from hierasurg_core.datasets.writing import BesideDecoder, FrameWriter
from hierasurg_core.errors import DataError, HieraSurgError, UsageError
from hierasurg_core.progress import Progress

__all__ = ["ExtractResult", "ExtractedVideo", "Failure", "FrameFolder", "extract", "read_manifest"]


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
class ExtractResult:
    """What one call of `extract` did.

    Attributes:
        out: The folder of frame folders.
        videos: Those that are done, by name.
        failures: Those that are not, by name.
        seconds: How long it took.
        skipped: Files and folders of the source that were left out, those of the failures' names included.
        passed_over: How many hidden files, files of the operating system and outputs of ours there were.
    """

    out: Path
    videos: tuple[ExtractedVideo, ...]
    failures: tuple[Failure, ...]
    seconds: float
    skipped: tuple[Skipped, ...] = ()
    passed_over: int = 0

    @property
    def total(self) -> int:
        """How many operations there are, done or not."""
        return len(self.videos) + len(self.failures)

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
            "skipped": skipped_as_json(self.skipped),
            "passed_over": self.passed_over,
        }


def extract(config: ExtractConfig, progress: Progress) -> ExtractResult:
    """Takes frames out of videos at a steady rate.

    Frame j of a folder is what the video shows j / fps seconds after its first frame, the last frame whose
    time stamp is not later: at 8 fps out of 25, frame floor(25 j / 8). Frames are written as a player shows
    them (see `hierasurg_core.display`). Folders of images (CholecT45 and CholecT50, 1 fps) are renumbered
    into the same form, from `first_index` on (see `numbering` and `hierasurg_core.pictures`); upright 8-bit
    JPEGs that are neither cut nor resized are copied as they are. What was done to pixels is told in one
    line a source, and kept in its manifest.

    Args:
        config: What to extract, how and where to.
        progress: Told of each frame.

    Returns:
        The videos that are done, and the faults of the others.

    Raises:
        UsageError: No source was given, or one would be written over.
        DataError: There is no video at all, or frames that have maps would be replaced and `overwrite` is
            off.
        ResourceError: The target cannot be written, or the disk is too small.

    Example:
        >>> extract(ExtractConfig(source=Path("cholec80/videos"), fps=8), SilentProgress())
    """
    started = time.monotonic()
    if config.source is None:
        raise UsageError("IN is missing: name a video, or a folder of videos or of image folders")
    found = choose_sources(config.source, config.out, config.only, progress)
    looks, failures = _look_at_all(found, config)
    if not config.overwrite:
        expect_no_maps_lost(
            (config.out / name, _same(found.sources[name], look, config)) for name, look in looks.items()
        )
    videos: list[ExtractedVideo] = []
    if looks:
        outcomes = _extract_all([found.sources[name] for name in looks], looks, config, progress)
        videos = [outcome for outcome in outcomes if isinstance(outcome, ExtractedVideo)]
        failures += [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    return ExtractResult(
        out=config.out,
        videos=tuple(videos),
        failures=tuple(sorted(failures, key=lambda failure: failure.name)),
        seconds=time.monotonic() - started,
        skipped=found.all_skipped,
        passed_over=found.passed_over,
    )


def _look_at_all(found: Found, config: ExtractConfig) -> tuple[dict[str, Look], list[Failure]]:
    """Looks at every source; one that is faulty, or of which too much is asked, costs itself alone."""
    looks: dict[str, Look] = {}
    failures = list(found.failures)
    for name, source in found.sources.items():
        try:
            looks[name] = look_at(source, config)
        except HieraSurgError as error:
            failures.append(Failure.of(name, error))
    return looks, failures


def _extract_all(
    sources: Sequence[Source], looks: Mapping[str, Look], config: ExtractConfig, progress: Progress
) -> list[ExtractedVideo | Failure | None]:
    """Extracts sources in several threads; None for one that was stopped."""
    check_space(looks, config)
    artifacts.ensure_writable_folder(config.out)
    write_config(config.out / "extract.yaml", "extract", config)
    cores = _cores()
    workers = max(1, min(config.workers or cores, len(sources)))
    threads = 1 if cores < 2 * workers else cores // workers + 1
    job = _Job(config, progress, threads=threads, looks=looks)
    executor = ThreadPoolExecutor(workers, thread_name_prefix="extract")
    try:
        progress.start("extract", _estimate(looks.values(), config), "frames")
        futures = [executor.submit(job.attempt, source) for source in sources]
        wait(futures)
        outcomes = [future.result() for future in futures]
    finally:
        job.stop()
        executor.shutdown(cancel_futures=True)
    return outcomes


def _same(source: Source, look: Look, config: ExtractConfig) -> Callable[[Mapping[str, Any]], bool]:
    """Returns a function that tells whether a manifest is of the frames that are wanted of a source."""
    return lambda found: is_same(found, _identity(source, config), look.done)


class _Job:
    """What the threads of one call share."""

    def __init__(
        self,
        config: ExtractConfig,
        progress: Progress,
        threads: int,
        looks: Mapping[str, Look],
    ) -> None:
        self._config = config
        self._progress = progress
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = threads
        self._looks = looks

    def stop(self) -> None:
        """Ends all threads soon, between two frames."""
        self._stopped.set()

    def attempt(self, source: Source) -> ExtractedVideo | Failure | None:
        """Extracts one video; None where it was stopped."""
        try:
            return self._extract(source, self._looks[source.name])
        except HieraSurgError as error:
            return Failure.of(source.name, error)

    def _extract(self, source: Source, look: Look) -> ExtractedVideo | None:
        config, folder = self._config, self._config.out / source.name
        identity = _identity(source, config)
        found = fr.manifest_state(folder) if folder.is_dir() else {}
        same = is_same(found, identity, look.done)
        if same and found.get("complete") is True and not fr.missing_frames(folder, found["num_frames"]):
            self._advance(found["num_frames"])
            tell_pixels(source.path, found.get("pixels", ()), self._note)
            self._refuse_if_strict(source, found["undecodable"])
            return _extracted(source, folder, found, skipped=True)
        if not same:
            for message in make_room(folder, found):
                self._note(message)
        artifacts.write_json(folder / MANIFEST, {**identity, "pixels": list(look.done), "complete": False})
        writer = FrameWriter(folder, config, self._advance)
        if source.images is None:
            rest = self._video(source, writer, look)
        else:
            rest = write_images(source.images, writer, config, self._note, self._stopped.is_set)
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
        remove_behind(folder, writer.num_frames)
        artifacts.write_json(folder / MANIFEST, manifest)
        return _extracted(source, folder, manifest, skipped=False)

    def _video(self, source: Source, writer: FrameWriter, look: Look) -> dict[str, Any] | None:
        size_hw = look.size_hw
        with VideoFrames(source.path, deinterlaces=self._config.deinterlace == "auto") as video:
            picks = video.frames(
                _grid(self._config),
                threads=self._threads,
                decode_all=self._config.strict,
                stopped=self._stopped.is_set,
            )
            with contextlib.closing(picks), BesideDecoder(inline=self._threads == 1) as beside:
                for indices, frame in picks:
                    beside.put(
                        lambda i=indices, f=frame, d=video.display: writer.video_frame(
                            i, f, d, size_hw, source.path
                        )
                    )
            undecodable, codec, comment = video.undecodable, video.codec, video.comment
        if self._stopped.is_set():
            return None
        if undecodable:
            self._note(
                f"{source.path}: {undecodable} frames cannot be decoded; the ones before take their places"
            )
        tell_pixels(source.path, video.done, self._note)
        said = {} if comment is None else {"comment": comment}
        return {
            "codec": codec,
            **said,
            "size_hw": list(size_hw),
            "undecodable": undecodable,
            "pixels": list(video.done),
        }

    def _refuse_if_strict(self, source: Source, undecodable: int) -> None:
        if self._config.strict and undecodable:
            raise DataError(f"{source.path}: {undecodable} frames cannot be decoded, which --strict refuses")

    def _advance(self, count: int) -> None:
        with self._lock:
            self._progress.advance(count)

    def _note(self, message: str) -> None:
        with self._lock:
            self._progress.note(message)


def _settings(config: ExtractConfig, source: Source) -> dict[str, Any]:
    """What of a config decides about the frames."""
    given = {} if config.first_index is None or not source.images else {"first_index": config.first_index}
    return {
        "fps": config.fps,
        "size": list(config.size_hw) if config.size_hw else None,
        "crop": list(config.crop_hw) if config.crop_hw else None,
        "quality": config.quality,
        "start": config.start,
        "end": config.end,
        **({} if config.deinterlace == "auto" else {"deinterlace": config.deinterlace}),
        **given,
    }


def _grid(config: ExtractConfig) -> Grid:
    end = None if config.end is None else Fraction(str(config.end))
    return Grid(Fraction(str(config.fps)), Fraction(str(config.start)), end)


def _identity(source: Source, config: ExtractConfig) -> dict[str, Any]:
    """Returns the part of a manifest that decides about the frames."""
    return {
        "schema": SCHEMA,
        "name": source.name,
        "source": source.path.name,
        "digest": fr.images_digest(source.images.paths) if source.images else fr.file_digest(source.path),
        "settings": _settings(config, source),
    }


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


def _estimate(looks: Iterable[Look], config: ExtractConfig) -> int | None:
    """Returns about how many frames there will be; None where a video does not say how long it is."""
    counts = [look.frames(config) for look in looks]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
