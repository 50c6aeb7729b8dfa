"""Attention of the blocks: one product for query, key and value, and the kernel that this card runs fastest.

Owns the processor that the blocks' `Attention` modules call, and the measurement that chooses among torch's
kernels for `scaled_dot_product_attention`; its answer is kept for the process. Parameters stay diffusers'
own three matrices: they are laid side by side at each call, which costs a hundredth of the product. Refuses:
other kernels than torch's own.

Letters: B batch, H heads, N tokens, D width of all heads, E width of one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hierasurg_core.models.backbone import Attention
from hierasurg_core.runtime import device_milliseconds

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_MEASURED = ("cudnn", "flash", "efficient")  # "math" keeps all scores and is never the fastest


class FusedAttention:
    """What `Attention` modules of a CogVideoX block call: (stream, tokens) attend to each other.

    Equal to diffusers' processor but for the order of sums. Where one of the three projections is more than
    a plain linear layer (an adapter, a quantised one), each is called for itself.

    Attributes:
        kernel: "cudnn", "flash", "efficient", "math", or None for torch's own choice.
    """

    def __init__(self, kernel: str | None = None) -> None:
        """Checks the kernel's name.

        Raises:
            ValueError: There is no such kernel.
        """
        if kernel is not None and kernel not in KERNELS:
            raise ValueError(f"unknown attention kernel {kernel!r}: use {', '.join(KERNELS)}")
        self.kernel = kernel

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the attended tokens and stream, in this order, as the block takes them.

        Raises:
            ValueError: A mask or a rotary code, which these models do not have.
        """
        if attention_mask is not None or image_rotary_emb is not None:
            raise ValueError("the blocks of S2M and M2V take neither mask nor rotary code")
        length = encoder_hidden_states.shape[1]
        joint_BND = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in project(attn, joint_BND)
        )
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        attended_BHNE = attend(query, key, value, self.kernel)
        out: list[Callable[[Tensor], Tensor]] = list(cast(nn.ModuleList, attn.to_out))  # type: ignore[arg-type]
        joint_BND = out[1](out[0](attended_BHNE.transpose(1, 2).flatten(2)))
        return joint_BND[:, length:], joint_BND[:, :length]


def project(attn: Attention, joint_BND: Tensor) -> tuple[Tensor, ...]:
    """Returns query, key and value, (B, N, D) each, from one matrix product where all three are plain."""
    fused = getattr(attn, "to_qkv", None)
    if fused is not None:
        return fused(joint_BND).chunk(3, dim=-1)
    linears = [attn.to_q, attn.to_k, attn.to_v]
    if any(type(linear) is not nn.Linear for linear in linears):
        return tuple(linear(joint_BND) for linear in linears)
    weight = torch.cat([linear.weight for linear in linears])
    biases = [linear.bias for linear in linears if linear.bias is not None]
    return F.linear(joint_BND, weight, torch.cat(biases) if biases else None).chunk(3, dim=-1)


def attend(query_BHNE: Tensor, key_BHNE: Tensor, value_BHNE: Tensor, kernel: str | None) -> Tensor:
    """Returns softmax(q k / sqrt(E)) v with the named kernel (None: torch's choice)."""
    if kernel is None:
        return F.scaled_dot_product_attention(query_BHNE, key_BHNE, value_BHNE)
    with sdpa_kernel(KERNELS[kernel]):
        return F.scaled_dot_product_attention(query_BHNE, key_BHNE, value_BHNE)


def use_kernel(model: nn.Module, kernel: str | None) -> None:
    """Gives all attention modules of a model the fused processor with this kernel."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(FusedAttention(kernel))  # type: ignore[arg-type]


@functools.cache
def fastest_kernel(
    tokens: int,
    heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    backward: bool = False,
) -> str | None:
    """Measures torch's kernels on random numbers of this size and returns the fastest one's name.

    Anywhere but on a CUDA GPU, and in a number type that no fused kernel takes, the choice is torch's: None.
    The answer is kept for the process, so that all calls of one size use one kernel.

    Args:
        tokens: N.
        heads: H.
        head_dim: E.
        dtype: Of queries, keys and values.
        device: Which card.
        backward: Measure the gradients along with it, as training needs them.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    times = kernel_times(tokens, heads, head_dim, dtype, device, backward=backward)
    return min(times, key=times.__getitem__) if times else None


def kernel_times(
    tokens: int,
    heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    backward: bool = False,
) -> dict[str, float]:
    """Returns the median milliseconds of each kernel that can run this size on a CUDA GPU."""
    times: dict[str, float] = {}
    for kernel in _MEASURED:
        with contextlib.suppress(RuntimeError), torch.inference_mode(False), torch.set_grad_enabled(backward):
            times[kernel] = _milliseconds(kernel, (1, tokens, heads, head_dim), dtype, device, backward)
    return times


def _milliseconds(
    kernel: str, shape_BNHE: tuple[int, ...], dtype: torch.dtype, device: torch.device, backward: bool
) -> float:
    drawn = [torch.randn(shape_BNHE, dtype=dtype, device=device) for _ in range(3)]
    query, key, value = (tensor.transpose(1, 2).requires_grad_(backward) for tensor in drawn)

    def once() -> None:
        out = attend(query, key, value, kernel)
        if backward:
            torch.autograd.grad(out, (query, key, value), out)

    return device_milliseconds(once, device)
