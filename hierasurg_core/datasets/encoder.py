"""The seam to the VAE: what the data set asks of it, without knowing whose it is.

Models are a layer above data sets, so an encoder is handed in. Whatever it returns is deterministic for the
same input and batch, which is what lets a build that was cut off end in the same bytes.

Legend: B clips, F frames, T latent frames, C latent channels, H W pixels, h w latent sides (H / 8, W / 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VaeIdentity:
    """Which VAE made, or will make, a data set's latents.

    Attributes:
        name: What the user called it.
        sha256: Of its config and weights.
        size_hw: Pixels it was trained at, the default size of a data set.
        channels: C.
        scaling_factor: Already multiplied into every latent of a data set.
    """

    name: str
    sha256: str
    size_hw: tuple[int, int]
    channels: int
    scaling_factor: float


class LatentEncoder(Protocol):
    """A frozen VAE on some device.

    Both methods take pixels as uint8 in 0..255 or as float32 in [-1, 1], on the CPU, and return scaled
    latents, float16.
    """

    @property
    def identity(self) -> VaeIdentity:
        """Returns which VAE it is."""
        ...

    @property
    def precision(self) -> str:
        """Returns the number type it computes in ("bfloat16")."""
        ...

    def encode_video(self, video_BFHWC: torch.Tensor) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Returns mean and log-variance, each (B, T, C, h, w), of videos of 4k + 1 frames."""
        ...

    def encode_frames(self, frames_FHWC: torch.Tensor) -> NDArray[np.float16]:
        """Returns the mean (F, C, h, w) of frames that are each encoded alone."""
        ...
