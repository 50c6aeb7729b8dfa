from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file
from tiny_runs import base_transformer
from torch import Tensor

from hierasurg_core.errors import WeightsError
from hierasurg_core.models import CogVideoXStack, M2VTransformer3DModel, S2MTransformer3DModel
from hierasurg_core.models.warmstart import WarmStart, start_from, starting_arguments

MAPS: dict[str, Any] = {"map_widths": (4, 8)}
SMALL: dict[str, Any] = {"condition_embed_dim": 8, "condense_dim": 4}


def base(folder: Path, **changes: Any) -> tuple[CogVideoXTransformer3DModel, Path]:
    torch.manual_seed(3)
    model = base_transformer(**changes).eval()
    model.save_pretrained(folder)
    return model, folder


def started(
    part: Path, cls: type[CogVideoXStack], seed: int = 0, **changes: Any
) -> tuple[CogVideoXStack, WarmStart]:
    return start_from(part, cls, starting_arguments(part, cls, changes), seed)


def as_the_base(model: CogVideoXTransformer3DModel, latents_BFCHW: Tensor, time: int) -> Tensor:
    """The base's own parts, given the tokens that S2M gives to its blocks: one zero token of text."""
    batch, frames, channels, height, width = latents_BFCHW.shape
    inner = model.config["num_attention_heads"] * model.config["attention_head_dim"]
    embed = model.patch_embed
    image = embed.proj(latents_BFCHW.flatten(0, 1)).flatten(2).transpose(1, 2)
    image = image.unflatten(0, (batch, frames)).flatten(1, 2)
    position = embed._get_positional_embeddings(height, width, 4 * (frames - 1) + 1)
    image = image + position[:, embed.max_text_seq_length :].to(image)
    one = embed.text_proj(torch.zeros(batch, 1, embed.text_proj.in_features))
    tokens, stream = torch.cat([one, image], dim=1), torch.zeros(batch, 1, inner)
    vector = model.time_embedding(model.time_proj(torch.full((batch,), time)))
    for block in model.transformer_blocks:
        tokens, stream = block(tokens, stream, vector)
    patches = model.proj_out(model.norm_out(model.norm_final(tokens)[:, 1:], temb=vector))
    rows, columns = height // 2, width // 2
    patches = patches.reshape(batch, frames, rows, columns, channels, 2, 2)
    return patches.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)


@torch.no_grad()
def test_s2m_is_its_base_at_step_0_whatever_its_conditions(tmp_path: Path) -> None:
    model, part = base(tmp_path)
    s2m, plan = started(part, S2MTransformer3DModel, **SMALL)
    draw = torch.Generator().manual_seed(1)
    noisy = torch.randn(1, 2, 4, 4, 6, generator=draw)
    conditions = torch.randn(1, 2, 8, 4, 6, generator=draw)
    wanted = as_the_base(model, noisy, 300)
    for phase, triplet in ((0, 17), (6, 94)):
        labels = (torch.full((1, 5), phase), torch.full((1, 5), triplet))
        given = s2m(torch.cat([noisy, conditions], dim=2), torch.tensor([300]), *labels)
        torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    assert {plan.named("widened")[0], plan.named("widened")[-1]} == {
        "patch_embed.proj.weight",
        "norm_out.linear.weight",
    }
    assert len(plan.named("widened")) == 2 + 2 * 2
    assert len(plan.tensors) == len(s2m.state_dict())
    assert plan.unused == ("patch_embed.text_proj.weight",)
    assert plan.table().count("\n") == 1 + len(plan.tensors) + 1


@torch.no_grad()
def test_m2v_ignores_its_first_frame_at_step_0_and_keeps_the_base(tmp_path: Path) -> None:
    model, part = base(tmp_path)
    m2v, plan = started(part, M2VTransformer3DModel, **MAPS)
    draw = torch.Generator().manual_seed(1)
    noisy, photo = (torch.randn(1, 2, 4, 4, 6, generator=draw) for _ in range(2))
    nothing = torch.zeros(1, 1, 32)
    given = m2v(torch.cat([noisy, photo], dim=2), torch.tensor([300]), map_tokens_BND=nothing)
    torch.testing.assert_close(given, as_the_base(model, noisy, 300), rtol=1e-5, atol=1e-5)
    assert plan.named("widened") == ("patch_embed.proj.weight",)
    assert all(
        name.split(".")[0] in ("encoder_segmap", "segmap_resblocks", "patch_embed")
        for name in plan.named("new")
    )


@torch.no_grad()
def test_hierarchical_m2v_starts_from_plain_m2v(tmp_path: Path) -> None:
    _, part = base(tmp_path / "base")
    plain, _ = started(part, M2VTransformer3DModel, **MAPS)
    plain.save_pretrained(tmp_path / "m2v")
    model, plan = started(tmp_path / "m2v", M2VTransformer3DModel, hierarchical=True, **SMALL)
    latents, maps = torch.randn(1, 2, 8, 4, 6), torch.rand(1, 3, 32, 48)
    labels = torch.full((1, 3), 2)
    given = model(latents, torch.tensor([5]), labels, labels, maps)
    torch.testing.assert_close(given, plain(latents, torch.tensor([5]), maps_BFHW=maps), rtol=1e-5, atol=1e-5)
    assert all(name.startswith(("phase_", "triplet_")) for name in plan.named("new"))
    with pytest.raises(WeightsError, match=r"is no base for this model"):
        model.save_pretrained(tmp_path / "hierarchical")
        started(tmp_path / "hierarchical", M2VTransformer3DModel, hierarchical=False)


@torch.no_grad()
def test_an_s2m_gets_frame_labels_and_says_what_it_said(tmp_path: Path) -> None:
    _, part = base(tmp_path / "base")
    plain, _ = started(part, S2MTransformer3DModel, **SMALL)
    plain.save_pretrained(tmp_path / "s2m")
    model, plan = started(tmp_path / "s2m", S2MTransformer3DModel, frame_labels=True)
    assert plan.named("new") == ("label_proj.weight",)
    labels = torch.tensor([[1, 2]])
    given = (torch.randn(1, 2, 12, 4, 6), torch.tensor([5]), labels, labels)
    torch.testing.assert_close(model(*given), plain(*given))
    with pytest.raises(WeightsError, match=r"it has no place for label_proj\.weight"):
        model.save_pretrained(tmp_path / "framed")
        started(tmp_path / "framed", S2MTransformer3DModel, frame_labels=False)


def test_new_tensors_follow_the_seed_and_leave_the_global_generator_alone(tmp_path: Path) -> None:
    _, part = base(tmp_path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, plan = started(part, S2MTransformer3DModel, seed=1, **SMALL)
    assert torch.equal(torch.rand(3), expected)
    again, _ = started(part, S2MTransformer3DModel, seed=1, **SMALL)
    other, _ = started(part, S2MTransformer3DModel, seed=2, **SMALL)
    states = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(*(state["phase_emb.embedding_table.weight"] for state in states[::2]))
    assert "phase_emb.embedding_table.weight" in plan.named("new")
    assert not any(value.is_meta for value in states[0].values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_rotary_positional_embeddings": True}, "only CogVideoX-2b's layout"),
        ({"in_channels": 8}, "a base is a text-to-video model"),
        ({"activation_fn": "gelu"}, "activation_fn is 'gelu'"),
    ],
)
def test_bases_of_another_layout_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    _, part = base(tmp_path, **changes)
    with pytest.raises(WeightsError, match=said):
        started(part, S2MTransformer3DModel)


def test_tensors_that_fit_no_rule_are_named(tmp_path: Path) -> None:
    _, part = base(tmp_path)
    file = part / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    removed = "transformer_blocks.1.ff.net.2.weight"
    save_file({name: t for name, t in whole.items() if name != removed}, file)
    with pytest.raises(WeightsError, match=rf"{removed} is missing, expected 32x128"):
        started(part, S2MTransformer3DModel)
    save_file({**whole, "extra.weight": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match=r"it has no place for extra\.weight"):
        started(part, S2MTransformer3DModel)
    save_file({**whole, "norm_final.weight": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match=r"norm_final\.weight has shape 2, expected 32"):
        started(part, S2MTransformer3DModel)
    (part / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(WeightsError, match="its class is 'UNet2DModel'"):
        started(part, S2MTransformer3DModel)
