"""CogVideoX's transformer block, computed without what nobody reads.

Owns the block's forward pass over diffusers' own parameters: its feed-forward layer takes bias and GELU
along with the matrix product where a GPU can, and the last block of M2V leaves the map tokens alone, since
only the image tokens go on from there: maps lend their keys and values and ask for nothing. Both are exact
but for the order of roundings. Refuses: attention itself (`attention`), and what blocks keep for gradients
(`recompute`).

Letters: B batch, N tokens, D inner width, V width of the vector that steers the norm layers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from hierasurg_core.models.attention import FusedAttention
from hierasurg_core.models.backbone import CogVideoXBlock, register_block


class StackBlock(CogVideoXBlock):
    """A CogVideoX block of a `CogVideoXStack`; parameters and their names are CogVideoX's."""

    def __init__(
        self,
        dim: int,
        num_attention_heads: int,
        attention_head_dim: int,
        time_embed_dim: int,
        norm_eps: float,
        *,
        stream_ends: bool = False,
    ) -> None:
        """Makes a block with torch's default weights.

        Args:
            dim: D.
            num_attention_heads: Heads.
            attention_head_dim: Width of one.
            time_embed_dim: V.
            norm_eps: Of the two norm layers.
            stream_ends: Nobody reads what becomes of the stream in this block: it is returned as it came.
        """
        super().__init__(
            dim=dim,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            time_embed_dim=time_embed_dim,
            attention_bias=True,
            norm_eps=norm_eps,
        )
        self.stream_ends = stream_ends
        self.attn1.set_processor(FusedAttention(stream_asks=not stream_ends))  # type: ignore[arg-type]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns image tokens and stream after this block; diffusers' names, so that its hooks find them.

        Args:
            hidden_states: Image tokens (B, N, D).
            encoder_hidden_states: The stream (B, N', D).
            temb: The steering vector (B, V).
        """
        tokens_BND, stream_BND = hidden_states, encoder_hidden_states
        normed_BND, normed_stream_BND, gate_B1D, stream_gate_B1D = self.norm1(tokens_BND, stream_BND, temb)
        attended_BND, attended_stream_BND = self.attn1(
            hidden_states=normed_BND, encoder_hidden_states=normed_stream_BND
        )
        tokens_BND = tokens_BND + gate_B1D * attended_BND
        if self.stream_ends:
            stream_BND = stream_BND[:, :0]
        stream_BND = stream_BND + stream_gate_B1D * attended_stream_BND

        normed_BND, normed_stream_BND, gate_B1D, stream_gate_B1D = self.norm2(tokens_BND, stream_BND, temb)
        length = stream_BND.shape[1]
        made_BND = self._feed_forward(torch.cat([normed_stream_BND, normed_BND], dim=1))
        tokens_BND = tokens_BND + gate_B1D * made_BND[:, length:]
        if self.stream_ends:
            return tokens_BND, encoder_hidden_states
        return tokens_BND, stream_BND + stream_gate_B1D * made_BND[:, :length]

    def _feed_forward(self, values_BND: Tensor) -> Tensor:
        first, last = cast(nn.Module, self.ff.net[0]).proj, cast(nn.Module, self.ff.net[2])
        if not _one_kernel_does(first, values_BND):
            return self.ff(values_BND)
        assert isinstance(first, nn.Linear)
        rows_MD = values_BND.flatten(0, 1)
        inner_MH = torch._addmm_activation(  # pyright: ignore[reportPrivateImportUsage]
            first.bias, rows_MD, first.weight.T, use_gelu=True
        )
        return last(inner_MH).unflatten(0, values_BND.shape[:2])


def _one_kernel_does(linear: object, values_BND: Tensor) -> bool:
    """Whether cuBLAS can take bias and GELU (by tanh, as CogVideoX has it) along with the product.

    Gradients need what lies between the two, so that there is nothing to gain while they are wanted; adapters
    and quantised layers have products of their own.
    """
    return (
        type(linear) is nn.Linear
        and not torch.is_grad_enabled()
        and values_BND.is_cuda
        and values_BND.dtype in (torch.bfloat16, torch.float16)
        and linear.weight.dtype == values_BND.dtype
    )


register_block(StackBlock)
