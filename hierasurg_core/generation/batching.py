"""How many samples are made at once.

One at a time on a CPU, where more would be no faster and another order of sums would change a sample's last
bits; on a GPU as many as surely fit beside all weights.
"""

from __future__ import annotations

import dataclasses

import torch

from hierasurg_core.generation.limits import NUM_MAPS
from hierasurg_core.generation.memory import ClipShape, estimate, stage_tokens
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.models import CogVideoXStack
from hierasurg_core.runtime import free_memory

_SIZES = (8, 4, 2)


def largest_batch(pipeline: HieraSurgPipeline, device: torch.device, clip: ClipShape, most: int) -> int:
    """Returns how many clips of this shape are made at once.

    Args:
        pipeline: Loaded, not yet on the device.
        device: Where it will work.
        clip: Of one sample.
        most: Samples there are.
    """
    if device.type != "cuda":
        return 1
    models: dict[str, CogVideoXStack] = {"m2v": pipeline.m2v}
    if pipeline.s2m is not None:
        models["s2m"] = pipeline.s2m
    tokens = stage_tokens(pipeline.s2m, pipeline.m2v, pipeline.vae, clip, NUM_MAPS)
    for size in _SIZES:
        many = dataclasses.replace(clip, batch=size * clip.batch)
        beside = most > size  # another batch follows, whose beginning overlaps with this one's end
        needed = estimate("fast", False, models, pipeline.vae, tokens, many, overlapped=beside).total
        if size <= most and needed <= free_memory(device):
            return size
    return 1
