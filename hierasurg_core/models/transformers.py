"""The two denoising transformers: S2M (semantics to maps) and M2V (maps to video).

They differ in the tokens and the vector they hand to the stack of blocks they share. What the published
code fixes is config here, with its value as the default.

Owns: both classes (reference: HieraSurg, MICCAI 2025, arXiv 2506.21287; the public parameter names).
Refuses: loading foreign checkpoints (`compat`, `loading`), noise schedules, colours of maps.

Letters: B batch, F latent frames or seconds, C channels, H W map pixels, h w latent sides, N tokens,
D inner width, V width of the vector that steers the norm layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hierasurg_core.models import conditioning
from hierasurg_core.models.backbone import register_to_config
from hierasurg_core.models.stack import CogVideoXStack

PIXELS_PER_LATENT = 8


class S2MTransformer3DModel(CogVideoXStack):
    """Semantics to maps: phases, triplets, a first map and a first photo become coloured maps.

    Latents are 16 map frames, each encoded alone: 16 noisy channels, 16 of the first map, 16 of the first
    photo, the latter two zero from the second frame on. Phases and triplets, one a frame, reach every norm
    layer through the vector [time, phase, triplet].

    ``text_cond`` 'labels' takes ids, 'vectors' takes text vectors (B, F, ``text_vector_dim``) instead.
    ``sample_seconds`` is how many labels stand in for a condition that is left out. ``text_embed_dim`` None
    is the inner width. ``repeat_first_frame`` lets every frame see the first frame's channels at its own
    place, where the published model must fetch them by attention: a small model learns it far sooner.
    ``frame_labels`` adds what is said of a frame to its tokens as well: the vector is a mean over frames,
    from which the published model can hardly tell when a label changes, or which of two came first.
    ``distilled_steps`` marks a few-step student: how many DDIM steps it is made for.

    Example:
        >>> s2m = S2MTransformer3DModel(num_attention_heads=2, attention_head_dim=16, num_layers=1)
        >>> s2m(torch.zeros(1, 16, 48, 8, 12), torch.tensor([999])).shape
        torch.Size([1, 16, 16, 8, 12])
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        in_channels: int = 48,
        out_channels: int = 16,
        time_embed_dim: int = 512,
        text_embed_dim: int | None = None,
        num_layers: int = 30,
        sample_width: int = 90,
        sample_height: int = 60,
        sample_frames: int = 49,
        patch_size: int = 2,
        spatial_interpolation_scale: float = 1.875,
        temporal_interpolation_scale: float = 1.0,
        text_cond: str = "labels",
        text_vector_dim: int = 768,
        num_phases: int = 7,
        num_triplets: int = 100,
        condition_embed_dim: int = 512,
        condense_dim: int = 256,
        sample_seconds: int = 16,
        repeat_first_frame: bool = False,
        frame_labels: bool = False,
        distilled_steps: int | None = None,
    ) -> None:
        super().__init__()
        self._build_stack(
            heads=num_attention_heads,
            head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_embed_dim=text_embed_dim or num_attention_heads * attention_head_dim,
            time_embed_dim=time_embed_dim,
            vector_dim=time_embed_dim + 2 * condense_dim,
            num_layers=num_layers,
            patch_size=patch_size,
            long_stream=False,
        )
        self._build_semantics(
            text_cond=text_cond,
            num_phases=num_phases,
            num_triplets=num_triplets,
            text_dim=text_vector_dim,
            width=condition_embed_dim,
            condensed=condense_dim,
        )
        self.label_proj: conditioning.SilentLinear | None = None
        if frame_labels:
            self.label_proj = conditioning.SilentLinear(2 * condition_embed_dim, self.inner_dim, bias=False)

    def forward(
        self,
        latents_BFCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        phase_BF: torch.Tensor | None = None,
        triplet_BF: torch.Tensor | None = None,
        maps_BFHW: torch.Tensor | None = None,
        map_tokens_BND: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the predicted velocity (B, F, 16, h, w).

        Args:
            latents_BFCHW: 48 channels, as the class says.
            timesteps_B: 0..999, one a sample or one for all.
            phase_BF: ids 0..6 a frame, -1 dropped; None drops all.
            triplet_BF: ids 0..99 a frame, -1 none; None drops all.
            maps_BFHW: no input of this stage, accepted so that both stages are called alike.
            map_tokens_BND: likewise.

        Raises:
            ValueError: latents of a shape the model can't take, or with ``frame_labels`` another number of
                labels than frames.
        """
        del maps_BFHW, map_tokens_BND
        latents = self._checked_latents(latents_BFCHW)
        phase_BFE, triplet_BFE = self._embedded(phase_BF, triplet_BF, latents)
        semantic = self._condensed(phase_BFE, triplet_BFE).to(latents.dtype)
        vector = torch.cat([self._time_vector(timesteps_B, latents), semantic], dim=1)
        nothing = latents.new_zeros(latents.shape[0], 1, self.inner_dim)
        return self._denoise(
            latents, nothing, vector, self._of_frames(phase_BFE, triplet_BFE, latents.shape[1])
        )

    def _of_frames(
        self, phase_BFE: torch.Tensor, triplet_BFE: torch.Tensor, frames: int
    ) -> torch.Tensor | None:
        """Return what is added to the tokens of each frame, (B, F, D); None without ``frame_labels``."""
        if self.label_proj is None:
            return None
        if phase_BFE.shape[1] != frames:
            raise ValueError(
                f"S2M with frame_labels takes a label a frame, not {phase_BFE.shape[1]} of {frames}"
            )
        return self.label_proj(torch.cat([phase_BFE, triplet_BFE], dim=2))


class M2VTransformer3DModel(CogVideoXStack):
    """Maps to video: panoptic maps and a first frame become the latents of a video.

    Latents are 16 noisy channels and 16 of the first frame, zero from the second latent frame on. Maps, one
    a second, become tokens that take the place of CogVideoX's text in every block. With ``hierarchical``
    phases and triplets steer the norm layers as in S2M.

    ``map_downscale`` is the nearest downscale before the encoder, ``map_widths`` its channels (the last
    block ends at the inner width). ``use_segmap_posenc`` adds a sincos code to the tokens, with its own
    scales: one token spans two patches and four seconds one latent frame at 1 fps, so 0.9375 and 4.0 lay
    the maps over the video, while the defaults are the published 1.875 and 1.0. ``repeat_first_frame`` and
    ``distilled_steps`` as in S2M.

    Example:
        >>> m2v = M2VTransformer3DModel(num_attention_heads=2, attention_head_dim=16, num_layers=1)
        >>> tokens = m2v.encode_maps(torch.zeros(1, 16, 64, 96))
        >>> m2v(torch.zeros(1, 5, 32, 8, 12), torch.tensor([999]), map_tokens_BND=tokens).shape
        torch.Size([1, 5, 16, 8, 12])
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        in_channels: int = 32,
        out_channels: int = 16,
        time_embed_dim: int = 512,
        text_embed_dim: int = 768,
        num_layers: int = 30,
        sample_width: int = 90,
        sample_height: int = 60,
        sample_frames: int = 49,
        patch_size: int = 2,
        spatial_interpolation_scale: float = 1.875,
        temporal_interpolation_scale: float = 1.0,
        map_widths: Sequence[int] = (64, 128, 512),
        map_downscale: int = 2,
        use_segmap_posenc: bool = False,
        segmap_posenc_spatial_scale: float = 1.875,
        segmap_posenc_temporal_scale: float = 1.0,
        hierarchical: bool = False,
        text_cond: str = "labels",
        text_vector_dim: int = 768,
        num_phases: int = 7,
        num_triplets: int = 100,
        condition_embed_dim: int = 512,
        condense_dim: int = 256,
        sample_seconds: int = 16,
        repeat_first_frame: bool = False,
        distilled_steps: int | None = None,
    ) -> None:
        super().__init__()
        self._build_stack(
            heads=num_attention_heads,
            head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_embed_dim=text_embed_dim,
            time_embed_dim=time_embed_dim,
            vector_dim=time_embed_dim + (2 * condense_dim if hierarchical else 0),
            num_layers=num_layers,
            patch_size=patch_size,
            long_stream=True,
        )
        self.encoder_segmap = conditioning.map_stem(map_widths[0])
        self.segmap_resblocks = conditioning.map_blocks(map_widths, num_attention_heads * attention_head_dim)
        if hierarchical:
            self._build_semantics(
                text_cond=text_cond,
                num_phases=num_phases,
                num_triplets=num_triplets,
                text_dim=text_vector_dim,
                width=condition_embed_dim,
                condensed=condense_dim,
            )

    def encode_maps(self, maps_BFHW: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, N, D) of maps id / max id in [0, 1]; they serve all steps of a clip.

        480x720 and 16 maps give 16 x 15 x 23 = 5520 tokens. Any number of maps will do (6 at 8 fps).

        Raises:
            ValueError: not four axes, or sides too small for one token.
        """
        downscale = self.config["map_downscale"]
        if maps_BFHW.ndim != 4 or min(maps_BFHW.shape[2:]) < 2 * downscale:
            raise ValueError(
                f"maps of shape {tuple(maps_BFHW.shape)}: (batch, maps, height, width) with sides of at "
                f"least {2 * downscale} pixels is what {type(self).__name__} takes"
            )
        maps_BFHW = maps_BFHW.to(next(self.encoder_segmap.parameters()).dtype)
        tokens = conditioning.encode_maps(
            maps_BFHW, self.encoder_segmap, self.segmap_resblocks, downscale=downscale
        )
        if not self.config["use_segmap_posenc"]:
            return tokens
        height, width = maps_BFHW.shape[2:]
        rows, columns = conditioning.map_grid(
            (height, width), downscale=downscale, num_blocks=len(self.segmap_resblocks)
        )
        scales = (self.config["segmap_posenc_spatial_scale"], self.config["segmap_posenc_temporal_scale"])
        return tokens + self._positions_ND(maps_BFHW.shape[1], rows, columns, tokens, scales)

    def forward(
        self,
        latents_BFCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        phase_BF: torch.Tensor | None = None,
        triplet_BF: torch.Tensor | None = None,
        maps_BFHW: torch.Tensor | None = None,
        map_tokens_BND: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the predicted velocity (B, F, 16, h, w).

        Args:
            latents_BFCHW: 32 channels, as the class says.
            timesteps_B: 0..999, one a sample or one for all.
            phase_BF: ids 0..6, -1 dropped; used by the hierarchical variant only, as is the next.
            triplet_BF: ids 0..99, -1 none.
            maps_BFHW: id / max id; None stands for maps of zeros, the dropped condition.
            map_tokens_BND: what `encode_maps` made of the maps, in place of them.

        Raises:
            ValueError: shapes the model can't take, or both maps and their tokens.
        """
        latents = self._checked_latents(latents_BFCHW)
        batch, _, _, height, width = latents.shape
        if map_tokens_BND is None:
            if maps_BFHW is None:
                size_hw = (height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
                maps_BFHW = latents.new_zeros(batch, self.config["sample_seconds"], *size_hw)
            map_tokens_BND = self.encode_maps(maps_BFHW)
        elif maps_BFHW is not None:
            raise ValueError("got maps and map tokens: give one of them")
        vector = self._time_vector(timesteps_B, latents)
        if self.config["hierarchical"]:
            semantic = self._condensed(*self._embedded(phase_BF, triplet_BF, latents)).to(latents.dtype)
            vector = torch.cat([vector, semantic], dim=1)
        return self._denoise(latents, map_tokens_BND, vector)
