import pytest
import torch
from models.tiny_models import s2m_inputs, tiny_s2m

from hierasurg_core.models.attention import use_kernel
from hierasurg_core.models.quantised import Quantisation, QuantisedLinear, quantise

KINDS: tuple[Quantisation, ...] = ("fp8", "int8")


def relative(values: torch.Tensor, reference: torch.Tensor) -> float:
    return ((values.float() - reference.float()).norm() / reference.float().norm()).item()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_layer_of_eight_bits_is_near_the_one_it_stands_for(kind: Quantisation):
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48).bfloat16()
    values = torch.randn(2, 24, 64).bfloat16()
    values[0, 0] *= 1000  # a token far larger than the others costs these nothing
    short = QuantisedLinear(linear.weight, linear.bias, kind)
    assert short(values).dtype == torch.bfloat16
    assert relative(short(values)[0, 1:], linear(values)[0, 1:]) < 0.05
    assert short.stored_NK.element_size() == 1


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_transformer_of_eight_bits_keeps_its_parameters_nowhere_twice(kind: Quantisation):
    model, given = tiny_s2m().bfloat16(), s2m_inputs()
    before = model(**given)
    use_kernel(model, None)
    quantise(model, kind, torch.device("cpu"))
    assert relative(model(**given), before) < 0.1
    names = {name for name, _ in model.named_parameters()}
    assert not any("to_q." in name or "to_k." in name or "to_v." in name for name in names)
    assert not any(".ff.net" in name for name in names)
