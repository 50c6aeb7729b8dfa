"""Results on stdout, everything else on stderr, in text and in JSON."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hierasurg_cli import console
from hierasurg_cli.console import Volume


@dataclass(frozen=True)
class Answer:
    value: float

    def to_dict(self) -> Mapping[str, Any]:
        return {"value": self.value}


@pytest.fixture(autouse=True)
def _libraries_as_before(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    monkeypatch.setenv("DIFFUSERS_VERBOSITY", "error")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    level = logging.getLogger().level
    with warnings.catch_warnings():
        yield
    logging.getLogger().setLevel(level)


def test_the_commands_own_flags_win_over_the_programs() -> None:
    assert console.volume(quiet=False, verbose=False) == Volume.NORMAL
    assert console.volume(quiet=True, verbose=False, least=Volume.VERBOSE) == Volume.QUIET
    assert console.volume(quiet=False, verbose=True, least=Volume.QUIET) == Volume.VERBOSE
    assert console.volume(quiet=False, verbose=False, least=Volume.QUIET) == Volume.QUIET


def test_result_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_result(Answer(2.0), as_json=False, text=lambda answer: f"it is {answer.value}")
    assert capsys.readouterr().out == "it is 2.0\n"
    console.show_result(Answer(2.0), as_json=True, text=str)
    assert json.loads(capsys.readouterr().out) == {"value": 2.0}


def test_json_never_says_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.show_result(Answer(float("nan")), as_json=True, text=str)


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_error("a thing\n  is   wrong")
    assert capsys.readouterr().err == "hierasurg: a thing is wrong\n"


def test_an_error_steers_no_terminal_and_is_cut_where_it_is_endless(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show_error("a \x1b[31mred\0 name" + "x" * 5_000_000 + "end")
    err = capsys.readouterr().err
    assert err.startswith("hierasurg: a ?[31mred? namexxx")
    assert " [...] xxx" in err
    assert err.endswith("xxxend\n")
    assert len(err) < 2100


def test_an_error_as_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_error_as_json("a thing\nis wrong", 3)
    assert json.loads(capsys.readouterr().out) == {"error": {"message": "a thing is wrong", "exit_code": 3}}


def test_letters_that_stdout_lacks_are_replaced(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        sink = console.Stdout(file.fileno())
        with sink.as_text("ascii") as stream:
            stream.write("é = caf\ud800\n")
        assert sink.fault is None
    assert (tmp_path / "out").read_bytes() == b"? = caf?\n"


def test_a_reader_that_went_away_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    sink = console.Stdout(writing)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", sink.as_text("utf-8"))
        console.show_result(Answer(2.0), as_json=True, text=str)
        codes = [console.exit_code(code, sink) for code in (0, 3)]
    os.close(writing)
    assert codes == [0, 3]
    assert isinstance(sink.fault, BrokenPipeError)
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_behind_stdout_is_told_after_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "wb") as full, monkeypatch.context() as patch:
        sink = console.Stdout(full.fileno())
        patch.setattr(sys, "stdout", sink.as_text("utf-8"))
        console.show_result(Answer(2.0), as_json=True, text=str)
        codes = [console.exit_code(code, sink) for code in (0, 3)]
    assert codes == [5, 3]
    line = "hierasurg: cannot write to stdout: No space left on device; what was to be printed is lost, but "
    assert capsys.readouterr().err.splitlines() == [line + "files that were made are whole"] * 2


def test_a_stderr_that_takes_nothing_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb", buffering=0) as full, monkeypatch.context() as patch:
        stream = io.TextIOWrapper(full, write_through=True)  # pyright: ignore[reportArgumentType] - as Python's own with -u
        for stderr in (stream, None):
            patch.setattr(sys, "stderr", stderr)
            console.show_error("nobody is told")
        stream.detach()


def test_progress_without_a_terminal_is_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with console.working(Volume.NORMAL) as progress:
        progress.note("mini models")
        progress.start("sample maps", 3, "steps")
        progress.advance()
        progress.advance(2)
        progress.start("write", None, "files")
        progress.advance()
        sys.stdout.write("a library's chatter\n")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "mini models"
    assert lines[1].startswith("sample maps: 3/3 steps in ")
    assert lines[2] == "a library's chatter"
    assert lines[3].startswith("write: 1 files in ")


def test_progress_on_a_terminal_is_bars(tmp_path: Path) -> None:
    program = """
from hierasurg_cli import console
with console.working(console.Volume.NORMAL) as progress:
    progress.note("mini models [128x192]")
    progress.start("sample maps", 3, "steps")
    progress.advance(3)
    progress.start("write", None, "files")
    progress.advance()
"""
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=theirs,
            cwd=tmp_path,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            check=True,
        )
        os.close(theirs)
        shown = terminal.read(65536).decode()
    assert done.stdout == b""
    assert "mini models [128x192]" in shown
    for part in ("sample maps", "3/3", "steps", "write", "1/1", "files"):
        assert part in shown


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.working(Volume.QUIET) as progress:
        progress.note("mini models")
        progress.start("sample maps", 3, "steps")
        progress.advance()
    assert capsys.readouterr() == ("", "")


def test_libraries_warn_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with console.working(Volume.NORMAL):
        warnings.warn("old", FutureWarning, stacklevel=1)
    assert capsys.readouterr().err == ""
