"""Videos and single frames through the CogVideoX VAE.

Owns: axes, the scaling factor, batching of frames that are coded alone, and the flat copy of a VAE that
codes them three times as fast, and the size of tiles.
Refuses: padding to 4k + 1 frames (the caller's), tiling (call `take_tiles` before).

Letters: B batch, F frames, C channels, H W pixels, h w latent sides. Pixels are in [-1, 1].
"""

from __future__ import annotations

import copy

import torch

from hierasurg_core.models.backbone import AutoencoderKLCogVideoX, CogVideoXCausalConv3d
from hierasurg_core.models.decoding import SAFE_CONV_BYTES, decode_latents

_TILE_HW = (240, 360)
_FRAMES_AT_ONCE = 8


def frames_a_latent(vae: AutoencoderKLCogVideoX) -> int:
    """Return how many video frames a latent frame stands for: 4 in the published VAE, 1 uncompressed."""
    return int(vae.config["temporal_compression_ratio"])


def latent_frames(vae: AutoencoderKLCogVideoX, num_frames: int) -> int:
    """Return how many latent frames a clip of `num_frames` takes, with the frame that pads it to 4k + 1.

    Example:
        >>> latent_frames(vae, 16)  # the published VAE: 17 frames in 5
        5
    """
    ratio = frames_a_latent(vae)
    return num_frames if ratio == 1 else num_frames // ratio + 1


def encode_video(
    vae: AutoencoderKLCogVideoX,
    video_BCFHW: torch.Tensor,
    sample: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return scaled latents (B, Z, 16, H / 8, W / 8) of a video of 4k + 1 frames, Z = (F - 1) / 4 + 1.

    A VAE without time compression codes each frame alone: Z = F, any number of frames.

    Args:
        vae: of any width.
        video_BCFHW: RGB in [-1, 1].
        sample: draw from the posterior instead of taking its mode.
        generator: of the draw.

    Raises:
        ValueError: frames or sides that the VAE can't halve evenly.
    """
    frames, height, width = video_BCFHW.shape[2:]
    ratio = frames_a_latent(vae)
    if (frames - 1) % ratio or height % 8 or width % 8:
        raise ValueError(
            f"video of {frames} frames at {height}x{width}: frames must be {ratio}k + 1, sides divisible by 8"
        )
    if ratio == 1 and frames > 1:
        return encode_frames(vae, video_BCFHW.transpose(1, 2), sample, generator)
    posterior = vae.encode(video_BCFHW.to(vae.dtype), return_dict=False)[0]
    latents_BCFhw = posterior.sample(generator) if sample else posterior.mode()
    return latents_BCFhw.transpose(1, 2) * vae.config["scaling_factor"]


def decode_video(
    vae: AutoencoderKLCogVideoX, latents_BFChw: torch.Tensor, *, compiled: bool = False
) -> torch.Tensor:
    """Return the video (B, 3, 4 (F - 1) + 1, 8 h, 8 w) of scaled latents; not clamped to [-1, 1].

    Tiles are taken where `take_tiles` was called and the size exceeds a tile. ``compiled`` runs
    the passes over large tensors through torch.compile.
    """
    if frames_a_latent(vae) == 1 and latents_BFChw.shape[1] > 1:
        return decode_frames(vae, latents_BFChw, compiled=compiled).transpose(1, 2)
    latents_BCFhw = latents_BFChw.transpose(1, 2).to(vae.dtype) / vae.config["scaling_factor"]
    height, width = latents_BCFhw.shape[-2:]
    if vae.use_tiling and (height > vae.tile_latent_min_height or width > vae.tile_latent_min_width):
        return vae.decode(latents_BCFhw, return_dict=False)[0]
    return decode_latents(vae, latents_BCFhw, compiled=compiled)


def take_tiles(vae: AutoencoderKLCogVideoX) -> None:
    """Lets a VAE work in tiles of 240x360 pixels, those of the published one, whatever size it was made for.

    diffusers takes half of the VAE's nominal size, and overlaps of a sixth of its height and a fifth of its
    width, rounded down: where these are no whole latents, it returns frames larger than asked for.
    """
    height, width = _TILE_HW
    vae.enable_tiling(tile_sample_min_height=height, tile_sample_min_width=width)


def encode_frames(
    vae: AutoencoderKLCogVideoX,
    frames_BFCHW: torch.Tensor,
    sample: bool = False,
    generator: torch.Generator | None = None,
    frames_at_once: int | None = None,
) -> torch.Tensor:
    """Return scaled latents (B, F, 16, H / 8, W / 8) with each frame encoded alone.

    ``frames_at_once`` bounds memory; the result doesn't depend on it (but a draw's order does).
    """
    flat = frames_BFCHW.flatten(0, 1).unsqueeze(2)
    step = frames_at_once or _frames_that_fit(vae, *frames_BFCHW.shape[-2:])
    parts = [encode_video(vae, part, sample, generator) for part in flat.split(step)]
    return torch.cat(parts).squeeze(1).unflatten(0, frames_BFCHW.shape[:2])


def decode_frames(
    vae: AutoencoderKLCogVideoX,
    latents_BFChw: torch.Tensor,
    frames_at_once: int | None = None,
    *,
    compiled: bool = False,
) -> torch.Tensor:
    """Return frames (B, F, 3, 8 h, 8 w) of scaled latents that were encoded each alone."""
    height, width = (8 * side for side in latents_BFChw.shape[-2:])
    flat = latents_BFChw.flatten(0, 1).unsqueeze(1)
    step = frames_at_once or _frames_that_fit(vae, height, width)
    parts = [decode_video(vae, part, compiled=compiled).squeeze(2) for part in flat.split(step)]
    return torch.cat(parts).unflatten(0, latents_BFChw.shape[:2])


@torch.no_grad()
def single_frame_vae(vae: AutoencoderKLCogVideoX) -> AutoencoderKLCogVideoX:
    """Return a frozen copy that gives the same results for single frames at a third of the work.

    Before its first frame a causal convolution sees that frame repeated, so for a frame alone the kernel's
    time axis may be summed. Only `encode_frames` and `decode_frames` may be called with the copy.
    """
    flat = copy.deepcopy(vae).requires_grad_(False)
    for module in flat.modules():
        if isinstance(module, CogVideoXCausalConv3d) and module.pad_mode != "replicate":
            kernel = module.conv.weight.sum(dim=2, keepdim=True)
            module.conv.weight = torch.nn.Parameter(kernel, requires_grad=False)
            module.conv.kernel_size = (1, *module.conv.kernel_size[1:])
            module.time_kernel_size, module.time_pad = 1, 0
    return flat


def _frames_that_fit(vae: AutoencoderKLCogVideoX, height: int, width: int) -> int:
    """Return how many single frames a batch may hold.

    Above 2 GiB (counted as two bytes a value) diffusers' safe convolution splits the time axis, of which a
    single frame has none to spare: three values, a kernel of three. The widest full-size layer decides.
    """
    channels = max(vae.config["block_out_channels"][:2])
    bytes_a_frame = 2 * 3 * channels * height * width
    return max(1, min(_FRAMES_AT_ONCE, SAFE_CONV_BYTES // bytes_a_frame))
