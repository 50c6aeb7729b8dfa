"""What a run has to do and to hold, counted before any weight is read: tokens, values, calls of a teacher.

Owns the counting alone; what it means in bytes is `memory`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig
from hierasurg_core.datasets.manifest import Manifest
from hierasurg_core.models import CogVideoXStack, ids
from hierasurg_core.models.conditioning import map_grid
from hierasurg_core.models.lora import TARGETS, names_in_full
from hierasurg_core.models.transformers import PIXELS_PER_LATENT
from hierasurg_core.models.warmstart import WarmStart
from hierasurg_core.training.distill import calls_of_a_clip
from hierasurg_core.training.memory import Workload

_BLOCKS = "transformer_blocks."


def count_work(
    model: CogVideoXStack,
    config: TrainS2MConfig | TrainM2VConfig,
    start: WarmStart | None,
    stage: str,
    *,
    unconditional: bool,
    manifest: Manifest,
) -> Workload:
    """Returns the work of one clip, and the sizes that decide about memory.

    Args:
        model: On any device, the meta device too; what is not trained is frozen.
        config: The run.
        start: The fate of every tensor; None where it is not known yet.
        stage: "s2m" or "m2v".
        unconditional: Whether it is M2V's first stage.
        manifest: Of the data set.
    """
    form, arguments = manifest.form, model.config
    patch = arguments["patch_size"]
    if arguments["maps"] == "ids":
        patch = patch * ids.CELL // PIXELS_PER_LATENT
    frames = form.seconds if stage == "s2m" else (form.padded_frames - 1) // 4 + 1
    rows, columns = arguments["sample_height"] // patch, arguments["sample_width"] // patch
    stream = 1
    if stage == "m2v" and not unconditional and arguments["maps"] == "tokens":
        grid = map_grid(
            form.size_hw, downscale=arguments["map_downscale"], num_blocks=len(arguments["map_widths"])
        )
        stream = form.seconds * math.prod(grid)
    parameters = dict(model.named_parameters())
    trained = sum(value.numel() for value in parameters.values() if value.requires_grad)
    if config.lora_rank:
        trained = _lora_values(model, config.lora_rank, start)
    return Workload(
        parameters=sum(value.numel() for value in parameters.values()),
        trained=trained,
        tokens=frames * rows * columns + 1 + stream,
        width=model.inner_dim,
        blocks=arguments["num_layers"],
        lora=bool(config.lora_rank),
        outside=sum(value.numel() for name, value in parameters.items() if not name.startswith(_BLOCKS)),
        **_teaching(config, sum(value.numel() for value in parameters.values())),
    )


def _teaching(config: TrainS2MConfig | TrainM2VConfig, parameters: int) -> dict[str, int]:
    """What a teacher adds to a workload."""
    if config.distill is None:
        return {}
    calls = calls_of_a_clip(
        config.distill_steps, config.distill_substeps, config.distill_guidance, config.distill_own
    )
    return {"teacher": parameters, "extra_calls": calls}


def _lora_values(model: CogVideoXStack, rank: int, start: WarmStart | None) -> int:
    """Counts A and B of every target, and what is trained in full."""
    updates = sum(
        rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if name.endswith(TARGETS) and isinstance(module, torch.nn.Linear)
    )
    sizes: Mapping[str, torch.Tensor] = model.state_dict()
    names = () if start is None else names_in_full(start)
    return updates + sum(sizes[name].numel() for name in names if name in sizes)
