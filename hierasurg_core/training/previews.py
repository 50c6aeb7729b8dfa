"""What a run's model makes of the same few clips, every so many steps: `previews/STEP/clip.mp4`.

Owns a plain sampler (deterministic DDIM on velocities, Song et al. 2021), which has no state beyond one clip,
and the writing of what it gives. Noise is the same each time, so previews of two steps differ by the model
alone; neither the run's random numbers nor its running statistics change. All ranks call it, rank 0 writes.

B clips, F latent frames, C channels, H W latent sides; T diffusion times.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hierasurg_core.artifacts import atomic_folder, ensure_writable_folder
from hierasurg_core.maps import MAX_LEVELS, palette_rgb_N3
from hierasurg_core.models import AutoencoderKLCogVideoX, decode_frames, decode_video, ids
from hierasurg_core.runtime import make_generator
from hierasurg_core.training.batch import Batch
from hierasurg_core.training.id_stage import S2MIdStage
from hierasurg_core.training.stages import VelocityModel, VelocityStage
from hierasurg_core.video import write_mp4

FOLDER = "previews"


class Previews:
    """Fixed clips with fixed noise."""

    def __init__(
        self,
        stage: VelocityStage | S2MIdStage,
        clips: Batch,
        vae: AutoencoderKLCogVideoX,
        out: Path,
        *,
        fps: int,
        frames: int,
        steps: int,
        seed: int,
    ) -> None:
        """Takes what stays the same over the run.

        Args:
            stage: Of the model.
            clips: On the training device.
            vae: Likewise.
            out: The run's folder.
            fps: Of the files; maps have one frame a second.
            frames: Of a clip without its padding.
            steps: Of the sampler.
            seed: Of the noise.
        """
        self._stage, self._clips, self._vae, self._out = stage, clips, vae, out
        self._fps, self._frames, self._steps, self._seed = fps, frames, steps, seed

    def __call__(self, model: nn.Module, step: int, write: bool) -> None:
        """Samples, and writes the files where this rank is the one that does.

        Raises:
            ResourceError: The disk is full.
        """
        training = model.training
        model.eval()
        try:
            if isinstance(self._stage, S2MIdStage):
                videos = self._coloured(model, self._stage)
            else:
                videos = sample(model, self._stage, self._clips, steps=self._steps, seed=self._seed)
        finally:
            model.train(training)
        if write:
            self._write(videos, step)

    def _coloured(self, model: nn.Module, stage: S2MIdStage) -> list[NDArray[np.uint8]]:
        """Returns the maps that S2M on ids makes, painted, uint8 (F, H, W, 3) a clip."""
        device = self._clips.first_frame_B1CHW.device
        assert self._clips.numbered_BFHW is not None
        frames, height, width = self._clips.numbered_BFHW.shape[1:]
        shape = (frames, stage.num_numbers, height // ids.CELL, width // ids.CELL)
        generators = [make_generator(self._seed + index) for index in range(len(self._clips))]
        noise = ids.initial_noise(shape, generators, device)
        made = stage.sampled(cast(Any, model), self._clips, steps=self._steps, noise_BFNhw=noise)
        palette_N3 = palette_rgb_N3(MAX_LEVELS)
        return [palette_N3[map_FHW % MAX_LEVELS] for map_FHW in made.cpu().numpy()]

    @torch.no_grad()
    def _write(self, videos: Tensor | list[NDArray[np.uint8]], step: int) -> None:
        ensure_writable_folder(self._out / FOLDER)
        maps = self._stage.name.startswith("s2m")
        with atomic_folder(self._out / FOLDER / f"{step:07d}") as part:
            for clip_id, made in zip(self._clips.ids, videos, strict=True):
                pixels_FHWC = self._decoded(made, maps) if isinstance(made, Tensor) else made
                name = clip_id.replace("/", "_")
                write_mp4(part / f"{name}.mp4", pixels_FHWC, fps=1 if maps else self._fps)

    def _decoded(self, latents_FCHW: Tensor, maps: bool) -> NDArray[np.uint8]:
        """Returns latents as uint8 frames (F, H, W, 3)."""
        latents = latents_FCHW[None].to(self._vae.dtype)
        if maps:
            frames_FCHW = decode_frames(self._vae, latents)[0]
        else:
            frames_FCHW = decode_video(self._vae, latents)[0].transpose(0, 1)
        pixels = ((frames_FCHW[: self._frames].float().clamp(-1, 1) + 1) * 127.5).round()
        return pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def sample(
    model: VelocityModel | nn.Module, stage: VelocityStage, clips: Batch, *, steps: int, seed: int
) -> Tensor:
    """Returns latents (B, F, C, H, W), float32, that a model makes under a batch's conditions.

    From time t to s a step goes from x = a x0 + b e to a' x0 + b' e, with x0 and e as the velocity says.
    """
    call: VelocityModel | Callable[..., Tensor] = model
    device = clips.clean_latents.device
    # Drawn on the CPU, so that the same seed shows the same on every device.
    latents = torch.randn(clips.clean_latents.shape, generator=make_generator(seed)).to(device)
    alpha_bar_T = stage.alpha_bar_T.double().clamp(0, 1)
    last = alpha_bar_T.numel() - 1
    times = [last - round(index * (last + 1) / steps) for index in range(steps)]  # as samplers space them
    for now, after in zip(times, [*times[1:], None], strict=True):
        signal, blur = (float(alpha_bar_T[now]) ** 0.5, float(1 - alpha_bar_T[now]) ** 0.5)
        time_B = torch.full((len(clips),), now, device=device)
        velocity = stage.velocity(call, latents, time_B, clips).float()
        clean, noise = signal * latents - blur * velocity, blur * latents + signal * velocity
        if after is None:
            return clean
        latents = float(alpha_bar_T[after]) ** 0.5 * clean + float(1 - alpha_bar_T[after]) ** 0.5 * noise
    raise ValueError(f"steps must be 1 or more, not {steps}")
