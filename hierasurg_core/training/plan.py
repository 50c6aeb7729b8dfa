"""What a call of `train-s2m` or `train-m2v` comes to, before any weight is read.

Owns the meeting of config, data set, base and machine: whether they fit, from what the model starts, how many
steps there are, which memory setting is taken. `--dry-run` shows this and ends; `run` carries it out. It
reads a manifest, configs and the headers of weights.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig, to_dict
from hierasurg_core.datasets.base_choice import PUBLISHED
from hierasurg_core.datasets.dataset import ClipDataset, PixelDataset, open_dataset
from hierasurg_core.datasets.encoder import VaeIdentity
from hierasurg_core.datasets.manifest import Manifest, read_dataset_manifest
from hierasurg_core.datasets.plan import LATENTS
from hierasurg_core.datasets.splits import TRAIN
from hierasurg_core.datasets.usable import count_unusable, unusable_in_words
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.models import CogVideoXStack, find_transformer
from hierasurg_core.models.configs import read_model_config
from hierasurg_core.models.encoder import VaeEncoder, identify_vae
from hierasurg_core.models.files import CONFIG_FILE
from hierasurg_core.models.hub import is_at_hand, local_folder
from hierasurg_core.models.ids import ids_arguments
from hierasurg_core.models.loading import load_scheduler, tensor_shapes
from hierasurg_core.models.lora import expect_peft, is_lora
from hierasurg_core.models.text_vectors import TextVectors, load_text_vectors
from hierasurg_core.models.warmstart import (
    WarmStart,
    base_arguments,
    plan_start,
    stage_class,
    starting_arguments,
    without_weights,
)
from hierasurg_core.runtime import free_memory
from hierasurg_core.training.base_choice import choose_base
from hierasurg_core.training.checking import expect_rate
from hierasurg_core.training.distill import expect_teacher, freeze_maps, make_grid
from hierasurg_core.training.memory import (
    MemoryEstimate,
    Workload,
    changes_of,
    choose_setting,
    estimate,
)
from hierasurg_core.training.optimizers import expect_optimizer
from hierasurg_core.training.reporting import expect_reporter
from hierasurg_core.training.resuming import (
    RunRecord,
    expect_same_data,
    expect_same_optimizer,
    go_on,
    read_record,
)
from hierasurg_core.training.work import count_work

_LOOKED_AT = 200  # clips, for labels
_PIXELS_A_LATENT = 8

StageConfig = TrainS2MConfig | TrainM2VConfig


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """A run, chosen and checked.

    Attributes:
        config: Resolved: steps counted, `memory` chosen, `out` final.
        stage: "s2m" or "m2v".
        unconditional: Whether it is M2V's first stage.
        base: Folder with VAE and scheduler; None where a dry run has none at hand.
        part: Folder of the transformer that the model starts from; None likewise.
        arguments: Of the model's constructor.
        start: The fate of every tensor; None likewise.
        manifest: Of the data set.
        clips: That an epoch has.
        load: Tokens and parameters.
        estimate: Bytes a process.
        vectors: Text vectors in place of labels.
        world_size: Ranks.
        notes: What was chosen for the user.
        run: What the run that this goes on with says of itself; None where it starts anew.
        is_done: Whether that run is finished and no step is left.
    """

    config: StageConfig
    stage: str
    unconditional: bool
    base: Path | None
    part: Path | None
    arguments: dict[str, Any]
    start: WarmStart | None
    manifest: Manifest
    clips: int
    load: Workload
    estimate: MemoryEstimate
    vectors: TextVectors | None
    world_size: int
    notes: tuple[str, ...]
    run: RunRecord | None = None
    is_done: bool = False

    @property
    def model_class(self) -> type[CogVideoXStack]:
        """The model's class."""
        return stage_class(self.stage)

    @property
    def steps_an_epoch(self) -> float:
        """Optimiser steps in which every clip is seen once."""
        return self.clips / (self.config.batch * self.config.accumulate * self.world_size)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `--dry-run` tells, as plain values for JSON."""
        return {
            "config": to_dict(self.config),
            "base": None if self.part is None else str(self.part),
            "clips": self.clips,
            "ranks": self.world_size,
            "steps": self.config.steps,
            "steps_an_epoch": self.steps_an_epoch,
            "epochs": self.config.steps / self.steps_an_epoch,
            "parameters": self.load.parameters,
            "trained_parameters": self.load.trained,
            "tokens": self.load.tokens,
            "tflop_a_clip": self.load.flops_a_clip() / 1e12,
            "memory": self.config.memory,
            "memory_estimate": self.estimate.to_dict(),
            "notes": list(self.notes),
        }


def plan_training(
    config: StageConfig,
    stage: str,
    device: torch.device,
    world_size: int = 1,
    *,
    dry: bool = False,
    given: Mapping[str, str] | None = None,
) -> TrainingPlan:
    """Chooses and checks everything that a run needs.

    Args:
        config: What was asked for.
        stage: "s2m" or "m2v".
        device: Where it will train.
        world_size: Ranks.
        dry: Fetch nothing; the published CogVideoX-2b is known without its files.
        given: Settings that were given, and by what (see `config.given_settings`); None: all but those that
            are None. A run that goes on keeps its own values of the others.

    Raises:
        UsageError: Settings that exclude each other, or would change a run that goes on; or a package is
            missing.
        DataError: The data set is not there, is another one than the run's, lacks what the stage needs, has
            another rate or another VAE than the base, or has fewer clips than there are ranks.
        WeightsError: The base is not there, or nothing this stage can start from.
        ResourceError: Nothing fits the GPU.
    """
    notes: list[str] = []
    expect_reporter(config.report_to)
    if config.lora_rank:
        expect_peft()
    config = dataclasses.replace(config, out=config.run_folder)
    run, is_done = read_record(config.out, config.resume), False
    if run is not None:
        continuation = go_on(config, stage, given, run)
        config, is_done = continuation.config, continuation.is_done
        notes += continuation.notes
    unconditional = isinstance(config, TrainM2VConfig) and config.stage == "unconditional"
    manifest = read_dataset_manifest(config.dataset)
    if run is not None and not is_done:
        expect_same_data(run, config.dataset)
    expect_rate(config, manifest)
    base_name = choose_base(config, given, notes) if run is None else choose_base(config, None, [])
    config = dataclasses.replace(config, base=base_name if config.distill is None else config.base)
    vectors = None
    if config.text_vectors is not None:
        vectors = load_text_vectors(config.text_vectors, device)
    changes = _changes(config, stage, manifest, vectors)
    cls = stage_class(stage)
    base, part, start = None, None, None
    if dry and not is_at_hand(base_name) and base_name == PUBLISHED:
        notes.append(f"{PUBLISHED} is not fetched for a dry run; its published sizes are taken")
        arguments = base_arguments({}, cls, PUBLISHED) | changes
    else:
        base = local_folder(base_name, parts=["transformer", stage, "vae", "scheduler"])
        part = base_transformer(base, stage)
        _expect_same_vae(manifest, identify_vae(base, base_name), config, base_name)
        arguments = starting_arguments(part, cls, changes)
    on_ids = arguments.get("maps") == "ids"
    if on_ids and config.distill is not None:
        raise UsageError(
            f"{config.distill} is an S2M on ids, which samples in 4 to 8 steps as it is: leave out --distill"
        )
    model = without_weights(cls, arguments)
    if part is not None:
        start = plan_start(part, model.state_dict(), tensor_shapes(part))
    if config.distill is not None:
        if base is None or part is None or start is None:
            raise WeightsError(f"the teacher {config.distill} is not at hand: train or fetch it first")
        _expect_same_shape(start, part)
        make_grid(load_scheduler(base), config.distill_steps, config.distill_substeps)
    if unconditional or (config.distill is not None and stage == "m2v"):
        freeze_maps(model)
    load = count_work(model, config, start, stage, unconditional=unconditional, manifest=manifest)
    clips = count_clips(manifest, config, stage, world_size, on_ids=on_ids)
    config = _with_steps(config, clips, world_size)
    config, bytes_needed = _with_memory(config, load, device, world_size)
    if run is not None and not is_done:
        expect_same_optimizer(config, run)
    expect_optimizer(config, device)
    return TrainingPlan(
        config=config,
        stage=stage,
        unconditional=unconditional,
        base=base,
        part=part,
        arguments=arguments,
        start=start,
        manifest=manifest,
        clips=clips,
        load=load,
        estimate=bytes_needed,
        vectors=vectors,
        world_size=world_size,
        notes=tuple(notes),
        run=run,
        is_done=is_done,
    )


def base_transformer(base: Path, stage: str) -> Path:
    """Returns the transformer that a stage starts from: that of a pipeline of ours, or the folder's own.

    Raises:
        WeightsError: There is none, or it is low-rank updates alone.
    """
    part = base / stage if (base / stage / CONFIG_FILE).is_file() else find_transformer(base)
    if is_lora(part):
        raise WeightsError(f"{part} holds low-rank updates alone: start from the run's finished model")
    return part


def open_clips(
    manifest: Manifest, config: StageConfig, split: str = TRAIN, encoder: VaeEncoder | None = None
) -> ClipDataset:
    """Opens a split, with the config's own object dropout where clips are encoded on the fly.

    Raises:
        DataError: As `open_dataset`, or the latents on disk were made with another object dropout.
    """
    if config.object_dropout is None or config.object_dropout == manifest.object_dropout or split != TRAIN:
        return open_dataset(config.dataset, split, encoder)
    if manifest.contents == LATENTS or encoder is None:
        raise DataError(
            f"the latents of {config.dataset} were made with object dropout {manifest.object_dropout:g}; "
            f"build it again with --no-resume --set object_dropout={config.object_dropout:g}, "
            "or with --no-resume --on-the-fly"
        )
    entries = [entry for entry in manifest.shards if entry.split == split]
    changed = dataclasses.replace(manifest, object_dropout=config.object_dropout)
    return PixelDataset(changed, entries, encoder)


def count_clips(
    manifest: Manifest, config: StageConfig, stage: str, world_size: int, *, on_ids: bool = False
) -> int:
    """Returns how many clips the stage can learn from; an S2M on ids learns from all.

    Raises:
        DataError: None, fewer than ranks, or clips without the labels that the stage needs.
    """
    entries = [entry for entry in manifest.shards if entry.split == TRAIN]
    there = sum(entry.clips for entry in entries)
    opened = open_clips(manifest, config) if manifest.contents == LATENTS else None
    if not there:
        raise DataError(
            f"{config.dataset} has no clip in its split '{TRAIN}': build it again with other lists"
        )
    unusable = count_unusable(entry.path for entry in entries) if stage == "s2m" and not on_ids else 0
    clips = there - unusable
    if not clips:
        raise DataError(f"{config.dataset} has nothing to train on: {unusable_in_words(unusable, there)}")
    if opened is not None and (
        stage == "s2m" or (isinstance(config, TrainM2VConfig) and config.hierarchical)
    ):
        _expect_labels(opened, config.dataset, stage)
    if clips < world_size:
        left = f"; {unusable_in_words(unusable, there)}" if unusable else ""
        raise DataError(
            f"{config.dataset} has {clips} clips that {stage} can learn from, fewer than the {world_size} "
            f"processes: give --gpus {clips} or less, or build a larger data set{left}"
        )
    return clips


def _changes(
    config: StageConfig, stage: str, manifest: Manifest, vectors: TextVectors | None
) -> dict[str, Any]:
    """Returns what of the constructor's arguments the data and the config decide."""
    form = manifest.form
    height, width = form.map_size_hw if stage == "s2m" else form.size_hw
    changes: dict[str, Any] = {
        "sample_height": height // _PIXELS_A_LATENT,
        "sample_width": width // _PIXELS_A_LATENT,
        "sample_frames": form.padded_frames,
        "sample_seconds": form.seconds,
        "distilled_steps": None if config.distill is None else config.distill_steps,
    }
    hierarchical = config.hierarchical if isinstance(config, TrainM2VConfig) else None
    if hierarchical is not None:
        changes["hierarchical"] = hierarchical
    frame_labels = config.frame_labels if isinstance(config, TrainS2MConfig) else None
    form_of_maps = config.maps if isinstance(config, TrainS2MConfig) else None
    if form_of_maps == "ids":
        changes |= {**ids_arguments(), "frame_labels": True, "photo_channels": manifest.vae.channels}
    elif form_of_maps == "colours":
        changes["maps"] = "colours"
    if frame_labels is not None:
        changes["frame_labels"] = frame_labels
    if stage == "s2m" or hierarchical:
        changes["text_cond"] = config.text_condition
        if vectors is not None:
            changes["text_vector_dim"] = vectors.width
    return changes


def _expect_same_vae(manifest: Manifest, vae: VaeIdentity, config: StageConfig, base_name: str) -> None:
    if manifest.vae.sha256 != vae.sha256:
        raise DataError(
            f"{config.dataset} was made with the VAE of {manifest.vae.name} ({manifest.vae.sha256[:8]}), not "
            f"that of {base_name} ({vae.sha256[:8]}): give --base {manifest.vae.name}, or build it again "
            f"with --no-resume --base {base_name}"
        )


def _expect_same_shape(start: WarmStart, part: Path) -> None:
    """A student is a copy of its teacher, tensor by tensor."""
    said = read_model_config(part / CONFIG_FILE)
    expect_teacher(said.get("distilled_steps"), str(part))
    other = [*start.named("widened", "new"), *start.unused]
    if other:
        raise WeightsError(
            f"{part} is no teacher of this run: the student would differ from it in {len(other)} tensors, as "
            f"{other[0]}; give a finished model of this stage, with the same conditions"
        )


def _expect_labels(clips: ClipDataset, dataset: Path, stage: str) -> None:
    """Looks at clips spread over the data set for any phase or triplet."""
    step = max(1, len(clips) // _LOOKED_AT)
    for index in range(0, len(clips), step):
        sample = clips.get(index, with_maps=False)
        if (sample.phase_S >= 0).any() or (sample.triplet_S >= 0).any():
            return
    raise DataError(
        f"{dataset} has no phases and triplets, which {stage} learns from: build it again with --no-resume "
        "and the folder of labels as --labels"
    )


def _with_steps(config: StageConfig, clips: int, world_size: int) -> StageConfig:
    if config.epochs is None:
        return config
    a_step = config.batch * config.accumulate * world_size
    return dataclasses.replace(config, steps=math.ceil(config.epochs * clips / a_step), epochs=None)


def _with_memory(
    config: StageConfig, load: Workload, device: torch.device, world_size: int
) -> tuple[StageConfig, MemoryEstimate]:
    free = free_memory(device) if device.type == "cuda" else None
    with_8bit = device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
    setting = choose_setting(config.memory, load, config, free, with_8bit=with_8bit, world_size=world_size)
    changed = dataclasses.replace(config, memory=setting, **changes_of(setting))
    return changed, estimate(setting, load, changed, world_size)
