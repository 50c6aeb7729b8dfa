"""Model folders: what was saved comes back, public layouts load, and what is wrong is named."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from models.tiny_models import MAP_WIDTHS, m2v_inputs, s2m_inputs, tiny_m2v, tiny_s2m, tiny_vae

from hierasurg_core.errors import WeightsError
from hierasurg_core.models import (
    CogVideoXDPMScheduler,
    M2VTransformer3DModel,
    S2MTransformer3DModel,
    encode_frames,
    load_scheduler,
    load_transformer,
    load_vae,
)
from hierasurg_core.models.encoder import identify_vae
from hierasurg_core.models.loading import expect_finite

WEIGHTS = "diffusion_pytorch_model.safetensors"
PUBLIC = "CogVideoXTransformer3DModel_"


def rewrite_config(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def rewrite_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    safetensors.torch.save_file(change(safetensors.torch.load_file(folder / WEIGHTS)), folder / WEIGHTS)


def as_public(folder: Path, name: str, **lies: Any) -> None:
    """Leave only what a CogVideoX config knows, under a public class name."""
    known = ("num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "time_embed_dim")
    known += ("num_layers", "sample_width", "sample_height", "sample_frames", "patch_size")
    extra = {"_class_name": PUBLIC + name, "max_text_seq_length": 226, "text_embed_dim": 4096}
    extra |= {"use_rotary_positional_embeddings": False, "patch_size_t": None}
    rewrite_config(folder, lambda config: {key: config[key] for key in known} | extra | lies)


def same_output(one: torch.nn.Module, other: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> bool:
    with torch.no_grad():
        return torch.equal(one(**inputs), other(**inputs))


@pytest.mark.parametrize("hierarchical", [False, True])
def test_m2v_comes_back_the_same(tmp_path: Path, hierarchical: bool):
    model = tiny_m2v(hierarchical=hierarchical, use_segmap_posenc=True)
    model.save_pretrained(tmp_path)
    again = load_transformer(tmp_path)
    assert isinstance(again, M2VTransformer3DModel)
    assert not again.training
    assert same_output(model, again, m2v_inputs())
    assert again.config["map_widths"] == list(MAP_WIDTHS)
    assert all(again.config[key] == model.config[key] for key in again.config if key != "map_widths")


def test_from_pretrained_works_too(tmp_path: Path):
    model = tiny_m2v()
    model.save_pretrained(tmp_path)
    again = M2VTransformer3DModel.from_pretrained(tmp_path)
    assert isinstance(again, M2VTransformer3DModel)
    with torch.no_grad():
        torch.testing.assert_close(again(**m2v_inputs()), model(**m2v_inputs()))


@pytest.mark.parametrize("text_cond", ["labels", "vectors"])
def test_s2m_comes_back_the_same(tmp_path: Path, text_cond: str):
    model = tiny_s2m(text_cond=text_cond, text_vector_dim=6)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    inputs = s2m_inputs()
    if text_cond == "vectors":
        inputs |= {"phase_BF": torch.ones(1, 4, 6), "triplet_BF": torch.ones(1, 4, 6)}
    again = load_transformer(str(tmp_path))
    assert isinstance(again, S2MTransformer3DModel)
    assert same_output(model, again, inputs)


def test_a_loaded_model_can_be_trained(tmp_path: Path):
    tiny_m2v().save_pretrained(tmp_path)
    model = load_transformer(tmp_path)
    assert not model.training
    model.train(True)
    model(**m2v_inputs()).square().mean().backward()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("where", ["transformer", "checkpoint-20", "checkpoint-20/transformer"])
def test_transformer_is_found_in_runs(tmp_path: Path, where: str):
    tiny_m2v().save_pretrained(tmp_path / where)
    if "checkpoint" in where:
        tiny_s2m().save_pretrained(tmp_path / "checkpoint-9")
        (tmp_path / "checkpoint-100").mkdir()
    assert isinstance(load_transformer(tmp_path), M2VTransformer3DModel)


def test_half_on_disk_stays_half_unless_asked(tmp_path: Path):
    model = tiny_m2v()
    model.half()
    model.save_pretrained(tmp_path)
    kept, wide = load_transformer(tmp_path), load_transformer(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in kept.parameters()} == {torch.float16}
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert wide.state_dict()["segmap_resblocks.0.bn1.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("name", ["SegCond_I2V", "SegPred_I2V", "SegCond_Hierarchical_I2V"])
def test_public_layout_loads(tmp_path: Path, name: str):
    """Widths are the tensors' own: the config says text 4096 and, if hierarchical, time as wide as all."""
    inputs = s2m_inputs() if "Pred" in name else m2v_inputs()
    model = tiny_s2m() if "Pred" in name else tiny_m2v(hierarchical="Hier" in name)
    model.save_pretrained(tmp_path / "transformer")
    as_public(tmp_path / "transformer", name, **({"time_embed_dim": 48} if "Hier" in name else {}))
    again = load_transformer(tmp_path)
    assert again.config["time_embed_dim"] == 24
    assert same_output(model, again, inputs)


def test_public_layout_with_text_vectors_loads(tmp_path: Path):
    model = tiny_s2m(text_cond="vectors", text_vector_dim=6)
    model.save_pretrained(tmp_path)
    as_public(tmp_path, "SegPred_I2V", text_cond="SurgVLP")
    inputs = s2m_inputs() | {"phase_BF": torch.ones(1, 4, 6), "triplet_BF": torch.ones(1, 4, 6)}
    assert same_output(model, load_transformer(tmp_path), inputs)


def test_text_vector_projection_loads_from_any_place_but_only_one(tmp_path: Path):
    model = tiny_s2m(text_cond="vectors", text_vector_dim=6)
    model.save_pretrained(tmp_path)
    as_public(tmp_path, "SegPred_I2V", text_cond="SurgVLP")
    rewrite_weights(tmp_path, lambda old: {k.replace("_emb.0.", "_emb.linear."): v for k, v in old.items()})
    inputs = s2m_inputs() | {"phase_BF": torch.ones(1, 4, 6), "triplet_BF": torch.ones(1, 4, 6)}
    assert same_output(model, load_transformer(tmp_path), inputs)
    rewrite_weights(tmp_path, lambda old: old | {"phase_emb.second.bias": torch.zeros(20)})
    with pytest.raises(WeightsError, match=r"there is another one for phase_emb\.0\.bias"):
        load_transformer(tmp_path)


def test_a_table_saved_as_a_bare_parameter_loads(tmp_path: Path):
    model = tiny_m2v(hierarchical=True)
    model.save_pretrained(tmp_path)
    as_public(tmp_path, "SegCond_Hierarchical_I2V", time_embed_dim=48)
    rewrite_weights(tmp_path, lambda old: {k.replace("table.weight", "table"): v for k, v in old.items()})
    assert same_output(model, load_transformer(tmp_path), m2v_inputs())


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.bin", "pytorch_model.bin"])
def test_pickled_weights_load_without_executing_anything(tmp_path: Path, file: str):
    model = tiny_s2m()
    model.save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(wrapped | {"module.patch_embed.pos_embedding": torch.zeros(1, 2, 32)}, tmp_path / file)
    assert same_output(model, load_transformer(tmp_path), s2m_inputs())


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_s2m().save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    torch.save({"x": Harmful()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin can't be read"):
        load_transformer(tmp_path)
    assert capsys.readouterr().out == ""


def test_wrong_shape_names_tensor_and_both_shapes(tmp_path: Path):
    tiny_m2v().save_pretrained(tmp_path)
    rewrite_weights(tmp_path, lambda tensors: tensors | {"proj_out.bias": torch.zeros(65)})
    with pytest.raises(WeightsError, match=r"tensor proj_out\.bias has shape \(65,\), expected \(64,\)"):
        load_transformer(tmp_path)


def test_missing_and_extra_tensors_are_named(tmp_path: Path):
    tiny_m2v().save_pretrained(tmp_path)
    whole = safetensors.torch.load_file(tmp_path / WEIGHTS)
    rewrite_weights(tmp_path, lambda _: {k: v for k, v in whole.items() if k != "norm_final.bias"})
    with pytest.raises(WeightsError, match=r"tensor norm_final\.bias of shape \(32,\) is missing"):
        load_transformer(tmp_path)
    rewrite_weights(tmp_path, lambda _: whole | {"lora.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"tensor lora\.weight of shape \(3,\) has no place"):
        load_transformer(tmp_path)


def test_public_weights_of_another_depth_are_refused(tmp_path: Path):
    tiny_m2v().save_pretrained(tmp_path)
    as_public(tmp_path, "SegCond_I2V", num_layers=1)
    with pytest.raises(WeightsError, match=r"tensor transformer_blocks\.1\..* has no place"):
        load_transformer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "CogVideoXTransformer3DModel"}, "is no S2M or M2V transformer"),
        ({"_class_name": None}, "is no S2M or M2V transformer"),
        ({"num_layers": "two"}, "describes no M2VTransformer3DModel"),
        ({"map_widths": []}, "describes no M2VTransformer3DModel"),
        ({"_class_name": PUBLIC + "SegCond_I2V", "use_rotary_positional_embeddings": True}, "2B's layout"),
    ],
)
def test_configs_that_fit_nothing_are_refused(tmp_path: Path, change: dict[str, Any], message: str):
    tiny_m2v().save_pretrained(tmp_path)
    rewrite_config(tmp_path, lambda config: config | change)
    with pytest.raises(WeightsError, match=message):
        load_transformer(tmp_path)


def test_folders_that_lack_something_are_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match="is no folder"):
        load_transformer(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="holds no transformer"):
        load_transformer(tmp_path)
    tiny_s2m().save_pretrained(tmp_path / "s2m")
    with pytest.raises(WeightsError, match=r"is a whole pipeline: name one transformer of it, as .*s2m"):
        load_transformer(tmp_path)
    (tmp_path / "s2m" / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match="holds no weights"):
        load_transformer(tmp_path / "s2m")


def test_damaged_files_are_refused(tmp_path: Path):
    tiny_s2m().save_pretrained(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="may be damaged"):
        load_transformer(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json is no JSON: line 1"):
        load_transformer(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path):
    tiny_s2m().save_pretrained(tmp_path, max_shard_size="40KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(WeightsError, match=f"lacks the shard {shard.name}"):
        load_transformer(tmp_path)


def test_vae_comes_back_the_same(tmp_path: Path):
    vae = tiny_vae(scaling_factor=0.7)
    vae.save_pretrained(tmp_path / "vae")
    again = load_vae(tmp_path, dtype=torch.float32)
    frames = torch.rand(1, 2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(encode_frames(again, frames), encode_frames(vae, frames))
    assert again.config["scaling_factor"] == 0.7
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert load_vae(tmp_path / "vae", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_vae_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match="lacks its vae"):
        load_vae(tmp_path)
    tiny_s2m().save_pretrained(tmp_path / "vae")
    with pytest.raises(WeightsError, match="expected AutoencoderKLCogVideoX"):
        load_vae(tmp_path)


def test_scheduler_of_either_class_name_becomes_the_dpm_one(tmp_path: Path):
    CogVideoXDPMScheduler(prediction_type="v_prediction", snr_shift_scale=1.0).save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text(path.read_text().replace("DPMScheduler", "DDIMScheduler"))
    scheduler = load_scheduler(tmp_path)
    assert isinstance(scheduler, CogVideoXDPMScheduler)
    assert scheduler.config["snr_shift_scale"] == 1.0


def test_schedulers_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match="lacks its scheduler"):
        load_scheduler(tmp_path)
    CogVideoXDPMScheduler(prediction_type="epsilon").save_pretrained(tmp_path / "scheduler")
    with pytest.raises(WeightsError, match="predict velocity"):
        load_scheduler(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("num_layers", 1_000_000, "a whole number from 1 to 512"),
        ("num_layers", 0, "a whole number from 1 to 512"),
        ("num_layers", True, "a whole number from 1 to 512"),
        ("num_layers", "two", "a whole number from 1 to 512"),
        ("num_layers", [1] * 10**6, "a whole number from 1 to 512"),
        ("sample_height", -16, "a whole number from 1 to 16384"),
        ("sample_height", 10**18, "a whole number from 1 to 16384"),
        ("num_triplets", 10**9, "a whole number from 1 to 10000"),
        ("spatial_interpolation_scale", 0, "a number from 0.001 to 1000"),
        ("map_widths", [], "1 to 16 whole numbers from 1 to 8192"),
        ("map_widths", [16, -1], "1 to 16 whole numbers from 1 to 8192"),
        ("map_widths", 16, "1 to 16 whole numbers from 1 to 8192"),
    ],
    ids=lambda value: "",
)
def test_a_number_that_no_model_has_is_refused_before_anything_is_built(
    tmp_path: Path, key: str, value: Any, wanted: str
):
    tiny_m2v().save_pretrained(tmp_path)
    rewrite_config(tmp_path, lambda config: config | {key: value})
    with pytest.raises(WeightsError) as caught:
        load_transformer(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'config.json'} describes no M2VTransformer3DModel: {key} is ")
    assert message.endswith(f", not {wanted}")
    assert len(message) < len(str(tmp_path)) + 250


@pytest.mark.parametrize(
    ("key", "value"),
    [("scaling_factor", "x"), ("scaling_factor", -1), ("layers_per_block", 10**6), ("sample_width", 2.5)],
)
def test_a_vae_with_a_number_that_none_has_is_refused(tmp_path: Path, key: str, value: Any):
    tiny_vae().save_pretrained(tmp_path)
    rewrite_config(tmp_path, lambda config: config | {key: value})
    with pytest.raises(WeightsError, match=f"describes no AutoencoderKLCogVideoX: {key} is {value!r}, not"):
        load_vae(tmp_path)
    with pytest.raises(WeightsError, match=f"describes no AutoencoderKLCogVideoX: {key} is {value!r}, not"):
        identify_vae(tmp_path, "mine")


def test_a_scheduler_with_a_number_that_none_has_is_refused(tmp_path: Path):
    CogVideoXDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 10**9}))
    with pytest.raises(WeightsError, match="num_train_timesteps is 1000000000, not a whole number from 1 to"):
        load_scheduler(tmp_path)


def test_null_in_a_config_is_the_default(tmp_path: Path):
    tiny_s2m().save_pretrained(tmp_path)
    rewrite_config(tmp_path, lambda config: config | {"distilled_steps": None})
    assert load_transformer(tmp_path).config["distilled_steps"] is None


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": 1, "a": 2}', '{"num_layers": NaN}', "9" * 5000, "[]", ""], ids=lambda _: ""
)
def test_a_hostile_config_is_one_line(tmp_path: Path, text: str):
    tiny_vae().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json (is|must)") as caught:
        load_vae(tmp_path)
    assert "\n" not in str(caught.value)


def test_whole_numbers_in_the_place_of_weights_are_named(tmp_path: Path):
    tiny_vae().save_pretrained(tmp_path)
    name = "decoder.conv_in.conv.bias"
    rewrite_weights(tmp_path, lambda tensors: tensors | {name: tensors[name].long()})
    said = rf"tensor {re.escape(name)} holds int64, expected floating-point numbers"
    with pytest.raises(WeightsError, match=said):
        load_vae(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_name_file_and_tensor(tmp_path: Path, value: float):
    tiny_vae().save_pretrained(tmp_path)
    name = "decoder.conv_in.conv.bias"

    def damaged(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[name][1] = value
        return tensors

    rewrite_weights(tmp_path, damaged)
    said = rf"{re.escape(str(tmp_path / WEIGHTS))}: tensor {re.escape(name)} holds NaN or infinity in 1 of "
    with pytest.raises(WeightsError, match=said):
        load_vae(tmp_path)


def test_large_halves_are_finite(tmp_path: Path):
    tensors = {"a": torch.full((4,), 60000, dtype=torch.float16), "b": torch.ones(2, dtype=torch.float8_e5m2)}
    expect_finite(tensors, tmp_path)
    with pytest.raises(WeightsError, match="tensor b holds NaN or infinity in 2 of 2"):
        expect_finite({"b": torch.full((2,), float("inf")).to(torch.float8_e5m2)}, tmp_path)
