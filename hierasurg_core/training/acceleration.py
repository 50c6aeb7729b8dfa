"""What makes a training step fast on its device: attention kernels, recomputation, compiled blocks.

Owns how a model's blocks run while it is trained; nothing here changes what is learned. Refuses: choosing how
much is computed again (`memory`), and the loop (`trainer`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierasurg_core.artifacts import read_json
from hierasurg_core.models import CogVideoXStack
from hierasurg_core.models.attention import choose_kernel, chosen_by, kernel_in_use, use_kernel
from hierasurg_core.models.recompute import Recompute, block_runners
from hierasurg_core.runtime import device_name, is_deterministic


def set_up_model(
    model: CogVideoXStack,
    *,
    recompute: Recompute,
    every: int = 1,
    compiled: bool = False,
    sharded: bool = False,
) -> None:
    """Says how a model's blocks run while gradients are wanted, until `restore_model`.

    Args:
        model: The bare model.
        recompute: What blocks compute again; see `models.recompute`.
        every: Only every so many blocks.
        compiled: Whether blocks run through torch.compile; one compilation serves all of them.
        sharded: Whether blocks are gathered when they are called (see `sharding`). What is compiled or
            computed again then lies within the call, so that it finds the block whole.
    """
    blocks = model.transformer_blocks
    runners = block_runners(len(blocks), recompute, every=every, compiled=compiled)
    if not sharded:
        model.block_runners = runners
        return
    for block, runner in zip(blocks, runners, strict=True):
        vars(block)["forward"] = _within(block.forward, runner)


def _within(forward: Callable[..., Any], runner: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a block's `forward` that its runner runs while gradients are wanted."""

    def run(hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor) -> Any:
        if torch.is_grad_enabled():
            return runner(forward, hidden_states, encoder_hidden_states, temb)
        return forward(hidden_states, encoder_hidden_states, temb)

    return run


def use_fastest_kernel(
    model: CogVideoXStack,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    before: str | None = None,
) -> str | None:
    """Gives a model the attention kernel that is fastest with its gradients, and returns its name.

    In a block of `runtime.deterministic` it is the one that `fixed_kernel` names.

    Nothing changes on a CPU, or in a number type that only torch's own choice takes: None.

    Args:
        model: The bare model.
        tokens: N of a clip, the stream's included.
        dtype: In which attention is computed.
        device: Where.
        before: The kernel that the run has used so far, which it keeps.
    """
    heads, head_dim = model.config["num_attention_heads"], model.config["attention_head_dim"]
    kernel = choose_kernel(tokens, heads, head_dim, dtype, device, backward=True, before=before)
    if kernel is not None:
        use_kernel(model, kernel)
    return kernel


def computing_of(model: CogVideoXStack, device: torch.device) -> dict[str, Any]:
    """Returns what a run's record says of how it is computed.

    Its keys: "attention", the kernel; "chosen_by", which is "torch", "timing" or "rule"; "deterministic",
    whether torch uses algorithms without chance; and "device", by its own name.
    """
    kernel = kernel_in_use(model)
    return {
        "attention": kernel,
        "chosen_by": chosen_by(kernel),
        "deterministic": is_deterministic(),
        "device": device_name(device),
    }


def kernel_before(checkpoint: Path, device: torch.device) -> str | None:
    """Returns a run's attention kernel so far; None where its card was another one, or it does not say."""
    said = read_json(checkpoint / "state.json").get("computing", {})
    if said.get("device") != device_name(device) or said.get("deterministic"):
        return None
    return said.get("attention")


def restore_model(model: CogVideoXStack) -> None:
    """Takes back what `set_up_model` said; the attention kernel stays, as it computes the same."""
    model.block_runners = None
    for block in model.transformer_blocks:
        vars(block).pop("forward", None)
