"""Muon for the blocks' matrices and AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes the momentum of a matrix nearly orthogonal
before it steps along it; scaled to AdamW's usual step (Liu et al. 2025, arXiv 2502.16982), it takes AdamW's
learning rate. Matrices of one shape are orthogonalised together, so a step costs a few dozen kernels, not
hundreds.

Owns both updates. Refuses: choosing which parameters are matrices (`optimizers`), and sharded parameters,
whose parts are no matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hierasurg_core.training.adamw import adamw_step

_QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at 0 of those that keep singular values near 1
_ITERATIONS = 5
_ADAMW_STEP = 0.2  # root mean square of a usual AdamW update


class MuonAdamW(torch.optim.Optimizer):
    """Steps matrices along their orthogonalised momentum, other parameters as AdamW.

    Args:
        parameters: All parameters, or groups of them.
        matrices: Those of them, each of two axes, that Muon takes.
        lr: Learning rate of both.
        betas: AdamW's decays.
        weight_decay: Decoupled, of both.
        momentum: Muon's decay; its momentum looks ahead (Nesterov).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        matrices: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "momentum": momentum, "eps": 1e-8}
        super().__init__(parameters, defaults)
        self._matrices = {id(matrix) for matrix in matrices}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Takes one step for all parameters that have a gradient.

        Raises:
            ValueError: A closure; the trainer computes gradients itself.
        """
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure")
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in moved:
                if id(parameter) in self._matrices:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for same in by_shape.values():
                self._step_matrices(same, group)
            self._step_others([p for p in moved if id(p) not in self._matrices], group)

    def _step_matrices(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        gradients, momenta = [], []
        for matrix in matrices:
            state = self.state[matrix]
            if not state:
                state["momentum"] = torch.zeros_like(matrix)
            assert matrix.grad is not None
            gradients.append(matrix.grad)
            momenta.append(state["momentum"])
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
        ahead_NRC = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))  # pyright: ignore[reportPrivateImportUsage]
        rows, columns = ahead_NRC.shape[1:]
        scale = -group["lr"] * _ADAMW_STEP * max(rows, columns) ** 0.5
        updates = [update * scale for update in orthogonalised(ahead_NRC).to(ahead_NRC.dtype)]
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(matrices, updates)  # pyright: ignore[reportPrivateImportUsage]

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        names = ("exp_avg", "exp_avg_sq", "step")
        first, second, steps = ([self.state[parameter][name] for parameter in parameters] for name in names)
        adamw_step(parameters, first, second, steps, group)


def orthogonalised(matrices_NRC: Tensor) -> Tensor:
    """Returns matrices with about the same singular vectors, and singular values between 0.6 and 1.3.

    Five Newton-Schulz steps of a quintic, in bf16 on a GPU, else in float32.

    Args:
        matrices_NRC: N matrices of any scale.

    Returns:
        (N, R, C), in the number type of the computation.
    """
    a, b, c = _QUINTIC
    x = matrices_NRC.to(torch.bfloat16 if matrices_NRC.is_cuda else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
