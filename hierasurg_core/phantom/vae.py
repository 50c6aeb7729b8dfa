"""Training of the small CogVideoX VAE on the phantom: videos, single photos and single coloured maps.

Owns the objective and the loop; the class is diffusers' own `AutoencoderKLCogVideoX`, so nothing about the
result is special. There is no adversarial and no learned perceptual term: the phantom is smooth, and both
would need weights from elsewhere. Legend: B clips, C channels, F frames, H W pixels; pixels are in [-1, 1].
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierasurg_core import artifacts, runtime
from hierasurg_core.maps import MAX_LEVELS, palette_rgb_N3
from hierasurg_core.models import AutoencoderKLCogVideoX, load_vae
from hierasurg_core.phantom.draw import NATIVE_SIZE_HW, DrawnClips, draw_clips
from hierasurg_core.phantom.whitening import whiten_latents
from hierasurg_core.progress import Progress

VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (16, 32, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 16,
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "temporal_compression_ratio": 4,
    "sample_height": NATIVE_SIZE_HW[0],
    "sample_width": NATIVE_SIZE_HW[1],
}
HELD_OUT_SEED = 10**9
"""Clips with seeds from here on are never drawn in training: measurements and the gallery use them."""
KL_WEIGHT = 1e-5
PEAK_LR = 1.5e-3
WARMUP_STEPS = 150
_CLOCK_STEPS = 10
_POOL_STEPS = 4
_STATE = "vae_training.safetensors"
_STEP = "vae_training.json"


def random_labels(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Phase and triplet ids for `count` clips, each drawn uniformly and alone."""
    return (
        torch.randint(7, (count,), generator=generator),
        torch.randint(100, (count,), generator=generator),
    )


def signed_pixels(clips: DrawnClips) -> Tensor:
    """The clips' frames in [-1, 1], (B, F, 3, H, W)."""
    return clips.video_BFCHW * 2 - 1


def padded_video(pixels_BFCHW: Tensor) -> Tensor:
    """Appends the black frame that makes 16 frames the 17 a CogVideoX VAE wants, (B, F + 1, 3, H, W)."""
    return torch.cat([pixels_BFCHW, torch.full_like(pixels_BFCHW[:, :1], -1.0)], dim=1)


def palette_table(device: torch.device | str) -> Tensor:
    """Colours in [-1, 1] of the i-th of n levels, (21, 20, 3); rows beyond n are 0."""
    table = torch.zeros(MAX_LEVELS + 1, MAX_LEVELS, 3)
    for n in range(1, MAX_LEVELS + 1):
        table[n, :n] = torch.from_numpy(palette_rgb_N3(n)).float() / 127.5 - 1
    return table.to(device)


def coloured_maps(clips: DrawnClips, table: Tensor) -> Tensor:
    """The clips' maps as S2M sees them, in [-1, 1], (B, F, 3, H, W).

    All ids 0..K+1 of a clip count as its levels, as they do in `PanopticClip` where each occurs.
    """
    count = (clips.num_entities_B + 2).view(-1, 1, 1, 1)
    return table[count, clips.map_BFHW.long()].permute(0, 1, 4, 2, 3)


def vae_loss(vae: AutoencoderKLCogVideoX, pixels_BCFHW: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction plus Kullback-Leibler loss of one batch, and its squared error alone (for PSNR).

    Absolute and squared error, the absolute error of horizontal and vertical differences (edges), and the
    divergence of the latents from a unit normal, weighted with `KL_WEIGHT` a latent value.
    """
    posterior = vae.encode(pixels_BCFHW, return_dict=False)[0]
    output = vae.decode(posterior.sample(), return_dict=False)[0].float()
    error = output - pixels_BCFHW
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
    squared = error.pow(2).mean()
    return error.abs().mean() + squared + 0.5 * edges + KL_WEIGHT * divergence, squared.detach()


def train_vae(
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
    """Trains until `steps` are done or the time is up, from where the folder's state says.

    Several ranks (torchrun) draw different clips and average gradients.

    Args:
        out: Holds `vae/` (the model) and the state to go on from.
        steps: Length of the schedule.
        clips_per_step: Clips a step and rank.
        seed: Of all draws.
        device: Where to train.
        max_seconds: Time for this piece.
        progress: Is told loss and PSNR.
        start: Folder of a VAE of the same widths to begin with, instead of random weights.
        size_hw: Size of the clips.

    Returns:
        Whether all steps are done.
    """
    began = time.monotonic()
    rank, world = runtime.rank(), runtime.world_size()
    torch.manual_seed(seed)
    vae = AutoencoderKLCogVideoX(**VAE_CONFIG)
    torch.nn.Module.to(vae, device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-4)
    if start is not None:
        vae.load_state_dict(load_vae(start, torch.float32, device).state_dict())
    step = load_state(out, vae, optimizer, device)
    if step >= steps:
        return True
    vae.train()
    table = palette_table(device)
    parameters = list(vae.parameters())
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    progress.start("vae", steps, "step")
    progress.advance(step)
    pool: list[tuple[Tensor, Tensor]] = []
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        if not pool:
            # Drawing several steps' clips at once keeps a GPU busier.
            pool = _draw_pool(step, clips_per_step, seed * 64 + rank, table, size_hw)
        video, singles = pool.pop()
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            video_loss, video_squared = vae_loss(vae, video)
            single_loss, single_squared = vae_loss(vae, singles)
            loss = video_loss + single_loss
        loss.backward()
        if world > 1:
            average_gradients(parameters, world)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        progress.advance()
        if rank == 0 and (step % 100 == 0 or step == steps):
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(f"the VAE's loss is {loss.item()} at step {step}")
            progress.note(
                f"vae step {step}: loss {loss.item():.4f}, mini PSNR video {psnr(video_squared):.2f} dB, "
                f"single frames {psnr(single_squared):.2f} dB, {(time.monotonic() - began):.0f} s"
            )
        if (world == 1 or step % _CLOCK_STEPS == 0) and any_rank(
            time.monotonic() - began > max_seconds, device
        ):
            break
    if rank == 0:
        if step == steps:
            whiten_latents(vae, _held_out_latents(vae, table, size_hw, autocast))
        save_state(out, vae, optimizer, step, steps)
    return step == steps


def unfinished_steps(out: Path) -> int:
    """Steps that the VAE of a recipe's folder still lacks; 0 for one that came from elsewhere.

    An unfinished VAE's latents are not whitened yet, so nothing may be trained on them.
    """
    path = out / "vae" / _STEP
    if not path.exists():
        return 0
    state = artifacts.read_json(path)
    return int(state["steps"]) - int(state["step"])


@torch.no_grad()
def _draw_pool(
    step: int, clips_per_step: int, seed: int, table: Tensor, size_hw: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """Videos (B, 3, F, H, W) and single frames (3 B, 3, 1, H, W) of the next `_POOL_STEPS` steps.

    Every second video is cut to 9 frames; single frames are a photo and two maps of each clip.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    phases, triplets = random_labels(clips_per_step * _POOL_STEPS, generator)
    draw_seed = int(torch.randint(HELD_OUT_SEED, (1,), generator=generator))
    clips = draw_clips(phases, triplets, draw_seed, size_hw=size_hw, device=table.device, shuffle_ids=0.5)
    frames, maps = signed_pixels(clips), coloured_maps(clips, table)
    pool: list[tuple[Tensor, Tensor]] = []
    for index in range(_POOL_STEPS):
        part = slice(index * clips_per_step, (index + 1) * clips_per_step)
        picked = int(torch.randint(16, (1,), generator=generator))
        alone = [frames[part, picked], maps[part, 0], maps[part, (picked + 7) % 16]]
        video = padded_video(frames[part]).transpose(1, 2)
        pool.append((video[:, :, :9] if index % 2 else video, torch.cat(alone).unsqueeze(2)))
    return pool


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    way = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LR * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * way)))


def psnr(squared: Tensor) -> float:
    """PSNR of a mean squared error of pixels in [-1, 1], dB."""
    return 10 * math.log10(4 / max(float(squared), 1e-10))


@torch.no_grad()
def _held_out_latents(
    vae: AutoencoderKLCogVideoX, table: Tensor, size_hw: tuple[int, int], autocast: torch.autocast
) -> tuple[Tensor, Tensor]:
    """Unscaled latent vectors (N, C) of held-out videos and of held-out maps, each map alone."""
    clips = draw_clips(
        *random_labels(16, torch.Generator().manual_seed(7)),
        HELD_OUT_SEED,
        size_hw=size_hw,
        device=table.device,
    )
    video = padded_video(signed_pixels(clips)).transpose(1, 2)
    maps = coloured_maps(clips, table)[:, ::5].flatten(0, 1).unsqueeze(2)
    with autocast:
        video_BCFHW, map_BCFHW = (vae.encode(x, return_dict=False)[0].mean.float() for x in (video, maps))
    # The frame that pads a clip's end is no picture.
    vectors = [x.transpose(0, 1).flatten(1).T for x in (video_BCFHW[:, :, :-1], map_BCFHW)]
    return vectors[0], vectors[1]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up on any rank; all ranks must ask."""
    if runtime.world_size() == 1:
        return flag
    shared = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(shared)
    return bool(shared > 0)


def average_gradients(parameters: list[torch.nn.Parameter], world: int) -> None:
    """Replaces each gradient by its mean over all ranks."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def save_state(
    out: Path, vae: AutoencoderKLCogVideoX, optimizer: torch.optim.Optimizer, step: int, steps: int
) -> None:
    """Writes `out/vae`: the model and what its training goes on from."""
    out.mkdir(parents=True, exist_ok=True)
    with artifacts.atomic_folder(out / "vae") as folder:
        vae.save_pretrained(folder)
        moments = {
            f"{index}.{name}": value
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        save_file(
            {name: torch.as_tensor(value).contiguous() for name, value in moments.items()}, folder / _STATE
        )
        artifacts.write_json(folder / _STEP, {"step": step, "steps": steps})


def load_state(
    out: Path, vae: AutoencoderKLCogVideoX, optimizer: torch.optim.Optimizer, device: torch.device
) -> int:
    """Puts model and optimiser back to where `save_state` left them; returns the step, 0 for a new run."""
    folder = out / "vae"
    if not (folder / _STEP).exists():
        return 0
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    for name, wanted in vae.state_dict().items():
        if weights[name].ndim == 5 and weights[name].shape[2] > wanted.shape[2]:  # see `frame_vae`
            weights[name] = weights[name].sum(dim=2, keepdim=True)
    vae.load_state_dict(weights)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(folder / _STATE, device=str(device)).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(artifacts.read_json(folder / _STEP)["step"])
