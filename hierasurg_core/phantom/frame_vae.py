"""Training of the mini VAE without time compression: each frame is coded alone.

At one frame a second neighbours share little, and a VAE that compresses time smears whatever moved. So the
models of 1 fps have an `AutoencoderKLCogVideoX` with `temporal_compression_ratio` 1. It learns from single
frames, of which instruments and other small things count more.

While it learns, its convolutions have no time axis; at the end each kernel becomes the last tap of a causal
one, so that the class codes a frame alone as it was learned.

Legend: B frames, C channels, H W pixels; pixels are in [-1, 1].
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierasurg_core.models import AutoencoderKLCogVideoX, ids, load_vae
from hierasurg_core.models.backbone import CogVideoXCausalConv3d
from hierasurg_core.phantom.draw import NATIVE_SIZE_HW, draw_clips
from hierasurg_core.phantom.vae import (
    HELD_OUT_SEED,
    PEAK_LR,
    learning_rate,
    load_state,
    psnr,
    random_labels,
    save_state,
    signed_pixels,
)
from hierasurg_core.phantom.whitening import whiten_latents
from hierasurg_core.progress import Progress

FRAME_VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 16,
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "temporal_compression_ratio": 1,
    "sample_height": NATIVE_SIZE_HW[0],
    "sample_width": NATIVE_SIZE_HW[1],
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


def frame_loss(
    vae: AutoencoderKLCogVideoX, frames_BCHW: Tensor, weight_B1HW: Tensor
) -> tuple[Tensor, Tensor]:
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
    """Return the same VAE with kernels that have no time axis; a frame alone is coded as before."""
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
    nn.Module.to(whole, next(flat.parameters()).device)
    return whole


def train_frame_vae(
    out: Path,
    *,
    steps: int,
    clips_per_step: int,
    seed: int,
    device: torch.device,
    max_seconds: float,
    progress: Progress,
    start: Path | None = None,
    size_hw: tuple[int, int] = NATIVE_SIZE_HW,
) -> bool:
    """Train until `steps` are done or the time is up, from where the folder's state says; see `train_vae`.

    Every step sees all frames of `clips_per_step` clips. `clips_per_step` and `start` mean what they mean
    there.
    """
    began = time.monotonic()
    torch.manual_seed(seed)
    whole = AutoencoderKLCogVideoX(**FRAME_VAE_CONFIG)
    if start is not None:
        whole.load_state_dict(load_vae(start, torch.float32, "cpu").state_dict())
    vae = without_time(whole)
    nn.Module.to(vae, device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-4)
    step = load_state(out, vae, optimizer, device)
    if step >= steps:
        return True
    vae.train()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    progress.start("vae", steps, "step")
    progress.advance(step)
    while step < steps and (step == 0 or time.monotonic() - began < max_seconds):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        frames, weight = _draw_frames(step, clips_per_step, seed, device, size_hw)
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss, squared = frame_loss(vae, frames, weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        progress.advance()
        if step % 100 == 0 or step == steps:
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(f"the VAE's loss is {loss.item()} at step {step}")
            progress.note(f"vae step {step}: loss {loss.item():.4f}, mini PSNR {psnr(squared):.2f} dB")
    finished = with_time(vae)
    if step == steps:
        with torch.no_grad():
            held_out, _ = _draw_frames(0, 16, HELD_OUT_SEED, device, size_hw)
            mean_NCFHW = (
                without_time(copy.deepcopy(finished)).encode(held_out.unsqueeze(2), return_dict=False)[0].mean
            )
        whiten_latents(finished, (mean_NCFHW.float().transpose(0, 1).flatten(1).T,))
    save_state(out, finished, optimizer, step, steps)
    return step == steps


@torch.no_grad()
def _draw_frames(
    step: int, clips: int, seed: int, device: torch.device, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return frames (B, 3, H, W) in [-1, 1] of new clips, and how much each pixel counts."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    phases, triplets = random_labels(clips, generator)
    draw_seed = int(torch.randint(HELD_OUT_SEED, (1,), generator=generator))
    drawn = draw_clips(phases, triplets, draw_seed, size_hw=size_hw, device=device, extras=0.4)
    weight = pixel_weights(drawn.map_BFHW, int(drawn.map_BFHW.max()) + 1)
    return signed_pixels(drawn).flatten(0, 1), weight.flatten(0, 1)
