"""Cached clips of random latents and maps, as a data set of their size gives them."""

import torch

from hierasurg_core.training import Batch


def random_clips(
    batch: int,
    shape: tuple[int, int, int, int],
    device: torch.device,
    seed: int,
) -> Batch:
    """Draws M2V's batch; the shape is latent frames, latent rows and columns, and maps."""
    draw = torch.Generator(device).manual_seed(seed)
    frames, rows, columns, maps = shape
    latents = torch.randn(batch, frames, 16, rows, columns, generator=draw, device=device).bfloat16()
    size = (batch, maps, 8 * rows, 8 * columns)
    return Batch(
        latents_BFCHW=latents,
        first_frame_B1CHW=latents[:, :1],
        ids=tuple(map(str, range(batch))),
        maps_BFHW=torch.randint(0, 12, size, generator=draw, device=device, dtype=torch.uint8),
        max_id_B=torch.full((batch,), 11, device=device),
    )
