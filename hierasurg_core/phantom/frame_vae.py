"""Training of the mini VAE without time compression: each frame is coded alone.

At one frame a second neighbours share little, and a VAE that compresses time smears whatever moved. So the
models of 1 fps have an `AutoencoderKLCogVideoX` with `temporal_compression_ratio` 1. It learns from single
frames, of which instruments and other small things count more.

While it learns, its convolutions have no time axis (`models.single_frame_vae`); at the end each kernel becomes
the last tap of a causal one, so that the class codes a frame alone as it was learned.

Legend: B frames, C channels, H W pixels; pixels are in [-1, 1].
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierasurg_core.models import AutoencoderKLCogVideoX, ids
from hierasurg_core.models.backbone import CogVideoXCausalConv3d

FRAME_VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 16,
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "temporal_compression_ratio": 1,
    "sample_height": 128,
    "sample_width": 192,
}
KL_WEIGHT = 1e-5
_RARE = 0.5  # see `ids.weigh_shares`
_LARGEST_WEIGHT = 6.0


def pixel_weights(map_BFHW: Tensor, num_numbers: int) -> Tensor:
    """Return how much each pixel counts, (B, F, 1, H, W), 1 on average: small entities more than large ones.

    An entity's weight is also that of the pixels around it, so that its outline counts from both sides.

    Args:
        map_BFHW: uint8 numbers.
        num_numbers: N.
    """
    shares = ids.shares_of(map_BFHW, num_numbers)
    weight = ids.weigh_shares(shares, moving=0.0, rare=_RARE).sum(2).clamp(max=_LARGEST_WEIGHT)
    around = F.max_pool2d(weight, 3, stride=1, padding=1)
    enlarged = around.repeat_interleave(ids.CELL, dim=2).repeat_interleave(ids.CELL, dim=3)
    return (enlarged / enlarged.mean((1, 2, 3), keepdim=True)).unsqueeze(2)


def frame_loss(vae: AutoencoderKLCogVideoX, frames_BCHW: Tensor, weight_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch of frames and its squared error (for PSNR).

    Weighted absolute and squared error, the absolute error of differences between neighbours on three scales
    (edges), and the divergence of the latents from a unit normal.
    """
    posterior = vae.encode(frames_BCHW.unsqueeze(2), return_dict=False)[0]
    output = vae.decode(posterior.sample(), return_dict=False)[0][:, :, 0].float()
    error = output - frames_BCHW
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
    loss = (weight_B1HW * (error.abs() + 2 * error.square())).mean() + KL_WEIGHT * divergence
    small, weight = error, weight_B1HW
    for _ in range(3):
        across = small.diff(dim=-1).abs() * weight[..., 1:]
        along = small.diff(dim=-2).abs() * weight[..., 1:, :]
        loss = loss + 0.5 * (across.mean() + along.mean())
        small, weight = F.avg_pool2d(small, 2), F.avg_pool2d(weight, 2)
    return loss, error.square().mean().detach()


def without_time(vae: AutoencoderKLCogVideoX) -> AutoencoderKLCogVideoX:
    """Take the time axis out of a VAE's kernels, in place, keeping what they do to a frame alone; return it."""
    for module in vae.modules():
        if isinstance(module, CogVideoXCausalConv3d):
            kernel = module.conv.weight.detach().sum(dim=2, keepdim=True)
            module.conv.weight = nn.Parameter(kernel)
            module.conv.kernel_size = (1, *module.conv.kernel_size[1:])
            module.time_kernel_size, module.time_pad = 1, 0
    return vae


def with_time(flat: AutoencoderKLCogVideoX) -> AutoencoderKLCogVideoX:
    """Return a VAE of the class's own kernels whose last tap is a flat one's kernel, the others zero."""
    whole = AutoencoderKLCogVideoX(**FRAME_VAE_CONFIG)
    tensors = flat.state_dict()
    for name, wanted in whole.state_dict().items():
        found = tensors[name]
        if found.shape != wanted.shape:
            padded = torch.zeros_like(wanted)
            padded[:, :, -1:] = found
            tensors[name] = padded
    whole.load_state_dict(tensors)
    return whole.to(next(flat.parameters()).device)


def psnr(squared: Tensor) -> float:
    """Return the PSNR in dB of a mean squared error of pixels in [-1, 1]."""
    return 10 * math.log10(4 / max(float(squared), 1e-10))
