import pytest
import torch
from models.tiny_models import m2v_inputs, tiny_m2v, tiny_s2m
from torch import Tensor

from hierasurg_core.models.backbone import CogVideoXBlock
from hierasurg_core.models.block import StackBlock

TOKENS, STREAM, WIDTH, STEERING = 9, 5, 32, 12


def both_blocks(*, stream_ends: bool) -> tuple[StackBlock, CogVideoXBlock]:
    torch.manual_seed(0)
    ours = StackBlock(WIDTH, 2, 16, STEERING, 1e-5, stream_ends=stream_ends)
    theirs = CogVideoXBlock(WIDTH, 2, 16, STEERING, attention_bias=True, norm_eps=1e-5)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def drawn() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = (2, TOKENS, WIDTH), (2, STREAM, WIDTH), (2, STEERING)
    return [torch.randn(shape, generator=draw, requires_grad=True) for shape in shapes]


def test_a_block_is_diffusers_own():
    ours, theirs = both_blocks(stream_ends=False)
    given = drawn()
    for found, expected in zip(ours(*given), theirs(*given), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


def test_tokens_and_their_gradients_are_the_same_where_nobody_reads_the_stream():
    ours, theirs = both_blocks(stream_ends=True)
    given = drawn()
    tokens, stream = ours(*given)
    expected, changed = theirs(*given)
    assert stream is given[1]
    assert not torch.allclose(changed, stream, atol=0.01)
    assert torch.allclose(tokens, expected, atol=1e-5)
    wanted = [*given, *ours.parameters()]
    found = torch.autograd.grad(tokens.square().sum(), wanted)
    like = torch.autograd.grad(expected.square().sum(), [*given, *theirs.parameters()])
    for mine, other in zip(found, like, strict=True):
        assert torch.allclose(mine, other, atol=1e-4)


@torch.no_grad()
def test_the_last_block_of_m2v_alone_leaves_the_maps():
    model = tiny_m2v(num_layers=3)
    assert [ends(block) for block in model.transformer_blocks] == [False, False, True]
    assert not any(ends(block) for block in tiny_s2m().transformer_blocks)
    spared = model(**m2v_inputs())
    last = model.transformer_blocks[-1]
    assert isinstance(last, StackBlock)
    whole = StackBlock(model.inner_dim, 2, 16, last.norm1.linear.in_features, 1e-5)
    whole.load_state_dict(last.state_dict())
    model.transformer_blocks[-1] = whole
    assert torch.allclose(model(**m2v_inputs()), spared, atol=1e-5)


def ends(block: torch.nn.Module) -> bool:
    assert isinstance(block, StackBlock)
    return block.stream_ends


def test_every_parameter_of_a_model_still_learns():
    model = tiny_m2v()
    model(**m2v_inputs()).square().mean().backward()
    untouched = [name for name, value in model.named_parameters() if value.grad is None]
    assert untouched == []


@pytest.mark.parametrize("cache", ["first-block", "taylorseer"])
@torch.no_grad()
def test_diffusers_caches_know_the_block(cache: str):
    from hierasurg_core.models.backbone import FirstBlockCacheConfig, TaylorSeerCacheConfig

    model = tiny_m2v(num_layers=3)
    plain = model(**m2v_inputs())
    config = FirstBlockCacheConfig(threshold=0.08) if cache == "first-block" else TaylorSeerCacheConfig()
    model.enable_cache(config)  # type: ignore[arg-type]
    with model.cache_context("cond"):
        assert torch.allclose(model(**m2v_inputs()), plain, atol=1e-6)
        model(**m2v_inputs())
