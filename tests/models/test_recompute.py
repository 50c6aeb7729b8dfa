import pytest
import torch
from models.tiny_models import m2v_inputs, tiny_m2v
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hierasurg_core.models import M2VTransformer3DModel
from hierasurg_core.models.recompute import Recompute, block_runners

BLOCKS = 4


def model_and_gradients(
    recompute: Recompute | None, every: int = 1, *, compiled: bool = False
) -> tuple[M2VTransformer3DModel, Tensor]:
    model = tiny_m2v(num_layers=BLOCKS)
    for name, parameter in model.named_parameters():
        if "norm" in name and "linear" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    if recompute is not None:
        model.block_runners = block_runners(BLOCKS, recompute, every=every, compiled=compiled)
    model(**m2v_inputs()).square().mean().backward()
    found = [torch.zeros(1) if p.grad is None else p.grad.flatten() for p in model.parameters()]
    return model, torch.cat(found)


@pytest.mark.parametrize(
    ("recompute", "every"), [("none", 1), ("attention", 1), ("attention", 3), ("full", 2)]
)
def test_what_is_computed_again_changes_no_gradient(recompute: Recompute, every: int):
    _, plain = model_and_gradients(None)
    _, other = model_and_gradients(recompute, every)
    assert plain.abs().max() > 1e-4
    assert torch.allclose(other, plain, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler looks at every tensor
def test_compiled_blocks_have_the_same_gradients():
    _, plain = model_and_gradients(None)
    _, other = model_and_gradients("attention", compiled=True)
    assert torch.allclose(other, plain, atol=1e-6)


@pytest.mark.parametrize(("recompute", "attentions"), [("none", 1), ("attention", 1), ("full", 2)])
def test_how_often_attention_is_computed(recompute: Recompute, attentions: int):
    counted = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "scaled_dot_product" in str(func) and "backward" not in str(func):
                counted.append(func)
            return func(*args, **(kwargs or {}))

    with Count():
        model_and_gradients(recompute)
    assert len(counted) == attentions * BLOCKS


def test_without_gradients_nothing_is_kept_or_computed_again():
    model, _ = model_and_gradients("full")
    with torch.no_grad():
        assert not model(**m2v_inputs()).requires_grad


@pytest.mark.parametrize(("recompute", "every"), [("some", 1), ("full", 0)])
def test_impossible_ways(recompute, every: int):
    with pytest.raises(ValueError, match="use none, attention, full"):
        block_runners(BLOCKS, recompute, every=every)
