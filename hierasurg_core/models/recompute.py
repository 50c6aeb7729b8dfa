"""What a training step keeps of a block's inner values, and what it computes again for the gradients.

Owns the three ways to run a block while gradients are wanted, which differ in memory and time and in nothing
else, and their compiled forms. Refuses: choosing among them (`training.acceleration`).

At N tokens of width D in two bytes a block keeps about 40 N D bytes if all is kept (30 N D where it is
compiled), 6 N D with "attention" and 2 N D with "full"; attention is half of the work at 12,271 tokens, so
"attention" computes about half as much again as "full" does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "attention", "full"]
BlockRunner = Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

_ATTENTION = frozenset(
    {
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def run_plain(
    block: nn.Module, tokens_BND: Tensor, stream_BND: Tensor, vector_BV: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs a block and keeps all that its gradients need."""
    return block(hidden_states=tokens_BND, encoder_hidden_states=stream_BND, temb=vector_BV)


def run_keeping_attention(
    block: nn.Module, tokens_BND: Tensor, stream_BND: Tensor, vector_BV: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs a block, keeps its inputs and what attention gave, and computes the rest again."""
    return checkpoint(
        block, tokens_BND, stream_BND, vector_BV, use_reentrant=False, context_fn=_keeping_attention
    )


def run_keeping_inputs(
    block: nn.Module, tokens_BND: Tensor, stream_BND: Tensor, vector_BV: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs a block, keeps its inputs, and computes all else again."""
    return checkpoint(block, tokens_BND, stream_BND, vector_BV, use_reentrant=False)


_RUNNERS: dict[Recompute, BlockRunner] = {
    "none": run_plain,
    "attention": run_keeping_attention,
    "full": run_keeping_inputs,
}


def block_runners(
    num_blocks: int, recompute: Recompute, *, every: int = 1, compiled: bool = False
) -> tuple[BlockRunner, ...]:
    """Returns how to run each block.

    Args:
        num_blocks: How many blocks there are.
        recompute: What those blocks do that compute again.
        every: Only blocks 0, k, 2 k, ... compute again; the others keep all.
        compiled: Run through torch.compile; one compilation serves all blocks of one way and shape.

    Raises:
        ValueError: No such way, or `every` is less than 1.
    """
    if recompute not in _RUNNERS or every < 1:
        raise ValueError(
            f"recompute {recompute!r} of every {every} blocks: use {', '.join(_RUNNERS)}, from 1"
        )
    again, plain = (_runner(name, compiled) for name in (recompute, "none"))
    return tuple(again if index % every == 0 else plain for index in range(num_blocks))


@functools.cache
def _runner(recompute: Recompute, compiled: bool) -> BlockRunner:
    runner = _RUNNERS[recompute]
    return torch.compile(runner, dynamic=False) if compiled else runner


def _keeping_attention() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    del context, args, kwargs
    return CheckpointPolicy.MUST_SAVE if operator in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE
