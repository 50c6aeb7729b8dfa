"""Latents that are known beforehand and stay so while the others are denoised around them.

Owns the joint between two clips of a story: the first latents of a clip are those of frames that exist. A
model is wrapped, and its velocity at known places replaced by the one that leads to the known latents, so
any solver arrives at them exactly, and every other latent is denoised in sight of them.

Legend: B clips, F latent frames, K of them known, C channels, h w latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hierasurg_core.models import CogVideoXDPMScheduler


@dataclass(frozen=True, eq=False)
class Held:
    """A denoiser whose first latent frames are known; called as the model is.

    With x_t = sqrt(a) x0 + sqrt(1 - a) noise the velocity that leads to x0 is
    (sqrt(a) x_t - x0) / sqrt(1 - a). It is linear in x0, so a weight between 0 and 1 blends the known
    latents with the model's own estimate.

    Attributes:
        model: S2M or M2V.
        scheduler: Whose noise levels the time steps mean.
        known_BKCHW: Scaled latents of the first K frames; float32, on the model's device.
        weight_K: How much of each is known, 1 is all.

    Raises:
        ValueError: There is not one weight in 0..1 a known frame, or the scheduler predicts no velocity.
    """

    model: Callable[..., Tensor]
    scheduler: CogVideoXDPMScheduler
    known_BKCHW: Tensor
    weight_K: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks the weights."""
        if len(self.weight_K) != self.known_BKCHW.shape[1] or not all(0 <= w <= 1 for w in self.weight_K):
            raise ValueError(f"need a weight in 0..1 for each of {self.known_BKCHW.shape[1]} known frames")
        if self.scheduler.config["prediction_type"] != "v_prediction":
            raise ValueError("known latents need a scheduler of velocities")

    def __call__(self, latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
        """Predicts the velocity (B, F, C, h, w); latents as the model takes them, conditions behind."""
        velocity = self.model(latents_BFCHW, timesteps_B, **conditions).float()
        frames, channels = self.known_BKCHW.shape[1:3]
        alphas_B = (
            self.scheduler.alphas_cumprod.to(timesteps_B.device)[timesteps_B].float().view(-1, 1, 1, 1, 1)
        )
        noisy = latents_BFCHW[:, :frames, :channels].float()
        repeats = noisy.shape[0] // self.known_BKCHW.shape[0]  # guidance asks twice for each clip
        known = self.known_BKCHW.repeat(repeats, 1, 1, 1, 1)
        leading = (alphas_B.sqrt() * noisy - known) / (1 - alphas_B).sqrt()
        weight = torch.tensor(self.weight_K, device=velocity.device).view(1, -1, 1, 1, 1)
        velocity[:, :frames] = torch.lerp(velocity[:, :frames], leading, weight)
        return velocity
