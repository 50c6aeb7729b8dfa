"""The time that a dry run tells."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny_runs import m2v_config, s2m_config, train, write_dataset

from hierasurg_cli.app import run
from hierasurg_core.progress import SilentProgress
from hierasurg_core.training.plan import plan_training
from hierasurg_core.training.rehearsal import RunTime, duration, rehearse

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsed")
    write_dataset(folder)
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_steps_are_timed_and_nothing_is_left_behind(root: Path) -> None:
    before = everything(root)
    for config, stage in (
        (s2m_config(root, "timed", steps=1000, ema=0.9, accumulate=2), "s2m"),
        (m2v_config(root, "timed", steps=1000, hierarchical=True), "m2v"),
    ):
        time = rehearse(plan_training(config, stage, CPU, dry=True), CPU, SilentProgress())
        assert (time.steps, time.device, time.measured_steps, time.why) == (1000, "cpu", 2, None)
        assert time.seconds_a_step > 0
        assert time.seconds == pytest.approx(1000 * time.seconds_a_step)
    assert everything(root) == before


def test_a_run_that_goes_on_has_fewer_steps_left(root: Path) -> None:
    train(s2m_config(root, "begun"))
    plan = plan_training(s2m_config(root, "begun", steps=12), "s2m", CPU, dry=True)
    assert rehearse(plan, CPU, SilentProgress()).steps == 10


def test_what_cannot_be_timed_is_estimated_and_said(root: Path) -> None:
    config = s2m_config(root, "far", base="THUDM/CogVideoX-2b")
    plan = plan_training(config, "s2m", CPU, dry=True)
    time = rehearse(plan, CPU, SilentProgress())
    assert (time.measured_steps, time.why) == (0, "the base is not at hand")
    assert time.seconds > 0
    own = plan_training(s2m_config(root, "far"), "s2m", CPU, dry=True)
    huge = dataclasses.replace(own.estimate, weights=10**15)
    time = rehearse(dataclasses.replace(own, estimate=huge), CPU, SilentProgress())
    assert time.why == "a step does not fit into this machine's memory"
    load = dataclasses.replace(own.load, tokens=10**8)
    time = rehearse(dataclasses.replace(own, load=load), CPU, SilentProgress())
    assert time.why == "a step would take minutes"


def test_times_in_words() -> None:
    assert [duration(seconds) for seconds in (0.4, 45, 720, 11520, 181440)] == [
        *("0 s", "45 s", "12 min", "3.2 h", "2.1 days")
    ]
    line = RunTime(0.38, 11400.0, 30000, "cpu", 2).text()
    assert line == (
        "time here: about 3.2 h for 30000 steps, 0.38 s each on cpu (measured over 2 of its own steps)"
    )
    assert (
        "(estimated from the speed of matrix products, as it is slow)"
        in RunTime(90.0, 180.0, 2, "cpu", 0, "it is slow").text()
    )


def test_the_command_tells_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    before = everything(root)
    line = ["train-s2m", "--base", "model", "--device", "cpu", "--out", "runs/dry", "--dry-run"]
    assert run([*line, "--steps", "50"]) == 0
    assert "for 50 steps" in capsys.readouterr().out
    assert run([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["time"]["steps"] == told["steps"] == 10000
    assert everything(root) == before
