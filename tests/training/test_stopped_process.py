"""Training in a process that is stopped or killed goes on from a whole checkpoint."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from forked import start
from safetensors.torch import load_file
from tiny_training import ALPHA_BAR_T, IN_THE_MIDDLE, config, s2m, source, train_until_stopped

from hierasurg_core.progress import SilentProgress
from hierasurg_core.training import S2MStage, train
from hierasurg_core.training.checkpoint import WEIGHTS, checkpoints, read_state


def begin(out: Path, *, wait_while_saving: bool = False) -> tuple[BaseProcess, Iterator[int]]:
    return start(partial(train_until_stopped, wait_while_saving=wait_while_saving), out)


def wait_for(told: Iterator[int], number: int, times: int = 1) -> None:
    assert sum(1 for _ in islice((each for each in told if each == number), times)) == times, (
        "it ended before"
    )


def end(process: BaseProcess, number: signal.Signals) -> int | None:
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(100)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_leaves_a_checkpoint_of_the_last_step(number: signal.Signals, tmp_path: Path) -> None:
    process, told = begin(tmp_path)
    wait_for(told, 1, times=3)
    assert end(process, number) == 130
    last = checkpoints(tmp_path)[-1]
    step = read_state(last)["step"]
    assert step >= 3
    model = s2m()
    result = train(model, S2MStage(ALPHA_BAR_T), source(), config(steps=step + 1), tmp_path, SilentProgress())
    assert result.finished
    assert result.step == step + 1


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save_goes_on_from_the_one_before(tmp_path: Path) -> None:
    process, told = begin(tmp_path / "killed", wait_while_saving=True)
    wait_for(told, IN_THE_MIDDLE)
    assert end(process, signal.SIGKILL) == -signal.SIGKILL
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
        process, told = begin(tmp_path)
        wait_for(told, 1, times=4 + moment % 3)
        time.sleep(0.004 * moment)  # somewhere else in the save each time
        assert end(process, signal.SIGKILL) == -signal.SIGKILL
        last = checkpoints(tmp_path)[-1]
        steps.append(read_state(last)["step"])
        names = {name for name, _ in s2m().named_parameters()}
        assert names <= load_file(last / "transformer" / WEIGHTS).keys()
        assert len(load_file(last / "optimizer.safetensors")) == 3 * len(names)
    assert steps == sorted(set(steps)), "each session went on from the one before"
