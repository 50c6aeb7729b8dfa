"""What the transformers compute: conditions, tokens, positions, gradients."""

from typing import Any

import pytest
import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.models.embeddings import CogVideoXPatchEmbed
from models.tiny_models import m2v_inputs, s2m_inputs, tiny_m2v, tiny_s2m
from torch.nn import functional as F

from hierasurg_core.models import M2VTransformer3DModel, S2MTransformer3DModel, start_as_identity


def changed(inputs: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Another first frame, first map, phase, triplet, time or map, all else equal."""
    inputs = dict(inputs)
    if name == "first map":
        inputs["latents_BFCHW"] = inputs["latents_BFCHW"].clone()
        inputs["latents_BFCHW"][:, 0, 16:32] += 1
    elif name == "first frame":
        inputs["latents_BFCHW"] = inputs["latents_BFCHW"].clone()
        inputs["latents_BFCHW"][:, 0, -16:] += 1
    elif name == "maps_BFHW":
        inputs[name] = 1 - inputs[name]
    else:
        inputs[name] = inputs[name] + 1
    return inputs


def difference(model: torch.nn.Module, one: dict[str, Any], other: dict[str, Any]) -> float:
    with torch.no_grad():
        return (model(**one) - model(**other)).abs().max().item()


@pytest.mark.parametrize("name", ["timesteps_B", "phase_BF", "triplet_BF", "first map", "first frame"])
def test_every_condition_changes_what_s2m_says(name: str):
    inputs = s2m_inputs()
    assert difference(tiny_s2m(), inputs, changed(inputs, name)) > 1e-4


@pytest.mark.parametrize("name", ["timesteps_B", "phase_BF", "triplet_BF", "first frame", "maps_BFHW"])
def test_every_condition_changes_what_hierarchical_m2v_says(name: str):
    inputs = m2v_inputs()
    assert difference(tiny_m2v(hierarchical=True), inputs, changed(inputs, name)) > 1e-4


def test_plain_m2v_reads_maps_and_first_frame_but_no_labels():
    inputs = m2v_inputs()
    model = tiny_m2v()
    assert difference(model, inputs, changed(inputs, "maps_BFHW")) > 1e-4
    assert difference(model, inputs, changed(inputs, "first frame")) > 1e-4
    assert difference(model, inputs, changed(changed(inputs, "phase_BF"), "triplet_BF")) == 0


def test_a_label_left_out_is_a_label_of_minus_one():
    inputs = s2m_inputs()
    dropped = torch.full((1, 4), -1)
    model = tiny_s2m()
    without = {name: tensor for name, tensor in inputs.items() if name not in ("phase_BF", "triplet_BF")}
    assert difference(model, without, without | {"phase_BF": dropped, "triplet_BF": dropped}) == 0
    assert (
        difference(model, inputs | {"phase_BF": dropped}, without | {"triplet_BF": inputs["triplet_BF"]}) == 0
    )
    assert difference(model, inputs, inputs | {"phase_BF": dropped}) > 1e-4
    assert difference(model, inputs, inputs | {"triplet_BF": dropped}) > 1e-4


def test_dropped_phase_is_a_zero_vector_and_no_triplet_is_row_zero():
    model = tiny_s2m()
    ids = torch.tensor([[-1, 3]])
    phase = model.phase_emb(ids)
    assert torch.equal(phase[0, 0], torch.zeros(20))
    weights = model.state_dict()
    assert torch.equal(phase[0, 1], weights["phase_emb.embedding_table.weight"][3])
    assert torch.equal(model.triplet_emb(ids + 1)[0, 0], weights["triplet_emb.embedding_table.weight"][0])


def test_maps_left_out_are_maps_of_zeros():
    inputs = m2v_inputs()
    without = {name: tensor for name, tensor in inputs.items() if name != "maps_BFHW"}
    assert difference(tiny_m2v(), without, inputs | {"maps_BFHW": torch.zeros(1, 4, 32, 48)}) == 0


@pytest.mark.parametrize("posenc", [False, True])
def test_map_tokens_made_before_give_the_same_velocity(posenc: bool):
    inputs = m2v_inputs(batch=2)
    model = tiny_m2v(use_segmap_posenc=posenc)
    tokens = model.encode_maps(inputs["maps_BFHW"]).detach()
    again = {name: tensor for name, tensor in inputs.items() if name != "maps_BFHW"}
    assert difference(model, inputs, again | {"map_tokens_BND": tokens}) == 0


def test_map_positions_lie_over_the_video_when_scaled():
    """Token (map 4, row 0, column 2) sits where latent frame 1 has its patch of row 0, column 4."""
    model = tiny_m2v(
        use_segmap_posenc=True,
        spatial_interpolation_scale=1.0,
        segmap_posenc_spatial_scale=0.5,
        segmap_posenc_temporal_scale=4.0,
    )
    like = torch.zeros(1)
    maps = model._positions_ND(5, 1, 3, like, (0.5, 4.0)).unflatten(0, (5, 1, 3))
    video = model._positions_ND(2, 2, 6, like).unflatten(0, (2, 2, 6))
    torch.testing.assert_close(maps[4, 0, 2], video[1, 0, 4])


@pytest.mark.parametrize("maps", [16, 6, 1])
def test_any_number_of_maps_will_do(maps: int):
    model = tiny_m2v()
    inputs = m2v_inputs(maps=maps)
    assert model.encode_maps(inputs["maps_BFHW"]).shape == (1, maps * 1 * 2, 32)
    assert model(**inputs).shape == (1, 2, 16, 4, 6)


def test_map_encoder_against_plain_operations():
    """The stem sees every second pixel of each map; blocks are residual, with batch statistics at rest."""
    model = tiny_m2v()
    maps = m2v_inputs()["maps_BFHW"]
    weights = model.state_dict()
    small = F.interpolate(maps, scale_factor=0.5, mode="nearest")
    stem = weights["encoder_segmap.0.weight"], weights["encoder_segmap.0.bias"]
    x = torch.stack([F.conv2d(m[None, None], *stem, stride=2)[0] for m in small[0]], dim=1)[None]
    rest = 1 / (1 + 1e-5) ** 0.5
    for index in range(3):
        kernels = [
            weights[f"segmap_resblocks.{index}.{name}.weight"] for name in ("conv1", "conv2", "downsample.0")
        ]
        inner = F.relu(rest * F.conv3d(x, kernels[0], stride=(1, 2, 2), padding=1))
        inner = rest * F.conv3d(inner, kernels[1], padding=1)
        x = F.relu(inner + rest * F.conv3d(x, kernels[2], stride=(1, 2, 2)))
    expected = torch.stack([x[0, :, f, r, c] for f in range(4) for r in range(1) for c in range(2)])
    torch.testing.assert_close(model.encode_maps(maps)[0], expected)


@pytest.mark.parametrize(("frames", "rows", "columns"), [(13, 60, 90), (16, 4, 6), (2, 8, 6)])
def test_tokens_and_positions_are_those_of_diffusers(frames: int, rows: int, columns: int):
    """CogVideoX's own embedding with a text of one zero token, at its nominal and at other sizes."""
    model = tiny_s2m(num_layers=0)
    theirs = CogVideoXPatchEmbed(
        in_channels=48,
        embed_dim=32,
        text_embed_dim=32,
        max_text_seq_length=1,
        use_learned_positional_embeddings=False,
    )
    theirs.load_state_dict(model.patch_embed.state_dict())
    latents = torch.randn(1, frames, 48, rows, columns, generator=torch.Generator().manual_seed(0))
    vector = torch.randn(1, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = theirs(torch.zeros(1, 1, 32), latents)
        patches = model.proj_out(model.norm_out(model.norm_final(tokens)[:, 1:], temb=vector))
        ours = model._denoise(latents, torch.zeros(1, 1, 32), vector)
    grid = patches.reshape(frames, rows // 2, columns // 2, 16, 2, 2)
    expected = grid.permute(0, 3, 1, 4, 2, 5).reshape(frames, 16, rows, columns)
    torch.testing.assert_close(ours[0], expected)


def test_s2m_text_stream_is_one_zero_token_and_vector_is_time_phase_triplet():
    model = tiny_s2m(num_layers=1)
    seen: dict[str, torch.Tensor] = {}
    block = model.transformer_blocks[0]
    block.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    inputs = s2m_inputs()
    with torch.no_grad():
        model(**inputs)
        time = model.time_embedding(model.time_proj(inputs["timesteps_B"]))
        phase = model.phase_condense(model.phase_emb(inputs["phase_BF"]).transpose(1, 2)).mean(2)
        triplet = model.triplet_condense(model.triplet_emb(inputs["triplet_BF"] + 1).transpose(1, 2)).mean(2)
    assert torch.equal(seen["encoder_hidden_states"], torch.zeros(1, 1, 32))
    torch.testing.assert_close(seen["temb"], torch.cat([time, phase, triplet], dim=1))
    torch.testing.assert_close(seen["hidden_states"][0, 0], model.patch_embed.text_proj.bias)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for on in (False, True):
        model = tiny_m2v(hierarchical=True)
        if on:
            model.enable_gradient_checkpointing()
        model(**m2v_inputs()).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert model.is_gradient_checkpointing
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("make", [tiny_s2m, tiny_m2v])
def test_every_parameter_that_can_learn_gets_a_gradient(make: Any):
    """All but text_proj's weight, which multiplies a zero vector, and the last block's unread text side."""
    model = make()
    inputs = s2m_inputs() if make is tiny_s2m else m2v_inputs()
    model(**inputs).square().mean().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert {name for name in idle if "table" not in name} == {"patch_embed.text_proj.weight"}


@pytest.mark.parametrize("make", [tiny_s2m, tiny_m2v])
def test_the_first_frame_stands_in_every_frame_when_it_is_repeated(make: Any):
    inputs = s2m_inputs() if make is tiny_s2m else m2v_inputs()
    latents = inputs["latents_BFCHW"].clone()
    latents[:, 1:, 16:] = 0
    by_hand = latents.clone()
    by_hand[:, :, 16:] = latents[:, :1, 16:]
    with torch.no_grad():
        repeating = make(repeat_first_frame=True)(**{**inputs, "latents_BFCHW": latents})
        given = make()(**{**inputs, "latents_BFCHW": by_hand})
        published = make()(**{**inputs, "latents_BFCHW": latents})
    assert torch.equal(repeating, given)
    assert not torch.allclose(repeating, published)


def loud(model: S2MTransformer3DModel) -> S2MTransformer3DModel:
    """Frame labels that say something."""
    assert model.label_proj is not None
    torch.nn.init.normal_(model.label_proj.weight)
    return model


def ordered_labels() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same labels in two orders, alike in the first and last two seconds."""
    one, other = s2m_inputs(frames=8), s2m_inputs(frames=8)
    one["triplet_BF"] = torch.tensor([[17, 17, 17, 17, 60, 60, 8, 8]])
    other["triplet_BF"] = torch.tensor([[17, 17, 60, 60, 17, 17, 8, 8]])
    return one, other


def test_the_published_s2m_cannot_tell_which_triplet_came_first():
    one, other = ordered_labels()
    assert difference(tiny_s2m(), one, other) < 1e-5


def test_with_frame_labels_the_order_counts_and_so_does_each_frame():
    one, other = ordered_labels()
    model = loud(tiny_s2m(frame_labels=True, num_layers=0))
    with torch.no_grad():
        differing_F = (model(**one) - model(**other)).abs().amax(dim=(0, 2, 3, 4)) > 1e-4
    assert differing_F.tolist() == [False, False, True, True, True, True, False, False]


def test_frame_labels_are_silent_at_first_and_where_they_are_dropped():
    inputs = s2m_inputs()
    model, plain = tiny_s2m(frame_labels=True), tiny_s2m()
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(model(**inputs), plain(**inputs))
        loud(model)
        dropped = inputs | {"phase_BF": torch.full((1, 4), -1), "triplet_BF": torch.full((1, 4), -1)}
        without = {name: value for name, value in inputs.items() if name not in ("phase_BF", "triplet_BF")}
        torch.testing.assert_close(model(**dropped), model(**without))
        assert difference(model, inputs, dropped) > 1e-3


def test_frame_labels_take_text_vectors_too_and_learn():
    model = tiny_s2m(frame_labels=True, text_cond="vectors", text_vector_dim=6)
    inputs = s2m_inputs() | {"phase_BF": torch.randn(1, 4, 6), "triplet_BF": torch.randn(1, 4, 6)}
    model(**inputs).square().mean().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    grad = grads["label_proj.weight"]
    assert grad is not None
    assert grad.any()


def test_frame_labels_want_one_a_frame():
    inputs = s2m_inputs() | {"triplet_BF": torch.full((1, 3), 17), "phase_BF": torch.full((1, 3), 1)}
    with pytest.raises(ValueError, match="a label a frame, not 3 of 4"):
        tiny_s2m(frame_labels=True)(**inputs)


def test_one_timestep_serves_a_batch():
    inputs = s2m_inputs(batch=2)
    assert difference(tiny_s2m(), inputs, inputs | {"timesteps_B": torch.tensor(500)}) == 0


def test_cache_hooks_find_the_blocks():
    model = tiny_m2v(num_layers=4)
    inputs = m2v_inputs()
    with torch.no_grad():
        plain = model(**inputs)
        model.enable_cache(FirstBlockCacheConfig(threshold=10.0))
        with model.cache_context("cond"):
            first, second = model(**inputs), model(**changed(inputs, "timesteps_B"))
        model.disable_cache()
    torch.testing.assert_close(first, plain)
    assert second.shape == plain.shape


def test_bfloat16_weights_take_float32_inputs():
    model = tiny_m2v(hierarchical=True, use_segmap_posenc=True)
    model.bfloat16()
    velocity = model(**m2v_inputs())
    assert velocity.dtype == torch.bfloat16
    assert velocity.isfinite().all()


@pytest.mark.parametrize("hierarchical", [False, True])
def test_text_vectors_condition_as_labels_do(hierarchical: bool):
    changes: dict[str, Any] = {"text_cond": "vectors", "text_vector_dim": 6}
    model = tiny_m2v(hierarchical=True, **changes) if hierarchical else tiny_s2m(**changes)
    inputs = m2v_inputs() if hierarchical else s2m_inputs()
    draw = torch.Generator().manual_seed(2)
    inputs |= {name: torch.randn(1, 4, 6, generator=draw) for name in ("phase_BF", "triplet_BF")}
    for name in ("phase_BF", "triplet_BF"):
        assert difference(model, inputs, inputs | {name: -inputs[name]}) > 1e-4
        assert difference(model, inputs, inputs | {name: torch.zeros(1, 4, 6)}) > 1e-4


def test_a_new_start_passes_everything_on():
    model = tiny_m2v()
    start_as_identity(model)
    tokens, text = torch.randn(1, 5, 32), torch.randn(1, 3, 32)
    with torch.no_grad():
        after, text_after = model.transformer_blocks[0](tokens, text, torch.randn(1, 24))
        velocity = model(**m2v_inputs())
    assert torch.equal(after, tokens)
    assert torch.equal(text_after, text)
    assert not velocity.any()


@pytest.mark.parametrize("shape", [(1, 2, 16, 4, 6), (1, 2, 32, 5, 6), (2, 32, 4, 6)])
def test_latents_of_a_wrong_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(
        ValueError, match=r"got latents of shape .* it takes \(batch, frames, 32, rows, columns\)"
    ):
        tiny_m2v()(torch.zeros(shape), torch.tensor([1]))


def test_maps_and_their_tokens_together_are_refused():
    with pytest.raises(ValueError, match="give one of them"):
        tiny_m2v()(**m2v_inputs(), map_tokens_BND=torch.zeros(1, 1, 32))


def test_maps_without_a_frame_axis_are_refused():
    with pytest.raises(ValueError, match=r"maps of shape \(1, 32, 48\)"):
        tiny_m2v().encode_maps(torch.zeros(1, 32, 48))


def test_an_unknown_text_condition_is_refused():
    with pytest.raises(ValueError, match="choose 'labels' or 'vectors'"):
        S2MTransformer3DModel(num_layers=0, text_cond="words")


def test_defaults_are_the_published_settings():
    with torch.device("meta"):
        config = M2VTransformer3DModel(num_layers=0).config
    published = {"num_attention_heads": 30, "attention_head_dim": 64, "time_embed_dim": 512, "patch_size": 2}
    published |= {"sample_width": 90, "sample_height": 60, "sample_frames": 49, "text_embed_dim": 768}
    published |= {"spatial_interpolation_scale": 1.875, "map_widths": [64, 128, 512], "in_channels": 32}
    assert {key: list(v) if isinstance(v := config[key], tuple) else v for key in published} == published
