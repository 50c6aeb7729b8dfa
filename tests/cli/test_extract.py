"""`hierasurg extract` from outside: streams, exit codes, JSON, refusals, and no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from numbered_videos import even_ticks, write_video

from hierasurg_cli.app import run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_faults_are_one_line_each_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "VID01.mp4", even_ticks(30))
    (tmp_path / "in" / "VID02.mp4").write_text("none")
    assert run(["extract", "in", "--json", "--quiet"]) == 3
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert list(result) == ["out", "videos", "failures", "seconds", "skipped", "passed_over"]
    assert list(result["videos"][0]) == [
        *("name", "source", "folder", "num_frames", "black", "undecodable", "skipped")
    ]
    assert list(result["failures"][0]) == ["name", "message", "exit_code"]
    assert err.startswith("hierasurg: cannot read the video in/VID02.mp4: ")
    assert err.count("\n") == 1
    assert run(["extract", "in/VID01.mp4", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("videos/video01: 2 frames, done before\n")
    assert run(["extract", "in/VID01.mp4", "again", "--config", "videos/extract.yaml", "--quiet"]) == 0


def test_what_is_left_out_is_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    (folder / "__MACOSX").mkdir(parents=True)
    for name in ("video01.mp4", "video_01.mp4", "case_A.mp4", "case_B.mp4", "case_C.mp4"):
        write_video(folder / name, even_ticks(30))
    (folder / "case_C.mp4").write_text("none")
    for name in ("Thumbs.db", ".DS_Store", "notes.txt"):
        (folder / name).write_text("")
    assert run(["extract", "in", "--json"]) == 3
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [video["name"] for video in result["videos"]] == ["case_A", "case_B"]
    assert result["passed_over"] == 3
    assert [(one["path"], one["reason"].split(":")[0]) for one in result["skipped"]] == [
        ("in/notes.txt", "neither a video nor a folder of images"),
        ("in/video01.mp4", "in/video01.mp4 and in/video_01.mp4 are both video01"),
        ("in/video_01.mp4", "in/video01.mp4 and in/video_01.mp4 are both video01"),
    ]
    assert "skipped in/notes.txt: neither a video nor a folder of images\n" in err
    assert err.endswith("hierasurg: 2 of 4 operations are not done\n")
    assert "Thumbs" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "IN is missing"),
        (["none"], 3, "none does not exist"),
        (["."], 3, ". holds neither videos"),
        ([".", "--fps", "0"], 2, "fps must be more than 0, not 0.0"),
        ([".", "--size", "480"], 2, "size must be rows x columns like 480x720, not '480'"),
        ([".", "--crop", "0x3"], 2, "crop must be rows x columns"),
        ([".", "--quality", "101"], 2, "quality must be 100 or less, not 101"),
        ([".", "--first-index", "-1"], 2, "first_index must be 0 or more, not -1"),
        ([".", "--workers", "0"], 2, "workers must be 1 or more"),
        ([".", "--start", "-1"], 2, "start must be 0 or more"),
        ([".", "--start", "3", "--end", "2"], 2, "end must be more than start, 3, not 2"),
        ([".", "a", "b"], 2, "Got unexpected extra argument"),
    ],
)
def test_refusals(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["extract", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"hierasurg: {said}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_extracting_loads_no_torch(tmp_path: Path) -> None:
    write_video(tmp_path / "video01.mp4", even_ticks(30))
    program = (
        "import sys; from hierasurg_cli.app import run; code = run(['extract', 'video01.mp4', '-q']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
