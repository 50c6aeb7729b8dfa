"""Which operations `extract` reads: those of a folder, or those of a list.

It refuses to write over the images that it reads; what an operation is, `operations` decides.
"""

from pathlib import Path

from hierasurg_core.datasets.operations import VIDEO_SUFFIXES, Found, find_sources, skipped_in_words
from hierasurg_core.datasets.splits import read_list
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.progress import Progress


def choose_sources(path: Path, out: Path, only: Path | None, progress: Progress) -> Found:
    """Finds the operations to extract, and says what is left out.

    Args:
        path: As `find_sources` takes it.
        out: Where frames go, which may be the same folder.
        only: A list of names, one a line; None: all.
        progress: Told of listed names that are not there, and of all that is left out.

    Raises:
        DataError: There is no operation, or none of the list.
        UsageError: `only` is unreadable, or a source would be written over.
    """
    found = find_sources(path)
    for line in skipped_in_words(found.skipped):
        progress.note(line)
    if not found.sources and not found.faults:
        left = f"; {len(found.skipped)} files and folders in it are neither" if found.skipped else ""
        raise DataError(
            f"{path} holds neither videos ({', '.join(sorted(VIDEO_SUFFIXES))}) nor folders of numbered "
            f"images (VID01/000000.jpg, frame_0001.png, ...){left}"
        )
    if only is not None:
        found = _listed(found, path, only, progress)
    for source in found.sources.values():
        if source.images is not None and (out / source.name).resolve() == source.path.resolve():
            raise UsageError(f"{source.path} would be written over by its own frames: give another OUT")
    return found


def _listed(found: Found, path: Path, only: Path, progress: Progress) -> Found:
    names = read_list(only, any_name=True)
    known = {*found.sources, *(fault.name for fault in found.faults)}
    missing = [name for name in names if name not in known]
    if len(missing) == len(names):
        raise DataError(f"{path} holds none of the {len(names)} operations in {only}")
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        progress.note(f"{path} lacks {len(missing)} of the {len(names)} operations in {only}: {shown}")
    return found.only(names)
