"""The lock of an output folder: who gets it, what others are told, and what stays behind."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hierasurg_core.errors import ResourceError
from hierasurg_core.locking import LOCK_FILE, Holder, locked_folder

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from hierasurg_core.locking import locked_folder
with locked_folder(Path(sys.argv[1]), "hierasurg label", print):
    print("holds it", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds it\n"
        yield process
        process.kill()


def lock(folder: Path, told: list[str] | None = None) -> None:
    with locked_folder(folder, "hierasurg generate", [].append if told is None else told.append):
        (folder / "result").touch()


def leave_lock(folder: Path, **changes: object) -> Path:
    """A lock file as a killed process leaves it, of a process number that no process has."""
    said = {**vars(Holder.this_process("hierasurg label")), "pid": 2**31 - 2, **changes}
    (folder / LOCK_FILE).write_text(json.dumps(said))
    return folder / LOCK_FILE


def test_the_lock_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    with locked_folder(tmp_path, "hierasurg generate", print):
        said = json.loads((tmp_path / LOCK_FILE).read_text())
        assert list(said) == ["pid", "host", "boot", "started", "command"]
        assert (said["pid"], said["host"]) == (os.getpid(), socket.gethostname())
        assert said["command"] == "hierasurg generate"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_an_error_leaves_no_lock_and_no_empty_folder(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)), locked_folder(tmp_path / "a" / "b", "hierasurg generate", print):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with locked_folder(tmp_path / "mine", "hierasurg generate", print):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_a_second_process_is_refused_and_a_killed_one_followed(tmp_path: Path) -> None:
    told: list[str] = []
    with another_process(tmp_path) as process:
        with pytest.raises(ResourceError) as caught:
            lock(tmp_path, told)
        assert str(caught.value) == (
            f"{tmp_path} is in use by process {process.pid} (hierasurg label): wait for it to end, or choose "
            "another folder"
        )
        assert not (tmp_path / "result").exists()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK_FILE).exists()
        lock(tmp_path, told)
    taken = f"{tmp_path}: taking over the lock of process {process.pid} (hierasurg label), which has ended"
    assert told == [taken]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pid": os.getpid(), "started": 1},  # its number was given to a later process
        {"pid": os.getpid(), "boot": "before the machine was started again"},
    ],
)
@pytest.mark.parametrize("has_flock", [True, False])
def test_a_lock_of_an_ended_process_is_taken_over(
    changes: dict[str, object], has_flock: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_flock:
        take_flock_away(monkeypatch)
    leave_lock(tmp_path, **changes)
    told: list[str] = []
    lock(tmp_path, told)
    assert len(told) == 1
    assert told[0].endswith("(hierasurg label), which has ended")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_lock_of_another_machine_is_respected(
    has_flock: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_flock:
        take_flock_away(monkeypatch)
    left = leave_lock(tmp_path, host="node7", boot="another", pid=812)
    with pytest.raises(ResourceError) as caught:
        lock(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is in use by process 812 (hierasurg label) on node7: wait for it to end, or choose "
        f"another folder; if it no longer runs there, delete {left}"
    )
    left.unlink()
    lock(tmp_path)


def test_a_container_that_was_renamed_follows_its_own_killed_process(tmp_path: Path) -> None:
    if not Holder.this_process("").boot:
        pytest.skip("this system does not tell machines' starts apart")
    leave_lock(tmp_path, host="the container's name before")
    lock(tmp_path)
    assert (tmp_path / "result").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"pid": "x"}', b"\xff\xfe"])
def test_a_lock_that_names_nobody_is_taken_over_where_the_system_knows(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    with monkeypatch.context() as patch:
        take_flock_away(patch)
        with pytest.raises(ResourceError, match=r"in use by another process: .* delete"):
            lock(tmp_path)
    lock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_without_flock_the_file_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_flock_away(monkeypatch)
    with locked_folder(tmp_path, "hierasurg generate", print):
        with pytest.raises(ResourceError, match=f"in use by process {os.getpid()} "):
            lock(tmp_path)
        assert (tmp_path / LOCK_FILE).exists()
    lock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_leftovers_of_a_killed_run_are_removed_and_told(tmp_path: Path) -> None:
    (tmp_path / ".contact_sheet.812-0a1b2c3d.partial.png").touch()
    (tmp_path / ".video01-00000.k2j_3.partial").mkdir()
    (tmp_path / ".video01-00000.k2j_3.partial" / "start").touch()
    for name in ("0000.mp4", ".mine", "a.partial.png"):
        (tmp_path / name).touch()
    told: list[str] = []
    with locked_folder(tmp_path, "hierasurg generate", told.append):
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            LOCK_FILE,
            ".mine",
            "0000.mp4",
            "a.partial.png",
        ]
    assert told == [
        f"removed {tmp_path}/.contact_sheet.812-0a1b2c3d.partial.png, which a killed run left half-written",
        f"removed {tmp_path}/.video01-00000.k2j_3.partial, which a killed run left half-written",
    ]


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    for folder in (tmp_path / "file", tmp_path / "file" / "samples"):
        with pytest.raises(ResourceError, match="file"):
            lock(folder)
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(ResourceError, match=r"cannot open the lock .*: Is a directory"):
        lock(tmp_path)


def take_flock_away(patch: pytest.MonkeyPatch) -> None:
    """Stands for a file system without `flock`, as some network file systems are mounted."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    patch.setattr(fcntl, "flock", refuse)
