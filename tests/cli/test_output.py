"""The output folder of each command: one process at a time, and nothing left after a signal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cli.test_before_torch import write_inputs
from numbered_videos import even_ticks, write_video

from hierasurg_cli.app import run
from hierasurg_cli.launch import holds_the_lock
from hierasurg_core.locking import LOCK_FILE, locked_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def busy() -> Iterator[Path]:
    """A folder in which a command works."""
    with locked_folder(Path("busy"), "hierasurg label", print):
        yield Path("busy")


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "in", "busy"],
        ["label", "frames", "--sam", "mini", "--out", "busy"],
        ["build-dataset", "frames", "busy", "--base", "mini"],
        ["train-s2m", "data", "--base", "mini", "--out", "busy"],
        ["train-m2v", "data", "--base", "mini", "--out", "busy", "--gpus", "2", "--device", "cpu"],
        ["generate", "-o", "busy"],
        ["generate", "-o", "busy", "--gpus", "2", "--device", "cpu"],
        ["evaluate", "empty", "--real", "empty", "-o", "busy"],
        ["evaluate", "-o", "busy", "--compare", "a", "b"],
    ],
)
def test_a_second_process_is_refused_in_one_line(
    arguments: list[str], busy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(Path())
    assert run([*arguments, "--quiet"]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"hierasurg: busy is in use by process {os.getpid()} (hierasurg label): wait for it to end, or "
        "choose another folder\n"
    )
    assert [path.name for path in busy.iterdir()] == [LOCK_FILE]


def test_one_frame_folder_locks_the_folder_that_its_maps_go_to(capsys: pytest.CaptureFixture[str]) -> None:
    frames = Path("videos/video01")
    frames.mkdir(parents=True)
    (frames / "000000.jpg").touch()
    with locked_folder(Path("videos"), "hierasurg extract", print):
        assert run(["label", "videos/video01", "--sam", "mini"]) == 5
    assert "videos is in use by process" in capsys.readouterr().err


def test_a_dry_run_takes_no_lock(busy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train-s2m", "none", "--out", "busy", "--dry-run", "--quiet"]) == 3
    assert "none" in capsys.readouterr().err


def test_one_process_holds_the_lock_for_all_that_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert holds_the_lock(0)
    assert not holds_the_lock(1)  # machine 0's launcher has it
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, holds in (("0", True), ("1", False)):  # ranks of torchrun
        monkeypatch.setenv("RANK", rank)
        assert holds_the_lock(0) is holds
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("HIERASURG_FAILURES", "a rank of our launcher, which has it")
    assert not holds_the_lock(0)


def _heed_interrupts() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and so would the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_with_130_and_one_line(number: signal.Signals, tmp_path: Path) -> None:
    write_video(tmp_path / "video01.mp4", even_ticks(10, 1))
    os.mkfifo(tmp_path / "list")
    command = [
        sys.executable,
        "-m",
        "hierasurg_cli",
        "extract",
        "video01.mp4",
        "out/videos",
        "--only",
        "list",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_heed_interrupts
        ) as process,
        (tmp_path / "list").open("w"),  # waits until the command reads the list
    ):
        assert (tmp_path / "out" / "videos" / LOCK_FILE).exists()
        # Python would notice a signal that comes just before a read blocks only after that read.
        deadline = time.monotonic() + 60
        while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
            assert time.monotonic() < deadline
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "hierasurg: interrupted\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list", "video01.mp4"]
