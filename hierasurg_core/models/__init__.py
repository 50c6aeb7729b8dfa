"""The models: S2M and M2V transformers, the CogVideoX VAE and scheduler, and how they are loaded.

The names below are imported when they are first used, so that model folders can be found and checked before
torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hierasurg_core.models.backbone import (
        AutoencoderKLCogVideoX,
        CogVideoXDPMScheduler,
        DiffusionPipeline,
    )
    from hierasurg_core.models.decoding import lay_channels_last
    from hierasurg_core.models.files import find_transformer
    from hierasurg_core.models.latents import (
        decode_frames,
        decode_video,
        encode_frames,
        encode_video,
        frames_a_latent,
        latent_frames,
        single_frame_vae,
        take_tiles,
    )
    from hierasurg_core.models.loading import load_scheduler, load_transformer, load_vae
    from hierasurg_core.models.stack import CogVideoXStack, start_as_identity
    from hierasurg_core.models.transformers import M2VTransformer3DModel, S2MTransformer3DModel

__all__ = [
    "AutoencoderKLCogVideoX",
    "CogVideoXDPMScheduler",
    "CogVideoXStack",
    "DiffusionPipeline",
    "M2VTransformer3DModel",
    "S2MTransformer3DModel",
    "decode_frames",
    "decode_video",
    "encode_frames",
    "encode_video",
    "find_transformer",
    "frames_a_latent",
    "latent_frames",
    "lay_channels_last",
    "load_scheduler",
    "load_transformer",
    "load_vae",
    "single_frame_vae",
    "start_as_identity",
    "take_tiles",
]

_MODULES = {
    "AutoencoderKLCogVideoX": "backbone",
    "CogVideoXDPMScheduler": "backbone",
    "CogVideoXStack": "stack",
    "DiffusionPipeline": "backbone",
    "M2VTransformer3DModel": "transformers",
    "S2MTransformer3DModel": "transformers",
    "decode_frames": "latents",
    "decode_video": "latents",
    "encode_frames": "latents",
    "encode_video": "latents",
    "frames_a_latent": "latents",
    "latent_frames": "latents",
    "find_transformer": "files",
    "lay_channels_last": "decoding",
    "load_scheduler": "loading",
    "load_transformer": "loading",
    "load_vae": "loading",
    "single_frame_vae": "latents",
    "start_as_identity": "stack",
    "take_tiles": "latents",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
