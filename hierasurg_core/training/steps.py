"""One optimiser step: micro-batches, gradients, clipping, the update and the average; and its learning rate.

Owns what a step does, for the loop (`trainer`) and for whoever only times some (`rehearsal`). Refuses: when
to log, save or stop.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from hierasurg_core.config import TrainConfig
from hierasurg_core.errors import DataError
from hierasurg_core.training.batch import Batch
from hierasurg_core.training.checkpoint import RunState, trained_parameters
from hierasurg_core.training.draws import Draws
from hierasurg_core.training.metrics import Window
from hierasurg_core.training.optimizers import FACTOR
from hierasurg_core.training.sharding import clip_gradients
from hierasurg_core.training.stages import Stage


class Stepper:
    """Takes the optimiser steps of a run."""

    def __init__(self, state: RunState, wrapped: nn.Module, stage: Stage, config: TrainConfig) -> None:
        """Opens the stream of batches where the state says.

        Args:
            state: What a step changes.
            wrapped: What is called for a prediction.
            stage: Says what is predicted.
            config: The run.
        """
        self.state, self.wrapped, self.stage, self.config = state, wrapped, stage, config
        accelerator = state.accelerator
        self._parameters = [parameter for _, parameter in trained_parameters(state.model)]
        self._draws = Draws(state.generator, accelerator.process_index, accelerator.num_processes)
        self._stream = iter(state.batches)

    def step(self, window: Window) -> float:
        """Takes one step, adds it to the window, and returns its learning rate.

        Raises:
            DataError: The data ended.
        """
        state, config = self.state, self.config
        rate = learning_rate(state.step + 1, config)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group.get(FACTOR, 1.0)
        losses, ids = [], []
        for micro in range(config.accumulate):
            batch = self._next(window)
            if config.condition_dropout > 0:
                dropped_B = self._draws.uniform((len(batch),)) < config.condition_dropout
                batch = batch.without_conditions(dropped_B)
            with self._gradients_shared(last=micro + 1 == config.accumulate):
                losses_B = self.stage.losses(self.wrapped, batch, self._draws)
                state.accelerator.backward(losses_B.mean() / config.accumulate)
            losses.append(losses_B.detach())
            ids.extend(batch.ids)
        norm = self._clip()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        if state.ema is not None:
            state.ema.update(state.step)
        window.add(state.step, ids, torch.cat(losses), norm)
        return rate

    def _next(self, window: Window) -> Batch:
        asked = time.perf_counter()
        batch = next(self._stream, None)
        if batch is None:
            raise DataError(f"the data ended at step {self.state.step + 1}; a source of batches never ends")
        batch = batch.to(self.state.accelerator.device)
        window.waited(time.perf_counter() - asked)
        return batch

    def close(self) -> None:
        """Ends the stream and the threads that read ahead for it."""
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()

    def _gradients_shared(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Only the last backward pass of a step sends gradients to other ranks, unless ranks hold pieces."""
        whole = self.state.shell is None
        return (
            self.state.accelerator.no_sync(self.wrapped) if whole and not last else contextlib.nullcontext()
        )

    def _clip(self) -> Tensor:
        """Limits the gradient's norm over all ranks, and returns what it was."""
        if self.state.shell is not None:
            return clip_gradients(self._parameters, self.config.grad_clip)
        norm = self.state.accelerator.clip_grad_norm_(self._parameters, self.config.grad_clip)
        assert norm is not None, "accelerate knows the norm of everything but DeepSpeed's gradients"
        return norm


def learning_rate(step: int, config: TrainConfig) -> float:
    """Returns the rate of optimiser step 1, 2, ...: a straight rise, then flat or half a cosine.

    A function of the step alone, so a resumed run needs no schedule's state. The cosine ends at 0 with the
    last step.
    """
    if step <= config.warmup:
        return config.lr * step / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))
