"""Which files and folders are operations, and what each is called: the one place that decides it.

Every command finds operations here: `extract` its videos and folders of images, `label` and `build-dataset`
their frame folders, `label --check` the folders of maps. Nothing is left out in silence: what is no operation
is listed with the reason, two sources of one name are a fault of that name alone, and files of the operating
system are counted. It opens no video and no image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hierasurg_core.datasets.frames import MANIFEST
from hierasurg_core.datasets.numbering import (
    IMAGE_SUFFIXES,
    NumberedImages,
    Skipped,
    is_clutter,
    number_images,
)
from hierasurg_core.datasets.operation_labels import is_canonical, operation_name
from hierasurg_core.errors import DataError, HieraSurgError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".webm", ".wmv"}
)
MASKS = "_masks"
_INNER = ("videos", "data")  # where CholecT50, CholecT45 and Cholec80 keep theirs
_OWN_FILES = frozenset({"extract.yaml", "label.yaml"})  # what our commands write beside frame folders
_OVERLAY = "_overlay"  # how the videos that `label --visualize` writes end
_NAMED_AT_MOST = 5  # files that one line about many of them names


@dataclass(frozen=True)
class Source:
    """One operation to extract.

    Attributes:
        name: "videoNN"; a file that is called otherwise keeps its name.
        path: The video file, or the folder of images.
        images: The images; None for a video file.
    """

    name: str
    path: Path
    images: NumberedImages | None = None


@dataclass(frozen=True)
class Fault:
    """An operation that is there and cannot be used.

    Attributes:
        name: Of the operation.
        paths: The files or folders that it would be made of.
        message: Why not, in one line.
    """

    name: str
    paths: tuple[Path, ...]
    message: str


@dataclass(frozen=True)
class Failure:
    """An operation that a command could not do: why, and the exit code that this has."""

    name: str
    message: str
    exit_code: int = DataError.exit_code

    @classmethod
    def of(cls, name: str, error: HieraSurgError) -> "Failure":
        """Returns an operation's failure by an error."""
        return cls(name, str(error), error.exit_code)


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        sources: Operations, by their name, rising. For `find_frame_folders` and `find_map_folders` they have
            no images.
        faults: Operations that cannot be used.
        skipped: What is no operation.
        passed_over: How many hidden files, files of the operating system and outputs of our own there are.
    """

    sources: dict[str, Source]
    faults: tuple[Fault, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    passed_over: int = 0

    @property
    def paths(self) -> dict[str, Path]:
        """Where each operation is, by name."""
        return {name: source.path for name, source in self.sources.items()}

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The faults as failures of a command that goes on without them."""
        return tuple(Failure(fault.name, fault.message) for fault in self.faults)

    def only(self, names: Iterable[str]) -> "Found":
        """The same, of some names alone."""
        wanted = set(names)
        return replace(
            self,
            sources={name: source for name, source in self.sources.items() if name in wanted},
            faults=tuple(fault for fault in self.faults if fault.name in wanted),
        )

    @property
    def all_skipped(self) -> tuple[Skipped, ...]:
        """All that is left out, faults included."""
        faulty = (Skipped(path, fault.message) for fault in self.faults for path in fault.paths)
        return (*self.skipped, *faulty)

    def require(self, name: str, missing: str) -> Path:
        """Returns where an operation is.

        Args:
            name: Of the operation.
            missing: What to say where it is not there.

        Raises:
            DataError: It is not there, or cannot be used.
        """
        if name in self.sources:
            return self.sources[name].path
        raise DataError(next((fault.message for fault in self.faults if fault.name == name), missing))


def skipped_as_json(skipped: Iterable[Skipped]) -> list[dict[str, Any]]:
    """Returns what was left out as plain values for JSON."""
    return [{"path": str(one.path), "reason": one.reason} for one in skipped]


def skipped_in_words(skipped: Sequence[Skipped]) -> list[str]:
    """Says what was left out, a line for all files of one folder that have the same reason."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for one in skipped:
        groups.setdefault((one.path.parent, one.reason), []).append(one.path)
    lines: list[str] = []
    for (folder, reason), paths in groups.items():
        if len(paths) == 1:
            lines.append(f"skipped {paths[0]}: {reason}")
        else:
            names = ", ".join(path.name for path in paths[:_NAMED_AT_MOST])
            more = ", ..." if len(paths) > _NAMED_AT_MOST else ""
            lines.append(f"skipped {len(paths)} in {folder}: {reason} ({names}{more})")
    return lines


def find_sources(path: Path) -> Found:
    """Finds what `extract` can read.

    Args:
        path: A video file, a folder of images, or a folder of such (or one with them in `videos` or `data`).

    Raises:
        DataError: It is missing or unreadable.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: name a video, or a folder of videos")
    if path.is_file():
        source = Source(operation_name(path.stem), path)
        return Found({source.name: source})
    found = _children(path, _source_of)
    own = number_images(path)
    if len(own.by_number) > len(found.sources) or (own.fault and not found.sources):
        inside = tuple(
            Skipped(other.path, f"lies in {path}, whose own images are the operation")
            for other in found.sources.values()
        )
        rest = tuple(one for one in found.skipped if one.path not in set(own.paths))
        own_source = Source(operation_name(path.resolve().name), path, own)
        return _gathered([own_source], (*inside, *rest), found.passed_over)
    for inner in _INNER:
        if not found.sources and not found.faults and (path / inner).is_dir():
            deeper = _children(path / inner, _source_of)
            outside = tuple(one for one in found.skipped if one.path != path / inner)
            passed_over = found.passed_over + deeper.passed_over
            found = replace(deeper, skipped=(*outside, *deeper.skipped), passed_over=passed_over)
    return found


def find_frame_folders(path: Path) -> Found:
    """Finds frame folders: all in a folder, or the one that the folder itself is.

    Raises:
        DataError: There is no such folder, or it is unreadable.
    """
    if not path.is_dir():
        raise DataError(f"there is no folder {path}: make it with 'hierasurg extract'")
    if (path / MANIFEST).exists():
        name = operation_name(path.resolve().name)
        return Found({name: Source(name, path)})
    found = _children(path, _frame_folder_of)
    own = number_images(path)
    if len(own.by_number) > len(found.sources):
        name = operation_name(path.resolve().name)
        return Found({name: Source(name, path)}, (), own.skipped, own.num_clutter)
    extracted = {
        one.path
        for one in found.skipped
        if one.path.suffix.lower() in VIDEO_SUFFIXES and operation_name(one.path.stem) in found.sources
    }
    return replace(
        found,
        skipped=tuple(one for one in found.skipped if one.path not in extracted),
        passed_over=found.passed_over + len(extracted),
    )


def find_videos(folder: Path) -> Found:
    """Finds the frame folders, by the name of their operation, rising.

    Raises:
        DataError: There is none.
    """
    found = find_frame_folders(folder)
    if not found.sources and not found.faults:
        left = f"; {len(found.skipped)} files and folders in it are none" if found.skipped else ""
        raise DataError(
            f"{folder} holds no frame folders (video01/000000.jpg): make them with 'hierasurg extract'{left}"
        )
    return found


def find_map_folders(path: Path) -> Found:
    """Finds folders of maps, `videoNN_masks`, by the name of their operation.

    Raises:
        DataError: There is no such folder, or it is unreadable.
    """
    if not path.is_dir():
        raise DataError(f"{path} holds no maps (video01{MASKS}): make them with 'hierasurg label'")
    return _children(path, _map_folder_of)


def maps_folder(videos: Path, found: Found) -> Path:
    """Returns where `videoNN_masks` go by default: beside the frame folders.

    Args:
        videos: A folder of frame folders, or one of them.
        found: What `find_frame_folders` found in it.
    """
    return videos.resolve().parent if videos in found.paths.values() else videos


_Judged = Source | Skipped | None  # None: passed over


def _source_of(path: Path) -> _Judged:
    suffix = path.suffix.lower()
    if path.is_dir():
        if (path / MANIFEST).exists() or path.name.endswith(MASKS):
            return None
        images = number_images(path)
        if images.is_sequence:
            return Source(operation_name(path.name), path, images)
        return Skipped(path, _why_no_sequence(path, images))
    if suffix in VIDEO_SUFFIXES:
        if path.stem.endswith(_OVERLAY):
            return Skipped(path, "a picture of maps, not an operation")
        return Source(operation_name(path.stem), path)
    if path.name in _OWN_FILES:
        return None
    if suffix in IMAGE_SUFFIXES:
        return Skipped(path, "an image beside operations: images lie in a folder for each operation")
    return Skipped(path, "neither a video nor a folder of images")


def _frame_folder_of(path: Path) -> _Judged:
    if path.is_dir():
        if path.name.endswith(MASKS):
            return None
        name = operation_name(path.name)
        if (path / MANIFEST).exists() or is_canonical(path.name):
            return Source(name, path)
        images = number_images(path)
        return Source(name, path) if images.is_sequence else Skipped(path, _why_no_sequence(path, images))
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.stem.endswith(_OVERLAY):
        return Skipped(path, "a video, not a frame folder: 'hierasurg extract' makes one of it")
    if path.name in _OWN_FILES or path.stem.endswith((_OVERLAY, "_sheet")):
        return None
    return Skipped(path, "no frame folder")


def _map_folder_of(path: Path) -> _Judged:
    if path.is_dir() and path.name.endswith(MASKS):
        return Source(operation_name(path.name.removesuffix(MASKS)), path)
    return None  # maps lie beside frames and pictures of all kinds


def _why_no_sequence(path: Path, images: NumberedImages) -> str:
    if images.skipped:
        first = images.skipped[0]
        return f"holds no numbered images; of {first.path.name}: {first.reason}"
    if any(child.is_dir() and not is_clutter(child) for child in path.iterdir()):
        return "holds no images; the folders in it are not searched: name the one that is meant"
    return "holds no images"


def _children(folder: Path, judge: Callable[[Path], _Judged]) -> Found:
    """Judges all that lies in a folder."""
    sources: list[Source] = []
    skipped: list[Skipped] = []
    passed_over = 0
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    unreadable: list[Fault] = []
    for path in entries:
        try:
            judged = None if is_clutter(path) else judge(path)
        except DataError as error:
            unreadable.append(Fault(operation_name(path.name), (path,), str(error)))
            continue
        if judged is None:
            passed_over += 1
        elif isinstance(judged, Skipped):
            skipped.append(judged)
        else:
            sources.append(judged)
    found = _gathered(sources, skipped, passed_over)
    return replace(found, faults=(*found.faults, *unreadable))


def _gathered(sources: Iterable[Source], skipped: Iterable[Skipped], passed_over: int) -> Found:
    """Puts sources together by name; those that share one are a fault, and so are images without an order."""
    by_name: dict[str, list[Source]] = {}
    for source in sources:
        by_name.setdefault(source.name, []).append(source)
    good: dict[str, Source] = {}
    faults: list[Fault] = []
    left: list[Skipped] = list(skipped)
    for name, same in sorted(by_name.items()):
        if len(same) > 1:
            paths = tuple(source.path for source in same)
            both = " and ".join(map(str, paths))
            message = f"{both} are both {name}: keep one of them, or rename the other"
            faults.append(Fault(name, paths, message))
            continue
        (source,) = same
        good[name] = source
        if source.images is not None:
            left += source.images.skipped
            passed_over += source.images.num_clutter
            if source.images.fault is not None:
                del good[name]
                faults.append(Fault(name, (source.path,), source.images.fault))
    return Found(good, tuple(faults), tuple(left), passed_over)
