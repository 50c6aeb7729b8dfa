"""CogVideoX-2B's stack of blocks with what S2M and M2V put around it, for both of them to share.

Owns: parameters with diffusers' own names, the extra token, position codes, the vector of phases and
triplets, the way from latents to tokens and back (reference: HieraSurg, MICCAI 2025, arXiv 2506.21287).
Refuses: what only one of the two has (`transformers`).

Letters: see `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from hierasurg_core.models import conditioning
from hierasurg_core.models.backbone import (
    AdaLayerNorm,
    AttentionMixin,
    CacheMixin,
    CogVideoXLayerNormZero,
    CogVideoXPatchEmbed,
    ConfigMixin,
    ModelMixin,
    PeftAdapterMixin,
    TimestepEmbedding,
    Timesteps,
    sincos_positions_ND,
)
from hierasurg_core.models.block import StackBlock
from hierasurg_core.models.recompute import BlockRunner

NORM_EPS = 1e-5
_CACHED_SIZES = 4


class CogVideoXStack(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):
    """What S2M and M2V share: patches, one extra token, the blocks, the way back to latents.

    The position code is computed for the size a call has and kept for the next one, so `sample_width`,
    `sample_height` (latent sides) and `sample_frames` (video frames) only record what a checkpoint was made
    for. Latent frames count 0, 1, 2, ..., in S2M (each frame encoded alone) as in M2V (four frames each).
    `block_runners` (see `recompute`) say how each block runs while gradients are wanted; None leaves it to
    diffusers' own gradient checkpointing. Where the stream is long, the last block spares what would become
    of it; of a single token that would gain nothing, and cost a compilation.
    """

    _supports_gradient_checkpointing = True
    _gradient_checkpointing_func: Callable[..., Any] | None = None
    _no_split_modules: ClassVar[list[str]] = ["StackBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["StackBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = [
        "patch_embed",
        "norm",
        "segmap",
        "phase_",
        "triplet_",
    ]

    def _build_stack(
        self,
        *,
        heads: int,
        head_dim: int,
        in_channels: int,
        out_channels: int,
        text_embed_dim: int,
        time_embed_dim: int,
        vector_dim: int,
        num_layers: int,
        patch_size: int,
        long_stream: bool,
    ) -> None:
        dim = heads * head_dim
        self.patch_embed = CogVideoXPatchEmbed(
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=dim,
            text_embed_dim=text_embed_dim,
            use_positional_embeddings=False,
            use_learned_positional_embeddings=False,
        )
        self.time_proj = Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(dim, time_embed_dim)
        self.transformer_blocks = nn.ModuleList(
            StackBlock(
                dim=dim,
                num_attention_heads=heads,
                attention_head_dim=head_dim,
                time_embed_dim=vector_dim,
                norm_eps=NORM_EPS,
                stream_ends=long_stream and index + 1 == num_layers,
            )
            for index in range(num_layers)
        )
        self.norm_final = nn.LayerNorm(dim, NORM_EPS)
        self.norm_out = AdaLayerNorm(
            embedding_dim=vector_dim,
            output_dim=2 * dim,
            norm_elementwise_affine=True,
            norm_eps=NORM_EPS,
            chunk_dim=1,
        )
        self.proj_out = nn.Linear(dim, patch_size * patch_size * out_channels)
        self.gradient_checkpointing = False
        self.block_runners: tuple[BlockRunner, ...] | None = None
        self._position_codes: dict[tuple[object, ...], torch.Tensor] = {}

    def _build_semantics(
        self, *, text_cond: str, num_phases: int, num_triplets: int, text_dim: int, width: int, condensed: int
    ) -> None:
        if text_cond == "labels":
            self.phase_emb: nn.Module = conditioning.LabelEmbedding(num_phases, width)
            self.triplet_emb: nn.Module = conditioning.LabelEmbedding(num_triplets + 1, width)
        elif text_cond == "vectors":
            self.phase_emb = conditioning.vector_embedding(text_dim, width)
            self.triplet_emb = conditioning.vector_embedding(text_dim, width)
        else:
            raise ValueError(f"text_cond is {text_cond!r}: choose 'labels' or 'vectors'")
        self.phase_condense = conditioning.condenser(width, condensed)
        self.triplet_condense = conditioning.condenser(width, condensed)

    @property
    def inner_dim(self) -> int:
        """D, the width of a token."""
        return self.config["num_attention_heads"] * self.config["attention_head_dim"]

    def _positions_ND(
        self,
        frames: int,
        rows: int,
        columns: int,
        like: torch.Tensor,
        scales: tuple[float, float] | None = None,
    ) -> torch.Tensor:
        """Return the code of a grid in the dtype and on the device of ``like``; scales are (space, time)."""
        spatial, temporal = scales or (
            self.config["spatial_interpolation_scale"],
            self.config["temporal_interpolation_scale"],
        )
        key = (frames, rows, columns, spatial, temporal, like.device, like.dtype)
        code = self._position_codes.get(key)
        if code is None:
            code = sincos_positions_ND(
                self.inner_dim,
                frames,
                rows,
                columns,
                spatial_scale=spatial,
                temporal_scale=temporal,
                device=like.device,
                dtype=like.dtype,
            )
            while len(self._position_codes) >= _CACHED_SIZES:
                del self._position_codes[next(iter(self._position_codes))]
            self._position_codes[key] = code
        return code

    def _checked_latents(self, latents_BFCHW: torch.Tensor) -> torch.Tensor:
        """Return the latents in the dtype of the weights, the first frame's conditions spread if so set.

        Raises:
            ValueError: not five axes, another number of channels, or sides the patches don't divide.
        """
        channels, patch = self.config["in_channels"], self.config["patch_size"]
        shape = tuple(latents_BFCHW.shape)
        if len(shape) != 5 or shape[2] != channels or shape[3] % patch or shape[4] % patch:
            raise ValueError(
                f"{type(self).__name__} got latents of shape {shape}: it takes (batch, frames, {channels}, "
                f"rows, columns) with rows and columns divisible by {patch}"
            )
        latents_BFCHW = latents_BFCHW.to(self.patch_embed.proj.weight.dtype)
        if not self.config["repeat_first_frame"]:
            return latents_BFCHW
        noisy, first = latents_BFCHW.tensor_split([self.config["out_channels"]], dim=2)
        return torch.cat([noisy, first[:, :1].expand_as(first)], dim=2)

    def _time_vector(self, timesteps_B: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        timesteps_B = timesteps_B.to(like.device).expand(like.shape[0])
        return self.time_embedding(self.time_proj(timesteps_B).to(like.dtype))

    def _embedded(
        self, phase: torch.Tensor | None, triplet: torch.Tensor | None, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors of phases and triplets, (B, F, E) each; None stands for all dropped."""
        batch = like.shape[0]
        given = phase if phase is not None else triplet
        frames = self.config["sample_seconds"] if given is None else given.shape[1]
        if self.config["text_cond"] == "labels":
            dropped = torch.full((batch, frames), -1, dtype=torch.long, device=like.device)
            phase = dropped if phase is None else phase.to(like.device)
            row = (dropped if triplet is None else triplet.to(like.device)) + 1
        else:
            dropped = like.new_zeros(batch, frames, self.config["text_vector_dim"])
            phase = dropped if phase is None else phase.to(like)
            row = dropped if triplet is None else triplet.to(like)
        return self.phase_emb(phase), self.triplet_emb(row)

    def _condensed(self, phase_BFE: torch.Tensor, triplet_BFE: torch.Tensor) -> torch.Tensor:
        """Return [phase, triplet] condensed over frames, (B, V - time)."""
        parts = [
            conditioning.condense(self.phase_condense, phase_BFE),
            conditioning.condense(self.triplet_condense, triplet_BFE),
        ]
        return torch.cat(parts, dim=1)

    def _denoise(
        self,
        latents_BFCHW: torch.Tensor,
        stream_BND: torch.Tensor,
        vector_BV: torch.Tensor,
        frames_BFD: torch.Tensor | None = None,
        places_BND: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the blocks over [stream, one token, image tokens] and return latents (B, F, out, h, w).

        The one token is `patch_embed.text_proj` of zeros; like CogVideoX's text it has no position code.
        What is given for a frame is added to all its tokens, what is given for a place to its own.
        """
        batch, frames, _, height, width = latents_BFCHW.shape
        patch = self.config["patch_size"]
        rows, columns = height // patch, width // patch
        nothing = latents_BFCHW.new_zeros(batch, 1, self.patch_embed.text_proj.in_features)
        tokens = self.patch_embed(nothing, latents_BFCHW)
        positions = self._positions_ND(frames, rows, columns, tokens)
        image = tokens[:, 1:] + positions
        if frames_BFD is not None:
            image = image + frames_BFD.to(image.dtype).repeat_interleave(rows * columns, dim=1)
        if places_BND is not None:
            image = image + places_BND.to(image.dtype)
        tokens = torch.cat([tokens[:, :1], image], dim=1)
        return self._answer(tokens, stream_BND, vector_BV, (frames, rows, columns))

    def _answer(
        self,
        tokens_BND: torch.Tensor,
        stream_BND: torch.Tensor,
        vector_BV: torch.Tensor,
        grid_FRC: tuple[int, int, int],
    ) -> torch.Tensor:
        """Run the blocks over [stream, one token, image tokens] and lay the image's answer out in pixels.

        Args:
            tokens_BND: one token, then the image's.
            stream_BND: the other stream of tokens.
            vector_BV: steers the norm layers.
            grid_FRC: frames, rows and columns of image tokens.

        Returns:
            (B, F, out, rows x patch, columns x patch).
        """
        tokens, stream_BND = tokens_BND, stream_BND.to(tokens_BND.dtype)
        checkpointed = self._gradient_checkpointing_func
        runners = self.block_runners if torch.is_grad_enabled() else None
        for index, block in enumerate(self.transformer_blocks):
            if runners is not None:
                tokens, stream_BND = runners[index](block, tokens, stream_BND, vector_BV)
            elif checkpointed is not None and self.gradient_checkpointing and torch.is_grad_enabled():
                tokens, stream_BND = checkpointed(block, tokens, stream_BND, vector_BV)
            else:
                tokens, stream_BND = block(
                    hidden_states=tokens, encoder_hidden_states=stream_BND, temb=vector_BV
                )

        tokens = self.norm_final(tokens)[:, 1:]
        patches = self.proj_out(self.norm_out(tokens, temb=vector_BV))
        patch = self.config["patch_size"]
        patches = patches.reshape(len(patches), *grid_FRC, -1, patch, patch)
        return patches.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)


@torch.no_grad()
def start_as_identity(model: CogVideoXStack) -> None:
    """Set a new model up for training from scratch: every block passes its input on, the output is zero.

    Zeroes the linear of each adaptive norm (so all gates, shifts and scales are zero) and `proj_out`, as
    DiT does (Peebles and Xie 2023, section 3.2). Constructors leave torch's default everywhere.
    """
    norms = [m for m in model.modules() if isinstance(m, CogVideoXLayerNormZero | AdaLayerNorm)]
    for linear in [*(norm.linear for norm in norms), model.proj_out]:
        linear.weight.zero_()
        linear.bias.zero_()
