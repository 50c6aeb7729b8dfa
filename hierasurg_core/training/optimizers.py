"""The optimiser of a run: AdamW with moments on the GPU, in 8 bits, or in the machine's memory.

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
from hierasurg_core.training.offload import OffloadedAdamW


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


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Returns the config's optimiser over these parameters."""
    settings: dict[str, Any] = {
        "lr": config.lr,
        "betas": (config.beta1, config.beta2),
        "weight_decay": config.weight_decay,
    }
    if config.offload:
        return OffloadedAdamW(parameters, **settings)
    if config.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

        return AdamW8bit(parameters, **settings)
    return torch.optim.AdamW(parameters, fused=True, **settings)
