"""What a run tells about itself, metrics.jsonl, and the guard against numbers that are none.

Owns the window between two looks at the GPU: losses and gradient norms stay on the device, and only
`Window.close` waits for them. It knows no logging service.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierasurg_core.artifacts import atomic_file, disk_faults_named
from hierasurg_core.errors import DataError
from hierasurg_core.text_files import parse_json


@dataclass(frozen=True)
class BadStep:
    """The first step of a window whose loss or gradient is not finite.

    Attributes:
        step: Which one, from 1.
        what: "loss" or "gradient".
        ids: The clips to look at: those of a bad loss, or the step's whole batch.
    """

    step: int
    what: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class WindowReport:
    """Sums over the steps of a window, on one rank, in numbers JSON can hold (but for a bad loss)."""

    steps: int
    clips: int
    loss_sum: float
    grad_norm: float
    seconds: float
    data_wait: float
    bad: BadStep | None


class Window:
    """Collects the steps between two log lines without waiting for the device."""

    def __init__(self, *, gradients_may_overflow: bool = False) -> None:
        """Opens the first window.

        Args:
            gradients_may_overflow: Whether a gradient that is not finite is ordinary, as with fp16, whose
                loss scaling skips such steps.
        """
        self._gradients_may_overflow = gradients_may_overflow
        self._open()

    def _open(self) -> None:
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._steps: list[tuple[int, tuple[str, ...]]] = []
        self._wait, self._begin = 0.0, time.perf_counter()

    def add(self, step: int, ids: Sequence[str], losses_B: Tensor, grad_norm: Tensor) -> None:
        """Adds one optimiser step: the loss of each of its clips, and the norm before clipping (no shape)."""
        self._steps.append((step, tuple(ids)))
        self._losses.append(losses_B)
        self._norms.append(grad_norm)

    def waited(self, seconds: float) -> None:
        """Adds time that passed until a batch came."""
        self._wait += seconds

    def restart_clock(self) -> None:
        """Leaves out the time since the window opened, which went into other work than steps."""
        self._begin = time.perf_counter()

    def __len__(self) -> int:
        """Returns the number of steps so far."""
        return len(self._steps)

    def close(self) -> WindowReport:
        """Waits for the device, reports on the window and opens the next one."""
        losses: list[float] = torch.cat(self._losses).tolist()
        norms: list[float] = torch.stack(self._norms).tolist()
        report = WindowReport(
            steps=len(self._steps),
            clips=len(losses),
            loss_sum=math.fsum(losses) if all(map(math.isfinite, losses)) else math.nan,
            grad_norm=norms[-1],
            seconds=time.perf_counter() - self._begin,
            data_wait=self._wait,
            bad=self._first_bad(losses, norms),
        )
        self._open()
        return report

    def _first_bad(self, losses: list[float], norms: list[float]) -> BadStep | None:
        start = 0
        for (step, ids), norm in zip(self._steps, norms, strict=True):
            here = losses[start : start + len(ids)]
            start += len(ids)
            bad = tuple(name for name, loss in zip(ids, here, strict=True) if not math.isfinite(loss))
            if bad:
                return BadStep(step, "loss", bad)
            if not math.isfinite(norm) and not self._gradients_may_overflow:
                return BadStep(step, "gradient", ids)
        return None


class MetricsFile:
    """Appends one JSON object a line; what a killed run wrote after its last checkpoint is cut off."""

    def __init__(self, path: Path, step: int) -> None:
        """Opens the file to go on after `step`; lines of later steps and a torn last line are dropped."""
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _at_most(line, step)]
            with atomic_file(path) as part:
                part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._path = path
        with disk_faults_named(path):
            self._file = path.open("ab", buffering=0)

    def write(self, values: dict[str, Any]) -> None:
        """Writes one line, readable at once by whoever follows the file.

        Raises:
            ResourceError: The disk is full.
        """
        line = json.dumps(values, allow_nan=False) + "\n"
        with disk_faults_named(self._path):
            self._file.write(line.encode())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _at_most(line: str, step: int) -> bool:
    try:
        values = parse_json(line, "a line of the metrics")
    except DataError:
        return False
    said = values.get("step") if isinstance(values, dict) else None
    return type(said) is int and said <= step
