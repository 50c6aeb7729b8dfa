"""`--gpus`: what is refused, and two real ranks that talk through gloo."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import write_dataset

from hierasurg_cli.app import run
from hierasurg_cli.launch import launch
from hierasurg_core.artifacts import read_json
from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig
from hierasurg_core.config.ranks import Ranks
from hierasurg_core.errors import HieraSurgError, ResourceError, UsageError

ROOT = Path(__file__).parents[2]
TRAIN = ["train-s2m", "dataset", "--base", "model", "--precision", "fp32", "--warmup", "0", "--lr", "1e-3"]
ON_CPU = ["--device", "cpu", "--set", "log_every=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a tiny base and a data set."""
    root = tmp_path_factory.mktemp("work")
    cwd = Path.cwd()
    os.chdir(root)
    try:
        write_dataset(Path())
    finally:
        os.chdir(cwd)
    return root


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(folder: Path, *arguments: str, program: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *(program or ("-m", "hierasurg_cli")), *TRAIN, *ON_CPU, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def train(folder: Path, *arguments: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    with start(folder, *arguments, program=program) as process:
        out, err = process.communicate(timeout=280)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def losses(run_folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def first_steps(process: subprocess.Popen[str], run_folder: Path) -> None:
    """Waits until the ranks have done steps."""
    file = run_folder / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (file.is_file() and file.read_text().count("\n") >= 2):
        assert process.poll() is None, "it ended before the first steps"
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for_end(process: psutil.Process) -> None:
    """Waits for the end of a child of another process, which may stay as a zombie."""
    deadline = time.monotonic() + 60
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"gpus": 0}, UsageError, "--gpus must be 1 or more, not 0"),
        ({"gpus": 2, "device": "cuda:1"}, UsageError, "leave out --device cuda:1"),
        ({"gpus": 1, "nodes": 2}, UsageError, "--nodes needs --rendezvous HOST:PORT"),
        ({"gpus": 1, "nodes": 2, "rendezvous": "here"}, UsageError, "must be HOST:PORT as 10.0.0.1:29500"),
        ({"gpus": 1, "node_rank": 1}, UsageError, "--node-rank 1 does not exist with --nodes 1"),
        ({"gpus": 1, "max_restarts": -1}, UsageError, "--max-restarts must be 0 or more"),
        ({"gpus": 1000, "device": "auto"}, ResourceError, "--gpus 1000 is not possible: this machine has"),
    ],
)
def test_refusals(arguments: dict[str, Any], error: type[HieraSurgError], said: str) -> None:
    arguments = dict(arguments)
    device = arguments.pop("device", "cpu")
    with pytest.raises(error, match=said):
        restarts = arguments.pop("max_restarts", 0)
        launch(Ranks(**arguments), device=device, max_restarts=restarts)


def test_one_process_and_ranks_do_the_work_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch(Ranks(), device="auto") is False
    assert launch(Ranks(gpus=1), device="auto") is False
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch(Ranks(gpus=1000), device="auto") is False


def test_too_many_gpus_are_refused_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()  # what is missing is said before, without torch
    assert run(["evaluate", "clips", "--real", "clips", "--gpus", "1000"]) == 5
    assert capsys.readouterr().err.startswith("hierasurg: --gpus 1000 is not possible")
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("label", "videos: FOLDER/videos, sam: mini"),
        ("build-dataset", "videos: FOLDER/videos, base: mini"),
        ("train-s2m", "dataset: FOLDER/dataset, base: mini"),
        ("train-m2v", "dataset: FOLDER/dataset, base: mini"),
        ("generate", "num: 2"),
        ("evaluate", "generated: FOLDER/videos, real: FOLDER/videos"),
    ],
)
def test_ranks_may_stand_in_a_file(
    folder: Path,
    command: str,
    own: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "hierasurg.yaml"
    own = own.replace("FOLDER", str(folder))
    for settings, code, said in (
        ("gpus: 1000", 5, "--gpus 1000 is not possible"),
        ("nodes: 2", 2, "--nodes needs --rendezvous HOST:PORT"),
        ("nodes: 2, rendezvous: 'a:1', node-rank: 2", 2, "--node-rank 2 does not exist with --nodes 2"),
    ):
        file.write_text(f"{command}: {{{own}, {settings}}}")
        assert run([command]) == code
        assert said in capsys.readouterr().err
    file.write_text(f"{command}: {{{own}, gpus: 0}}")
    assert run([command, "--gpus", "1000"]) == 5, "an option wins"
    assert [path.name for path in tmp_path.iterdir()] == ["hierasurg.yaml"]


def test_the_unconditional_stage_has_a_folder_of_its_own() -> None:
    first = TrainM2VConfig(stage="unconditional")
    assert first.run_folder == Path("runs/m2v-unconditional")
    assert dataclasses.replace(first, out=Path("x")).run_folder == Path("x")
    assert TrainM2VConfig().run_folder == Path("runs/m2v")
    assert TrainS2MConfig(distill="mini").run_folder == Path("runs/s2m-student")


@pytest.mark.slow
def test_two_ranks_equal_one_with_twice_the_batch_and_go_on_to_the_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ema = ("--ema", "0.9")
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        assert run([*TRAIN, *ON_CPU, "--steps", "20", "--batch", "2", "--out", "one", *ema]) == 0
    whole = train(folder, "--steps", "20", "--gpus", "2", "--out", "two", "--json", *ema)
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["step"] == 20
    assert losses(folder / "two") == pytest.approx(losses(folder / "one"), abs=1e-5)
    averages = [
        load_file(folder / name / "checkpoint-20" / "ema" / "diffusion_pytorch_model.safetensors")
        for name in ("one", "two")
    ]
    for name, tensor in averages[0].items():
        torch.testing.assert_close(tensor, averages[1][name], rtol=1e-3, atol=1e-4)

    for steps in ("10", "20"):
        assert train(folder, "--steps", steps, "--gpus", "2", "--out", "parts", *ema).returncode == 0
    for file in sorted((folder / "two" / "checkpoint-20").rglob("*.safetensors")):
        again = load_file(
            folder / "parts" / "checkpoint-20" / file.relative_to(folder / "two" / "checkpoint-20")
        )
        assert all(torch.equal(tensor, again[name]) for name, tensor in load_file(file).items()), file
    states = [read_json(folder / name / "checkpoint-20" / "state.json") for name in ("two", "parts")]
    assert states[0]["ranks"] == states[1]["ranks"]
    assert len(states[0]["ranks"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_all_ranks_and_the_run_is_saved(folder: Path, number: signal.Signals) -> None:
    out = folder / f"stopped-{number.name}"
    with start(folder, "--steps", "1000000", "--gpus", "2", "--out", out.name) as process:
        first_steps(process, out)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.count("interrupted") == 1
    assert "Traceback" not in err
    step = len(losses(out))
    assert (out / f"checkpoint-{step}" / "state.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("launcher_looks", ["at once", "late"])
def test_a_rank_that_dies_stops_the_others(folder: Path, launcher_looks: str) -> None:
    out = folder / f"died, seen {launcher_looks}"
    with start(folder, "--steps", "1000000", "--gpus", "2", "--out", out.name) as process:
        first_steps(process, out)
        ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
        if launcher_looks == "late":  # so that rank 0 meets the broken connection by itself
            process.send_signal(signal.SIGSTOP)
        ranks["1"].send_signal(signal.SIGKILL)
        if launcher_looks == "late":
            wait_for_end(ranks["0"])
            process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "hierasurg: rank 1 was killed by SIGKILL" in err
    assert "Traceback" not in err
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_ranks_end_with_a_killed_launcher_and_the_next_run_goes_on(folder: Path) -> None:
    out = folder / "orphaned"
    with start(folder, "--steps", "1000000", "--gpus", "2", "--out", out.name) as process:
        first_steps(process, out)
        ranks = psutil.Process(process.pid).children()
        process.kill()
        for rank in ranks:
            wait_for_end(rank)
    done = train(folder, "--steps", "1", "--out", out.name, "--resume", "never")
    assert done.returncode == 0, done.stderr
    assert f"orphaned: taking over the lock of process {process.pid} (hierasurg train-s2m)" in done.stderr
    assert not (out / ".hierasurg.lock").exists()


@pytest.mark.slow
def test_torchrun_works(folder: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hierasurg_cli")
    done = train(folder, "--steps", "1", "--out", "torchrun", "--json", program=torchrun)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"] is True
    assert len(read_json(folder / "torchrun" / "checkpoint-1" / "state.json")["ranks"]) == 2


@pytest.mark.slow
def test_a_fault_of_all_ranks_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(Path(), step=4)  # of 18 s: one clip
    done = train(tmp_path, "--steps", "1", "--gpus", "2", "--out", "many")
    assert done.returncode == 3
    told = [line for line in done.stderr.splitlines() if line.startswith("hierasurg: ")]
    assert len(told) == 1
    assert "fewer than the 2 processes" in told[0]
    assert not (tmp_path / "many").exists(), "a refused run leaves no logs"
