"""`hierasurg evaluate` from outside: whole runs on tiny clips, bad input, and two reports side by side."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.phantom_sides import softer, write_softer_sides

import hierasurg_core
from hierasurg_cli.app import run
from hierasurg_core.evaluation.report.schema import read_report
from hierasurg_core.phantom.held_out import uint8_video
from hierasurg_core.pictures import write_png
from hierasurg_core.video import read_video, write_mp4

COUNT, FRAMES, SIZE_HW = 4, 6, (32, 48)
MINI = Path(hierasurg_core.__file__).parent / "assets" / "mini"
LINE = ("evaluate", "--quiet", "--device", "cpu", "--vae", "none", "--replicates", "4", "--set", "wall=1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real videos and frames, samples, and a report of them."""
    root = tmp_path_factory.mktemp("world")
    clips = write_softer_sides(root, COUNT, FRAMES, SIZE_HW)
    for index, video_FHWC in enumerate(uint8_video(clips)):
        folder = root / "frames" / f"video{index:02d}"
        folder.mkdir(parents=True)
        for number, frame_HWC in enumerate(video_FHWC):
            write_png(folder / f"{number:06d}.png", frame_HWC)
    sides = (str(root / "samples"), "--real", str(root / "real"))
    assert run([*LINE, *sides, "-o", str(root / "report"), "--cache", str(root / "cache")]) == 0
    return root


@pytest.fixture
def folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own copy of the clips, and the working folder."""
    for name in ("samples", "real"):
        shutil.copytree(world / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hierasurg.yaml").write_text(f"evaluate:\n  cache: {world}/cache\n")
    return tmp_path


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `evaluate` and returns exit code, stdout and stderr."""

    def called(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([*LINE, *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return called


def said(call: Call, *arguments: str) -> dict[str, Any]:
    code, out, err = call("--json", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".partial" in path.name]


def test_samples_against_videos(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    Path("hierasurg.yaml").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "caches"))
    result = said(call, "samples", "--real", "real")
    assert list(result) == [
        *("report", "html", "clips", "protocol", "metrics", "left_out", "notes", "measured_units", "seconds")
    ]
    assert result["clips"] == {"generated": COUNT, "real": COUNT}
    assert set(result["metrics"]) >= {"fvd-mini", "fid-mini", "psnr", "first-frame-ssim", "warp-error"}
    assert list(result["metrics"]["fvd-mini"]) == [
        *("value", "interval", "better", "mini", "place", "baselines")
    ]
    low, high = result["metrics"]["fvd-mini"]["interval"]
    assert low <= result["metrics"]["fvd-mini"]["value"] <= high
    assert set(result["metrics"]["fvd-mini"]["baselines"]) == {"frozen", "real"}
    assert result["measured_units"] == 2
    assert sorted(path.name for path in Path("report").iterdir()) == [
        *("clips", "evaluate.yaml", "report.html", "report.json")
    ]
    report = read_report(Path("report"))
    assert [sample.name for sample in report.samples] == sorted(sample.name for sample in report.samples)
    for sample in report.samples:
        assert read_video(Path("report") / sample.generated)[0].shape == (FRAMES, *SIZE_HW, 3)
    assert leftovers(folder) == []
    before = Path("report/report.json").read_text()
    assert list(Path("caches/hierasurg/evaluate").rglob("*.safetensors"))
    again = said(call, "samples", "--real", "real", "--config", "report/evaluate.yaml", "-o", "other")
    assert again["measured_units"] == 0
    assert again["metrics"] == result["metrics"]
    assert json.loads(before)["metrics"] == json.loads(Path("other/report.json").read_text())["metrics"]


def test_folders_of_frames_on_both_sides(world: Path, tmp_path: Path, call: Call):
    frames = str(world / "frames")
    result = said(call, frames, "--real", frames, "-o", str(tmp_path / "out"), "--fps", "1")
    assert result["clips"] == {"generated": COUNT, "real": COUNT}
    assert result["metrics"]["fvd-mini"]["value"] == pytest.approx(0, abs=1e-6)
    assert result["metrics"]["psnr"]["value"] == 100
    assert any("no side says its rate" in note for note in result["notes"])


def test_the_table_names_metrics_and_what_is_left_out(folder: Path, call: Call):
    code, out, err = call("samples", "--real", "real", "--set", "sam=none")
    assert (code, err) == (0, "")
    assert "FVD (mini)" in out
    assert "left out: fvd, kvd, kvd-gaussian: no i3d_torchscript.pt" in out
    assert f"{COUNT} generated and {COUNT} real clips in" in out
    assert out.rstrip().endswith("report/report.html")


# Several processes, and one that is killed


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    line = [sys.executable, "-m", "hierasurg_cli", *LINE, "--json", *arguments]
    return subprocess.Popen(line, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_plain(report: Path) -> dict[str, Any]:
    """A report without its times."""
    return {key: value for key, value in json.loads(report.read_text()).items() if key != "timing"}


@pytest.mark.slow
def test_two_processes_give_the_report_of_one(folder: Path):
    (folder / "hierasurg.yaml").unlink()
    shutil.copytree(MINI, folder / "damaged")
    for weights in (folder / "damaged" / "vae").glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:1000])
    for vae in ("mini", "damaged"):
        for out, more in (("one", ()), ("two", ("--gpus", "2"))):
            line = ("samples", "--real", "real", "-o", f"{out} {vae}", "--vae", vae, *more)
            line = (*line, "--cache", f"cache of {out}")
            process = started(*line, cwd=folder)
            printed, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            result = json.loads(printed)
            assert result["clips"] == {"generated": COUNT, "real": COUNT}
            assert ("vae" in result["metrics"]["fvd-mini"]["baselines"]) == (vae == "mini")
            assert ("vae baseline" in [left["metric"] for left in result["left_out"]]) == (vae == "damaged")
        one, two = (read_plain(folder / f"{out} {vae}" / "report.json") for out in ("one", "two"))
        assert one == two
    assert leftovers(folder) == []


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call):
    """Three units a side; the process dies (no clean-up at all) once it has kept something."""
    monkeypatch.chdir(tmp_path)
    write_softer_sides(tmp_path, 40, FRAMES, SIZE_HW)
    process = started("samples", "--real", "real", "--cache", "cache", cwd=tmp_path)
    while not list(Path("cache").glob("*/[0-9a-f]*.safetensors")):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not Path("report/report.json").exists()
    rest = said(call, "samples", "--real", "real", "--cache", "cache")
    whole = said(call, "samples", "--real", "real", "-o", "whole", "--cache", "whole cache")
    assert 0 < rest["measured_units"] <= whole["measured_units"] == 6
    assert rest["metrics"] == whole["metrics"]
    again = said(call, "samples", "--real", "real", "--cache", "cache")
    assert again["measured_units"] == 0
    kept = {path.name for path in Path("cache").rglob("*.safetensors")}
    assert kept == {path.name for path in Path("whole cache").rglob("*.safetensors")}


# Bad input


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 3, "there is no folder samples: give samples of 'generate'"),
        (["--num", "1"], 2, "num must be 2 or more: a distribution needs two clips a side"),
        (["--num", "x"], 2, "num must be a whole number, not 'x'"),
        (["--clip-frames", "3"], 2, "clip_frames must be 4 or more, not 3"),
        (["--fps", "0"], 2, "fps must be more than 0"),
        (["--batch", "0"], 2, "batch must be 1 or more, not 0"),
        (["--replicates", "-1"], 2, "replicates must be 0 or more, not -1"),
        (["--split", "test"], 2, "split must be one of train, val, not 'test'"),
        (["--protocol", "fid"], 2, "protocol 'fid' is no file, and none of hierasurg, styleganv, cd-fvd"),
        (["--device", "tpu"], 2, "device must be auto, cpu, cuda"),
        (["--gpus", "0"], 2, "gpus must be 1 or more, not 0"),
        (["--compare", "a", "b"], 3, "cannot read a: No such file or directory"),
    ],
)
def test_wrong_lines(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
):
    monkeypatch.chdir(tmp_path)
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def refused(call: Call, folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and line of a run that must leave nothing behind."""
    code, out, err = call("samples", "--real", "real", *arguments)
    assert out == ""
    assert err.startswith("hierasurg: ")
    assert err.count("\n") == 1
    assert not (folder / "report").exists()
    return code, err


def test_other_rates_need_a_word(folder: Path, call: Call):
    for file in Path("real").iterdir():
        write_mp4(file, read_video(file)[0].repeat(2, axis=0), 2)
    code, line = refused(call, folder)
    assert code == 2
    assert "samples has 1 frames a second and real 2: give --fps 1" in line
    result = said(call, "samples", "--real", "real", "--fps", "1")
    assert result["protocol"]["fps"] == 1
    assert result["metrics"]["psnr"]["value"] > 20


def test_clips_that_are_too_short(folder: Path, call: Call):
    code, line = refused(call, folder, "--clip-frames", "7")
    assert code == 3
    assert "no clip of samples is long enough (0000: it has 6 frames, and a clip takes 7)" in line
    for file in Path("real").iterdir():
        write_mp4(file, read_video(file)[0][:3], 1)
    code, line = refused(call, folder)
    assert code == 3
    assert "clips of 3 frames at 1 a second are too short: 4 are needed" in line


def test_a_shorter_clip_is_left_out_and_named(folder: Path, call: Call):
    write_mp4(Path("samples/0001.mp4"), read_video(Path("samples/0001.mp4"))[0][:5], 1)
    result = said(call, "samples", "--real", "real")
    assert result["clips"] == {"generated": COUNT - 1, "real": COUNT}
    (short,) = read_report(Path("report")).generated.unreadable
    assert (short.file, short.why) == ("0001", "it has 5 frames, and a clip takes 6")


def test_what_cannot_be_read_is_named_and_counted(folder: Path, call: Call):
    whole = Path("samples/0001.mp4").read_bytes()
    Path("samples/0001.mp4").write_bytes(whole[: len(whole) // 2])  # its first frame is not whole
    Path("real/9999.mp4").write_bytes(b"no video")
    code, out, _ = call("samples", "--real", "real")
    assert code == 0
    assert f"{COUNT - 1} generated and {COUNT} real clips, 2 files not readable in" in out
    report = read_report(Path("report"))
    assert [entry.file for entry in report.generated.unreadable] == ["0001.mp4"]
    assert [entry.file for entry in report.real.unreadable] == ["9999.mp4"]
    assert (report.protocol["num_generated"], report.protocol["num_real"]) == (COUNT - 1, COUNT)
    for file in Path("real").iterdir():
        file.write_bytes(b"")
    shutil.rmtree("report")
    code, line = refused(call, folder)
    assert code == 3
    assert "nothing in real can be read, first 0000.mp4" in line


def test_every_video_breaking_in_the_middle_leaves_a_report_that_says_so(folder: Path, call: Call):
    for file in Path("samples").glob("????.mp4"):
        file.write_bytes(file.read_bytes()[:-200])
    result = said(call, "samples", "--real", "real")
    assert result["clips"] == {"generated": 0, "real": COUNT}
    assert result["metrics"] == {}
    assert len(read_report(Path("report")).generated.unreadable) == COUNT
    assert {entry["metric"] for entry in result["left_out"]} >= {"fvd-mini", "psnr"}


def test_clips_of_one_colour_are_told(folder: Path, call: Call):
    for file in Path("real").iterdir():
        write_mp4(file, np.full((FRAMES, *SIZE_HW, 3), 90, np.uint8), 1)
    result = said(call, "samples", "--real", "real")
    assert f"{COUNT} real clips are of one colour (first 0000); they count like the others" in result["notes"]


def test_missing_weights_cost_their_own_metrics_only(folder: Path, call: Call):
    arguments = ("--i3d", "none.pt", "--detector", "none.pt", "--classifier", "none.pt", "--vae", "nowhere")
    result = said(call, "samples", "--real", "real", *arguments)
    reasons = {entry["metric"]: entry["why"] for entry in result["left_out"]}
    assert "there is no none.pt; i3d_torchscript.pt is published at https://" in reasons["fvd"]
    assert "there is no detector none.pt" in reasons["box-iou"]
    assert "there is no classifier none.pt" in reasons["phase-agreement"]
    assert "nowhere" in reasons["vae baseline"]
    assert {"fvd-mini", "psnr", "warp-error"} <= set(result["metrics"])


def test_a_split_is_a_data_sets(folder: Path, call: Call):
    code, line = refused(call, folder, "--split", "val")
    assert code == 2
    assert "real is no data set, so it has no split 'val'" in line


def test_a_folder_that_cannot_be_written(folder: Path, call: Call):
    Path("taken").write_text("")
    code, _, err = call("samples", "--real", "real", "--out", "taken")
    assert code == 5
    assert "cannot write to taken: it is a file" in err


# Two reports


def test_two_reports_side_by_side(world: Path, folder: Path, call: Call):
    for file in Path("samples").glob("????.mp4"):
        write_mp4(file, softer(softer(read_video(file)[0])), 1)
    assert call("samples", "--real", "real", "-o", "other")[0] == 0
    first = str(world / "report")
    code, out, err = call("--json", "--compare", first, "other")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert list(result) == ["names", "protocol", "metrics", "only", "warnings"]
    assert result["metrics"]["psnr"]["better"] == first
    assert result["only"] == {}
    assert sorted(path.name for path in Path("report").iterdir()) == ["comparison.html"]
    code, out, _ = call("--compare", first, "other/report.json", "-o", "both")
    assert code == 0
    assert out.rstrip().endswith("both/comparison.html")
    assert Path("both/comparison.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_reports_of_different_protocols_are_not_compared(world: Path, folder: Path, call: Call):
    assert call("samples", "--real", "real", "-o", "other", "--clip-frames", "5", "--seed", "1")[0] == 0
    code, out, err = call("--compare", str(world / "report"), "other")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "differ in clip_frames (6 against 5), seed (0 against 1)" in err
    assert not Path("report").exists()
    shutil.copytree(world / "report", "broken", ignore=shutil.ignore_patterns("cache"))
    Path("broken/report.json").write_text('{"kind": "hierasurg-report"')
    assert call("--compare", "broken", "other")[0] == 3
