import errno
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import ALPHA_BAR_T, clips, config, m2v, model_and_stage, s2m, source
from torch import Tensor

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config import TrainConfig, to_dict
from hierasurg_core.errors import DataError, ResourceError, UsageError, WeightsError
from hierasurg_core.models import S2MTransformer3DModel, load_transformer
from hierasurg_core.progress import SilentProgress
from hierasurg_core.training import (
    Batch,
    Draws,
    LatentCacheSource,
    M2VStage,
    S2MStage,
    TrainResult,
    train,
)
from hierasurg_core.training.checkpoint import WEIGHTS, checkpoints
from hierasurg_core.training.stages import SquaredLoss, VelocityModel
from hierasurg_core.training.steps import learning_rate


class StopsAt(SilentProgress):
    """Sends this process a signal when a step is done, as a scheduler or Ctrl-C would."""

    def __init__(self, step: int, number: int) -> None:
        self.left, self.number = step, number

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if n and self.left == 0:
            signal.raise_signal(self.number)


class WithoutNoise(SquaredLoss):
    """A stage that draws nothing, so that the order of clips within a step makes no difference."""

    name = "s2m"
    inputs = 3

    def prediction_and_target(
        self, model: VelocityModel, batch: Batch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        times = torch.full((len(batch),), 500)
        channels = batch.clean_latents.repeat(1, 1, 3, 1, 1)
        return model(channels, times, phase_BF=batch.phase_BF), -batch.clean_latents


def run(name: str, out: Path, settings: TrainConfig, progress: SilentProgress | None = None) -> TrainResult:
    model, stage = model_and_stage(name)
    return train(model, stage, source(), settings, out, progress or SilentProgress())


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": t for file in files for name, t in load_file(file).items()}


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["s2m", "m2v"])
def test_stopped_and_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    settings = config(
        schedule="cosine", ema=0.9, accumulate=2, condition_dropout=0.5, gradient_checkpointing=True
    )
    run(name, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        run(name, tmp_path / "parts", settings, StopsAt(2, signal.SIGTERM))
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["checkpoint-2"]
    torch.manual_seed(123)
    assert run(name, tmp_path / "parts", settings).finished

    whole = tensors(tmp_path / "whole" / "checkpoint-4")
    parts = tensors(tmp_path / "parts" / "checkpoint-4")
    assert whole.keys() == parts.keys()
    assert {key.split("/")[0] for key in whole} == {"transformer", "ema", "checkpoint-4"}
    for key, tensor in whole.items():
        assert torch.equal(tensor, parts[key]), key
    states = [read_json(tmp_path / part / "checkpoint-4" / "state.json") for part in ("whole", "parts")]
    for key in ("ranks", "generator", "step"):
        assert states[0][key] == states[1][key]
    losses = [[line["loss"] for line in metrics(tmp_path / part)] for part in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [("s2m", [1.203153, 1.281843, 1.294900]), ("m2v", [1.365271, 1.266844, 1.213643])],
)
def test_fingerprint_of_three_steps(name: str, expected: list[float], tmp_path: Path) -> None:
    run(name, tmp_path, config(steps=3))
    assert [line["loss"] for line in metrics(tmp_path)] == pytest.approx(expected, rel=1e-4)


def test_one_batch_is_learned(tmp_path: Path) -> None:
    one = LatentCacheSource(clips(1), batch=8)
    settings = config(steps=150, batch=8, lr=1e-2, warmup=5, log_every=50)
    train(s2m(), S2MStage(torch.full((1,), 0.5)), one, settings, tmp_path, SilentProgress())
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


def test_accumulation_equals_a_larger_batch(tmp_path: Path) -> None:
    for batch, accumulate in ((4, 1), (2, 2)):
        settings = config(steps=3, batch=batch, accumulate=accumulate)
        data = LatentCacheSource(clips(4), batch)
        train(s2m(), WithoutNoise(), data, settings, tmp_path / str(batch), SilentProgress())
    larger, parts = metrics(tmp_path / "4"), metrics(tmp_path / "2")
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in larger] == pytest.approx([line[key] for line in parts], rel=1e-5)


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    for keep in (True, False):
        run("m2v", tmp_path / str(keep), config(steps=2, gradient_checkpointing=keep))
    stored = tensors(tmp_path / "True" / "checkpoint-2")
    assert any("running_mean" in key for key in stored)
    for key, tensor in tensors(tmp_path / "False" / "checkpoint-2").items():
        torch.testing.assert_close(tensor, stored[key])


def test_finished_run_holds_the_averaged_model(tmp_path: Path) -> None:
    settings = config(ema=0.5)
    result = run("s2m", tmp_path, settings)
    assert result.finished
    assert (result.step, result.model) == (4, tmp_path / "transformer")
    assert result.checkpoint == tmp_path / "checkpoint-4"
    told = read_json(tmp_path / "train.json")
    assert told["finished"] is True
    assert (told["stage"], told["step"], told["ema"]) == ("s2m", 4, True)
    assert told["config"] == to_dict(settings)
    weights = tmp_path / told["weights"]["file"]
    assert sha256_file(weights) == told["weights"]["sha256"]
    averaged = load_file(tmp_path / "checkpoint-4" / "ema" / WEIGHTS)
    live = load_file(tmp_path / "checkpoint-4" / "transformer" / WEIGHTS)
    loaded = load_transformer(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], averaged[name]) for name in loaded)
    assert not all(torch.equal(loaded[name], live[name]) for name in loaded)


def test_finished_run_called_again_does_no_step(tmp_path: Path) -> None:
    run("s2m", tmp_path, config())
    again = run("s2m", tmp_path, config())
    assert again.finished
    assert again.loss is None
    assert run("s2m", tmp_path, config(steps=6)).step == 6
    assert read_json(tmp_path / "train.json")["step"] == 6


def test_time_limit_leaves_an_unfinished_run_with_a_checkpoint(tmp_path: Path) -> None:
    result = run("s2m", tmp_path, config(max_seconds=1e-6))
    assert not result.finished
    assert result.step == 1
    assert result.model is None
    assert not (tmp_path / "train.json").exists()
    assert run("s2m", tmp_path, config()).finished


def test_last_checkpoints_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-1.7-ab.partial").mkdir()
    run("s2m", tmp_path, config(steps=5, checkpoint_every=1, keep=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-4",
        "checkpoint-5",
        "metrics.jsonl",
        "train.json",
        "transformer",
    ]


def test_metrics_of_steps_after_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run("s2m", tmp_path, config(), StopsAt(2, signal.SIGINT))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 7.0}\n{"step": 4, "lo')
    run("s2m", tmp_path, config())
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[2]["loss"] != 7.0
    assert {"loss", "lr", "grad_norm", "samples_per_s", "data_wait_s", "step_s", "seconds"} <= lines[0].keys()


def test_log_line_is_the_mean_since_the_last(tmp_path: Path) -> None:
    run("s2m", tmp_path / "each", config())
    run("s2m", tmp_path / "every", config(log_every=2))
    each = [line["loss"] for line in metrics(tmp_path / "each")]
    every = [line["loss"] for line in metrics(tmp_path / "every")]
    assert every == pytest.approx([(each[0] + each[1]) / 2, (each[2] + each[3]) / 2])


def test_nan_stops_with_step_and_clip_and_no_checkpoint(tmp_path: Path) -> None:
    data = clips()
    data.clean_latents[4] = math.nan
    settings = config(steps=6, log_every=3, checkpoint_every=3)
    with pytest.raises(DataError, match=r"step [123]: the loss is not finite for the clips video01/000004;"):
        train(s2m(), S2MStage(ALPHA_BAR_T), LatentCacheSource(data, 2), settings, tmp_path, SilentProgress())
    assert checkpoints(tmp_path) == []


def test_nan_names_the_rate_that_was_asked_for(tmp_path: Path) -> None:
    data = clips()
    data.clean_latents[:] = math.nan
    settings = config(steps=3, log_every=3, lr=1e8, warmup=0, schedule="cosine")
    with pytest.raises(DataError, match=r"step 1: .* start again with a lower learning rate \(now 1e\+08\)"):
        train(s2m(), S2MStage(ALPHA_BAR_T), LatentCacheSource(data, 2), settings, tmp_path, SilentProgress())


def test_interrupt_in_the_middle_of_a_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    class Interrupted(S2MTransformer3DModel):
        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
            super().save_pretrained(save_directory, *args, **kwargs)
            if "checkpoint-4" in str(save_directory):
                raise KeyboardInterrupt

    model = s2m()
    model.__class__ = Interrupted
    settings = config(checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(model, S2MStage(ALPHA_BAR_T), source(), settings, tmp_path, SilentProgress())
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-2"]
    assert run("s2m", tmp_path, settings).finished


def test_a_disk_that_fills_up_during_a_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    class Full(S2MTransformer3DModel):
        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
            super().save_pretrained(save_directory, *args, **kwargs)
            if "checkpoint-4" in str(save_directory):
                raise OSError(errno.ENOSPC, "No space left on device", str(save_directory))

    model = s2m()
    model.__class__ = Full
    settings = config(checkpoint_every=2)
    with pytest.raises(
        ResourceError, match=r"checkpoint-4: the disk is full; free some space and run it again"
    ):
        train(model, S2MStage(ALPHA_BAR_T), source(), settings, tmp_path, SilentProgress())
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-2"]
    assert run("s2m", tmp_path, settings).finished


@pytest.mark.parametrize("damage", ["state.json", "optimizer.safetensors", f"transformer/{WEIGHTS}"])
def test_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    run("s2m", tmp_path, config(steps=2))
    file = tmp_path / "checkpoint-2" / damage
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(WeightsError, match="checkpoint-2"):
        run("s2m", tmp_path, config())


def test_resume_from_a_path_and_never(tmp_path: Path) -> None:
    run("s2m", tmp_path / "first", config(checkpoint_every=2))
    start = str(tmp_path / "first" / "checkpoint-2")
    run("s2m", tmp_path / "second", config(resume=start))
    ends = [tensors(tmp_path / part / "checkpoint-4") for part in ("first", "second")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    with pytest.raises(UsageError, match="holds checkpoint-4, which is later than"):
        run("s2m", tmp_path / "first", config(resume=start))
    with pytest.raises(UsageError, match="holds checkpoints of an earlier run"):
        run("s2m", tmp_path / "first", config(resume="never"))
    with pytest.raises(WeightsError, match="is no checkpoint to resume from"):
        run("s2m", tmp_path / "third", config(resume=str(tmp_path / "nothing")))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    run("s2m", tmp_path, config(steps=1))
    with pytest.raises(WeightsError, match="checkpoint of s2m, not of m2v"):
        run("m2v", tmp_path, config())
    with pytest.raises(WeightsError, match="holds the state of the optimizer adamw, but this run has muon"):
        run("s2m", tmp_path, config(optimizer="muon"))
    with pytest.raises(WeightsError, match="no averaged weights"):
        run("s2m", tmp_path, config(ema=0.9))
    with pytest.raises(WeightsError, match="model of the other stage"):
        train(m2v(), S2MStage(ALPHA_BAR_T), source(), config(), tmp_path / "a", SilentProgress())
    with pytest.raises(UsageError, match="fp16 trains on a GPU only"):
        run("s2m", tmp_path / "a", config(precision="fp16"))
    with pytest.raises(DataError, match="6 clips and there are 5 now"):
        train(
            s2m(),
            S2MStage(ALPHA_BAR_T),
            LatentCacheSource(clips(5), 2),
            config(),
            tmp_path,
            SilentProgress(),
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="it is a file"):
        run("s2m", tmp_path / "file", config())


def test_another_model_is_refused_by_name_of_tensor(tmp_path: Path) -> None:
    run("m2v", tmp_path, config(steps=1))
    model = m2v()
    model.proj_out = torch.nn.Linear(32, 4)
    with pytest.raises(WeightsError, match=r"another model than this run trains: .*proj_out"):
        train(model, M2VStage(ALPHA_BAR_T, hierarchical=True), source(), config(), tmp_path, SilentProgress())


def test_bf16_then_fp32_in_one_process_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = s2m()
    for precision in ("bf16", "fp32"):
        settings = config(steps=1, precision=precision)
        train(model, S2MStage(ALPHA_BAR_T), source(), settings, tmp_path / precision, SilentProgress())
    losses = [metrics(tmp_path / precision)[0]["loss"] for precision in ("bf16", "fp32")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert "forward" not in vars(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_learning_rate_by_hand() -> None:
    settings = config(steps=12, lr=1.0, warmup=4, schedule="cosine")
    assert [learning_rate(step, settings) for step in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert learning_rate(8, settings) == pytest.approx(0.5)
    assert learning_rate(12, settings) == pytest.approx(0.0)
    assert learning_rate(1, config(warmup=0, lr=0.3)) == 0.3
    assert learning_rate(9999, config(steps=9999, warmup=500, lr=0.3)) == 0.3
