"""Which settings a run that goes on keeps, takes over or refuses, and what its record says afterwards."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import m2v_config, s2m_config, settings, train, write_dataset

from hierasurg_cli.app import run
from hierasurg_core.artifacts import read_json
from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig, load_config
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.models import load_transformer
from hierasurg_core.models.trained import trained_steps, write_trained_steps
from hierasurg_core.progress import SilentProgress
from hierasurg_core.training.plan import TrainingPlan, plan_training
from hierasurg_core.training.run import run_training

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    write_dataset(folder)
    return folder


def plan(root: Path, out: str, **changes: Any) -> TrainingPlan:
    """What a command line with these options alone comes to, beside --dataset, --base and --out."""
    given = {name: f"--{name.replace('_', '-')}" for name in changes}
    typed = {"dataset": root / "dataset", "out": root / "runs" / out, "device": "cpu", **changes}
    return plan_training(TrainS2MConfig(**typed), "s2m", CPU, given=given)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frame_labels": True}, "asked for --frame-labels true, the run has false; leave it out"),
        ({"seed": 5}, "asked for --seed 5, the run has 0; leave it out to go on, or give another --out"),
        ({"optimizer": "muon"}, "asked for --optimizer muon, the run has adamw"),
        ({"ema": 0.9}, "asked for --ema 0.9, the run has none"),
        ({"lora_rank": 4}, "asked for --lora-rank 4, the run has 0"),
        ({"base": "mini"}, "asked for --base mini, the run has .*model"),
        ({"object_dropout": 0.5}, "asked for --object-dropout 0.5, the run has none"),
        ({"seed": 5, "ema": 0.5}, "--ema 0.5, the run has none; --seed 5, the run has 0; leave them out"),
    ],
)
def test_what_changes_model_optimizer_or_data_is_refused_with_both_values(
    root: Path, changes: dict[str, Any], said: str
) -> None:
    if not (root / "runs" / "held").exists():
        train(s2m_config(root, "held"))
    before = files(root / "runs" / "held")
    with pytest.raises(UsageError, match=said) as caught:
        plan(root, "held", steps=3, **changes)
    assert "\n" not in str(caught.value)
    assert files(root / "runs" / "held") == before


def test_m2v_is_held_to_its_conditions(root: Path) -> None:
    train(m2v_config(root, "maps-alone"))
    with pytest.raises(UsageError, match="asked for hierarchical true, the run has false"):
        train(m2v_config(root, "maps-alone", steps=3, hierarchical=True))
    assert load_transformer(root / "runs" / "maps-alone").config["hierarchical"] is False


def test_what_was_not_given_is_taken_from_the_run(root: Path) -> None:
    """A refusal's advice works: without the option the run goes on, to the bit as if it had never stopped."""
    own: dict[str, Any] = {"frame_labels": True, "seed": 7, "ema": 0.9, "lr": 1e-2, "precision": "fp32"}
    train(s2m_config(root, "whole", steps=4, **own))
    train(s2m_config(root, "parts", steps=2, **own))
    going = plan(root, "parts", steps=4)
    assert (going.config.seed, going.config.ema, going.config.lr) == (7, 0.9, 1e-2)
    assert any("as the run was begun: " in note and "seed 7" in note for note in going.notes)
    assert "from here on: steps 4 (was 2)" in going.notes
    assert run_training(going, CPU, SilentProgress()).trained.step == 4
    for name in ("transformer", "ema", "."):
        ends = [root / "runs" / part / "checkpoint-4" / name for part in ("whole", "parts")]
        one, other = (load_file(next(end.glob("*.safetensors"))) for end in ends)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_may_change_is_taken_over_and_the_record_says_so(root: Path) -> None:
    train(s2m_config(root, "changed"))
    result = train(s2m_config(root, "changed", steps=3, lr=0.5, checkpoint_every=7, batch=2))
    assert any(
        note == "from here on: steps 3 (was 2), batch 2 (was 1), lr 0.5 (was 0.001), "
        "checkpoint_every 7 (was 1000)"
        for note in result.notes
    )
    file = root / "runs" / "changed" / "train-s2m.yaml"
    told = load_config(TrainS2MConfig, "train-s2m", files=[file], overrides={}, sets=[])
    assert (told.lr, told.steps, told.batch, told.base) == (0.5, 3, 2, str(root / "model"))
    assert read_json(root / "runs" / "changed" / "train.json")["config"]["lr"] == 0.5


def test_a_finished_run_is_left_as_it_is(root: Path) -> None:
    train(s2m_config(root, "done"))
    before = files(root / "runs" / "done")
    result = run_training(plan(root, "done", seed=77, lr=0.5), CPU, SilentProgress())
    assert (result.trained.step, result.trained.finished, result.trained.loss) == (2, True, None)
    said = result.notes[0]
    assert "done is finished with 2 steps: nothing is trained" in said
    assert "not used: " in said
    for part in ("--seed 77, the run has 0", "lr 0.5 (was 0.001)", "give more --steps"):
        assert part in said
    assert files(root / "runs" / "done") == before
    run_training(plan(root, "done", steps=1), CPU, SilentProgress())
    assert files(root / "runs" / "done") == before
    assert run_training(plan(root, "done", steps=3), CPU, SilentProgress()).trained.step == 3


def test_a_command_line_is_refused_and_one_without_the_option_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    first = ["--base", "model", "--warmup", "0", "--precision", "fp32", "--seed", "3"]
    line = ["train-s2m", "--out", "runs/typed", "--device", "cpu"]
    assert run([*line, "--steps", "1", *first]) == 0
    for wrong, said in (
        (["--seed", "4"], "asked for --seed 4, the run has 3"),
        (["--set", "optimizer=muon"], "asked for --set optimizer muon, the run has adamw"),
        (["--preset", "mini"], "ema of .*mini.yaml 0.999, the run has none"),
    ):
        capsys.readouterr()
        assert run([*line, "--steps", "2", *wrong]) == 2
        told = [text for text in capsys.readouterr().err.splitlines() if text.startswith("hierasurg: ")]
        assert len(told) == 1
        assert re.search(said, told[0])
    assert run([*line, "--steps", "2"]) == 0
    assert read_json(root / "runs" / "typed" / "train.json")["config"]["seed"] == 3


def test_another_data_set_is_refused_and_the_same_one_elsewhere_taken(root: Path, tmp_path: Path) -> None:
    train(s2m_config(root, "data"))
    shutil.copytree(root / "dataset", tmp_path / "moved")
    train(s2m_config(root, "data", steps=3, dataset=tmp_path / "moved"))
    shutil.copytree(root / "model", tmp_path / "model")
    for name, changes, said in (
        ("other", {"val_fraction": 0.0}, r"is another data set with other splits and clips than"),
        ("small", {"map_size": "16x32"}, r"has map_size_hw 16x32, the run .*data has 32x48"),
    ):
        shutil.rmtree(tmp_path / "dataset", ignore_errors=True)
        write_dataset(tmp_path, **changes)
        (tmp_path / "dataset").rename(tmp_path / name)
        with pytest.raises(DataError, match=said):
            train(s2m_config(root, "data", steps=4, dataset=tmp_path / name))


def test_an_explicit_base_wins_over_a_finished_unconditional_run(root: Path) -> None:
    train(m2v_config(root, "two-unconditional", stage="unconditional", steps=1))
    asked = train(m2v_config(root, "two", steps=1))
    assert any("as asked, not from the unconditional run" in note for note in asked.notes)
    assert read_json(root / "runs" / "two" / "train.json")["config"]["base"] == str(root / "model")
    shutil.rmtree(root / "runs" / "two")
    config = TrainM2VConfig(**{**settings(root, "two"), "base": None, "steps": 1})
    result = train(config)
    first = root / "runs" / "two-unconditional"
    assert any(f"starting from the unconditional run {first}" in note for note in result.notes)
    assert read_json(root / "runs" / "two" / "train.json")["config"]["base"] == str(first)
    going = train(TrainM2VConfig(**{**settings(root, "two"), "base": None, "steps": 2}))
    assert going.trained.step == 2


def test_folders_say_how_long_their_model_was_trained(root: Path, tmp_path: Path) -> None:
    train(s2m_config(root, "counted", checkpoint_every=1))
    out = root / "runs" / "counted"
    assert trained_steps(out) == trained_steps(out / "transformer") == 2
    assert trained_steps(out / "checkpoint-1") == 1
    assert trained_steps(out / "checkpoint-1" / "transformer") == 1
    assert trained_steps(root / "model") is None
    shutil.copytree(out / "transformer", tmp_path / "s2m")
    assert trained_steps(tmp_path / "s2m") is None
    write_trained_steps(tmp_path / "s2m", 2)
    assert trained_steps(tmp_path / "s2m") == 2
    (out / "train.json").write_text('{"step": "many"}')
    with pytest.raises(WeightsError, match="names no number of trained steps"):
        trained_steps(out)


def test_a_changed_optimizer_state_is_named(root: Path) -> None:
    train(s2m_config(root, "state"))
    file = root / "runs" / "state" / "checkpoint-2" / "optimizer.safetensors"
    tensors = load_file(file)
    save_file({f"{name}.of.nothing": tensor for name, tensor in tensors.items()}, file)
    with pytest.raises(WeightsError, match="holds the optimiser of another model"):
        train(s2m_config(root, "state", steps=3))


def test_the_record_says_how_a_run_was_computed(root: Path) -> None:
    plain = {"attention": "default", "chosen_by": "torch", "deterministic": False, "device": "cpu"}
    train(s2m_config(root, "computed", steps=1))
    train(s2m_config(root, "computed-fixed", steps=1, deterministic=True, precision="bf16"))
    for name, said in (("computed", plain), ("computed-fixed", {**plain, "deterministic": True})):
        out = root / "runs" / name
        for file in (out / "train.json", out / "checkpoint-1" / "state.json"):
            assert read_json(file)["computing"] == said
    assert not torch.are_deterministic_algorithms_enabled()
