"""What the recipe's models learn from: phantom clips, drawn and encoded.

Owns the draws of both stages. Refuses: any other data, and the order in which clips are taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hierasurg_core.models import AutoencoderKLCogVideoX, encode_frames, encode_video, single_frame_vae
from hierasurg_core.phantom.draw import PhantomClips, draw_clips
from hierasurg_core.phantom.vae import (
    HELD_OUT_SEED,
    coloured_maps,
    padded_video,
    palette_table,
    random_labels,
    signed_pixels,
)
from hierasurg_core.training import Batch

_ENCODE_CLIPS = 128
_ENCODE_FRAMES = 256  # many small frames at once, as a GPU waits for launches else
_SHUFFLED = 0.3  # of the clips have ids in random order; the others follow the classes, as the gallery does
_EXTRAS = 0.4  # chance of a target that the phase does not ask for: whatever is in view may be asked for
_FIRST_FRAMES = 2


def draw_s2m(vae: AutoencoderKLCogVideoX, count: int, seed: int, device: torch.device) -> Batch:
    """Draws `count` clips and encodes what S2M learns from: coloured maps, each alone, and the first photo.

    Returns:
        A `Batch` of bf16 latents on the device.
    """
    table = palette_table(device)
    flat = single_frame_vae(vae)
    parts: list[dict[str, Tensor]] = []
    for clips in _drawn(count, torch.Generator().manual_seed(seed), device):
        maps = encode_frames(flat, coloured_maps(clips, table).to(vae.dtype), frames_at_once=_ENCODE_FRAMES)
        photo = encode_frames(flat, signed_pixels(clips)[:, :1].to(vae.dtype), frames_at_once=_ENCODE_FRAMES)
        parts.append(
            {
                "latents_BFCHW": maps.to(torch.bfloat16),
                "first_map_B1CHW": maps[:, :1].to(torch.bfloat16),
                "first_frame_B1CHW": photo.to(torch.bfloat16),
                "phase_BF": clips.phase_BF.contiguous(),
                "triplet_BF": clips.triplet_BF.contiguous(),
            }
        )
    return _joined(parts, count, seed)


def draw_m2v(
    vae: AutoencoderKLCogVideoX, count: int, seed: int, device: torch.device
) -> tuple[Batch, Tensor]:
    """Draws `count` clips and encodes what M2V learns from: videos, first photos, maps.

    Returns:
        A `Batch`, and the first photos' latents (N, K, C, H, W) in K variants: clean, and with noise of
        strength exp(N(-3, 0.5)) (reference: M2V's training).
    """
    flat = single_frame_vae(vae)
    parts: list[dict[str, Tensor]] = []
    variants: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    for clips in _drawn(count, generator, device):
        frames = signed_pixels(clips)
        video = encode_video(vae, padded_video(frames).transpose(1, 2).to(vae.dtype))
        strength = torch.exp(-3 + 0.5 * torch.randn(len(frames), _FIRST_FRAMES, generator=generator)).to(
            device
        )
        strength[:, 0] = 0
        first = frames[:, :1].expand(-1, _FIRST_FRAMES, -1, -1, -1)
        first = first + strength[:, :, None, None, None] * torch.randn(first.shape, device=device)
        photos = encode_frames(flat, first.to(vae.dtype), frames_at_once=_ENCODE_FRAMES).to(torch.bfloat16)
        variants.append(photos)
        parts.append(
            {
                "latents_BFCHW": video.to(torch.bfloat16),
                "first_frame_B1CHW": photos[:, :1],
                "phase_BF": clips.phase_BF.contiguous(),
                "triplet_BF": clips.triplet_BF.contiguous(),
                "maps_BFHW": clips.map_BFHW,
                "max_id_B": clips.num_entities_B + 1,
            }
        )
    return _joined(parts, count, seed), torch.cat(variants)


def _drawn(count: int, generator: torch.Generator, device: torch.device) -> Iterator[PhantomClips]:
    """Draws `count` clips of training, as many at once as are encoded at once."""
    for start in range(0, count, _ENCODE_CLIPS):
        phases, triplets = random_labels(min(_ENCODE_CLIPS, count - start), generator)
        draw_seed = int(torch.randint(HELD_OUT_SEED, (1,), generator=generator))
        yield draw_clips(phases, triplets, draw_seed, device=device, shuffle_ids=_SHUFFLED, extras=_EXTRAS)


def _joined(parts: list[dict[str, Tensor]], count: int, seed: int) -> Batch:
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Batch(ids=tuple(f"phantom-{seed}/{index}" for index in range(count)), **tensors)
