"""One process at a time in an output folder: a lock file that a second process respects.

The holder keeps `.hierasurg.lock` open with `flock`, so the system releases the lock however the holder ends.
The file names the holder (process, machine, command) for messages, and for file systems without `flock`,
where the file itself is the lock. It is deleted when the work ends, also after an error or an interrupt; only
a killed process leaves it behind, and the next one on the same machine takes it over. What a process on
another machine left stays, because nobody here can tell whether that one still runs.

Whoever gets the lock also removes the temporary files that a killed process left directly in the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierasurg_core.artifacts import ensure_writable_folder, remove_leftovers
from hierasurg_core.errors import ResourceError

LOCK_FILE = ".hierasurg.lock"
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN}
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_FIELDS = (("pid", int), ("host", str), ("boot", str), ("started", int), ("command", str))
_LONGEST = 4096  # bytes of a lock file that are read


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names.

    Attributes:
        pid: Its number.
        host: The machine's name.
        boot: Identifies the machine's start; "" where the system does not tell.
        started: When the process started, in clock ticks since then; 0 where the system does not tell.
        command: What it does, for people.
    """

    pid: int
    host: str
    boot: str
    started: int
    command: str

    @classmethod
    def this_process(cls, command: str) -> Holder:
        """Returns the holder that this process is."""
        pid = os.getpid()
        started, _ = _process_state(pid)
        return cls(pid, socket.gethostname(), _boot_id(), started, command)

    @property
    def is_of_this_machine(self) -> bool:
        """Tells whether the process ran on this machine, in whatever container."""
        boot = _boot_id()
        return self.host == socket.gethostname() or (boot != "" and self.boot == boot)

    @property
    def is_alive(self) -> bool:
        """Tells whether the process runs now; a later process of the same number is another one."""
        if not self.is_of_this_machine or self.boot != _boot_id():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        started, ended = _process_state(self.pid)
        return not ended and started == self.started


@contextlib.contextmanager
def locked_folder(folder: Path, command: str, note: Callable[[str], None]) -> Generator[None, None, None]:
    """Keeps every other process out of an output folder for the time of the block.

    Makes the folder where it is missing, and removes it again if the block leaves it empty.

    Args:
        folder: Where the block writes.
        command: What this process does, for the message that another process gets.
        note: Is told of a lock that was taken over, and of leftovers that were removed.

    Raises:
        ResourceError: Another process holds the lock, or the folder cannot be written.

    Example:
        >>> with locked_folder(Path("samples"), "hierasurg generate", print):
        ...     write_samples()
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        ensure_writable_folder(folder)
        _acquire(folder, command, note, stack)
        for path in remove_leftovers(folder):
            note(f"removed {path}, which a killed run left half-written")
        yield


def _acquire(folder: Path, command: str, note: Callable[[str], None], stack: contextlib.ExitStack) -> None:
    """Takes the lock and leaves its release to the stack."""
    path = folder / LOCK_FILE
    while True:
        descriptor, is_new = _open(path)
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, descriptor)
            guarded = _flock(descriptor, path)
            if not _is_still(path, descriptor):
                continue  # its holder deleted it between our opening and locking it
            if not is_new:
                before = _read(descriptor)
                _expect_ended(before, path, guarded=guarded)
                if before is not None:
                    who = f"process {before.pid} ({before.command})"
                    note(f"{folder}: taking over the lock of {who}, which has ended")
                if not guarded:  # make a new one, so that of several processes only one gets it
                    path.unlink(missing_ok=True)
                    continue
            _write(descriptor, Holder.this_process(command), path)
            closing.pop_all()
        stack.callback(_release, path, descriptor)
        return


def _open(path: Path) -> tuple[int, bool]:
    """Opens the lock file; tells whether it is new."""
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            pass
        except OSError as error:
            raise ResourceError(f"cannot write {path}: {error.strerror}; choose another folder") from error
        try:
            return os.open(path, os.O_RDWR), False
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ResourceError(
                f"cannot open the lock {path}: {error.strerror}; delete it if no process works in its folder"
            ) from error


def _flock(descriptor: int, path: Path) -> bool:
    """Locks an open file; returns False where its file system cannot.

    Raises:
        ResourceError: Another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise _in_use(path, _read(descriptor)) from error
        if error.errno in _NO_FLOCK:
            return False
        raise ResourceError(f"cannot lock {path}: {error.strerror}; choose another folder") from error
    return True


def _expect_ended(holder: Holder | None, path: Path, *, guarded: bool) -> None:
    """Refuses to take over a lock whose holder may still run.

    Raises:
        ResourceError: It runs, or it is of another machine.
    """
    if holder is None:
        if guarded:
            return  # killed before it wrote its name
        raise _in_use(path, None)
    if holder.is_alive or not holder.is_of_this_machine:
        raise _in_use(path, holder)


def _in_use(path: Path, holder: Holder | None) -> ResourceError:
    folder = path.parent
    if holder is None:
        return ResourceError(
            f"{folder} is in use by another process: wait for it to end, or choose another folder; "
            f"if none works there, delete {path}"
        )
    who = f"{folder} is in use by process {holder.pid} ({holder.command})"
    if holder.is_of_this_machine:
        return ResourceError(f"{who}: wait for it to end, or choose another folder")
    return ResourceError(
        f"{who} on {holder.host}: wait for it to end, or choose another folder; if it no longer runs there, "
        f"delete {path}"
    )


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Holder | None:
    """Returns whom a lock file names, None where it names nobody yet."""
    try:
        said: Any = json.loads(os.pread(descriptor, _LONGEST, 0))
        if any(type(said[name]) is not kind for name, kind in _FIELDS):
            return None
        return Holder(**{name: said[name] for name, _ in _FIELDS})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(descriptor: int, holder: Holder, path: Path) -> None:
    content = json.dumps(dataclasses.asdict(holder)).encode()
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content[:_LONGEST], 0)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise ResourceError(
            f"cannot write {path}: {error.strerror}; free the disk or choose another folder"
        ) from error


def _release(path: Path, descriptor: int) -> None:
    """Deletes the file while it is locked, so that nobody else's is deleted."""
    with contextlib.suppress(OSError):
        if _is_still(path, descriptor):
            path.unlink()
    os.close(descriptor)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _process_state(pid: int) -> tuple[int, bool]:
    """Returns when a process started, and whether it has ended and only waits for its parent to notice."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0, False
    state, *numbers = text.rpartition(")")[2].split()
    return int(numbers[18]), state in "ZX"
