"""Pictures to latents and back: the VAE as the pipeline uses it.

Owns the way of uint8 pixels into the VAE and out of it, the flat copy that codes frames alone, tiles, and
the check that what comes out is finite. A video may be decoded beside whatever the device is told to do
next (`Placement.aside`); its frames are then waited for by who wants them.

Legend: B clips, F frames, C channels, H W pixels, h w latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hierasurg_core.errors import WeightsError
from hierasurg_core.generation.placement import Placement
from hierasurg_core.models import (
    AutoencoderKLCogVideoX,
    decode_frames,
    decode_video,
    encode_frames,
    encode_video,
    single_frame_vae,
    take_tiles,
)
from hierasurg_core.runtime import fetch

_FRAMES_AT_ONCE = 4  # of S2M's maps while they are decoded, for little memory


class Pictures:
    """A VAE and its flat copy, which is made when it is first needed and again when the VAE has moved."""

    def __init__(self, vae: AutoencoderKLCogVideoX, placement: Placement) -> None:
        """Takes a VAE that lies where it works."""
        self.vae = vae
        self.placement = placement
        self._flat: AutoencoderKLCogVideoX | None = None

    def encode_alone(self, clips_FHWC: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Returns latents (B, F, C, h, w), float32, with each frame of uint8 RGB clips coded alone."""
        return encode_frames(self._frame_vae, self._pixels(clips_FHWC)).float()

    def encode_videos(self, clips_FHWC: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Returns latents (B, (F - 1) / 4 + 1, C, h, w), float32, of uint8 RGB clips of 4k + 1 frames."""
        self._choose_tiles((clips_FHWC[0].shape[1], clips_FHWC[0].shape[2]))
        return encode_video(self.vae, self._pixels(clips_FHWC).transpose(1, 2)).float()

    def decode_alone(self, latents_BFChw: Tensor, stage: str) -> NDArray[np.uint8]:
        """Returns frames (B, F, H, W, 3) that were coded each alone.

        Raises:
            WeightsError: They are not finite; the message names the stage.
        """
        compiled = self.placement.compiled
        pixels_BFCHW = decode_frames(self._frame_vae, latents_BFChw, _FRAMES_AT_ONCE, compiled=compiled)
        return self._fetch(pixels_BFCHW, stage)()

    def decode_videos(
        self, latents_BFChw: Tensor, num_frames: int, stage: str
    ) -> Callable[[], NDArray[np.uint8]]:
        """Hands all work to the device; the function that is returned waits for it.

        That returns the first frames (B, F, H, W, 3), and raises WeightsError where they are not finite.
        """
        self._choose_tiles((8 * latents_BFChw.shape[-2], 8 * latents_BFChw.shape[-1]))
        with self.placement.aside(latents_BFChw):
            pixels_BCFHW = decode_video(self.vae, latents_BFChw, compiled=self.placement.compiled)
            return self._fetch(pixels_BCFHW[:, :, :num_frames].transpose(1, 2), stage)

    def expect_finite(self, values: Tensor, stage: str) -> None:
        """Refuses NaN and infinity.

        Raises:
            WeightsError: There is one; the message says what to do.
        """
        if not bool(torch.isfinite(values).all()):
            raise self._not_finite(stage)

    def _fetch(self, pixels_BFCHW: Tensor, stage: str) -> Callable[[], NDArray[np.uint8]]:
        """Begins to bring pixels in [-1, 1] to the host as bytes (B, F, H, W, 3)."""
        finite = fetch(torch.isfinite(pixels_BFCHW).all())
        bytes_BFCHW = ((pixels_BFCHW.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
        frames = fetch(bytes_BFCHW.permute(0, 1, 3, 4, 2).contiguous())

        def arrived() -> NDArray[np.uint8]:
            if not bool(finite()):
                raise self._not_finite(stage)
            return frames().numpy()

        return arrived

    def _not_finite(self, stage: str) -> WeightsError:
        half = self.vae.dtype == torch.float16
        advice = "use --dtype bf16 or fp32" if half else "its weights are damaged or badly trained"
        return WeightsError(f"{stage} made NaN or infinity in {str(self.vae.dtype)[6:]}; {advice}")

    def _choose_tiles(self, size_hw: tuple[int, int]) -> None:
        if self.placement.tiles(size_hw):
            take_tiles(self.vae)
        else:
            self.vae.disable_tiling()

    @property
    def _frame_vae(self) -> AutoencoderKLCogVideoX:
        if self._flat is None or self._flat.device != self.vae.device:
            self._flat = single_frame_vae(self.vae)
            self._flat.disable_tiling()
        return self._flat

    def _pixels(self, clips_FHWC: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Returns (B, F, 3, H, W) in [-1, 1], in the VAE's dtype."""
        pixels = torch.from_numpy(np.stack(clips_FHWC)).to(self.placement.device)
        return (pixels.permute(0, 1, 4, 2, 3).float() / 127.5 - 1).to(self.vae.dtype)
