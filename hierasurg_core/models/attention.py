"""Attention of the blocks: one product for query, key and value, and the kernel that this card runs fastest.

Owns the processor that the blocks' `Attention` modules call, and the measurement that chooses among torch's
kernels for `scaled_dot_product_attention` and, where it is installed, FlashAttention 4; its answer is kept
for the process. Parameters stay diffusers' own three matrices: they are laid side by side at each call, which
costs a hundredth of the product. Refuses: the kernels themselves (torch, `flash4`).

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

from hierasurg_core.models import flash4
from hierasurg_core.models.backbone import Attention
from hierasurg_core.runtime import agree, compute_capability, device_milliseconds, is_deterministic

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
FLASH4 = "flash4"
_MEASURED = ("cudnn", "flash", "efficient")  # "math" keeps all scores and is never the fastest
_FLASH_CARDS = (8, 0)  # compute capability from which torch has flash attention
_LONG = 4096  # tokens from which FlashAttention 4 is worth the seconds that its compilation takes


class FusedAttention:
    """What `Attention` modules of a CogVideoX block call: (stream, tokens) attend to each other.

    Equal to diffusers' processor but for the order of sums. Where one of the three projections is more than
    a plain linear layer (an adapter, a quantised one), each is called for itself.

    Attributes:
        kernel: "flash4" (see there), "cudnn", "flash", "efficient", "math", or None for torch's own choice.
        stream_asks: Whether the stream attends to anything, or lends its keys and values alone.
    """

    def __init__(self, kernel: str | None = None, *, stream_asks: bool = True) -> None:
        """Checks the kernel's name.

        Raises:
            ValueError: There is no such kernel.
        """
        if kernel is not None and kernel not in (*KERNELS, FLASH4):
            raise ValueError(f"unknown attention kernel {kernel!r}: use {', '.join((*KERNELS, FLASH4))}")
        self.kernel = kernel
        self.stream_asks = stream_asks

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the attended tokens and stream, in this order, as the block takes them.

        The stream is empty, (B, 0, D), where it does not ask.

        Raises:
            ValueError: A mask or a rotary code, which these models do not have.
        """
        if attention_mask is not None or image_rotary_emb is not None:
            raise ValueError("the blocks of S2M and M2V take neither mask nor rotary code")
        length = encoder_hidden_states.shape[1]
        joint_BND = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in project(attn, joint_BND))
        if not self.stream_asks:
            query, length = query[:, length:], 0
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        attended_BNHE = attend(query, key, value, self.kernel)
        out: list[Callable[[Tensor], Tensor]] = list(cast(nn.ModuleList, attn.to_out))  # type: ignore[arg-type]
        joint_BND = out[1](out[0](attended_BNHE.flatten(2)))
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


def attend(query_BNHE: Tensor, key_BNHE: Tensor, value_BNHE: Tensor, kernel: str | None) -> Tensor:
    """Returns softmax(q k / sqrt(E)) v, (B, N, H, E), with the named kernel (None: torch's choice)."""
    if kernel == FLASH4:  # norms under autocast give float32, which torch's kernels would round themselves
        return flash4.attention(query_BNHE.to(value_BNHE.dtype), key_BNHE.to(value_BNHE.dtype), value_BNHE)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query_BNHE, key_BNHE, value_BNHE))
    with contextlib.nullcontext() if kernel is None else sdpa_kernel(KERNELS[kernel]):
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def use_kernel(model: nn.Module, kernel: str | None) -> None:
    """Gives all attention modules of a model the fused processor with this kernel."""
    for module in model.modules():
        if isinstance(module, Attention):
            before = module.processor
            asks = before.stream_asks if isinstance(before, FusedAttention) else True
            module.set_processor(FusedAttention(kernel, stream_asks=asks))  # type: ignore[arg-type]


def kernel_in_use(model: nn.Module) -> str:
    """Returns the name of the kernel that a model's attention uses; "default" where torch chooses."""
    for module in model.modules():
        if isinstance(module, Attention):
            processor = module.processor
            kernel = processor.kernel if isinstance(processor, FusedAttention) else None
            return kernel or "default"
    return "default"


def chosen_by(kernel: str) -> str:
    """Returns how a kernel in use was chosen: by "torch", by "timing", or by "rule"."""
    if kernel == "default":
        return "torch"
    return "rule" if is_deterministic() else "timing"


def choose_kernel(
    tokens: int,
    heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    backward: bool = False,
    before: str | None = None,
) -> str | None:
    """Returns the kernel that attention of this size uses in this process; None leaves the choice to torch.

    On a CUDA GPU it is the one that `fastest_kernel` measures, the same for all processes of a group. Which
    one that is may change from run to run, and with it the last bits of what is computed. In a block of
    `runtime.deterministic` it follows from the card and the number type alone.

    Args:
        tokens: N.
        heads: H.
        head_dim: E.
        dtype: Of queries, keys and values.
        device: Which card.
        backward: Whether gradients are wanted, as in training.
        before: The kernel that a run has used so far on such a card; it is taken without measuring.
    """
    if is_deterministic():
        return fixed_kernel(dtype, device, backward=backward)
    if before is not None and device.type == "cuda":
        _kernels_to_try(tokens, device, backward=backward)
        return None if before == "default" else before
    kernel = fastest_kernel(tokens, heads, head_dim, dtype, device, backward=backward)
    if kernel is None:
        return None
    return agree(f"attention {tokens} {heads} {head_dim} {dtype} {backward}", kernel)


def fixed_kernel(dtype: torch.dtype, device: torch.device, *, backward: bool = False) -> str | None:
    """Returns the kernel that gives the same bytes in every run on one kind of card; None off CUDA.

    Flash attention where the card has it. Elsewhere "math" with gradients, as those of "efficient" are added
    up in any order.
    """
    if device.type != "cuda":
        return None
    if dtype in (torch.bfloat16, torch.float16) and compute_capability(device) >= _FLASH_CARDS:
        return "flash"
    return "math" if backward else "efficient"


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
    """Measures the kernels on random numbers of this size and returns the fastest one's name.

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
    """Returns the median milliseconds of each kernel that can run this size on a CUDA GPU.

    "flash" is FlashAttention 4 with gradients, where that is installed and the sequence long.
    """
    times: dict[str, float] = {}
    for kernel in _kernels_to_try(tokens, device, backward=backward):
        with contextlib.suppress(RuntimeError), torch.inference_mode(False), torch.set_grad_enabled(backward):
            times[kernel] = _milliseconds(kernel, (1, tokens, heads, head_dim), dtype, device, backward)
    return times


def _kernels_to_try(tokens: int, device: torch.device, *, backward: bool) -> tuple[str, ...]:
    """Returns what is measured; with gradients FlashAttention 4 takes the place of "flash" from here on."""
    if tokens < _LONG or not flash4.runs_on(device):
        return _MEASURED
    if not backward:
        return (FLASH4, *_MEASURED)
    flash4.take_flashs_place()
    return _MEASURED


def _milliseconds(
    kernel: str, shape_BNHE: tuple[int, ...], dtype: torch.dtype, device: torch.device, backward: bool
) -> float:
    query, key, value = (
        torch.randn(shape_BNHE, dtype=dtype, device=device, requires_grad=backward) for _ in range(3)
    )

    def once() -> None:
        out = attend(query, key, value, kernel)
        if backward:
            torch.autograd.grad(out, (query, key, value), out)

    return device_milliseconds(once, device)
