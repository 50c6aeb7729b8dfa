"""Linear layers of the blocks in 8 bits: half of bf16's memory, and twice its rate where a GPU has it.

Owns the two formats and the replacement of a transformer's layers. Weights get one scale an output channel
when they are replaced, inputs one a token at each call, so nothing has to be calibrated. Steering norms,
patches and the map encoder stay as they are: a hundredth of the work, and where errors show first. Refuses:
training, and saving (the replaced weights are gone).

Letters: M tokens, K inputs, N outputs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hierasurg_core.errors import ResourceError
from hierasurg_core.models.backbone import Attention
from hierasurg_core.models.stack import CogVideoXStack
from hierasurg_core.runtime import compute_capability

Quantisation = Literal["fp8", "int8"]
_LARGEST = {"fp8": 448.0, "int8": 127.0}
_STORED = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
_NEEDS = {"fp8": (8, 9), "int8": (8, 0)}  # compute capability: Ada or Hopper, Ampere
_TINY = 1e-12


class QuantisedLinear(nn.Module):
    """A linear layer (M, K) -> (M, N) with weights of 8 bits; the output has the input's number type."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None, kind: Quantisation) -> None:
        """Rounds the weights.

        Args:
            weight_NK: Of the layer it stands for.
            bias_N: Kept as it is.
            kind: "fp8" (e4m3) or "int8".
        """
        super().__init__()
        self.kind: Quantisation = kind
        stored_NK, scale_N1 = _quantise(weight_NK.detach(), kind)
        self.stored_NK: Tensor
        self.scale_1N: Tensor
        self.bias_N: Tensor | None
        self.register_buffer("stored_NK", stored_NK)
        self.register_buffer("scale_1N", scale_N1.T.contiguous())
        self.register_buffer("bias_N", None if bias_N is None else bias_N.detach())

    def forward(self, values: Tensor) -> Tensor:
        """Returns (..., N) of (..., K)."""
        rows_MK = values.flatten(0, -2)
        stored_MK, scale_M1 = _quantise(rows_MK, self.kind)
        if self.kind == "fp8":
            out_MN = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
                stored_MK,
                self.stored_NK.T,
                scale_a=scale_M1,
                scale_b=self.scale_1N,
                bias=self.bias_N,
                out_dtype=values.dtype,
                use_fast_accum=True,
            )
        else:
            sums_MN = torch._int_mm(stored_MK, self.stored_NK.T)  # pyright: ignore[reportPrivateImportUsage]
            out_MN = sums_MN.float() * scale_M1 * self.scale_1N
            out_MN = (out_MN if self.bias_N is None else out_MN + self.bias_N).to(values.dtype)
        return out_MN.unflatten(0, values.shape[:-1])


@torch.no_grad()
def quantise(model: CogVideoXStack, kind: Quantisation, device: torch.device) -> None:
    """Replaces the linear layers of a transformer's blocks, in place; query, key and value become one layer.

    The attention processor must be one that looks for `to_qkv` (`attention.FusedAttention`).

    Raises:
        ResourceError: The GPU has no unit for such numbers.
    """
    if device.type == "cuda" and compute_capability(device) < _NEEDS[kind]:
        major, minor = _NEEDS[kind]
        raise ResourceError(
            f"{device} can't multiply {kind}, which takes capability {major}.{minor}; use --quantize none"
        )
    for block in model.transformer_blocks:
        attention = block.attn1
        assert isinstance(attention, Attention)
        three = [attention.to_q, attention.to_k, attention.to_v]
        biases = [linear.bias for linear in three if linear.bias is not None]
        weight_NK = torch.cat([linear.weight for linear in three])
        fused = QuantisedLinear(weight_NK, torch.cat(biases) if biases else None, kind)
        attention.add_module("to_qkv", fused)
        del attention.to_q, attention.to_k, attention.to_v
        for holder_name, name in (("attn1.to_out", "0"), ("ff.net.0", "proj"), ("ff.net", "2")):
            holder = block.get_submodule(holder_name)
            linear = holder.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            holder.add_module(name, QuantisedLinear(linear.weight, linear.bias, kind))


def _quantise(rows_MK: Tensor, kind: Quantisation) -> tuple[Tensor, Tensor]:
    """Returns the rows in 8 bits and their scales (M, 1), float32."""
    rows_MK = rows_MK.float()
    scale_M1 = rows_MK.abs().amax(dim=1, keepdim=True).clamp(min=_TINY) / _LARGEST[kind]
    scaled_MK = rows_MK / scale_M1
    return (scaled_MK.round() if kind == "int8" else scaled_MK).to(_STORED[kind]), scale_M1
