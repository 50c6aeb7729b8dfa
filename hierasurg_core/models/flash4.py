"""FlashAttention 4 as an operator of torch's, for Hopper and Blackwell cards, where `flash-attn-4` is there.

Owns the operator and its gradient, which torch.compile takes as they are; nothing of the package is imported
before it is asked for. torch can put the package in the place of its own flash kernel, too
(`activate_flash_attention_impl`), but then copies query, key and value: a tenth of the kernel's time at
12,271 tokens. Refuses: masks, dropout, and other cards.

Letters: B batch, N tokens, H heads, E width of one.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from hierasurg_core.runtime import compute_capability

_PACKAGE, _MODULE = "flash_attn", "flash_attn.cute.interface"  # older FlashAttention has the first alone
_CARDS = (9, 10)  # Hopper, Blackwell of servers


def runs_on(device: torch.device) -> bool:
    """Whether the package is installed and made for this card."""
    if device.type != "cuda" or compute_capability(device)[0] not in _CARDS:
        return False
    return all(importlib.util.find_spec(name) is not None for name in (_PACKAGE, _MODULE))


def _functions() -> Any:
    return importlib.import_module(_MODULE)


@torch.library.custom_op("hierasurg::flash_attention_4", mutates_args=(), device_types="cuda")
def attention(query_BNHE: Tensor, key_BNHE: Tensor, value_BNHE: Tensor) -> tuple[Tensor, Tensor]:
    """Returns softmax(q k / sqrt(E)) v, (B, N, H, E), and the logarithms of the sums (B, H, N), float32.

    Queries may be fewer than keys. Half-precision numbers on a card that `runs_on` affirms; strides of the
    last axis must be 1.
    """
    out_BNHE, log_sums_BHN = _functions()._flash_attn_fwd(query_BNHE, key_BNHE, value_BNHE, return_lse=True)
    return out_BNHE, log_sums_BHN


@attention.register_fake
def _(query_BNHE: Tensor, key_BNHE: Tensor, value_BNHE: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _ = query_BNHE.shape
    return (
        query_BNHE.new_empty(batch, tokens, heads, value_BNHE.shape[-1]),
        query_BNHE.new_empty(batch, heads, tokens, dtype=torch.float32),
    )


@torch.library.custom_op("hierasurg::flash_attention_4_backward", mutates_args=(), device_types="cuda")
def _gradients(
    query_BNHE: Tensor,
    key_BNHE: Tensor,
    value_BNHE: Tensor,
    out_BNHE: Tensor,
    log_sums_BHN: Tensor,
    of_out_BNHE: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return _functions()._flash_attn_bwd(
        query_BNHE, key_BNHE, value_BNHE, out_BNHE, of_out_BNHE.contiguous(), log_sums_BHN
    )


@_gradients.register_fake
def _(
    query_BNHE: Tensor,
    key_BNHE: Tensor,
    value_BNHE: Tensor,
    out_BNHE: Tensor,
    log_sums_BHN: Tensor,
    of_out_BNHE: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    del out_BNHE, log_sums_BHN, of_out_BNHE
    return torch.empty_like(query_BNHE), torch.empty_like(key_BNHE), torch.empty_like(value_BNHE)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, of_out_BNHE: Tensor, of_log_sums: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    del of_log_sums
    return _gradients(*ctx.saved_tensors, of_out_BNHE)


attention.register_autograd(_backward, setup_context=_keep)
