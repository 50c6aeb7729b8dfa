"""The one training loop. It owns no model: a `Stage` says what is predicted, a `BatchSource` brings data.

It owns the order of things: resume, learning rate, accumulation, clipping, averaging, metrics, checkpoints,
and when to stop. Nothing in a step waits for the GPU; only log lines do. accelerate brings mixed precision
and data parallelism. B clips of a batch.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hierasurg_core.artifacts import check_free_space, ensure_writable_folder
from hierasurg_core.config import TrainConfig, to_dict
from hierasurg_core.errors import DataError, ResourceError
from hierasurg_core.models import CogVideoXStack
from hierasurg_core.models.lora import Lora
from hierasurg_core.models.trained import is_finished
from hierasurg_core.progress import Progress
from hierasurg_core.runtime import (
    deterministic,
    memory_in_use,
    resolve_device,
    resolve_dtype,
    wait_for_all,
    world_size,
)
from hierasurg_core.training.acceleration import computing_of, kernel_before, use_fastest_kernel
from hierasurg_core.training.checkpoint import (
    RunState,
    bytes_needed,
    choose_checkpoint,
    load_checkpoint,
    prune,
    read_state,
    save_checkpoint,
    write_finished,
)
from hierasurg_core.training.interrupt import StopRequest
from hierasurg_core.training.memory import Workload, what_to_lower
from hierasurg_core.training.metrics import MetricsFile, Window
from hierasurg_core.training.optimizers import expect_optimizer
from hierasurg_core.training.reporting import Reporter
from hierasurg_core.training.setup import accelerated, expect_fit, set_up
from hierasurg_core.training.sharding import let_go
from hierasurg_core.training.source import BatchSource
from hierasurg_core.training.stages import Stage
from hierasurg_core.training.steps import Stepper

_NAMED = 8  # clips that an error names


@dataclass(frozen=True)
class TrainResult:
    """How a session of training ended.

    Attributes:
        step: Optimiser steps done, earlier sessions counted.
        finished: Whether that is all of them.
        checkpoint: Where the run stands on disk.
        model: The finished model's folder; None while unfinished.
        loss: Mean loss since the last log line but one; None if no step was left to do.
        seconds: Time of all sessions spent on steps.
    """

    step: int
    finished: bool
    checkpoint: Path
    model: Path | None
    loss: float | None
    seconds: float


class PreviewMaker(Protocol):
    """Shows what the model makes; see `previews`."""

    def __call__(self, model: nn.Module, step: int, write: bool) -> None:
        """Samples on every rank, and writes where `write` says so; changes no state of the run."""
        ...


@dataclass(frozen=True)
class Extras:
    """What a run may do besides training a model on batches.

    Attributes:
        lora: Train these low-rank updates in place of all weights.
        previews: Called every `config.preview_every` steps.
        reporter: Gets the numbers of each log line, on rank 0.
        begin: Called by every rank when the run is sure to go on, before its first step.
        load: Lets log lines tell tokens a second and MFU.
        peak_flops: Of the device, operations a second, for MFU.
    """

    lora: Lora | None = None
    previews: PreviewMaker | None = None
    reporter: Reporter | None = None
    begin: Callable[[], None] = lambda: None
    load: Workload | None = None
    peak_flops: float | None = None


def train(
    model: CogVideoXStack,
    stage: Stage,
    batches: BatchSource,
    config: TrainConfig,
    out: Path,
    progress: Progress,
    *,
    extras: Extras | None = None,
) -> TrainResult:
    """Trains `model` in place until `config.steps`, and leaves checkpoints and a finished model in `out`.

    With `config.sharding` "full" and several processes the model ends in pieces: take the one in `out`.

    Called again with the same arguments it goes on from the last checkpoint, to the bit as if it had never
    stopped (on a CPU; GPUs add up in an order of their own). SIGTERM or Ctrl-C ends the step, writes a
    checkpoint and stops. With several processes, all call this; they stop together at log lines.

    Args:
        model: An `S2MTransformer3DModel` or `M2VTransformer3DModel`; it is made float32.
        stage: Fits the model.
        batches: This rank's batches; `config.batch` is theirs to obey.
        config: The run.
        out: The run's folder, made if missing (see `checkpoint` for what is in it).
        progress: Told of each step.
        extras: What else goes on, see there.

    Returns:
        Where the run stands. Unfinished only after `config.max_seconds`.

    Raises:
        UsageError: Options that contradict each other or the device.
        DataError: A loss or gradient is not finite (the message names step and clips; no checkpoint is
            written after it), or the data does not fit the stage or the checkpoint.
        WeightsError: The model or the checkpoint does not fit the stage.
        ResourceError: No such device, no room on the disk, or too little GPU memory (the message names what
            to lower).
        KeyboardInterrupt: SIGTERM or SIGINT came; the run is saved.
    """
    began = time.monotonic()
    extras = extras or Extras()
    device = resolve_device(config.device)
    expect_fit(model, stage, config, device)
    expect_optimizer(config, device)
    resumed = choose_checkpoint(out, config.resume)
    if resumed is not None and (done := finished_already(resumed, out, stage.name, config.steps)) is not None:
        progress.note(f"{out} is finished with {done.step} steps: nothing is trained")
        return done
    wait_for_all()  # no rank writes before all have chosen
    ensure_writable_folder(out)
    check_free_space(
        out, bytes_needed(model, ema=config.ema is not None, keep=config.keep), "the checkpoints"
    )
    with (
        deterministic(config.deterministic),
        accelerated(model, config, device) as accelerator,
        memory_errors(config, extras),
    ):
        state, wrapped = set_up(model, stage, batches, config, accelerator, extras.lora)
        if config.sharding == "full" and state.shell is None:
            progress.note("sharding needs several processes; this one holds the whole model")
        if extras.load is not None and (config.precision == "bf16" or config.deterministic):
            number_type = resolve_dtype(config.precision, accelerator.device)
            before = None if resumed is None else kernel_before(resumed, accelerator.device)
            use_fastest_kernel(model, extras.load.tokens, number_type, accelerator.device, before)
        state.computing = computing_of(model, accelerator.device)
        if resumed is not None:
            load_checkpoint(state, resumed)
            progress.note(f"going on from {resumed}")
        extras.begin()
        progress.start(f"train {stage.name}", config.steps, "steps")
        progress.advance(min(state.step, config.steps))
        with StopRequest() as stop:
            return _Session(state, wrapped, stage, config, out, progress, stop, began, extras, resumed).run()


@dataclass
class _Session:
    """The loop's surroundings; `run` is the loop."""

    state: RunState
    wrapped: nn.Module
    stage: Stage
    config: TrainConfig
    out: Path
    progress: Progress
    stop: StopRequest
    began: float
    extras: Extras
    saved: Path | None
    loss: float | None = None

    def run(self) -> TrainResult:
        state, config = self.state, self.config
        accelerator = state.accelerator
        metrics = MetricsFile(self.out / "metrics.jsonl", state.step) if accelerator.is_main_process else None
        if accelerator.is_main_process:
            prune(self.out, config.keep)
        window = Window(gradients_may_overflow=config.precision == "fp16")
        stepper = Stepper(state, self.wrapped, self.stage, config)
        with contextlib.closing(metrics) if metrics else contextlib.nullcontext():
            while state.step < config.steps:
                rate = stepper.step(window)
                self.progress.advance()

                due = state.step % config.checkpoint_every == 0 or state.step == config.steps
                look = due or state.step % config.log_every == 0
                stopping = self._stopping(look)
                if look or stopping:
                    self._report(window, metrics, rate)
                if due or stopping:
                    self._save(window)
                if config.preview_every and state.step % config.preview_every == 0 and not stopping:
                    self._preview(window)
                if stopping and state.step < config.steps:
                    break
        return self._end()

    def _stopping(self, look: bool) -> bool:
        """Whether to stop after this step; several ranks ask each other, at log lines alone."""
        seconds = self.config.max_seconds
        own = self.stop.requested or (seconds is not None and time.monotonic() - self.began >= seconds)
        if self.state.accelerator.num_processes == 1:
            return own
        return look and any(gather_object([own]))

    def _report(self, window: Window, metrics: MetricsFile | None, rate: float) -> None:
        """Writes a log line over the steps since the last, and refuses to go on with NaN or Inf."""
        state = self.state
        reports = gather_object([window.close()])
        bad = sorted((r.bad for r in reports if r.bad), key=lambda b: (b.step, b.what != "loss"))
        if bad:
            more = len(bad[0].ids) - _NAMED
            clips = ", ".join(bad[0].ids[:_NAMED]) + (f" and {more} more" if more > 0 else "")
            last = f"go on from {self.saved}" if self.saved else "start again"
            raise DataError(
                f"step {bad[0].step}: the {bad[0].what} is not finite for the clips {clips}; look at them, "
                f"or {last} with a lower learning rate (now {self.config.lr:g})"
            )
        own, clips = reports[0], sum(report.clips for report in reports)
        self.loss = sum(report.loss_sum for report in reports) / clips
        state.seconds += own.seconds
        if metrics is None:
            return
        step_s = own.seconds / own.steps
        data_wait_s = max(report.data_wait for report in reports) / own.steps
        communication_s = None
        if state.shell is None:
            communication_s = exposed_communication(self.wrapped) * self.config.accumulate
        line = {
            "step": state.step,
            "loss": self.loss,
            "lr": rate,
            "grad_norm": own.grad_norm if math.isfinite(own.grad_norm) else None,
            "samples_per_s": clips / own.seconds,
            "step_s": step_s,
            "data_wait_s": data_wait_s,
            "communication_s": communication_s,
            "compute_s": max(step_s - data_wait_s - (communication_s or 0.0), 0.0),
            "seconds": state.seconds,
            **self._work(clips / own.seconds),
            **memory_in_use(state.accelerator.device),
        }
        metrics.write(line)
        if self.extras.reporter is not None:
            self.extras.reporter.report(
                state.step, {name: float(value) for name, value in line.items() if value is not None}
            )

    def _work(self, clips_per_s: float) -> dict[str, float]:
        """Tokens a second over all ranks, and the share of their peak that the model's arithmetic takes."""
        load, peak = self.extras.load, self.extras.peak_flops
        if load is None:
            return {}
        told = {"tokens_per_s": clips_per_s * load.tokens}
        if peak is not None:
            told["mfu"] = clips_per_s * load.flops_a_clip() / (peak * self.state.accelerator.num_processes)
        return told

    def _preview(self, window: Window) -> None:
        if self.extras.previews is None:
            return
        average = contextlib.nullcontext() if self.state.ema is None else self.state.ema.applied()
        with average:
            self.extras.previews(self.state.model, self.state.step, self.state.accelerator.is_main_process)
        let_go(self.state.model)
        wait_for_all()
        window.restart_clock()

    def _save(self, window: Window) -> None:
        self.saved = save_checkpoint(self.state, self.out, to_dict(self.config))
        if self.state.accelerator.is_main_process:
            prune(self.out, self.config.keep)
        wait_for_all()
        loss = "" if self.loss is None else f" loss {self.loss:.4g},"
        self.progress.note(f"step {self.state.step}:{loss} saved {self.saved}")
        window.restart_clock()

    def _end(self) -> TrainResult:
        state, config = self.state, self.config
        finished = state.step >= config.steps
        if self.stop.requested and not finished:
            self.progress.note(f"stopped at step {state.step}; the same command goes on from there")
            raise KeyboardInterrupt
        assert self.saved is not None
        model = self.out / "transformer" if finished else None
        if finished and state.accelerator.is_main_process:
            write_finished(state, self.out, self.saved, to_dict(config))
        wait_for_all()
        return TrainResult(state.step, finished, self.saved, model, self.loss, state.seconds)


def finished_already(checkpoint: Path, out: Path, stage: str, steps: int) -> TrainResult | None:
    """Returns how a run ended that has no step left to do; None where there is work.

    Args:
        checkpoint: The run's last one.
        out: The run's folder.
        stage: What the stage is called; a run of another one has work, which its checkpoint will refuse.
        steps: How many are wanted.
    """
    said = read_state(checkpoint)
    step, own = said["step"], checkpoint.parent.resolve() == out.resolve()
    if not own or said["stage"] != stage or step < steps or not is_finished(out, step):
        return None
    return TrainResult(step, True, checkpoint, out / "transformer", None, said["seconds"])


def exposed_communication(wrapped: nn.Module) -> float:
    """Returns the seconds of a backward pass in which a rank only waits for others' gradients.

    DDP itself measures that, in its first ten steps and then in one of a hundred; 0 without DDP, and until
    it has measured.
    """
    if not isinstance(wrapped, DistributedDataParallel):
        return 0.0
    told = wrapped._get_ddp_logging_data()
    whole, hidden = (
        float(told.get(f"avg_backward_{name}_time", 0)) for name in ("comm", "compute_comm_overlap")
    )
    return max(whole - hidden, 0.0) / 1e9


@contextlib.contextmanager
def memory_errors(config: TrainConfig, extras: Extras) -> Iterator[None]:
    """Says which options to lower where GPU memory runs out.

    Raises:
        ResourceError: In place of torch's own error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).split(". ")[0]
        advice = what_to_lower(config, lora=extras.lora is not None, world_size=world_size())
        raise ResourceError(f"the GPU's memory is too small for this run ({first}); {advice}") from error
