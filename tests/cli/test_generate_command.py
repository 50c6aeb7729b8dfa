"""The command line of generate: what reaches the core, and what is refused before torch loads."""

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from generation.tiny_assets import write_assets

from hierasurg_cli.app import run

STORIES = Path(__file__).parents[2] / "hierasurg_core" / "assets" / "stories"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--triplet", "17", "--triplet", "18"], 2, "at once are not possible"),
        (["--triplet", "17@0-7", "--triplet", "60@7-"], 2, "at once are not possible"),
        (["--triplet", "17@0-16"], 2, "the clip has seconds 0 to 15"),
        (["--edit", "mvoe 3 by 1,1"], 2, "did you mean 'move'"),
        (["--requests", "none.csv"], 2, "cannot read none.csv"),
        (["--script", "none.yaml"], 2, "cannot read none.yaml"),
        (["--script", "a.yaml", "--phase", "calot"], 2, "script excludes phase"),
        (["--from-dataset", "none"], 3, "none is no data set"),
        (["--from-dataset", "none", "--split", "test"], 2, "split must be one of train, val"),
        (["--seconds", "0"], 2, "seconds must be 1 or more"),
        (["--num", "2", "--requests", "a.csv"], 2, "num and requests exclude each other"),
    ],
)
def test_wrong_lines_end_with_one_line(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["generate", "-q", *arguments]) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_story_in_the_package_shows_all_phases() -> None:
    from hierasurg_core.config import GenerateConfig
    from hierasurg_core.generation.samples import ASSETS
    from hierasurg_core.generation.storyboard import plan_stories

    config = GenerateConfig(script=STORIES / "cholecystectomy.yaml")
    story = plan_stories(config, 16, 1, ASSETS / "scenes")[0]
    assert [segment.phase for segment in story.segments] == [0, 1, 1, 2, 3, 4, 5, 6]
    assert story.seconds == 92
    assert all(not segment.start.notes for segment in story.segments if segment.start is not None)


@pytest.mark.slow
def test_two_processes_share_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_assets(tmp_path)
    monkeypatch.chdir(tmp_path)
    line = ["generate", "--device", "cpu", "--json", "--model", "mini"]
    line += ["--phase", "calot", "--triplet", "17", "--steps", "1", "--num", "2"]
    assert run([*line, "--out", "alone"]) == 0
    assert len(json.loads(capsys.readouterr().out)["samples"]) == 2

    line = [sys.executable, "-m", "hierasurg_cli", *line, "--out", "shared", "--gpus", "2"]
    threads = str(torch.get_num_threads())  # of another number sums would have another order
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    done = subprocess.run(line, env=environment, capture_output=True, check=True)
    assert len(json.loads(done.stdout)["samples"]) == 2
    for name in ("0000.mp4", "0001.mp4", "0001_maps.mp4"):
        assert filecmp.cmp(tmp_path / "shared" / name, tmp_path / "alone" / name, shallow=False)
