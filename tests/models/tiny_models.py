"""Tiny real models and inputs for the tests of hierasurg_core.models."""

from typing import Any

import torch

from hierasurg_core.models import AutoencoderKLCogVideoX, M2VTransformer3DModel, S2MTransformer3DModel

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "time_embed_dim": 24,
    "condition_embed_dim": 20,
    "condense_dim": 12,
    "sample_seconds": 4,
}
MAP_WIDTHS = (4, 6, 8)


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def tiny_s2m(**changes: Any) -> S2MTransformer3DModel:
    torch.manual_seed(0)
    return S2MTransformer3DModel(**merged(TINY, changes)).eval()


def tiny_m2v(**changes: Any) -> M2VTransformer3DModel:
    torch.manual_seed(0)
    return M2VTransformer3DModel(
        **merged(TINY, {"text_embed_dim": 10, "map_widths": MAP_WIDTHS}, changes)
    ).eval()


def tiny_vae(**changes: Any) -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    settings = {"block_out_channels": (8, 8, 12, 16), "layers_per_block": 1, "norm_num_groups": 4}
    return AutoencoderKLCogVideoX(**merged(settings, changes)).eval()


def s2m_inputs(batch: int = 1, frames: int = 4) -> dict[str, torch.Tensor]:
    """Latents of 32x48 pixels."""
    draw = torch.Generator().manual_seed(1)
    return {
        "latents_BFCHW": torch.randn(batch, frames, 48, 4, 6, generator=draw),
        "timesteps_B": torch.full((batch,), 500),
        "phase_BF": torch.full((batch, frames), 1),
        "triplet_BF": torch.full((batch, frames), 17),
    }


def m2v_inputs(batch: int = 1, maps: int = 4) -> dict[str, torch.Tensor]:
    """Latents and maps of 32x48 pixels."""
    draw = torch.Generator().manual_seed(1)
    return {
        "latents_BFCHW": torch.randn(batch, 2, 32, 4, 6, generator=draw),
        "timesteps_B": torch.full((batch,), 500),
        "phase_BF": torch.full((batch, maps), 1),
        "triplet_BF": torch.full((batch, maps), 17),
        "maps_BFHW": torch.rand(batch, maps, 32, 48, generator=draw),
    }
