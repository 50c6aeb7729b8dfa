"""What a run leaves on disk: `checkpoint-STEP/` to go on from, and the finished model.

    out/checkpoint-STEP/transformer/        the model, as `load_transformer` takes it (low-rank updates alone
                                            where only those are trained)
    out/checkpoint-STEP/ema/                the same with averaged weights, where the run averages
    out/checkpoint-STEP/optimizer.safetensors
    out/checkpoint-STEP/state.json          step, config, random states and place in the data of every rank
    out/transformer/, out/train.json        a finished run: the model to use, and "finished": true

A checkpoint appears under its name only when it is whole. It looks the same whether one process wrote it, or
several that hold copies or pieces of the model, and any of them goes on from it. Everything is safetensors
or JSON: loading one runs no code out of it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hierasurg_core import __version__
from hierasurg_core.artifacts import atomic_folder, read_json, sha256_file, write_json
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.models import CogVideoXStack
from hierasurg_core.models.lora import (
    Lora,
    copy_updates,
    is_attached,
    is_lora,
    load_into,
    load_merged,
    read_trained,
    save_lora,
)
from hierasurg_core.models.trained import RECORD
from hierasurg_core.runtime import (
    generator_state,
    random_state,
    restore_generator,
    restore_random_state,
    wait_for_all,
)
from hierasurg_core.training.ema import Ema
from hierasurg_core.training.sharding import filled, gathered, piece_of, put
from hierasurg_core.training.source import BatchSource

SCHEMA = 1
WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name for unsharded weights
_ONE_FILE = "10TB"  # a shard size that no model reaches
_NAME = re.compile(r"checkpoint-\d+")


@dataclass
class RunState:
    """All that changes while a run trains; saved and restored as a whole.

    Attributes:
        stage: "s2m" or "m2v".
        model: The bare model, float32 (its wrappers hold the same tensors).
        optimizer: As accelerate prepared it.
        generator: Draws noise, times and dropped conditions; in the same state on all ranks.
        lora: What is trained of the model where that is not all of it.
        shell: The model's structure without memory, where `model` is in pieces.
        optimizer_name: What the config calls the optimiser.
        computing: How attention is computed, and where; see `computing_of`.
        step: Optimiser steps done.
        seconds: Time spent on them, over all sessions.
    """

    stage: str
    model: CogVideoXStack
    optimizer: AcceleratedOptimizer
    accelerator: Accelerator
    generator: torch.Generator
    batches: BatchSource
    ema: Ema | None
    lora: Lora | None = None
    shell: CogVideoXStack | None = None
    optimizer_name: str = "adamw"
    computing: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0


def save_checkpoint(state: RunState, out: Path, config: dict[str, Any]) -> Path:
    """Writes `out/checkpoint-STEP/`; all ranks call it, rank 0 writes.

    Raises:
        ResourceError: The disk is full or `out` not writable; former checkpoints are untouched.
    """
    path = out / f"checkpoint-{state.step}"
    own = {"random": random_state(state.accelerator.device), "data": state.batches.state_dict()}
    ranks = gather_object([own])
    writes = state.accelerator.is_main_process
    with atomic_folder(path) if writes else contextlib.nullcontext() as part:
        for name in ("transformer", "ema") if state.ema is not None else ("transformer",):
            with _whole(state, averaged=name == "ema") as model:
                if part is not None:
                    _save_model(model, state.lora, part / name)
        moments = _optimizer_tensors(state)
        if part is not None:
            save_file(moments, part / "optimizer.safetensors")
            scaler = state.accelerator.scaler
            write_json(
                part / "state.json",
                {
                    "schema": SCHEMA,
                    "version": __version__,
                    "stage": state.stage,
                    "step": state.step,
                    "seconds": state.seconds,
                    "config": config,
                    "computing": state.computing,
                    "generator": generator_state(state.generator),
                    "scaler": None if scaler is None else scaler.state_dict(),
                    "ranks": ranks,
                },
            )
    wait_for_all()
    return path


def load_checkpoint(state: RunState, path: Path) -> None:
    """Puts a run back to where `save_checkpoint` found it.

    With another number of processes than before, random states and places in the data are those of the
    ranks that there were; such a run is no longer the same to the bit.

    Raises:
        WeightsError: The checkpoint is damaged, of the other stage, of another model, or lacks the averaged
            weights that the run wants.
    """
    saved = read_state(path)
    if saved["stage"] != state.stage:
        raise WeightsError(
            f"{path} is a checkpoint of {saved['stage']}, not of {state.stage}; give one of its own"
        )
    _load_model(state, path)
    if state.ema is not None:
        if not (path / "ema").is_dir():
            raise WeightsError(f"{path} has no averaged weights (ema/); resume without ema, or start anew")
        if state.lora is None:
            state.ema.load(_read_tensors(path / "ema" / WEIGHTS))
        else:
            state.ema.load(read_trained(state.shell or state.model, path / "ema"))
    _load_optimizer(state, _read_tensors(path / "optimizer.safetensors"), path, saved["config"])
    if saved["scaler"] is not None and state.accelerator.scaler is not None:
        state.accelerator.scaler.load_state_dict(saved["scaler"])
    restore_generator(state.generator, saved["generator"])
    own = saved["ranks"][min(state.accelerator.process_index, len(saved["ranks"]) - 1)]
    restore_random_state(own["random"], state.accelerator.device)
    state.batches.load_state_dict(own["data"])
    state.step, state.seconds = saved["step"], saved["seconds"]


def read_state(path: Path) -> dict[str, Any]:
    """Returns a checkpoint's `state.json`.

    Raises:
        WeightsError: There is none, or it is not one this version reads.
    """
    try:
        saved = read_json(path / "state.json")
    except DataError as error:
        raise WeightsError(f"{path} is no checkpoint to resume from: {error}") from error
    if not isinstance(saved, dict) or saved.get("schema") != SCHEMA:
        raise WeightsError(f"{path}/state.json is not of schema {SCHEMA}; it was written by another version")
    return saved


def choose_checkpoint(out: Path, resume: str) -> Path | None:
    """Finds the checkpoint a run goes on from; None to start anew.

    Args:
        out: The run's folder; it need not exist.
        resume: "latest" (the highest step in `out`, if any), "never", or a checkpoint's folder.

    Raises:
        UsageError: "never", and `out` holds checkpoints; or a folder, and `out` holds later ones. What a
            run adds would lie among those of another.
        WeightsError: The folder is no checkpoint.
    """
    present = checkpoints(out)
    if resume == "never":
        if present:
            raise UsageError(
                f"{out} holds checkpoints of an earlier run; delete it, choose another folder, or resume it"
            )
        return None
    if resume == "latest":
        return present[-1] if present else None
    step = read_state(Path(resume))["step"]
    if present and _step(present[-1]) > step:
        raise UsageError(
            f"{out} holds {present[-1].name}, which is later than {resume}; delete what is later, or choose "
            "another folder"
        )
    return Path(resume)


def checkpoints(out: Path) -> list[Path]:
    """Returns the whole checkpoints of a run, by rising step."""
    named = [path for path in out.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted((path for path in named if (path / "state.json").is_file()), key=_step)


def prune(out: Path, keep: int) -> None:
    """Removes all but the last `keep` checkpoints and what killed runs left half-written."""
    for path in [
        *checkpoints(out)[:-keep],
        *out.glob(".checkpoint-*.partial"),
        *out.glob(".transformer.*.partial"),
    ]:
        shutil.rmtree(path, ignore_errors=True)


def write_finished(state: RunState, out: Path, checkpoint: Path, config: dict[str, Any]) -> Path:
    """Makes `out` a finished run: `out/transformer/`, of averaged weights where there are, and train.json.

    Raises:
        ResourceError: The disk is full or `out` not writable.
    """
    model = out / "transformer"
    source = checkpoint / ("transformer" if state.ema is None else "ema")
    with atomic_folder(model) as part:
        if state.lora is None:
            shutil.copytree(source, part, dirs_exist_ok=True)
        else:
            load_merged(source).save_pretrained(part, max_shard_size=_ONE_FILE)
            copy_updates(source, part)
    write_json(
        out / RECORD,
        {
            "schema": SCHEMA,
            "version": __version__,
            "finished": True,
            "stage": state.stage,
            "step": state.step,
            "seconds": state.seconds,
            "ema": state.ema is not None,
            "lora": None if state.lora is None else {"rank": state.lora.rank, "alpha": state.lora.alpha},
            "weights": {"file": f"transformer/{WEIGHTS}", "sha256": sha256_file(model / WEIGHTS)},
            "config": config,
            "computing": state.computing,
        },
    )
    return model


def bytes_needed(model: nn.Module, *, ema: bool, keep: int) -> int:
    """Estimates a run's folder: the kept checkpoints, one more while it is written, the finished model."""
    whole = 4 * sum(tensor.numel() for tensor in model.state_dict().values())
    trained = 4 * sum(parameter.numel() for _, parameter in trained_parameters(model))
    lasting = trained if is_attached(model) else whole
    return ((1 + ema) * lasting + 2 * trained) * (keep + 1) + whole


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Returns the parameters an optimiser changes, with their names, in the model's order."""
    return [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]


@contextlib.contextmanager
def _whole(state: RunState, *, averaged: bool) -> Iterator[CogVideoXStack]:
    """The model to write, with averaged weights if so wanted; whole on rank 0. All ranks enter."""
    ema = state.ema if averaged else None
    if state.shell is None:
        with contextlib.nullcontext() if ema is None else ema.applied():
            yield state.model
        return
    tensors: dict[str, Tensor] = state.model.state_dict()
    if state.lora is not None:
        tensors = dict(trained_parameters(state.model)) | dict(state.model.named_buffers())
    if ema is not None:
        tensors = tensors | ema.averages()
    found = gathered(tensors)
    with filled(state.shell, found, strict=state.lora is None and bool(found)) as model:
        yield model


def _save_model(model: CogVideoXStack, lora: Lora | None, folder: Path) -> None:
    if lora is None:
        model.save_pretrained(folder, max_shard_size=_ONE_FILE)
    else:
        save_lora(model, lora, folder)


def _load_model(state: RunState, path: Path) -> None:
    folder = path / "transformer"
    if is_lora(folder) != (state.lora is not None):
        kinds = ("all weights", "low-rank updates")
        raise WeightsError(
            f"{path} holds {kinds[is_lora(folder)]}, but this run trains {kinds[state.lora is not None]}; "
            "resume with the lora_rank it was started with"
        )
    if state.lora is not None:
        if state.shell is None:
            load_into(state.model, folder)
        else:
            _put_all(read_trained(state.shell, folder), state.model)
        return
    tensors = _read_tensors(folder / WEIGHTS)
    try:
        if state.shell is None:
            state.model.load_state_dict(tensors)
        else:
            with filled(state.shell, tensors):
                _put_all(tensors, state.model)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise WeightsError(f"{path} holds another model than this run trains: {first[0].strip()}") from error


def _put_all(tensors: dict[str, Tensor], model: nn.Module) -> None:
    present = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in tensors.items():
        put(tensor, present[name])


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _optimizer_tensors(state: RunState) -> dict[str, Tensor]:
    """Returns {"exp_avg.NAME": ...}: what the optimiser remembers of each parameter; whole on rank 0."""
    memory = state.optimizer.state
    tensors = {
        f"{key}.{name}": value.contiguous() if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in trained_parameters(state.model)
        for key, value in memory.get(parameter, {}).items()
    }
    return tensors if state.shell is None else gathered(tensors)


def _load_optimizer(
    state: RunState, tensors: dict[str, Tensor], path: Path, config: Mapping[str, Any]
) -> None:
    if config.get("optimizer", state.optimizer_name) != state.optimizer_name:
        raise WeightsError(
            f"{path} holds the state of the optimizer {config['optimizer']}, but this run has "
            f"{state.optimizer_name}; resume with the optimizer it was begun with, or start anew"
        )
    named = dict(trained_parameters(state.model))
    in_order = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    place_of = {id(parameter): place for place, parameter in enumerate(in_order)}
    memory: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        if name not in named:
            raise WeightsError(f"{path} holds the optimiser of another model: this one has no {name}")
        memory.setdefault(place_of[id(named[name])], {})[key] = (
            tensor if tensor.ndim == 0 else piece_of(tensor, named[name])
        )
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": memory, "param_groups": groups})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read {path}: {error}; resume from another checkpoint") from error
