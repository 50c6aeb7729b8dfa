"""Masks for many prompts of one frame: SAM 2's mask decoder, with what the prompts share computed once.

Owns nothing but the order of work; weights and their meaning are the mask decoder's, and the numbers are its
numbers up to rounding. Pixels stay rows of channels all the way, so that every step is one matrix product or
one pass over memory: the three projections that a layer makes of the same pixels are one product, their
positions are projected once a frame, points that come without a mask share the first layer's pixels, and the
enlarged features are never put into rows and columns, only the masks are.

Letters: P prompts, T tokens, K pixels of the coarse features (h x w), C channels, M masks of a prompt.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hierasurg_core.labeling.sam_network import FrameFeatures, SamNetwork


class FrameDecoder:
    """The mask decoder on one frame."""

    def __init__(self, network: SamNetwork, frame: FrameFeatures) -> None:
        """Computes what all prompts share.

        Args:
            network: The network; its mask decoder takes high-resolution features.
            frame: Features of one frame, on the network's device.
        """
        self._prompts, self._decoder = network.sam_prompt_encoder, network.sam_mask_decoder
        fine, middle, coarse = frame.levels
        self._grid_hw = (coarse.shape[-2], coarse.shape[-1])
        coarse = coarse + network.no_mem_embed.view(1, -1, 1, 1).to(coarse.dtype)
        self._pixel_1KC = coarse.flatten(2).transpose(1, 2)
        self._position_1KC = self._prompts.get_dense_pe().flatten(2).transpose(1, 2)
        wide, _, _, high, _ = self._decoder.output_upscaling
        self._middle_KC = _quarters(middle[0], self._grid_hw) + wide.bias.repeat(4)
        self._fine_KC = _sixteenths(fine[0], self._grid_hw) + high.bias.repeat(4).view(1, 1, -1)
        self._layers: list[Any] = list(self._decoder.transformer.layers)
        self._fused = [
            _Fused(
                (layer.cross_attn_token_to_image.k_proj, True),
                (layer.cross_attn_token_to_image.v_proj, False),
                (layer.cross_attn_image_to_token.q_proj, True),
                position_1KC=self._position_1KC,
            )
            for layer in self._layers
        ]
        last = self._decoder.transformer.final_attn_token_to_image
        self._fused_last = _Fused((last.k_proj, True), (last.v_proj, False), position_1KC=self._position_1KC)

    def decode(self, point_P2: Tensor, mask_P1hw: Tensor | None) -> tuple[Tensor, Tensor]:
        """Masks of prompts.

        Args:
            point_P2: A foreground point each: x, y in pixels of the network's square input.
            mask_P1hw: Logits that the masks are to be refined from, at the decoder's resolution.

        Returns:
            Logits (P, M, 4h, 4w) and predicted overlaps (P, M): three masks of a point; one of a point with
            a mask.
        """
        count = len(point_P2)
        labels = torch.ones(count, 1, dtype=torch.int32, device=point_P2.device)
        sparse, dense = self._prompts(points=(point_P2.unsqueeze(1), labels), boxes=None, masks=mask_P1hw)
        dense = dense[:1] if mask_P1hw is None else dense
        pixel_PKC = self._pixel_1KC + dense.flatten(2).transpose(1, 2)
        token_PTC, pixel_PKC = self._transformed(self._with_outputs(sparse), pixel_PKC)
        return self._masks(token_PTC, pixel_PKC, several=mask_P1hw is None)

    def _with_outputs(self, sparse_PTC: Tensor) -> Tensor:
        decoder = self._decoder
        own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        if decoder.pred_obj_scores:
            own = [decoder.obj_score_token.weight, *own]
        return torch.cat([torch.cat(own).expand(len(sparse_PTC), -1, -1), sparse_PTC], dim=1)

    def _transformed(self, start_PTC: Tensor, pixel_PKC: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's two-way transformer; pixels may come with one row for all prompts."""
        token_PTC = start_PTC
        for layer, fused in zip(self._layers, self._fused, strict=True):
            if layer.skip_first_layer_pe:
                token_PTC = layer.self_attn(token_PTC, token_PTC, token_PTC)
            else:
                placed = token_PTC + start_PTC
                token_PTC = token_PTC + layer.self_attn(placed, placed, token_PTC)
            token_PTC = layer.norm1(token_PTC)
            key, value, query = fused(pixel_PKC)
            to_image = layer.cross_attn_token_to_image
            seen = _attended(to_image, to_image.q_proj(token_PTC + start_PTC), key, value)
            token_PTC = layer.norm2(token_PTC + seen)
            token_PTC = layer.norm3(token_PTC + layer.mlp(token_PTC))
            to_token = layer.cross_attn_image_to_token
            seen = _attended(
                to_token, query, to_token.k_proj(token_PTC + start_PTC), to_token.v_proj(token_PTC)
            )
            pixel_PKC = layer.norm4(pixel_PKC + seen)
        transformer = self._decoder.transformer
        key, value = self._fused_last(pixel_PKC)
        last = transformer.final_attn_token_to_image
        seen = _attended(last, last.q_proj(token_PTC + start_PTC), key, value)
        return transformer.norm_final_attn(token_PTC + seen), pixel_PKC

    def _masks(self, token_PTC: Tensor, pixel_PKC: Tensor, *, several: bool) -> tuple[Tensor, Tensor]:
        decoder = self._decoder
        wide, norm, bend, high, bend_again = decoder.output_upscaling
        count, (rows, columns) = len(token_PTC), self._grid_hw
        first = 1 if decoder.pred_obj_scores else 0
        large = F.linear(pixel_PKC, _as_matrix(wide)) + self._middle_KC
        large = bend(
            F.layer_norm(large.unflatten(-1, (4, -1)), norm.weight.shape, norm.weight, norm.bias, norm.eps)
        )
        large = bend_again(F.linear(large, _as_matrix(high)) + self._fine_KC)
        large = large.reshape(count, rows * columns * 16, -1)
        # All of them where one mask is asked for: the decoder may take another one that is more stable.
        chosen = range(1 if several else 0, decoder.num_mask_tokens)
        weight_PMC = torch.stack(
            [decoder.output_hypernetworks_mlps[m](token_PTC[:, first + 1 + m]) for m in chosen], dim=1
        )
        logits = weight_PMC @ large.transpose(1, 2)
        # row, column, then for both enlargements the lower and the right half
        logits = logits.view(count, len(chosen), rows, columns, 2, 2, 2, 2)
        logits = logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(count, len(chosen), 4 * rows, 4 * columns)
        iou_PM = decoder.iou_prediction_head(token_PTC[:, first])
        if several:
            return logits, iou_PM[:, 1:]
        if decoder.dynamic_multimask_via_stability:
            return decoder._dynamic_multimask_via_stability(logits, iou_PM)
        return logits[:, :1], iou_PM[:, :1]


class _Fused:
    """Projections of the same pixels as one product; positions, which some of them see, are added after."""

    def __init__(self, *parts: tuple[Any, bool], position_1KC: Tensor) -> None:
        self._weight = torch.cat([projection.weight for projection, _ in parts])
        self._widths = [len(projection.weight) for projection, _ in parts]
        self._added_1KC = torch.cat(
            [
                projection(position_1KC)
                if placed
                else projection.bias.expand(1, position_1KC.shape[1], -1).to(projection(position_1KC).dtype)
                for projection, placed in parts
            ],
            dim=-1,
        )

    def __call__(self, pixel_PKC: Tensor) -> tuple[Tensor, ...]:
        return (F.linear(pixel_PKC, self._weight) + self._added_1KC).split(self._widths, dim=-1)


def _attended(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of projected tokens; what has one row serves all prompts."""
    heads = attention.num_heads
    count = max(len(query), len(key))
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2).expand(count, -1, -1, -1)
        for part in (query, key, value)
    )
    seen = F.scaled_dot_product_attention(query, key, value)
    return attention.out_proj(seen.transpose(1, 2).flatten(2))


def _as_matrix(enlarging: Any) -> Tensor:
    """A transposed convolution of kernel and stride 2 as a product: four output pixels of each input one."""
    return enlarging.weight.permute(2, 3, 1, 0).flatten(0, 2)


def _quarters(level_Chw: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Features of twice the coarse resolution by coarse pixel, (K, 4 C)."""
    rows, columns = grid_hw
    return level_Chw.view(-1, rows, 2, columns, 2).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)


def _sixteenths(level_Chw: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Features of four times the coarse resolution by coarse pixel, (K, 4, 4 C)."""
    rows, columns = grid_hw
    parts = level_Chw.view(-1, rows, 2, 2, columns, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
    return parts.reshape(rows * columns, 4, -1)
