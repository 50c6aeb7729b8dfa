"""Metrics to TensorBoard or Weights & Biases, besides the metrics.jsonl that every run writes.

Owns the two services' calls; either is an extra and loaded only when asked for. It asks for no login:
without an account's key Weights & Biases writes into the run's folder, to be sent with `wandb sync`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Protocol

from hierasurg_core.errors import UsageError

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


class Reporter(Protocol):
    """Where the metrics of a log line go."""

    def report(self, step: int, values: dict[str, float]) -> None:
        """Takes the numbers of one line."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


def expect_reporter(name: str) -> None:
    """Looks for the service's package before anything loads.

    Raises:
        UsageError: It is not installed.
    """
    package = _PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise UsageError(
            f"report_to {name} needs {package}, which is not installed: run pip install 'hierasurg[{name}]', "
            "or leave it out (metrics.jsonl is always written)"
        )


def open_reporter(name: str, out: Path, config: dict[str, Any]) -> Reporter | None:
    """Returns a service's reporter that writes into the run's folder; None for "none".

    Raises:
        UsageError: Its package is not installed.
    """
    expect_reporter(name)
    if name == "tensorboard":
        return _TensorBoard(out / "tensorboard")
    if name == "wandb":
        return _WandB(out, config)
    return None


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def report(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, out: Path, config: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self._run: Any = wandb.init(
            project="hierasurg",
            name=out.name,
            dir=str(out),
            config=config,
            mode=os.environ.get("WANDB_MODE", mode),
        )

    def report(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
