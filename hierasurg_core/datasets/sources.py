"""Which operations lie in a folder: video files, and folders of numbered images.

Owns the forgiving search, and the names that operations get. It refuses two sources of one name, and never
takes for a source what `extract` itself has written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hierasurg_core.datasets.annotations import canonical_name
from hierasurg_core.datasets.frames import MANIFEST, numbered_images
from hierasurg_core.datasets.splits import read_list
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.progress import Progress

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".webm", ".wmv"}
)
_INNER = ("videos", "data")  # where CholecT50, CholecT45 and Cholec80 keep theirs


@dataclass(frozen=True)
class Source:
    """One operation.

    Attributes:
        name: "videoNN"; a file that is called otherwise keeps its name.
        path: The video file, or the folder of images.
        images: The images by number; empty for a video file.
    """

    name: str
    path: Path
    images: tuple[Path, ...] = ()


def find_sources(path: Path, out: Path, only: Path | None, progress: Progress) -> list[Source]:
    """Finds the operations to extract, by name.

    Args:
        path: A video file, a folder of images, or a folder of such (or one with them in `videos` or `data`).
        out: Where frames go, which may be the same folder.
        only: A list of names, one a line; None: all.
        progress: Told of listed names that are not there.

    Raises:
        DataError: There is none, or two are of one operation.
        UsageError: `only` is unreadable, or a source would be written over.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: name a video, or a folder of videos")
    found = [_video(path)] if path.is_file() else list(_in_folder(path))
    if not found:
        raise DataError(
            f"{path} holds neither videos ({', '.join(sorted(VIDEO_SUFFIXES))}) nor image folders"
        )
    sources: dict[str, Source] = {}
    for source in found:
        if source.name in sources:
            raise DataError(f"{sources[source.name].path} and {source.path} are both {source.name}: keep one")
        if source.images and (out / source.name).resolve() == source.path.resolve():
            raise UsageError(f"{source.path} would be written over by its own frames: give another OUT")
        sources[source.name] = source
    if only is not None:
        sources = _listed(sources, path, only, progress)
    return sorted(sources.values(), key=lambda source: source.name)


def _listed(sources: dict[str, Source], path: Path, only: Path, progress: Progress) -> dict[str, Source]:
    names = read_list(only, any_name=True)
    missing = [name for name in names if name not in sources]
    if len(missing) == len(names):
        raise DataError(f"{path} holds none of the {len(names)} operations in {only}")
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        progress.note(f"{path} lacks {len(missing)} of the {len(names)} operations in {only}: {shown}")
    return {name: sources[name] for name in names if name in sources}


def _in_folder(folder: Path) -> Iterator[Source]:
    if (own := _images(folder)) is not None:
        yield own
        return
    found = [*_children(folder)]
    for inner in _INNER:
        if not found and (folder / inner).is_dir():
            found = [*_children(folder / inner)]
    yield from found


def _children(folder: Path) -> Iterator[Source]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if (source := _images(path)) is not None:
                yield source
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield _video(path)


def _images(folder: Path) -> Source | None:
    """A folder of numbered images that `extract` has not written, and that are no maps."""
    if (folder / MANIFEST).exists() or folder.name.endswith("_masks"):
        return None
    images = numbered_images(folder)
    if not images:
        return None
    first = next(iter(images))
    if first > 1:
        raise DataError(f"{folder} begins with frame {first:06d}: images are numbered from 000000 on")
    return Source(_name(folder.name), folder, tuple(images.values()))


def _video(path: Path) -> Source:
    return Source(_name(path.stem), path)


def _name(text: str) -> str:
    try:
        return canonical_name(text)
    except DataError:
        return text
