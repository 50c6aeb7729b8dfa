"""The models: S2M and M2V transformers, the CogVideoX VAE and scheduler, and how they are loaded."""

from hierasurg_core.models.backbone import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, DiffusionPipeline
from hierasurg_core.models.decoding import lay_channels_last
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
from hierasurg_core.models.loading import find_transformer, load_scheduler, load_transformer, load_vae
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
