"""FlashAttention 4 for Hopper and Blackwell cards, where the package `flash-attn-4` is installed.

Owns two ways to it. Without gradients it is an operator of our own, which torch.compile leaves whole and
which takes query, key and value as they lie. With gradients torch itself puts the package in the place of
its flash kernel, for all of the process (`take_flashs_place`), so only one that trains does that. Nothing of
the package is imported before it is asked for. Refuses: masks, dropout, and other cards.

Letters: B batch, N tokens, H heads, E width of one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util

import torch
from torch import Tensor
from torch.nn import attention as torch_attention

from hierasurg_core.runtime import compute_capability

_PACKAGE, _MODULE = "flash_attn", "flash_attn.cute.interface"  # older FlashAttention has the first alone
_CARDS = (9, 10)  # Hopper, Blackwell of servers


def runs_on(device: torch.device) -> bool:
    """Whether the package is installed and made for this card."""
    if device.type != "cuda" or compute_capability(device)[0] not in _CARDS:
        return False
    return all(importlib.util.find_spec(name) is not None for name in (_PACKAGE, _MODULE))


@functools.cache
def take_flashs_place() -> None:
    """Lets torch's flash kernel be FlashAttention 4, gradients included, until the process ends.

    Nothing happens where torch is older than 2.11, the first that knows the package.
    """
    activate = getattr(torch_attention, "activate_flash_attention_impl", None)
    if activate is not None:
        activate("FA4")


@torch.library.custom_op("hierasurg::flash_attention_4", mutates_args=(), device_types="cuda")
def attention(query_BNHE: Tensor, key_BNHE: Tensor, value_BNHE: Tensor) -> Tensor:
    """Returns softmax(q k / sqrt(E)) v, (B, N, H, E), without gradients.

    All three of one half-precision type, on a card that `runs_on` affirms; queries may be fewer than keys.
    """
    out_BNHE, _ = importlib.import_module(_MODULE)._flash_attn_fwd(query_BNHE, key_BNHE, value_BNHE)
    return out_BNHE


@attention.register_fake
def _(query_BNHE: Tensor, key_BNHE: Tensor, value_BNHE: Tensor) -> Tensor:
    return query_BNHE.new_empty(*query_BNHE.shape[:3], value_BNHE.shape[3], dtype=value_BNHE.dtype)
