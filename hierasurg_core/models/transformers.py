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
import torch.nn.functional as F
from torch import nn

from hierasurg_core.models import conditioning, ids
from hierasurg_core.models.backbone import register_to_config
from hierasurg_core.models.stack import CogVideoXStack

PIXELS_PER_LATENT = 8
MAP_FORMS = ("colours", "ids")
"""How S2M takes maps: painted in colours, as published, or as categories."""
PHOTO_PATCH = 2
"""Sides in latents of what a token sees of the photo: 16 pixels."""


class S2MTransformer3DModel(CogVideoXStack):
    """Semantics to maps: phases, triplets, a first map and a first photo become the maps of a clip.

    ``maps`` says in which form. With 'colours', as published, latents are 16 coloured map frames, each
    encoded alone: 16 noisy channels, 16 of the first map, 16 of the first photo, the latter two zero from the
    second frame on; the answer is a velocity. With 'ids' a map is the shares of its numbers (see `ids`):
    noisy shares are given as latents, the first map's shares and the photo's latents beside them, and the
    answer is logits. `ids.ids_arguments` has the other arguments of that form.

    Phases and triplets, one a frame, reach every norm layer through the vector [time, phase, triplet].

    ``text_cond`` 'labels' takes ids, 'vectors' takes text vectors (B, F, ``text_vector_dim``) instead.
    ``sample_seconds`` is how many labels stand in for a condition that is left out. ``text_embed_dim`` None
    is the inner width. ``repeat_first_frame`` lets every frame see the first frame's channels at its own
    place, where the published model must fetch them by attention: a small model learns it far sooner.
    ``frame_labels`` adds what is said of a frame to its tokens as well: the vector is a mean over frames,
    from which the published model can hardly tell when a label changes, or which of two came first.
    ``distilled_steps`` marks a few-step student: how many DDIM steps it is made for. ``id_scale`` is by what
    shares are multiplied before noise is added, ``photo_channels`` how many latent channels a photo has; both
    belong to 'ids'.

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
        maps: str = "colours",
        id_scale: float = 0.18,
        photo_channels: int = 16,
    ) -> None:
        super().__init__()
        if maps not in MAP_FORMS:
            raise ValueError(f"maps is {maps!r}: choose {' or '.join(map(repr, MAP_FORMS))}")
        if maps == "ids" and in_channels != 2 * out_channels:
            raise ValueError(f"S2M on ids with {out_channels} numbers has {2 * out_channels} input channels")
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
        self.photo_embed: nn.Conv2d | None = None
        if maps == "ids":
            self.photo_embed = nn.Conv2d(photo_channels, self.inner_dim, PHOTO_PATCH, stride=PHOTO_PATCH)

    def forward(
        self,
        latents_BFCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        phase_BF: torch.Tensor | None = None,
        triplet_BF: torch.Tensor | None = None,
        maps_BFHW: torch.Tensor | None = None,
        map_tokens_BND: torch.Tensor | None = None,
        first_map_B1CHW: torch.Tensor | None = None,
        photo_B1CHW: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the predicted velocity (B, F, 16, h, w), or with ``maps`` 'ids' logits (B, F, N, h, w).

        Args:
            latents_BFCHW: 48 channels, as the class says; of 'ids' noisy shares (B, F, N, h, w).
            timesteps_B: 0..999, one a sample or one for all.
            phase_BF: ids 0..6 a frame, -1 dropped; None drops all.
            triplet_BF: ids 0..99 a frame, -1 none; None drops all.
            maps_BFHW: no input of this stage, accepted so that both stages are called alike.
            map_tokens_BND: likewise.
            first_map_B1CHW: shares of the first map (B, 1, N, h, w); of 'ids' alone.
            photo_B1CHW: latents of the first photo (B, 1, 16, H / 8, W / 8); of 'ids' alone.

        Raises:
            ValueError: latents of a shape the model can't take, or with ``frame_labels`` another number of
                labels than frames.
        """
        del maps_BFHW, map_tokens_BND
        if self.photo_embed is not None:
            if first_map_B1CHW is None or photo_B1CHW is None:
                raise ValueError("S2M on ids takes first_map_B1CHW and photo_B1CHW beside the noisy shares")
            return self._answer_ids(
                latents_BFCHW, timesteps_B, first_map_B1CHW, photo_B1CHW, phase_BF, triplet_BF
            )
        latents = self._checked_latents(latents_BFCHW)
        phase_BFE, triplet_BFE = self._embedded(phase_BF, triplet_BF, latents)
        semantic = self._condensed(phase_BFE, triplet_BFE).to(latents.dtype)
        vector = torch.cat([self._time_vector(timesteps_B, latents), semantic], dim=1)
        nothing = latents.new_zeros(latents.shape[0], 1, self.inner_dim)
        return self._denoise(
            latents, nothing, vector, self._of_frames(phase_BFE, triplet_BFE, latents.shape[1])
        )

    def _answer_ids(
        self,
        noisy_BFNhw: torch.Tensor,
        timesteps_B: torch.Tensor,
        first_map_B1Nhw: torch.Tensor,
        photo_B1CHW: torch.Tensor,
        phase: torch.Tensor | None,
        triplet: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the logits of noisy shares; first map and photo are added at each frame's own place."""
        count, patch = self.config["out_channels"], self.config["patch_size"]
        shape = tuple(noisy_BFNhw.shape)
        if len(shape) != 5 or shape[2] != count or shape[3] % patch or shape[4] % patch:
            raise ValueError(
                f"S2M on ids got shares of shape {shape}: it takes (batch, frames, {count}, rows, columns) "
                f"with rows and columns divisible by {patch}"
            )
        assert self.photo_embed is not None
        weight = self.patch_embed.proj.weight
        times_B = timesteps_B.to(noisy_BFNhw.device).expand(shape[0])
        spread = ids.evenly_spread(noisy_BFNhw, times_B, self.config["id_scale"]).to(weight.dtype)
        image = F.linear(_patches(spread, patch), weight[:, :count].flatten(1), self.patch_embed.proj.bias)
        still = F.linear(_patches(first_map_B1Nhw.to(weight.dtype), patch), weight[:, count:].flatten(1))
        photo = self.photo_embed(photo_B1CHW[:, 0].to(weight.dtype)).flatten(2).transpose(1, 2)
        phase_BFE, triplet_BFE = self._embedded(phase, triplet, spread)
        semantic = self._condensed(phase_BFE, triplet_BFE).to(image.dtype)
        vector = torch.cat([self._time_vector(times_B, image), semantic], dim=1)
        grid_FRC = (shape[1], shape[3] // patch, shape[4] // patch)
        code = self._positions_ND(*grid_FRC, image).unflatten(0, (shape[1], -1))
        image = image + still + (photo.unsqueeze(1) + code).to(image.dtype)
        words = self._of_frames(phase_BFE, triplet_BFE, shape[1])
        if words is not None:
            image = image + words.unsqueeze(2).to(image.dtype)
        nothing = weight.new_zeros(shape[0], 1, self.patch_embed.text_proj.in_features)
        one = self.patch_embed.text_proj(nothing).to(image.dtype)
        tokens = torch.cat([one, image.flatten(1, 2)], dim=1)
        stream = tokens.new_zeros(shape[0], 1, self.inner_dim)
        return self._answer(tokens, stream, vector, grid_FRC)

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


def _patches(image_BFChw: torch.Tensor, patch: int) -> torch.Tensor:
    """Return square patches side by side, (B, F, N, C x patch x patch)."""
    batch, frames, channels, height, width = image_BFChw.shape
    cut = image_BFChw.reshape(batch, frames, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, frames, -1, channels * patch * patch)


class M2VTransformer3DModel(CogVideoXStack):
    """Maps to video: panoptic maps and a first frame become the latents of a video.

    Latents are 16 noisy channels and 16 of the first frame, zero from the second latent frame on. Maps, one
    a second, become tokens that take the place of CogVideoX's text in every block. With ``hierarchical``
    phases and triplets steer the norm layers as in S2M.

    With ``maps`` 'patches' a map goes where it belongs instead: each image token is added a projection of the
    map under it, as the shares of its ``num_numbers`` numbers (see `ids`; ``maps_a_latent`` maps under one
    latent frame, side by side). That keeps outlines exact and takes half of the tokens away.

    ``frame_labels`` (of 'patches') adds what is said of a second to its latent frames' tokens, as in S2M.
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
        maps: str = "tokens",
        num_numbers: int = 20,
        maps_a_latent: int = 1,
        frame_labels: bool = False,
    ) -> None:
        super().__init__()
        if maps not in ("tokens", "patches"):
            raise ValueError(f"maps is {maps!r}: choose 'tokens' or 'patches'")
        if frame_labels and not (hierarchical and maps == "patches"):
            raise ValueError("frame_labels needs hierarchical and maps 'patches'")
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
            long_stream=maps == "tokens",
        )
        self.map_embed: nn.Linear | None = None
        self.label_proj: conditioning.SilentLinear | None = None
        if maps == "patches":
            cells = patch_size * PIXELS_PER_LATENT // ids.CELL
            self.map_embed = nn.Linear(
                num_numbers * maps_a_latent * cells * cells, self.inner_dim, bias=False
            )
            if frame_labels:
                width = 2 * condition_embed_dim
                self.label_proj = conditioning.SilentLinear(width, self.inner_dim, bias=False)
        else:
            self.encoder_segmap = conditioning.map_stem(map_widths[0])
            self.segmap_resblocks = conditioning.map_blocks(map_widths, self.inner_dim)
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
        """Return the tokens (B, N, D) of maps; they serve all steps of a clip.

        480x720 and 16 maps give 16 x 15 x 23 = 5520 tokens. Any number of maps will do (6 at 8 fps).

        Args:
            maps_BFHW: id / max id in [0, 1]; with ``maps`` 'patches' the numbers (uint8, see
                `maps.numbering`) of the map under each video frame of each latent frame, as
                `ids.maps_of_latents` orders them.

        Raises:
            ValueError: not four axes, or sides too small for one token.
        """
        if self.map_embed is not None:
            return self._map_patches(maps_BFHW)
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
        if self.map_embed is not None:
            return self._answer_patches(latents, timesteps_B, phase_BF, triplet_BF, maps_BFHW, map_tokens_BND)
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

    def _map_patches(self, numbered_BFHW: torch.Tensor) -> torch.Tensor:
        """Return what the maps under each image token add to it, (B, F x N, D)."""
        assert self.map_embed is not None
        together, count = self.config["maps_a_latent"], self.config["num_numbers"]
        if numbered_BFHW.dtype != torch.uint8 or numbered_BFHW.ndim != 4 or numbered_BFHW.shape[1] % together:
            raise ValueError(
                f"M2V of patches got maps {numbered_BFHW.dtype} {tuple(numbered_BFHW.shape)}: it takes uint8 "
                f"numbers (batch, frames, rows, columns) with frames divisible by {together}"
            )
        shares = ids.shares_of(numbered_BFHW, count).to(self.map_embed.weight.dtype)
        shares = shares.unflatten(1, (-1, together)).flatten(2, 3)
        cells = self.config["patch_size"] * PIXELS_PER_LATENT // ids.CELL
        return self.map_embed(_patches(shares, cells)).flatten(1, 2)

    def _answer_patches(
        self,
        latents: torch.Tensor,
        timesteps_B: torch.Tensor,
        phase: torch.Tensor | None,
        triplet: torch.Tensor | None,
        maps_BFHW: torch.Tensor | None,
        map_tokens_BND: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the velocity where maps are added to the image tokens."""
        if (maps_BFHW is None) == (map_tokens_BND is None):
            raise ValueError("M2V of patches takes maps or their tokens: give one of them")
        if map_tokens_BND is None:
            assert maps_BFHW is not None
            map_tokens_BND = self.encode_maps(maps_BFHW)
        vector, words = self._time_vector(timesteps_B, latents), None
        if self.config["hierarchical"]:
            phase_BFE, triplet_BFE = self._embedded(phase, triplet, latents)
            semantic = self._condensed(phase_BFE, triplet_BFE).to(latents.dtype)
            vector = torch.cat([vector, semantic], dim=1)
            if self.label_proj is not None:
                words = self.label_proj(torch.cat([phase_BFE, triplet_BFE], dim=2))
                seconds = ids.maps_of_latents(latents.shape[1], words.shape[1], self.config["maps_a_latent"])
                words = words[:, seconds[:: self.config["maps_a_latent"]]]
        nothing = latents.new_zeros(latents.shape[0], 1, self.inner_dim)
        return self._denoise(latents, nothing, vector, words, map_tokens_BND)
