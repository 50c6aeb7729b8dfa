"""A change of basis that gives a VAE's latents zero mean and even variance, folded into its weights.

A small VAE keeps what it knows in a few strong directions around a large mean. Noise of unit variance then
drowns an instrument's place long before it drowns the anatomy, and a diffusion model cannot learn to choose
that place. The remedy is linear and costs nothing at run time: the encoder's last convolution takes the
transform, every layer of the decoder that reads latents takes its inverse. Pixels stay what they were, but
for the zero padding of the decoder's first convolution, which now stands for the mean.

Refuses VAEs with quantisation convolutions, which none of the recipe has. Legend: C latent channels, N
latent vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hierasurg_core.errors import WeightsError
from hierasurg_core.models import AutoencoderKLCogVideoX

FLOOR = 3e-3
"""Share of the mean variance below which a direction is not amplified further: it holds no picture."""


@torch.no_grad()
def whiten_latents(vae: AutoencoderKLCogVideoX, groups_NC: tuple[Tensor, ...]) -> None:
    """Rewrites the VAE's weights so that such latents have zero mean and about unit variance.

    Args:
        vae: Changed in place; its scaling factor becomes 1.
        groups_NC: Unscaled posterior means (N, C) of each kind of picture; the kinds count alike.

    Raises:
        WeightsError: The VAE has quantisation convolutions.
    """
    if vae.quant_conv is not None or vae.post_quant_conv is not None:
        raise WeightsError("this VAE has quantisation convolutions; only VAEs without them can be whitened")
    mean_C = torch.stack([group.double().mean(0) for group in groups_NC]).mean(0)
    moments = [(group.double() - mean_C).T @ (group.double() - mean_C) / len(group) for group in groups_NC]
    variance_C, basis_CC = torch.linalg.eigh(torch.stack(moments).mean(0))
    scale_C = (variance_C + FLOOR * variance_C.mean()).rsqrt()
    forward_CC = scale_C[:, None] * basis_CC.T
    backward_CC = basis_CC / scale_C
    channels = len(mean_C)

    last = vae.encoder.conv_out.conv
    weight, bias = last.weight.double(), _bias(last)
    # The second half of the encoder's outputs is the posterior's log variance: one value for all now.
    log_variance = torch.log(forward_CC.square().mean() * bias[channels:].exp().mean()).expand(channels)
    last.weight.copy_(
        torch.cat(
            [
                torch.einsum("dc,c...->d...", forward_CC, weight[:channels]),
                torch.zeros_like(weight[channels:]),
            ]
        )
    )
    last.bias.copy_(torch.cat([forward_CC @ (bias[:channels] - mean_C), log_variance]))  # pyright: ignore[reportOptionalMemberAccess]
    for layer in latent_readers(vae):
        weight = layer.weight.double()
        shift = torch.einsum("oc...,c->o...", weight, mean_C).flatten(1).sum(1)
        layer.bias.copy_(_bias(layer) + shift)  # pyright: ignore[reportOptionalMemberAccess]
        layer.weight.copy_(torch.einsum("oc...,cd->od...", weight, backward_CC))
    vae.register_to_config(scaling_factor=1.0)


def latent_readers(vae: AutoencoderKLCogVideoX) -> list[nn.Conv3d]:
    """The decoder's convolutions that read latents: its first, and the two of each latent-led norm."""
    names = ("conv_y.conv", "conv_b.conv")
    found = [m for name, m in vae.decoder.named_modules() if name == "conv_in.conv" or name.endswith(names)]
    return [layer for layer in found if isinstance(layer, nn.Conv3d)]


def _bias(layer: nn.Module) -> Tensor:
    assert isinstance(layer.bias, Tensor), "every convolution of a CogVideoX VAE has a bias"
    return layer.bias.double()
