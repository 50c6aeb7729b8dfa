"""One fused step of AdamW over parameters whose moments an optimiser of ours keeps in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.adamw import adamw


def adamw_step(
    parameters: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    steps: Sequence[Tensor],
    group: dict[str, Any],
) -> None:
    """Steps as torch's own fused AdamW does; moments and counts are changed in place.

    Args:
        parameters: With gradients, all on the device of the moments.
        exp_avg: First moment of each.
        exp_avg_sq: Second moment of each.
        steps: How often each was stepped, float32.
        group: The optimiser's `lr`, `betas`, `weight_decay` and `eps`.
    """
    adamw(
        list(parameters),
        [parameter.grad for parameter in parameters if parameter.grad is not None],
        list(exp_avg),
        list(exp_avg_sq),
        [],
        list(steps),
        fused=True,
        grad_scale=None,
        found_inf=None,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
