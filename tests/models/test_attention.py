import pytest
import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from models.tiny_models import m2v_inputs, s2m_inputs, tiny_m2v, tiny_s2m
from torch import nn

from hierasurg_core.models import flash4
from hierasurg_core.models.attention import (
    FLASH4,
    FusedAttention,
    attend,
    choose_kernel,
    chosen_by,
    fastest_kernel,
    fixed_kernel,
    kernel_in_use,
    use_kernel,
)
from hierasurg_core.models.backbone import Attention
from hierasurg_core.runtime import deterministic


def use_three_products(model: nn.Module) -> None:
    """Diffusers' own processor, by which the models were published."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(CogVideoXAttnProcessor2_0())  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "draw"), [(tiny_s2m, s2m_inputs), (tiny_m2v, m2v_inputs)])
@pytest.mark.parametrize("kernel", [None, "flash", "math"])
@torch.no_grad()
def test_one_product_for_query_key_and_value_gives_what_three_give(make, draw, kernel: str | None):
    model, given = make(), draw(batch=2)
    for block in model.transformer_blocks:
        block.stream_ends = False  # diffusers' processor attends from everywhere
    use_three_products(model)
    before = model(**given)
    use_kernel(model, kernel)
    assert torch.allclose(model(**given), before, atol=1e-5)


@torch.no_grad()
def test_a_projection_that_is_more_than_linear_is_called_itself():
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - its name in torch
            return 2 * super().forward(input)

    model, given = tiny_s2m(), s2m_inputs()
    width = model.inner_dim
    for block in model.transformer_blocks:
        attention = block.get_submodule("attn1")
        doubled = Doubled(width, width)
        doubled.load_state_dict(attention.get_submodule("to_v").state_dict())
        attention.add_module("to_v", doubled)
    use_three_products(model)
    before = model(**given)
    use_kernel(model, None)
    assert torch.allclose(model(**given), before, atol=1e-5)
    plain_model = tiny_s2m()
    use_kernel(plain_model, None)
    assert not torch.allclose(plain_model(**given), before, atol=1e-5)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="use cudnn, flash, efficient, math, flash4"):
        FusedAttention("fast")


def test_a_mask_is_refused():
    block = tiny_s2m().transformer_blocks[0]
    values = torch.zeros(1, 3, 32)
    with pytest.raises(ValueError, match="neither mask"):
        attention = block.get_submodule("attn1")
        assert isinstance(attention, Attention)
        FusedAttention()(attention, values, values, attention_mask=torch.ones(1, 6))


def test_flash_attention_4_is_asked_in_one_number_type():
    # The package refuses others; norms under autocast give float32. No kernel runs on the meta device.
    wide = torch.empty(2, 9, 3, 8, device="meta")
    half = torch.empty(2, 9, 3, 8, device="meta", dtype=torch.bfloat16)
    out = attend(wide[:, 4:], wide, half, FLASH4)
    assert (out.dtype, out.shape) == (torch.bfloat16, (2, 5, 3, 8))


def test_flash_attention_4_is_for_gpus():
    assert not flash4.runs_on(torch.device("cpu"))


def test_only_a_gpu_is_measured():
    cpu = torch.device("cpu")
    assert fastest_kernel(64, 2, 16, torch.bfloat16, cpu) is None


def test_the_record_of_a_kernel():
    model = tiny_s2m()
    assert kernel_in_use(model) == "default"
    assert chosen_by("default") == "torch"
    use_kernel(model, "math")
    assert kernel_in_use(model) == "math"
    assert chosen_by("math") == "timing"
    with deterministic(True):
        assert chosen_by("math") == "rule"


def test_nothing_is_chosen_on_a_cpu():
    cpu = torch.device("cpu")
    assert fixed_kernel(torch.bfloat16, cpu) is None
    with deterministic(True):
        assert choose_kernel(64, 2, 16, torch.bfloat16, cpu) is None
    assert choose_kernel(64, 2, 16, torch.bfloat16, cpu, before="flash") is None
