"""What is on disk: files and folders that are either whole or absent, JSON, digests, free space.

Owns how anything is written. It knows no format but JSON and refuses to leave a half-written file under
its final name: a writer gets a temporary path beside the target, which takes the target's place only when
the writer is done. Hidden names that end in `.partial` (before the suffix) are such temporary paths; one
that outlives a killed process is never read and may be deleted.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any

from hierasurg_core.errors import DataError, HieraSurgError, ResourceError
from hierasurg_core.text_files import read_json as read_json  # JSON is written and read by one module

_FULL = {errno.ENOSPC, errno.EDQUOT}
_TOO_LARGE = errno.EFBIG
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_HARDLY_ANYTHING = 64 * 1024  # bytes free on a disk that is as good as full
_LEFTOVER = re.compile(r"\..+\.partial(\.\w+)?")  # what `_temporary_name` makes, and shards under way


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Generator[Path, None, None]:
    """Lets a writer fill a temporary file that becomes `path` when the block ends without an error.

    The temporary path lies in the same folder and has the same suffix; it does not exist yet. The target's
    folder has to exist (see `ensure_writable_folder`).

    Args:
        path: The target.
        durable: Wait until the disk has it. Without, a killed process still leaves the file whole or
            absent, but a power cut may not: for thousands of small files that can be made again.

    Raises:
        ResourceError: The disk is full, or the folder may not be written. Any other error of the block
            passes through. In every case the temporary file is gone and an older `path` is untouched.

    Example:
        >>> with atomic_file(Path("samples/0000.json")) as part:
        ...     part.write_text("{}")
    """
    part = _temporary_name(path)
    with _Unfinished(path, part, lambda: part.unlink(missing_ok=True)):
        yield part
        if durable:
            _fsync(part)
        os.replace(part, path)
        if durable:
            _fsync(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Generator[Path, None, None]:
    """Lets a writer fill a new folder that becomes `path` when the block ends without an error.

    A folder that is already at `path` is replaced as a whole: it is moved aside, and moved back if the new
    one cannot take its place.

    Raises:
        ResourceError: As `atomic_file`; the temporary folder is gone and an older `path` is untouched.
    """
    part = _temporary_name(path)
    with _Unfinished(path, part, lambda: shutil.rmtree(part, ignore_errors=True)):
        part.mkdir()
        yield part
        for folder, _, names in os.walk(part):
            for name in names:
                _fsync(Path(folder, name))
            _fsync(Path(folder))
        _replace_folder(part, path)
        _fsync(path.parent)


@contextlib.contextmanager
def disk_faults_named(path: Path) -> Generator[None, None, None]:
    """Turns a fault of the disk in the block, which appends to `path`, into an error that names the file.

    Raises:
        ResourceError: As `atomic_file`; what the block wrote stays.
    """
    with _Unfinished(path, path, lambda: None):
        yield


def write_json(path: Path, obj: Any) -> None:
    """Writes `obj` as indented UTF-8 JSON, atomically; paths become text.

    Raises:
        ResourceError: As `atomic_file`.
        ValueError: `obj` holds NaN or infinity, which JSON cannot say.
        TypeError: `obj` holds what JSON has no form for.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False, default=_path_as_text)
    with atomic_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        DataError: The file is missing or unreadable.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def ensure_writable_folder(path: Path) -> None:
    """Makes the folder and its parents where they are missing, and tries to write into it.

    Raises:
        ResourceError: It cannot be made (a file is in the way, no permission, disk full) or written.
    """
    probe = _temporary_name(path / "probe")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except FileExistsError as error:
        raise ResourceError(f"cannot write to {path}: it is a file; choose another folder") from error
    except NotADirectoryError as error:
        raise ResourceError(
            f"cannot make the folder {path}: part of its path is a file; choose another folder"
        ) from error
    except OSError as error:
        raise ResourceError(
            f"cannot write to the folder {path}: {error.strerror}; free the disk or choose another folder"
        ) from error


def remove_leftovers(folder: Path) -> list[Path]:
    """Deletes the temporary files and folders that a killed process left directly in a folder.

    Only for a folder that no other process writes into (see `locking`).

    Returns:
        What was deleted, by name; nothing for a folder that does not exist.
    """
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name))
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def delete_folder(folder: Path) -> None:
    """Deletes a folder at once; what a killed process left of it, `remove_leftovers` takes away."""
    aside = _temporary_name(folder)
    os.replace(folder, aside)
    shutil.rmtree(aside)


def check_free_space(folder: Path, bytes_needed: int, what: str) -> None:
    """Refuses work whose result will not fit; `folder` need not exist yet.

    Args:
        folder: Where the result goes.
        bytes_needed: How large it will be.
        what: What it is, for the message ("16 samples").

    Raises:
        ResourceError: Less than that is free.
    """
    free = _free_bytes(folder)
    if free < bytes_needed:
        raise ResourceError(
            f"{what} need {_megabytes(bytes_needed)} in {folder}, but only {_megabytes(free)} are free; "
            "free the disk or choose another folder"
        )


class _Unfinished:
    """While `part` is written: what ends the block early discards it, and a fault of the disk is named."""

    def __init__(self, path: Path, part: Path, discard: Callable[[], None]) -> None:
        self._path, self._part, self._discard = path, part, discard

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        resource_error = _as_resource_error(error, self._path, self._part)
        self._discard()
        if resource_error is not None:
            raise resource_error from error


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.partial{path.suffix}")


def _replace_folder(part: Path, path: Path) -> None:
    if not path.exists():
        os.replace(part, path)
        return
    aside = _temporary_name(path)
    os.replace(path, aside)
    with contextlib.ExitStack() as undo:
        undo.callback(os.replace, aside, path)
        os.replace(part, path)
        undo.pop_all()
    shutil.rmtree(aside, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_resource_error(error: BaseException, path: Path, part: Path) -> ResourceError | None:
    """Tells whether a failed write is the disk's fault; asked while the temporary file still exists.

    Libraries that write in C++ or Rust report a full disk as a plain RuntimeError or an error of their own,
    so a disk that is full at this moment counts too.
    """
    if not isinstance(error, Exception) or isinstance(error, HieraSurgError):
        return None
    code = error.errno if isinstance(error, OSError) else None
    if (code == errno.ENOENT or _says(error, {errno.ENOENT})) and not path.parent.is_dir():
        return ResourceError(
            f"cannot write {path}: its folder was deleted meanwhile; run it again, and let no other program "
            "delete the folder"
        )
    if code in _FULL or _says(error, _FULL) or _free_bytes(path.parent) < _HARDLY_ANYTHING:
        return ResourceError(f"cannot write {path}: the disk is full; free some space and run it again")
    if code == _TOO_LARGE or _says(error, {_TOO_LARGE}):
        return ResourceError(
            f"cannot write {path}: larger than a file may be here; raise the limit (ulimit -f) or choose "
            "another disk"
        )
    if isinstance(error, OSError) and code in _DENIED and _concerns(error.filename, path, part):
        return ResourceError(f"cannot write {path}: {error.strerror}; choose another folder")
    return None


def _says(error: BaseException, codes: set[int]) -> bool:
    """Tells whether a library's own error carries the system's words for one of these codes."""
    return any(os.strerror(code) in str(error) for code in codes)


def _free_bytes(folder: Path) -> int:
    """Returns what is free where a folder is, or will be."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _concerns(filename: object, path: Path, part: Path) -> bool:
    """An error about a file that the block only reads is none of ours."""
    if filename is None:
        return True
    touched = Path(os.fsdecode(filename)) if isinstance(filename, (str, bytes)) else None
    return touched is not None and (touched in (path, path.parent) or touched.is_relative_to(part))


def _path_as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
