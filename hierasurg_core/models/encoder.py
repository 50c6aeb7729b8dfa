"""The VAE as a data set's encoder: pixels in, scaled float16 latents out.

Owns number types and the way to the device and back. What a data set asks of an encoder is
`datasets.encoder`; this is the one there is.

Legend: B clips, F frames, T latent frames, C latent channels, H W pixels, h w latent sides.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.datasets.encoder import VaeIdentity
from hierasurg_core.errors import WeightsError
from hierasurg_core.models.configs import read_model_config
from hierasurg_core.models.files import CONFIG_FILE
from hierasurg_core.models.latents import encode_frames, single_frame_vae
from hierasurg_core.models.loading import load_vae

_WEIGHTS = (".safetensors", ".bin")


def identify_vae(folder: Path, name: str) -> VaeIdentity:
    """Says which VAE a model folder has, without loading it.

    Args:
        folder: Model folder with `vae/`, or the VAE's own.
        name: What the user called it.

    Raises:
        WeightsError: There is no VAE, or its config says too little.
    """
    part = _vae_folder(folder)
    try:
        config = read_model_config(part / CONFIG_FILE)
        size_hw = int(config["sample_height"]), int(config["sample_width"])
        channels, factor = int(config["latent_channels"]), float(config["scaling_factor"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{part / CONFIG_FILE} does not describe a CogVideoX VAE: {error}") from error
    digest = hashlib.sha256(f"{channels} {factor}".encode())
    for file in sorted(part.iterdir()):
        if file.suffix in _WEIGHTS:
            digest.update(f"{file.name} {sha256_file(file)}".encode())
    return VaeIdentity(name, digest.hexdigest(), size_hw, channels, factor)


class VaeEncoder:
    """A loaded VAE; a `LatentEncoder`.

    Example:
        >>> identity = identify_vae(folder, "THUDM/CogVideoX-2b")
        >>> encoder = VaeEncoder(folder, identity, torch.device("cuda"), torch.bfloat16)
    """

    def __init__(self, folder: Path, identity: VaeIdentity, device: torch.device, dtype: torch.dtype) -> None:
        """Reads the weights.

        Raises:
            WeightsError: They are damaged, or not the config's.
        """
        self._vae = load_vae(_vae_folder(folder), dtype, device)
        self._flat = single_frame_vae(self._vae)
        self._device, self._dtype, self._identity = device, dtype, identity

    @property
    def identity(self) -> VaeIdentity:
        """Returns which VAE it is."""
        return self._identity

    @property
    def precision(self) -> str:
        """Returns the number type it computes in."""
        return precision_name(self._dtype)

    @torch.inference_mode()
    def encode_video(self, video_BFHWC: torch.Tensor) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Returns mean and log-variance, each (B, T, C, h, w), of videos of 4k + 1 frames.

        Raises:
            WeightsError: They are not finite in float16.
        """
        video_BCFHW = self._pixels(video_BFHWC).permute(0, 4, 1, 2, 3)
        posterior = self._vae.encode(video_BCFHW, return_dict=False)[0]
        factor = self._identity.scaling_factor
        mean = posterior.mean.float() * factor
        logvar = posterior.logvar.float() + 2 * math.log(factor)
        return self._stored(mean.transpose(1, 2)), self._stored(logvar.transpose(1, 2))

    @torch.inference_mode()
    def encode_frames(self, frames_FHWC: torch.Tensor) -> NDArray[np.float16]:
        """Returns the mean (F, C, h, w) of frames that are each encoded alone.

        Raises:
            WeightsError: It is not finite in float16.
        """
        frames_1FCHW = self._pixels(frames_FHWC).permute(0, 3, 1, 2)[None]
        return self._stored(encode_frames(self._flat, frames_1FCHW)[0].float())

    def _pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns pixels in [-1, 1] on the device; bytes travel as bytes."""
        moved = pixels.to(self._device, non_blocking=True)
        if moved.dtype == torch.uint8:
            moved = moved.float() / 127.5 - 1
        return moved.to(self._dtype)

    def _stored(self, latents: torch.Tensor) -> NDArray[np.float16]:
        stored = latents.to(torch.float16).contiguous().cpu().numpy()
        if not np.isfinite(stored).all():
            advice = "use --dtype bf16 or fp32" if self._dtype == torch.float16 else "its weights are damaged"
            raise WeightsError(
                f"the VAE of {self._identity.name} gave NaN or infinity in {self.precision}; {advice}"
            )
        return stored


def precision_name(dtype: torch.dtype) -> str:
    """Returns "bfloat16" for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def _vae_folder(folder: Path) -> Path:
    for candidate in (folder / "vae", folder):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    raise WeightsError(f"{folder} has no VAE: give a model folder with vae/{CONFIG_FILE} as --base")
