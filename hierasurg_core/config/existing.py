"""Checks of the paths that a config names, before anything is loaded or made.

Each check raises an error in one line that names the option and the path, and touches nothing.
"""

import os
from pathlib import Path

from hierasurg_core.errors import DataError, HieraSurgError, ResourceError


def expect_file(option: str, path: Path | None, kind: type[HieraSurgError] = DataError) -> None:
    """Refuse a path at which there is no file; None was not given.

    Args:
        option: As the user writes it ("--only").
        path: What was given for it.
        kind: Of the error.

    Raises:
        DataError: There is nothing, or a folder; or the error of that kind.
    """
    if path is not None and not path.is_file():
        what = f"{path} is a folder, but a file is needed" if path.is_dir() else f"there is no file {path}"
        raise kind(f"{option}: {what}; give an existing file")


def expect_folder(option: str, path: Path | None, kind: type[HieraSurgError] = DataError) -> None:
    """Refuse a path at which there is no folder likewise."""
    if path is not None and not path.is_dir():
        what = f"{path} is a file, but a folder is needed" if path.exists() else f"there is no folder {path}"
        raise kind(f"{option}: {what}; give an existing folder")


def expect_either(option: str, path: Path | None, kind: type[HieraSurgError] = DataError) -> None:
    """Refuse a path at which there is neither a file nor a folder likewise."""
    if path is not None and not path.exists():
        raise kind(f"{option}: there is no file or folder {path}; give an existing one")


def expect_folder_possible(path: Path) -> None:
    """Refuse an output folder that cannot be made or written, without making it.

    Raises:
        ResourceError: A file is in the way, or there is no permission to write.
    """
    if path.exists() and not path.is_dir():
        raise ResourceError(f"cannot write to {path}: it is a file; choose another folder")
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise ResourceError(f"cannot make the folder {path}: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ResourceError(
            f"cannot write to the folder {existing}: permission denied; choose another folder than {path}"
        )
