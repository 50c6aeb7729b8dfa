"""Names, shapes and counts at the published size, against a list written by hand; nothing is allocated."""

import pytest
import torch

from hierasurg_core.models import M2VTransformer3DModel, S2MTransformer3DModel

D, TIME, WIDE = 1920, 512, 1024


def linear(name: str, out: int, inp: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inp), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    running = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    return norm(name, width) | running | {f"{name}.num_batches_tracked": ()}


def stack(in_channels: int, text: int, vector: int) -> dict[str, tuple[int, ...]]:
    shapes = {"patch_embed.proj.weight": (D, in_channels, 2, 2), "patch_embed.proj.bias": (D,)}
    shapes |= linear("patch_embed.text_proj", D, text)
    shapes |= linear("time_embedding.linear_1", TIME, D) | linear("time_embedding.linear_2", TIME, TIME)
    for index in range(30):
        block = f"transformer_blocks.{index}"
        for which in ("norm1", "norm2"):
            shapes |= linear(f"{block}.{which}.linear", 6 * D, vector) | norm(f"{block}.{which}.norm", D)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes |= linear(f"{block}.attn1.{part}", D, D)
        shapes |= norm(f"{block}.attn1.norm_q", 64) | norm(f"{block}.attn1.norm_k", 64)
        shapes |= linear(f"{block}.ff.net.0.proj", 4 * D, D) | linear(f"{block}.ff.net.2", D, 4 * D)
    shapes |= norm("norm_final", D) | linear("norm_out.linear", 2 * D, vector) | norm("norm_out.norm", D)
    return shapes | linear("proj_out", 64, D)


def semantics() -> dict[str, tuple[int, ...]]:
    return {
        "phase_emb.embedding_table.weight": (7, 512),
        "triplet_emb.embedding_table.weight": (101, 512),
        "phase_condense.0.weight": (256, 512, 5),
        "phase_condense.0.bias": (256,),
        "triplet_condense.0.weight": (256, 512, 5),
        "triplet_condense.0.bias": (256,),
    }


def map_encoder() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "encoder_segmap.0.weight": (64, 1, 2, 2),
        "encoder_segmap.0.bias": (64,),
    }
    for index, (inp, out) in enumerate([(64, 128), (128, 512), (512, D)]):
        block = f"segmap_resblocks.{index}"
        shapes[f"{block}.conv1.weight"] = (out, inp, 3, 3, 3)
        shapes[f"{block}.conv2.weight"] = (out, out, 3, 3, 3)
        shapes[f"{block}.downsample.0.weight"] = (out, inp, 1, 1, 1)
        for part in ("bn1", "bn2", "downsample.1"):
            shapes |= batch_norm(f"{block}.{part}", out)
    return shapes


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def parameters_of(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def s2m() -> S2MTransformer3DModel:
    with torch.device("meta"):
        return S2MTransformer3DModel()


@pytest.fixture(scope="module")
def m2v() -> M2VTransformer3DModel:
    with torch.device("meta"):
        return M2VTransformer3DModel()


def test_s2m_has_the_published_tensors(s2m: S2MTransformer3DModel):
    assert shapes_of(s2m) == stack(48, D, WIDE) | semantics()
    assert parameters_of(s2m) == 2_047_078_720


def test_m2v_has_the_published_tensors(m2v: M2VTransformer3DModel):
    assert shapes_of(m2v) == stack(32, 768, TIME) | map_encoder()
    assert parameters_of(m2v) == 1_824_175_232


def test_hierarchical_m2v_has_the_published_tensors():
    with torch.device("meta"):
        model = M2VTransformer3DModel(hierarchical=True)
    assert shapes_of(model) == stack(32, 768, WIDE) | map_encoder() | semantics()


def test_text_vectors_take_the_place_of_the_tables():
    with torch.device("meta"):
        model = S2MTransformer3DModel(text_cond="vectors", num_layers=1)
    names = {name: shape for name, shape in shapes_of(model).items() if "_emb." in name}
    assert names == linear("phase_emb.0", 512, 768) | linear("triplet_emb.0", 512, 768)


@pytest.mark.parametrize(
    ("maps", "size_hw", "tokens"), [(16, (480, 720), 5520), (6, (480, 720), 6 * 15 * 23)]
)
def test_map_tokens_at_the_published_size(
    m2v: M2VTransformer3DModel, maps: int, size_hw: tuple[int, int], tokens: int
):
    maps_BFHW = torch.empty(1, maps, *size_hw, device="meta")
    assert m2v.encode_maps(maps_BFHW).shape == (1, tokens, D)


@pytest.mark.parametrize("frames", [5, 13])
def test_m2v_keeps_the_size_of_its_latents(m2v: M2VTransformer3DModel, frames: int):
    velocity = m2v(
        torch.empty(1, frames, 32, 60, 90, device="meta"),
        torch.empty(1, dtype=torch.long, device="meta"),
        map_tokens_BND=torch.empty(1, 5520, D, device="meta"),
    )
    assert velocity.shape == (1, frames, 16, 60, 90)


def test_s2m_keeps_the_size_of_its_latents(s2m: S2MTransformer3DModel):
    latents = torch.empty(2, 16, 48, 32, 48, device="meta")
    labels = torch.zeros(2, 16, dtype=torch.long, device="meta")
    velocity = s2m(latents, torch.zeros(2, dtype=torch.long, device="meta"), labels, labels)
    assert velocity.shape == (2, 16, 16, 32, 48)
