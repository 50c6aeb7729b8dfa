"""The README's promises, kept as written: its first command line, its table, its errors."""

import filecmp
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from hierasurg_cli.app import app, run
from hierasurg_core.maps import load_clip
from hierasurg_core.video import read_video

README = (Path(__file__).parents[2] / "README.md").read_text()


def hierasurg(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the program as a person does, in a folder of its own."""
    command = [sys.executable, "-m", "hierasurg_cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def main_job() -> list[str]:
    """The arguments of the README's main job, as they stand in its first command line."""
    found = re.search(r"&& hierasurg (generate .*)", README)
    assert found is not None
    return shlex.split(found[1])


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the main job ran."""
    folder = tmp_path_factory.mktemp("main-job")
    done = hierasurg(folder, *main_job())
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_first_line_ends_with_a_video_that_players_read(sample: Path):
    with av.open(str(sample / "samples" / "0000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 16
    assert all(frame.shape == (128, 192, 3) for frame in frames)
    assert np.stack(frames).std() > 20
    record = json.loads((sample / "samples" / "0000.json").read_text())
    assert record["phase"]["name"] == "carlot-triangle-dissection"
    assert record["triplet"]["name"] == "grasper,retract,gallbladder"
    maps = load_clip(sample / "samples" / "0000_maps.mp4")
    assert maps.map_FHW.shape == (16, 128, 192)


@pytest.mark.slow
def test_the_same_line_again_gives_the_same_bytes(sample: Path, tmp_path: Path):
    again = hierasurg(tmp_path, *main_job(), "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert set(result) == {"samples", "model", "seconds", "notes", "contact_sheet"}
    assert result["model"] == "the bundled mini models"
    for name in ("0000.mp4", "0000_maps.mp4"):
        assert filecmp.cmp(tmp_path / "samples" / name, sample / "samples" / name, shallow=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_other_words_give_another_video(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Of the bundled models: a triplet, a phase and maps each change what is seen."""
    monkeypatch.chdir(tmp_path)
    first, _ = read_video(sample / "samples" / "0000.mp4")
    steps = ("--steps", "2")
    calot = ("--phase", "calot", "--triplet")
    for name, words in {
        "base": (*calot, "grasper,retract,gallbladder"),
        "triplet": (*calot, "grasper,grasp,omentum"),
        "phase": ("--phase", "packaging", "--triplet", "grasper,retract,gallbladder"),
        "maps": ("--maps", str(sample / "samples" / "0000_maps.mp4")),
    }.items():
        assert run(["generate", *words, *steps, "--out", name]) == 0, capsys.readouterr().err
    videos = {
        name: read_video(tmp_path / name / "0000.mp4")[0] for name in ("base", "triplet", "phase", "maps")
    }
    for name in ("triplet", "phase", "maps"):
        assert videos[name].shape == first.shape
        changed = np.abs(videos[name][4:].astype(int) - videos["base"][4:]).max(-1) > 24
        assert changed.mean() > 0.005, name


@pytest.mark.slow
def test_an_interrupt_leaves_no_half_file(tmp_path: Path):
    command = [sys.executable, "-m", "hierasurg_cli", "generate", "--phase", "calot", "--steps", "900"]
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background is deaf
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heeding
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "load models" in line:
                break
        time.sleep(1)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(200) == 130
    assert not (tmp_path / "samples").exists()


def test_the_table_names_the_commands_of_the_program():
    table = re.findall(r"^\| `([a-z0-9-]+)` \|", README, re.MULTILINE)
    registered = [
        command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
    ]
    assert table == [name.replace("_", "-") for name in registered]
