"""The seam between the one trainer and the two models: what is predicted from a batch, and what it should be.

Owns the objective (that of HieraSurg, arXiv 2506.21287) and how conditions become input channels. It knows
neither optimiser nor files. B clips, F latent frames, C latent channels, H W latent rows and columns,
T diffusion times.

The published loss is mean((x0' - x0)^2 / (1 - a_t)), with a_t = alpha_bar of time t and x0' =
sqrt(a_t) x_t - sqrt(1 - a_t) v'. As x0 = sqrt(a_t) x_t - sqrt(1 - a_t) v for the true velocity
v = sqrt(a_t) noise - sqrt(1 - a_t) x0, the difference x0' - x0 is -sqrt(1 - a_t) (v' - v), and the loss is
exactly mean((v' - v)^2). That form is computed here: it divides by nothing, so it neither magnifies rounding
near t = 0, where the weight is about 400, nor minds the a_999 = 0 of a zero terminal signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from hierasurg_core.errors import DataError
from hierasurg_core.models.text_vectors import TextVectors
from hierasurg_core.training.batch import Batch
from hierasurg_core.training.draws import Draws
from hierasurg_core.training.words import conditions


class VelocityModel(Protocol):
    """How both transformers are called; returns the velocity (B, F, C, H, W)."""

    def __call__(
        self,
        latents_BFCHW: Tensor,
        timesteps_B: Tensor,
        phase_BF: Tensor | None = None,
        triplet_BF: Tensor | None = None,
        maps_BFHW: Tensor | None = None,
    ) -> Tensor:
        """Predicts the velocity of noisy latents with their condition channels."""
        ...


class TokenModel(Protocol):
    """How M2V is called with tokens in place of maps."""

    def __call__(self, latents_BFCHW: Tensor, timesteps_B: Tensor, *, map_tokens_BND: Tensor) -> Tensor:
        """Predicts the velocity."""
        ...


class Stage(Protocol):
    """One of the two trainings.

    Attributes:
        name: "s2m" or "m2v"; checkpoints carry it.
        inputs: How many latents the model's input channels hold side by side.
    """

    @property
    def name(self) -> str:
        """Returns "s2m" or "m2v"."""
        ...

    @property
    def inputs(self) -> int:
        """Returns how many latents lie side by side in the model's input channels."""
        ...

    def prediction_and_target(
        self, model: VelocityModel, batch: Batch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Runs the model on a noised batch.

        Returns:
            The predicted velocity, of whatever float type the model gives, and the true one, float32; both
            (B, F, C, H, W).

        Raises:
            DataError: The batch lacks what the stage needs.
        """
        ...


class SampledStage(Stage, Protocol):
    """A stage whose model can also be asked one step of sampling at a time, as previews do."""

    @property
    def alpha_bar_T(self) -> Tensor:
        """Returns the scheduler's `alphas_cumprod`."""
        ...

    def velocity(self, model: VelocityModel, noisy_BFCHW: Tensor, time_B: Tensor, batch: Batch) -> Tensor:
        """Asks the model for the velocity of noisy latents, float32, under a batch's conditions.

        Raises:
            DataError: The batch lacks what the stage needs.
        """
        ...


@dataclass(frozen=True)
class S2MStage:
    """Phase and triplet to panoptic maps.

    Input channels: noisy map latents, first map, first photo (the latter two zero from the second frame).

    Attributes:
        alpha_bar_T: The scheduler's `alphas_cumprod`; best on the training device.
        vectors: Take the place of phase and triplet ids; None: the model takes ids.
        emphasis: How much more a place counts where the maps leave the first one (see `moving_weight`); 0 is
            the published loss.
    """

    alpha_bar_T: Tensor
    vectors: TextVectors | None = None
    emphasis: float = 0.0
    name: str = "s2m"
    inputs: int = 3

    def prediction_and_target(
        self, model: VelocityModel, batch: Batch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Predicts the maps' velocity; see `Stage`."""
        noisy, target, time_B = add_noise(batch.latents_BFCHW, self.alpha_bar_T, draws)
        velocity = self.velocity(model, noisy, time_B, batch)
        return emphasised(velocity, target, batch.latents_BFCHW, self.emphasis)

    def velocity(self, model: VelocityModel, noisy_BFCHW: Tensor, time_B: Tensor, batch: Batch) -> Tensor:
        """Asks the model; see `SampledStage`."""
        if batch.first_map_B1CHW is None or batch.phase_BF is None or batch.triplet_BF is None:
            raise DataError("S2M's training needs first_map_B1CHW, phase_BF and triplet_BF in each batch")
        frames = noisy_BFCHW.shape[1]
        channels = torch.cat(
            [
                noisy_BFCHW,
                pad_frames(batch.first_map_B1CHW, frames),
                pad_frames(batch.first_frame_B1CHW, frames),
            ],
            dim=2,
        )
        phase, triplet = conditions(self.vectors, batch)
        return model(channels, time_B, phase_BF=phase, triplet_BF=triplet)


@dataclass(frozen=True)
class M2VStage:
    """Panoptic maps to video; the hierarchical variant also sees phase and triplet.

    Input channels: noisy video latents, first photo (zero from the second latent frame). The photo's noise
    belongs to the batch, see `Batch.first_frame_B1CHW`.

    Attributes:
        alpha_bar_T: The scheduler's `alphas_cumprod`; best on the training device.
        hierarchical: Whether the model takes phase and triplet; each batch must have them then.
        vectors: Take the place of their ids; None: the model takes ids.
    """

    alpha_bar_T: Tensor
    hierarchical: bool = False
    vectors: TextVectors | None = None
    name: str = "m2v"
    inputs: int = 2

    def prediction_and_target(
        self, model: VelocityModel, batch: Batch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Predicts the video's velocity; see `Stage`."""
        noisy, target, time_B = add_noise(batch.latents_BFCHW, self.alpha_bar_T, draws)
        return self.velocity(model, noisy, time_B, batch), target

    def velocity(self, model: VelocityModel, noisy_BFCHW: Tensor, time_B: Tensor, batch: Batch) -> Tensor:
        """Asks the model; see `SampledStage`."""
        maps = batch.levels_BFHW()
        if maps is None:
            raise DataError("M2V's training needs maps_BFHW in each batch")
        if self.hierarchical and (batch.phase_BF is None or batch.triplet_BF is None):
            raise DataError("hierarchical M2V's training needs phase_BF and triplet_BF in each batch")
        phase, triplet = conditions(self.vectors, batch) if self.hierarchical else (None, None)
        channels = torch.cat([noisy_BFCHW, pad_frames(batch.first_frame_B1CHW, noisy_BFCHW.shape[1])], dim=2)
        return model(channels, time_B, phase_BF=phase, triplet_BF=triplet, maps_BFHW=maps)


@dataclass(frozen=True)
class UnconditionalStage:
    """M2V's first stage: the base learns what surgery looks like, without maps, labels or a first frame.

    The text stream holds one zero token, as in S2M, in place of an empty prompt's; the first frame's channels
    are zero. The map encoder takes no part.

    Attributes:
        alpha_bar_T: The scheduler's `alphas_cumprod`; best on the training device.
        width: D of the model's tokens.
    """

    alpha_bar_T: Tensor
    width: int
    name: str = "m2v-unconditional"
    inputs: int = 2

    def prediction_and_target(
        self, model: VelocityModel, batch: Batch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Predicts the video's velocity; see `Stage`."""
        noisy, target, time_B = add_noise(batch.latents_BFCHW, self.alpha_bar_T, draws)
        return self.velocity(model, noisy, time_B, batch), target

    def velocity(self, model: VelocityModel, noisy_BFCHW: Tensor, time_B: Tensor, batch: Batch) -> Tensor:
        """Asks the model; see `SampledStage`."""
        channels = torch.cat([noisy_BFCHW, torch.zeros_like(noisy_BFCHW)], dim=2)
        nothing = noisy_BFCHW.new_zeros(len(batch), 1, self.width)
        return cast(TokenModel, model)(channels, time_B, map_tokens_BND=nothing)


def add_noise(clean_BFCHW: Tensor, alpha_bar_T: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Noises latents at a uniformly drawn time each, in float32.

    Returns:
        The noisy latents, the velocity that a perfect model predicts for them, and the times (B,).
    """
    clean = clean_BFCHW.float()
    time_B = draws.integers(alpha_bar_T.numel(), (clean.shape[0],))
    noise = draws.normal(tuple(clean.shape))
    signal, blur = _amounts(alpha_bar_T, time_B)
    return signal * clean + blur * noise, signal * noise - blur * clean, time_B


def emphasised(
    velocity_BFCHW: Tensor, target_BFCHW: Tensor, maps_BFCHW: Tensor, emphasis: float
) -> tuple[Tensor, Tensor]:
    """Scales prediction and target so that their squared error has `moving_weight`; 0 changes nothing."""
    if emphasis == 0:
        return velocity_BFCHW, target_BFCHW
    root = moving_weight(maps_BFCHW, emphasis).sqrt()
    return root * velocity_BFCHW.float(), root * target_BFCHW


def moving_weight(maps_BFCHW: Tensor, emphasis: float) -> Tensor:
    """Returns the weight of each place in a loss that minds what moves, (B, 1, 1, H, W), of mean 1.

    An instrument covers a twentieth of a map, so the rest drowns it. A place counts up to 1 + `emphasis`
    times by how far its latents stray from the first map's, d, averaged over the clip: 1 + emphasis d /
    (d + 1/2). All frames of a place weigh the same, so the weight does not tell where the instrument is when.
    """
    clean = maps_BFCHW.float()
    strayed = (clean - clean[:, :1]).square().mean((1, 2), keepdim=True)
    weight = 1 + emphasis * strayed / (strayed + 0.5)
    return weight / weight.mean()


def pad_frames(first_B1CHW: Tensor, frames: int) -> Tensor:
    """Extends a first frame's latents with zeros to (B, frames, C, H, W), float32."""
    padding = (0, 0) * 3 + (0, frames - 1)
    return torch.nn.functional.pad(first_B1CHW.float(), padding)


def _amounts(alpha_bar_T: Tensor, time_B: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a_t) and sqrt(1 - a_t), (B, 1, 1, 1, 1), float32; the roots are taken in double precision."""
    alpha_bar = alpha_bar_T.double()
    signal_T, blur_T = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    return (
        signal_T.to(time_B.device)[time_B].view(-1, 1, 1, 1, 1),
        blur_T.to(time_B.device)[time_B].view(-1, 1, 1, 1, 1),
    )
