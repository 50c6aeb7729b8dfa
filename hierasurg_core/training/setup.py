"""What stands before the first step: accelerate for one run, and a model made ready to be trained.

Owns the order in which a model is adapted, cut in pieces or copied to all ranks, compiled and given its
optimiser and average. Refuses: what a run reads or writes (`checkpoint`), and the loop (`trainer`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs
from torch import nn

from hierasurg_core.config import TrainConfig
from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.models import CogVideoXStack
from hierasurg_core.models.lora import Lora, attach
from hierasurg_core.runtime import (
    expect_fixed_shapes,
    is_distributed,
    make_generator,
    seed_everything,
    select_device,
)
from hierasurg_core.training.acceleration import restore_model, set_up_model
from hierasurg_core.training.checkpoint import RunState, trained_parameters
from hierasurg_core.training.ema import Ema
from hierasurg_core.training.optimizers import build_optimizer
from hierasurg_core.training.sharding import hollow, shard
from hierasurg_core.training.source import BatchSource
from hierasurg_core.training.stages import Stage


def expect_fit(model: CogVideoXStack, stage: Stage, config: TrainConfig, device: torch.device) -> None:
    """Compares model, stage, precision and device.

    Raises:
        UsageError: The precision needs another device.
        WeightsError: The model is one of the other stage.
    """
    if config.precision == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 trains on a GPU only; use bf16 or fp32 on a CPU")
    inputs, outputs = model.config["in_channels"], model.config["out_channels"]
    if inputs != stage.inputs * outputs:
        raise WeightsError(
            f"the model takes {inputs} channels, but {stage.name} has {stage.inputs} x {outputs}; "
            "it is a model of the other stage"
        )


@contextlib.contextmanager
def accelerated(model: CogVideoXStack, config: TrainConfig, device: torch.device) -> Iterator[Accelerator]:
    """Sets accelerate up for one run; its process-wide state and its marks on the model end with it."""
    select_device(device)
    expect_fixed_shapes(device)
    AcceleratorState._reset_state(reset_partial_state=not is_distributed())
    precision = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=device.type == "cpu",
        kwargs_handlers=[
            AutocastKwargs(cache_enabled=False),  # each weight is used once a pass
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # gradients lie there once
        ],
    )
    try:
        with warnings.catch_warnings():
            # FSDP2 warns of outputs that are views; nothing here changes one in place.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            yield accelerator
    finally:
        for mark in ("forward", "_original_forward", "_is_accelerate_prepared"):
            vars(model).pop(mark, None)
        restore_model(model)
        accelerator.free_memory()


def set_up(
    model: CogVideoXStack,
    stage: Stage,
    batches: BatchSource,
    config: TrainConfig,
    accelerator: Accelerator,
    lora: Lora | None,
) -> tuple[RunState, nn.Module]:
    """Makes a model ready, and returns what the run changes with what the loop calls for a prediction."""
    device, ranks = accelerator.device, accelerator.num_processes
    sharded = config.sharding == "full" and ranks > 1
    half = config.precision == "bf16"
    seed_everything(config.seed + accelerator.process_index)
    model.float()
    if lora is not None:
        attach(model, lora)
        if half and not sharded:  # pieces of one unit share a number type
            _freeze_in_half(model)
    model.train()
    if ranks > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    shell = None
    if sharded:
        shell = hollow(model)
        shard(model, device, half=half)
    else:
        model.to(device)
    again = "attention" if config.keep_attention else "full"
    set_up_model(
        model,
        recompute=again if config.gradient_checkpointing else "none",
        compiled=config.compile,
        sharded=sharded,
    )
    optimizer = accelerator.prepare(build_optimizer(trained_parameters(model), config))
    # What lies in pieces shares its gradients itself: accelerate adds autocast alone.
    wrapped = accelerator.prepare_model(model, device_placement=not sharded, evaluation_mode=sharded)
    generator = make_generator(config.seed, device)
    ema = None if config.ema is None else Ema(model, config.ema)
    state = RunState(
        stage.name, model, optimizer, accelerator, generator, batches, ema, lora, shell, config.optimizer
    )
    return state, wrapped


def _freeze_in_half(model: nn.Module) -> None:
    """Keeps what is not trained in bf16, in which it is multiplied anyway."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
