"""What a model is held against: the real clips through the VAE, and their first frame held still.

Owns the two changes that are done to real clips, and which VAE is the one to take. What loads it brings
diffusers, which takes seconds, so it is imported where it is needed. Legend: F frames, H rows, W columns,
C the three channels.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.config.evaluate import NONE
from hierasurg_core.errors import WeightsError
from hierasurg_core.evaluation.recordings import Side

_FACTOR = 8  # by which a VAE's latents are smaller, in rows and columns
_FRAMES = 4  # the same in time; it takes 4k + 1


def frozen_clip(video_FHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first frame, as long as the clip: what costs nothing and still looks sharp."""
    return np.ascontiguousarray(np.broadcast_to(video_FHWC[:1], video_FHWC.shape))


class VaeRoundTrip:
    """A VAE that codes and decodes clips: what no model that uses it can beat."""

    def __init__(self, folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> None:
        """Looks at its files; they are read when the first clip comes.

        Raises:
            WeightsError: There are none.
        """
        from hierasurg_core.models.encoder import identify_vae

        identity = identify_vae(folder, name)
        self._folder = folder / "vae" if (folder / "vae").is_dir() else folder
        self._device, self._dtype = device, dtype
        self.name, self.digest = name, identity.sha256
        self.key = f"vae 1 {identity.sha256} {dtype}"

    @functools.cached_property
    def _vae(self) -> Any:
        from hierasurg_core.models import load_vae

        return load_vae(self._folder, self._dtype, self._device)

    @torch.inference_mode()
    def __call__(self, video_FHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns a clip after coding and decoding, uint8 of the same form.

        Frames are padded with black to 4k + 1, as M2V pads them, and sides with their edge to multiples of 8.

        Raises:
            WeightsError: The files are damaged, or what they make is NaN.
        """
        from hierasurg_core.models import decode_video, encode_video

        frames, height, width, _ = video_FHWC.shape
        edges = ((0, 0), (0, -height % _FACTOR), (0, -width % _FACTOR), (0, 0))
        even_FHWC = np.pad(video_FHWC, edges, mode="edge")
        even_FHWC = np.pad(even_FHWC, ((0, (1 - frames) % _FRAMES), (0, 0), (0, 0), (0, 0)))
        pixels = torch.from_numpy(even_FHWC).to(self._device).permute(3, 0, 1, 2)[None].to(self._dtype)
        decoded = decode_video(self._vae, encode_video(self._vae, pixels / 127.5 - 1))
        made_CFHW = decoded[0, :, :frames, :height, :width].float()
        if not bool(torch.isfinite(made_CFHW).all()):
            raise WeightsError(f"the VAE of {self.name} made NaN; use --dtype fp32")
        bytes_CFHW = ((made_CFHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(bytes_CFHW.permute(1, 2, 3, 0).cpu().numpy())


def find_vae(wanted: str | None, generated: Side, real: Side) -> tuple[Path, str]:
    """Chooses the VAE of the baseline: what was asked for, the samples' own, the data set's.

    Raises:
        WeightsError: None is known, it is not there any more, or "none" was asked for.
    """
    if wanted == NONE:
        raise WeightsError("it was not asked for")
    if wanted is not None:
        from hierasurg_core.models.hub import local_folder

        return local_folder(wanted, parts=["vae"]), wanted
    for recording in generated.recordings:
        folder = _vae_of_record(recording.made_by)
        if folder is not None and folder.is_dir():
            return folder, "the samples' own VAE"
    if real.manifest is not None:
        from hierasurg_core.models.encoder import identify_vae
        from hierasurg_core.models.hub import MINI, local_folder

        name = real.manifest.vae.name
        folder = local_folder(name, parts=["vae"]) if name == MINI or Path(name).is_dir() else None
        if folder is not None and identify_vae(folder, name).sha256 == real.manifest.vae.sha256:
            return folder, f"the data set's VAE, {name}"
    raise WeightsError("neither samples nor data set say where their VAE is: give --vae MODEL, or mini")


def _vae_of_record(made_by: object) -> Path | None:
    """The VAE's folder in a sample's record of its models."""
    if not isinstance(made_by, dict):
        return None
    part = made_by.get("vae")
    said = part.get("folder") if isinstance(part, dict) else None
    return Path(said) if isinstance(said, str) else None
