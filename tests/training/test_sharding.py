"""Two real ranks that talk through gloo: a model in pieces goes the way of whole copies."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_ranks
from safetensors.torch import load_file
from sharded_runs import run_parts
from tiny_runs import write_dataset
from tiny_training import ALPHA_BAR_T, config, s2m, source
from torch import Tensor, nn

from hierasurg_core.artifacts import read_json
from hierasurg_core.config import TrainM2VConfig
from hierasurg_core.errors import UsageError
from hierasurg_core.models import load_transformer
from hierasurg_core.progress import SilentProgress
from hierasurg_core.training import S2MStage, train
from hierasurg_core.training.checkpoint import WEIGHTS
from hierasurg_core.training.sharding import filled, gathered, hollow, local, piece_of, put


def two_ranks(folder: Path, *parts: str) -> None:
    run_ranks(2, run_parts, folder, parts)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    two_ranks(folder, "equal", "half", "shown", "kept", "refused")
    return folder


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def told(run: Path, key: str) -> list[float]:
    return [line[key] for line in lines(run)]


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    return {
        f"{file.relative_to(checkpoint)}:{name}": tensor
        for file in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(one: Path, other: Path) -> None:
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def close(one: Path, other: Path) -> None:
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s2m", "m2v"])
def test_pieces_go_the_way_of_copies(name: str, runs: Path) -> None:
    """With accumulation, clipping, averages, dropped conditions and recomputation."""
    copies, pieces = runs / f"{name}-none", runs / f"{name}-full"
    assert told(pieces, "loss") == pytest.approx(told(copies, "loss"), abs=1e-5)
    assert told(pieces, "grad_norm") == pytest.approx(told(copies, "grad_norm"), rel=1e-3)
    assert min(told(copies, "grad_norm")) > 0.5, "every gradient was clipped"
    close(copies / "checkpoint-6", pieces / "checkpoint-6")
    assert {line["communication_s"] for line in lines(pieces)} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s2m", "m2v"])
def test_two_and_four_steps_are_six_to_the_bit(name: str, runs: Path) -> None:
    whole, parts = runs / f"{name}-full", runs / f"{name}-full-after-full"
    same(whole / "checkpoint-6", parts / "checkpoint-6")
    states = [read_json(run / "checkpoint-6" / "state.json") for run in (whole, parts)]
    for key in ("ranks", "generator", "step"):
        assert states[0][key] == states[1][key]
    assert told(whole, "loss")[2:] == told(parts, "loss")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s2m", "m2v"])
def test_either_goes_on_from_the_other(name: str, runs: Path) -> None:
    copies = runs / f"{name}-none"
    for other in ("full-after-none", "none-after-full"):
        assert told(runs / f"{name}-{other}", "loss") == pytest.approx(told(copies, "loss")[2:], abs=1e-5)
        close(copies / "checkpoint-6", runs / f"{name}-{other}" / "checkpoint-6")


@pytest.mark.slow
def test_a_checkpoint_of_pieces_is_a_model_like_any_other(runs: Path) -> None:
    checkpoint = runs / "m2v-full" / "checkpoint-6"
    config_files = [
        run / "checkpoint-6" / "transformer" / "config.json" for run in (runs / "m2v-none", runs / "m2v-full")
    ]
    assert read_json(config_files[0]) == read_json(config_files[1])
    loaded = load_transformer(checkpoint).state_dict()
    stored = load_file(checkpoint / "transformer" / WEIGHTS)
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())
    averaged = load_file(checkpoint / "ema" / WEIGHTS)
    finished = load_transformer(runs / "m2v-full").state_dict()
    assert all(torch.equal(finished[name], tensor) for name, tensor in averaged.items())


@pytest.mark.slow
def test_one_process_goes_on_from_pieces(runs: Path, tmp_path: Path) -> None:
    class Notes(SilentProgress):
        def __init__(self) -> None:
            self.said: list[str] = []

        def note(self, message: str) -> None:
            self.said.append(message)

    start, notes = runs / "s2m-full" / "checkpoint-4", Notes()
    settings = config(steps=5, ema=0.9, sharding="full", resume=str(start))
    result = train(s2m(), S2MStage(ALPHA_BAR_T), source(), settings, tmp_path, notes)
    assert result.finished
    assert "sharding needs several processes; this one holds the whole model" in notes.said


@pytest.mark.slow
def test_blocks_in_bf16_differ_by_rounding_alone(runs: Path) -> None:
    copies, pieces = runs / "bf16-none", runs / "bf16-full"
    assert told(pieces, "loss") == pytest.approx(told(copies, "loss"), rel=1e-2)
    stored = load_file(pieces / "checkpoint-4" / "transformer" / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.slow
def test_previews_of_pieces_show_the_average_and_change_nothing(runs: Path) -> None:
    copies, pieces = (torch.load(runs / f"shown-{kind}.pt", weights_only=True) for kind in ("none", "full"))
    assert len(copies) == 6
    for one, other in zip(copies, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(pieces[0], pieces[5])
    same(runs / "m2v-full" / "checkpoint-6", runs / "shown-full" / "checkpoint-6")


@pytest.mark.slow
def test_what_is_computed_again_changes_nothing(runs: Path) -> None:
    keep, attention = (runs / f"memory-{name}" / "checkpoint-4" for name in ("keep", "attention"))
    close(keep, attention)
    assert told(runs / "memory-keep", "loss")[0] == pytest.approx(
        told(runs / "s2m-none", "loss")[0], abs=1e-6
    )


@pytest.mark.slow
def test_another_model_is_refused_in_words_by_each_rank(runs: Path) -> None:
    for rank in (0, 1):
        said = (runs / f"refused-{rank}.txt").read_text()
        assert "holds another model than this run trains" in said
        assert "proj_out" in said


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_low_rank_updates_in_pieces(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    two_ranks(tmp_path, "updates")
    copies, pieces, again = (tmp_path / "runs" / f"lora-{name}" for name in ("none", "full", "on"))
    assert told(pieces, "loss") == pytest.approx(told(copies, "loss"), abs=1e-5)
    same(pieces / "checkpoint-4", again / "checkpoint-4")
    left, right = (load_transformer(run).state_dict() for run in (copies, pieces))
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_compiled_blocks_in_pieces_give_the_same(tmp_path: Path) -> None:
    two_ranks(tmp_path, "compiled")
    losses = [told(tmp_path / f"compiled-{kind}", "loss") for kind in ("none", "full")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_shell_has_the_structure_and_no_memory() -> None:
    model = s2m()
    shell = hollow(model)
    assert type(shell) is type(model)
    assert {tensor.device.type for tensor in shell.state_dict().values()} == {"meta"}
    whole = gathered(model.state_dict())
    with filled(shell, whole) as full:
        assert all(torch.equal(tensor, whole[name]) for name, tensor in full.state_dict().items())
    assert {tensor.device.type for tensor in shell.state_dict().values()} == {"meta"}
    with (
        pytest.raises(RuntimeError, match="proj_out"),
        filled(shell, {**whole, "proj_out.bias": torch.zeros(1)}),
    ):
        pass


def test_a_whole_tensor_is_its_own_piece() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    assert local(parameter) is parameter
    assert piece_of(torch.ones(2), parameter).tolist() == [1, 1]
    put(torch.ones(2), parameter)
    assert parameter.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16"}, "precision fp16 exclude each other: use bf16 or fp32"),
        ({"optimizer": "muon"}, "optimizer muon exclude each other"),
        ({"optimizer": "adamw8bit"}, "optimizer adamw8bit exclude each other"),
        ({"offload": True}, "sharding full and offload exclude each other"),
        ({"memory": "offload"}, "sharding full and memory offload exclude each other"),
        ({"distill": "teacher"}, "sharding full and distill exclude each other"),
    ],
)
def test_what_cannot_be_in_pieces_is_refused_before_anything_loads(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        TrainM2VConfig(sharding="full", **changes)


def test_a_name_of_no_sharding_is_refused() -> None:
    wrong: Any = "half"
    with pytest.raises(UsageError, match="sharding must be one of none, full, not 'half'"):
        TrainM2VConfig(sharding=wrong)
