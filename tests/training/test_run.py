import dataclasses
import filecmp
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import m2v_config, s2m_config, train, write_base, write_dataset

from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig, load_config
from hierasurg_core.config.sampling import StageSampling
from hierasurg_core.errors import DataError, HieraSurgError, UsageError, WeightsError
from hierasurg_core.models import load_transformer
from hierasurg_core.models.defaults import read_sampling, write_sampling
from hierasurg_core.models.export import write_public
from hierasurg_core.models.trained import trained_steps
from hierasurg_core.taxonomy import PHASES, TRIPLETS
from hierasurg_core.training.plan import plan_training
from hierasurg_core.video import read_video

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and a data set; runs of different tests have different names."""
    folder = tmp_path_factory.mktemp("runs")
    write_dataset(folder)
    return folder


def test_s2m_run_leaves_what_others_take(root: Path) -> None:
    result = train(s2m_config(root, "whole", ema=0.9, condition_dropout=0.5))
    out = root / "runs" / "whole"
    assert result.to_dict()["finished"] is True
    assert {path.name for path in out.iterdir()} >= {
        *("checkpoint-2", "transformer", "vae", "scheduler", "train.json", "train-s2m.yaml"),
        *("start.tsv", "data.json", "metrics.jsonl"),
    }
    model = load_transformer(out)
    assert model.config["sample_seconds"] == 16
    assert model.config["sample_frames"] == 17
    again = load_config(TrainS2MConfig, "train-s2m", files=[out / "train-s2m.yaml"], overrides={}, sets=[])
    assert (again.steps, again.ema, again.memory) == (2, 0.9, "keep")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        parts = line["data_wait_s"] + line["compute_s"] + line["communication_s"]
        assert parts == pytest.approx(line["step_s"], rel=1e-6)
        assert line["tokens_per_s"] == pytest.approx(line["samples_per_s"] * (16 * 2 * 3 + 2))
    fates = [line.split("\t")[3] for line in (out / "start.tsv").read_text().splitlines()[1:]]
    assert set(fates) == {"copied", "widened", "new", "unused"}


def test_s2m_learns_what_is_said_of_each_second(root: Path) -> None:
    train(s2m_config(root, "framed", frame_labels=True, lr=1e-2))
    model = load_transformer(root / "runs" / "framed")
    assert model.config["frame_labels"] is True
    assert model.get_parameter("label_proj.weight").any()
    assert "label_proj.weight\t" in (root / "runs" / "framed" / "start.tsv").read_text()
    base = str(root / "runs" / "framed")
    train(s2m_config(root, "framed-on", base=base, steps=1))
    assert load_transformer(root / "runs" / "framed-on").config["frame_labels"] is True


def test_maps_start_from_the_unconditional_run_and_say_so(root: Path) -> None:
    first = train(m2v_config(root, "two-unconditional", stage="unconditional"))
    assert first.stage == "m2v-unconditional"
    before = load_transformer(root / "runs" / "two-unconditional").state_dict()
    second = train(m2v_config(root, "two", steps=1, base=None))
    assert any("starting from the unconditional run" in note for note in second.notes)
    table = (root / "runs" / "two" / "start.tsv").read_text()
    assert "\tnew\n" not in table
    after = load_transformer(root / "runs" / "two").state_dict()
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert before[name].shape == after[name].shape
    with pytest.raises(WeightsError, match="checkpoint of m2v-unconditional, not of m2v"):
        resume = str(root / "runs" / "two-unconditional" / "checkpoint-2")
        train(m2v_config(root, "other-stage", resume=resume, steps=3))


def test_an_export_samples_each_stage_as_its_own_run_says(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    train(s2m_config(tmp_path, "s2m", steps=1))
    train(m2v_config(tmp_path, "before", steps=1))
    of_s2m, of_m2v = StageSampling(7, 2.0, "ddim"), StageSampling(9, 1.0, "sde-dpm++")
    other = StageSampling(3)
    write_sampling({"s2m": of_s2m, "m2v": other}, tmp_path / "runs" / "s2m")
    write_sampling({"s2m": other, "m2v": of_m2v}, tmp_path / "runs" / "before")
    base, target = tmp_path / "runs" / "before", tmp_path / "pipeline"
    train(m2v_config(tmp_path, "m2v", base=str(base), steps=1, export=str(target)))
    assert read_sampling(target) == {"s2m": of_s2m, "m2v": of_m2v}
    assert [trained_steps(target / part) for part in ("s2m", "m2v")] == [1, 1]
    assert read_sampling(tmp_path / "runs" / "m2v") == {"s2m": other, "m2v": of_m2v}


def test_unconditional_stage_trains_the_base_and_not_the_map_encoder(root: Path) -> None:
    train(m2v_config(root, "alone-unconditional", stage="unconditional", steps=1))
    optimizer = load_file(root / "runs" / "alone-unconditional" / "checkpoint-1" / "optimizer.safetensors")
    assert any("transformer_blocks" in name for name in optimizer)
    assert not any("segmap" in name for name in optimizer)


def test_s2m_on_ids_starts_from_the_blocks_of_its_base_and_trains_on(root: Path, tmp_path: Path) -> None:
    result = train(s2m_config(root, "ids", maps="ids", previews=1))
    assert result.trained.finished
    out = root / "runs" / "ids"
    rows = [line.split("\t") for line in (out / "start.tsv").read_text().splitlines()[1:]]
    fates = {name: fate for name, shape, _, fate in rows if shape != "-"}
    assert fates["transformer_blocks.0.attn1.to_q.weight"] == "copied"
    assert fates["transformer_blocks.0.norm1.linear.weight"] == "widened"
    assert {
        name for name, fate in fates.items() if fate == "new" and name.startswith(("patch", "proj", "photo"))
    } == {
        *("patch_embed.proj.weight", "patch_embed.text_proj.weight", "proj_out.weight", "proj_out.bias"),
        *("photo_embed.weight", "photo_embed.bias"),
    }
    model = load_transformer(out)
    assert (model.config["maps"], model.config["out_channels"], model.config["photo_channels"]) == (
        "ids",
        20,
        4,
    )
    assert model.config["frame_labels"] is True
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["tokens_per_s"] == pytest.approx(lines[0]["samples_per_s"] * (16 * 2 * 3 + 2))
    # A run that starts from it stays on ids, in as many parts as one likes, to the bit.
    whole = train(s2m_config(root, "ids-whole", base=str(out), steps=4, checkpoint_every=2))
    train(s2m_config(root, "ids-parts", base=str(out), steps=2))
    parts = train(s2m_config(root, "ids-parts", base=str(out), steps=4))
    assert whole.trained.model is not None
    assert parts.trained.model is not None
    assert load_transformer(whole.trained.model).config["maps"] == "ids"
    name = "diffusion_pytorch_model.safetensors"
    assert filecmp.cmp(whole.trained.model / name, parts.trained.model / name, shallow=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"maps": "ids", "distill": "mini"}, "distill needs maps colours"),
        ({"maps": "ids", "export": "public"}, "export public needs maps colours"),
        ({"maps": "pictures"}, "maps"),
    ],
)
def test_what_a_model_on_ids_cannot_be_is_refused(root: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        s2m_config(root, "refused", **changes)


def test_a_model_on_ids_is_no_teacher_and_has_no_public_form(root: Path) -> None:
    train(s2m_config(root, "ids-teacher", maps="ids", steps=1))
    teacher = root / "runs" / "ids-teacher"
    with pytest.raises(UsageError, match="samples in 4 to 8 steps as it is: leave out --distill"):
        train(s2m_config(root, "ids-student", distill=str(teacher)))
    with pytest.raises(UsageError, match="the public code takes no maps as ids"):
        write_public(load_transformer(teacher), root / "public")


@pytest.mark.parametrize("kind", ["s2m", "s2m-ids", "m2v"])
def test_previews_change_nothing(root: Path, kind: str) -> None:
    stage = kind.removesuffix("-ids")
    make = s2m_config if stage == "s2m" else m2v_config
    changes: dict[str, Any] = {"ema": 0.9} if stage == "m2v" else {}
    changes |= {"maps": "ids"} if kind == "s2m-ids" else {}
    for every in (0, 1):
        train(make(root, f"{kind}-previews-{every}", preview_every=every, preview_steps=2, **changes))
    runs = [root / "runs" / f"{kind}-previews-{every}" / "transformer" for every in (0, 1)]
    plain, shown = (load_transformer(run).state_dict() for run in runs)
    assert all(torch.equal(plain[name], shown[name]) for name in plain)
    folders = sorted((root / "runs" / f"{kind}-previews-1" / "previews").iterdir())
    assert [folder.name for folder in folders] == ["0000001", "0000002"]
    frames, fps = read_video(next(folders[0].glob("*.mp4")))
    assert frames.shape == (16, 32, 48, 3)
    assert fps == 1


def test_dry_run_needs_no_weights_and_counts(root: Path) -> None:
    config = s2m_config(root, "dry", base="THUDM/CogVideoX-2b", batch=2, accumulate=2, epochs=3.0)
    told = plan_published(config, root)
    assert told["parameters"] == 2_047_078_720
    assert told["clips"] == 3
    assert told["steps_an_epoch"] == pytest.approx(3 / 8)
    assert told["steps"] == 2
    assert told["memory_estimate"]["total"] > 16 * told["parameters"]
    assert not (root / "runs" / "dry").exists()


def plan_published(config: TrainS2MConfig, root: Path) -> dict[str, Any]:
    return plan_training(config, "s2m", CPU, 2, dry=True).to_dict()


def test_text_vectors_take_the_place_of_labels(root: Path, tmp_path: Path) -> None:
    names = [*PHASES, *(triplet.name for triplet in TRIPLETS)]
    generator = torch.Generator().manual_seed(0)
    vectors = {name: torch.randn(6, generator=generator) for name in names}
    file = tmp_path / "vectors.safetensors"
    save_file(vectors, file)
    train(s2m_config(root, "vectors", text_condition="vectors", text_vectors=file))
    own = root / "runs" / "vectors" / "text_vectors.safetensors"
    assert filecmp.cmp(own, file, shallow=False)
    model = load_transformer(root / "runs" / "vectors")
    assert (model.config["text_cond"], model.config["text_vector_dim"]) == ("vectors", 6)
    save_file({name: -vector for name, vector in vectors.items()}, file)
    with pytest.raises(UsageError, match=f"begun with other text vectors than .*--text-vectors {own}"):
        train(s2m_config(root, "vectors", text_condition="vectors", text_vectors=file, steps=3))
    train(s2m_config(root, "vectors", text_condition="vectors", text_vectors=own, steps=3))
    del vectors[PHASES[0]]
    save_file(vectors, file)
    with pytest.raises(DataError, match=f"lacks vectors of 1 classes, as '{PHASES[0]}'"):
        train(s2m_config(root, "vectors-2", text_condition="vectors", text_vectors=file))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"fps": 8}, DataError, "has 1 fps, not the 8 asked for"),
        ({"dataset": Path("nowhere")}, DataError, "nowhere is no data set"),
        ({"base": "nowhere"}, WeightsError, "there is no model folder nowhere"),
        ({"object_dropout": 0.5}, DataError, "were made with object dropout 0"),
        ({"report_to": "wandb"}, UsageError, "needs wandb, which is not installed"),
        ({"optimizer": "adamw8bit"}, UsageError, "needs an NVIDIA GPU"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    root: Path, changes: dict[str, Any], error: type[HieraSurgError], said: str
) -> None:
    with pytest.raises(error, match=said):
        train(s2m_config(root, "refused", **changes))
    assert not (root / "runs" / "refused").exists()


def test_other_vae_other_base_and_too_many_ranks(root: Path, tmp_path: Path) -> None:
    other = write_base(tmp_path / "other")
    config_file = other / "vae" / "config.json"
    config_file.write_text(config_file.read_text().replace("0.7", "0.8"))
    with pytest.raises(DataError, match=r"made with the VAE of .*, not that of"):
        train(s2m_config(root, "refused", base=str(other)))
    with pytest.raises(DataError, match=r"has 3 clips that s2m can learn from, fewer than the 4 processes"):
        plan_training(s2m_config(root, "refused"), "s2m", CPU, 4)
    rotary = write_base(tmp_path / "5b", use_rotary_positional_embeddings=True)
    with pytest.raises(WeightsError, match="use_rotary_positional_embeddings is True"):
        train(s2m_config(root, "refused", base=str(rotary)))
    train(m2v_config(root, "as-base", steps=1))
    with pytest.raises(WeightsError, match="which no S2MTransformer3DModel can start from"):
        train(s2m_config(root, "refused", base=str(root / "runs" / "as-base")))
    assert not (root / "runs" / "refused").exists()


def test_without_labels_s2m_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, labels=None)
    with pytest.raises(DataError, match="has no phases and triplets, which s2m learns from"):
        train(s2m_config(tmp_path))
    assert train(m2v_config(tmp_path, steps=1)).trained.finished


def test_clips_encoded_on_the_fly_train_with_the_runs_own_object_dropout(tmp_path: Path) -> None:
    write_dataset(tmp_path, on_the_fly=True)
    result = train(m2v_config(tmp_path, steps=1, object_dropout=0.5))
    assert result.trained.finished


def test_settings_that_exclude_each_other() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"lora_alpha": 3.0}, "lora_alpha needs lora_rank"),
        ({"text_condition": "vectors"}, "go together"),
        ({"offload": True, "optimizer": "adamw8bit"}, "exclude each other"),
        ({"stage": "unconditional", "export": "x"}, "export needs stage maps"),
        ({"stage": "unconditional", "lora_rank": 4}, "trains all weights"),
        ({"epochs": 0.0}, "epochs must be more than 0"),
    )
    for changes, said in cases:
        with pytest.raises(UsageError, match=said):
            TrainM2VConfig(**changes)
    assert dataclasses.replace(TrainM2VConfig(), steps=3).steps == 3
