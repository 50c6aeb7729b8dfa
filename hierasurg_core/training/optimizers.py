"""The optimiser of a run: AdamW with moments on the GPU, in 8 bits, or in the machine's memory; or Muon.

Owns which of them a config asks for and what must be installed for it. All are stepped alike, and all keep
per parameter what `checkpoint` saves. It refuses to put one in another's place.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hierasurg_core.config import TrainConfig
from hierasurg_core.errors import UsageError
from hierasurg_core.training.muon import MuonAdamW
from hierasurg_core.training.offload import OffloadedAdamW

FACTOR = "factor"
"""Of a parameter group: by what the learning rate is multiplied for it."""
_BLOCKS = "transformer_blocks."
_PATCHES = "patch_embed.proj."
_WIDE_INPUT = 1024  # numbers that a patch holds, from which its projection takes a quarter of the rate
_WIDE_FACTOR = 0.25


def expect_optimizer(config: TrainConfig, device: torch.device) -> None:
    """Looks for what the optimiser needs, before anything loads.

    Raises:
        UsageError: A package is missing, or the device has no such optimiser.
    """
    if config.optimizer != "adamw8bit":
        return
    if device.type != "cuda":
        raise UsageError("an 8-bit optimizer needs an NVIDIA GPU; use --memory recompute or offload here")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "an 8-bit optimizer needs bitsandbytes, which is not installed: run pip install 'hierasurg[8bit]'"
        )


def build_optimizer(named: Iterable[tuple[str, nn.Parameter]], config: TrainConfig) -> torch.optim.Optimizer:
    """Returns the config's optimiser over these parameters, given with their names in the model.

    Muon takes the blocks' matrices: their linear layers, adaptive norms included. Embeddings, tables, biases
    and the ends of the model stay with AdamW, as Muon's authors advise. A patch projection with many inputs
    (S2M on ids has 2,560) takes a quarter of the rate: AdamW moves each weight alike, so what they add up to
    grows with their number.
    """
    named = list(named)
    parameters = _groups(named)
    settings: dict[str, Any] = {
        "lr": config.lr,
        "betas": (config.beta1, config.beta2),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "muon":
        matrices = [tensor for name, tensor in named if name.startswith(_BLOCKS) and tensor.ndim == 2]
        return MuonAdamW(parameters, matrices, **settings)
    if config.offload:
        return OffloadedAdamW(parameters, **settings)
    if config.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

        return AdamW8bit(parameters, **settings)
    return torch.optim.AdamW(parameters, fused=True, **settings)


def _groups(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Returns all parameters in one group, a wide patch projection in a slower one of its own."""
    wide = [
        parameter
        for name, parameter in named
        if name.startswith(_PATCHES) and parameter.ndim == 4 and parameter[0].numel() >= _WIDE_INPUT
    ]
    chosen = {id(parameter) for parameter in wide}
    groups: list[dict[str, Any]] = [{"params": [p for _, p in named if id(p) not in chosen], FACTOR: 1.0}]
    if wide:
        groups.append({"params": wide, FACTOR: _WIDE_FACTOR})
    return groups
