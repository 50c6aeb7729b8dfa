import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import ALPHA_BAR_T, config, s2m, source

from hierasurg_core.progress import SilentProgress
from hierasurg_core.training import S2MStage, train
from hierasurg_core.training.checkpoint import WEIGHTS, checkpoints, read_state

ROOT = Path(__file__).parents[2]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "tiny_training.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
    )


def read_until(process: subprocess.Popen[str], line: str, times: int = 1) -> None:
    assert process.stdout is not None
    while times:
        told = process.stdout.readline()
        assert told, f"the process ended before it said {line!r}"
        times -= told.strip() == line


def end(process: subprocess.Popen[str]) -> int:
    process.communicate()
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_leaves_a_checkpoint_of_the_last_step(number: signal.Signals, tmp_path: Path) -> None:
    with start(str(tmp_path)) as process:
        read_until(process, "advance 1", times=3)
        process.send_signal(number)
        assert end(process) == 130
    last = checkpoints(tmp_path)[-1]
    step = read_state(last)["step"]
    assert step >= 3
    model = s2m()
    result = train(model, S2MStage(ALPHA_BAR_T), source(), config(steps=step + 1), tmp_path, SilentProgress())
    assert result.finished
    assert result.step == step + 1


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save_goes_on_from_the_one_before(tmp_path: Path) -> None:
    with start(str(tmp_path / "killed"), "wait") as process:
        read_until(process, "in the middle")
        process.kill()
        assert end(process) == -signal.SIGKILL
    assert [path.name for path in checkpoints(tmp_path / "killed")] == ["checkpoint-2"]
    assert list((tmp_path / "killed").glob(".checkpoint-4.*"))
    for name in ("killed", "whole"):
        settings = config(checkpoint_every=2)
        train(s2m(), S2MStage(ALPHA_BAR_T), source(), settings, tmp_path / name, SilentProgress())
    ends = [load_file(tmp_path / name / "transformer" / WEIGHTS) for name in ("killed", "whole")]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert not list((tmp_path / "killed").glob(".*"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_ten_moments_around_saves_leaves_a_whole_checkpoint_each_time(tmp_path: Path) -> None:
    """A step takes milliseconds and every second one saves, so most of the time is spent in a save."""
    steps: list[int] = []
    for moment in range(10):
        with start(str(tmp_path)) as process:
            read_until(process, "advance 1", times=4 + moment % 3)
            time.sleep(0.004 * moment)  # somewhere else in the save each time
            process.kill()
            assert end(process) == -signal.SIGKILL
        last = checkpoints(tmp_path)[-1]
        steps.append(read_state(last)["step"])
        names = {name for name, _ in s2m().named_parameters()}
        assert names <= load_file(last / "transformer" / WEIGHTS).keys()
        assert len(load_file(last / "optimizer.safetensors")) == 3 * len(names)
    assert steps == sorted(set(steps)), "each session went on from the one before"
