"""Everything this package takes from diffusers; no other module imports diffusers or transformers.

Owns: the names of CogVideoX's parts under one roof and the sincos position code with plain types.
Refuses: any model or loading logic of our own.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import (
    AutoencoderKLCogVideoX,
    CogVideoXCausalConv3d,
)
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import (
    CogVideoXPatchEmbed,
    TimestepEmbedding,
    Timesteps,
    get_3d_sincos_pos_embed,
)
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNorm, CogVideoXLayerNormZero
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler

__all__ = [
    "AdaLayerNorm",
    "Attention",
    "AttentionMixin",
    "AutoencoderKLCogVideoX",
    "CacheMixin",
    "CogVideoXBlock",
    "CogVideoXCausalConv3d",
    "CogVideoXDPMScheduler",
    "CogVideoXLayerNormZero",
    "CogVideoXPatchEmbed",
    "ConfigMixin",
    "DiffusionPipeline",
    "FirstBlockCacheConfig",
    "ModelMixin",
    "PeftAdapterMixin",
    "PyramidAttentionBroadcastConfig",
    "TaylorSeerCacheConfig",
    "TimestepEmbedding",
    "Timesteps",
    "apply_group_offloading",
    "register_block",
    "register_to_config",
    "sincos_positions_ND",
]


def register_block(block: type[CogVideoXBlock]) -> None:
    """Tell diffusers' caches of a block class that takes and returns what `CogVideoXBlock` does."""
    TransformerBlockRegistry.register(
        model_class=block,
        metadata=TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=1),
    )


def sincos_positions_ND(
    dim: int,
    frames: int,
    rows: int,
    columns: int,
    *,
    spatial_scale: float,
    temporal_scale: float,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return CogVideoX's sincos code of a grid of tokens, (frames * rows * columns, dim), frames outermost.

    A quarter of ``dim`` codes the frame, the rest row and column. Positions are 0, 1, 2, ... over the
    scale, so the code of a smaller grid is a crop of a larger one's: it depends on no nominal size.

    Raises:
        ValueError: ``dim`` is not a multiple of 16.
    """
    if dim % 16:
        raise ValueError(f"width {dim} can't hold a 3D position code: it must be a multiple of 16")
    with torch.inference_mode(False), torch.no_grad():
        code_FND = get_3d_sincos_pos_embed(
            dim, (columns, rows), frames, spatial_scale, temporal_scale, device=device
        )
        return code_FND.flatten(0, 1).to(dtype)
