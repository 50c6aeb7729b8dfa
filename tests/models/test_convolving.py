"""The way around torch's choice of a CPU kernel changes nothing but the time."""

import pytest
import torch
from torch import nn

from hierasurg_core.models.conditioning import MapResidualBlock
from hierasurg_core.models.convolving import by_onednn, convolve, is_for_onednn

STEPPED = {"stride": (1, 2, 2), "padding": (0, 2, 2), "dilation": (1, 2, 2)}


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    "options", [{"padding": 1}, STEPPED, {"groups": 2, "bias": False}], ids=["plain", "stepped", "groups"]
)
def test_onednn_gives_values_and_gradients_of_the_layer(options):
    torch.manual_seed(0)
    conv = nn.Conv3d(4, 6, 3, **options)
    found: list[list[torch.Tensor]] = []
    for way in (conv, lambda values: by_onednn(conv, values)):
        values = drawn(2, 4, 5, 12, 14).requires_grad_()
        output = way(values)
        weights = [parameter for parameter in (conv.weight, conv.bias) if parameter is not None]
        found.append(
            [output, *torch.autograd.grad((output * drawn(*output.shape)).sum(), [values, *weights])]
        )
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=2e-5, rtol=1e-5)


def test_only_float32_on_a_cpu_takes_it_and_only_a_plain_layer():
    conv, narrow = nn.Conv3d(2, 2, 3, padding=1), nn.Conv3d(2, 2, (3, 1, 1))
    assert is_for_onednn(conv, drawn(1, 2, 3, 4, 4)) == torch.backends.mkldnn.is_available()
    assert not is_for_onednn(narrow, drawn(1, 2, 3, 4, 4))
    assert not is_for_onednn(conv, drawn(1, 2, 3, 4, 4).bfloat16())
    assert not is_for_onednn(conv, torch.empty(1, 2, 3, 4, 4, device="meta"))

    class Doubled(nn.Conv3d):
        def forward(self, *given: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(*given, **named)

    doubled = Doubled(2, 2, 3, padding=1)
    given = drawn(1, 2, 3, 4, 4)
    assert torch.equal(convolve(doubled, given), doubled(given))


def test_a_block_of_the_map_encoder_is_what_its_layers_say():
    torch.manual_seed(0)
    block = MapResidualBlock(4, 8).eval()
    given = drawn(2, 4, 3, 18, 22)
    inner = torch.relu(block.bn1(block.conv1(given)))
    expected = torch.relu(block.bn2(block.conv2(inner)) + block.downsample(given))
    torch.testing.assert_close(block(given), expected, atol=1e-5, rtol=1e-5)
