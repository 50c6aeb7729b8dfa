"""Tiny real models and clips, and training for processes that are stopped or killed."""

import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
from forked import Aloud, Tell

from hierasurg_core.config import TrainConfig
from hierasurg_core.models import M2VTransformer3DModel, S2MTransformer3DModel
from hierasurg_core.training import Batch, LatentCacheSource, M2VStage, S2MStage, Stage, train

IN_THE_MIDDLE = -1
ALPHA_BAR_T = torch.linspace(0.9975, 0.0, 1000, dtype=torch.float64)
TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "out_channels": 4,
    "time_embed_dim": 16,
    "num_layers": 2,
    "condition_embed_dim": 8,
    "condense_dim": 4,
}


def s2m(seed: int = 0) -> S2MTransformer3DModel:
    torch.manual_seed(seed)
    return S2MTransformer3DModel(in_channels=12, **TINY)


def m2v(seed: int = 0) -> M2VTransformer3DModel:
    torch.manual_seed(seed)
    return M2VTransformer3DModel(
        in_channels=8, text_embed_dim=16, map_widths=(4, 8), hierarchical=True, **TINY
    )


def model_and_stage(name: str) -> tuple[S2MTransformer3DModel | M2VTransformer3DModel, Stage]:
    return (
        (s2m(), S2MStage(ALPHA_BAR_T)) if name == "s2m" else (m2v(), M2VStage(ALPHA_BAR_T, hierarchical=True))
    )


def clips(count: int = 6, *, frames: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, frames, 4, 4, 6, generator=generator)
    return Batch(
        latents_BFCHW=latents,
        first_frame_B1CHW=torch.randn(count, 1, 4, 4, 6, generator=generator),
        ids=tuple(f"video01/{start:06d}" for start in range(count)),
        first_map_B1CHW=latents[:, :1],
        phase_BF=torch.randint(7, (count, 5), generator=generator),
        triplet_BF=torch.randint(-1, 100, (count, 5), generator=generator),
        maps_BFHW=torch.randint(0, 5, (count, 4, 32, 48), generator=generator, dtype=torch.uint8),
        max_id_B=torch.full((count,), 4),
        numbered_BFHW=torch.randint(0, 6, (count, 3, 32, 48), generator=generator, dtype=torch.uint8),
    )


def source(batch: int = 2, *, seed: int = 0) -> LatentCacheSource:
    variants = torch.randn(6, 3, 4, 4, 6, generator=torch.Generator().manual_seed(9))
    return LatentCacheSource(clips(), batch, seed, first_frames_NKCHW=variants)


def config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "steps": 4,
        "batch": 2,
        "lr": 1e-3,
        "warmup": 2,
        "precision": "fp32",
        "device": "cpu",
        "gradient_checkpointing": False,
        "log_every": 1,
    }
    return TrainConfig(**{**values, **changes})


class _WaitsWhileSaving(S2MTransformer3DModel):
    """At its second checkpoint, stands still in the middle, when the weights are written."""

    saves = 0
    heard: ClassVar[list[Tell]] = []

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        super().save_pretrained(*args, **kwargs)
        self.saves += 1
        if self.saves == 2:
            self.heard[0](IN_THE_MIDDLE)
            signal.pause()


def train_until_stopped(tell: Tell, out: Path, *, wait_while_saving: bool = False) -> None:
    """Trains as a process that tells its parent of each step, and stops at a signal or in its second save."""
    torch.set_num_threads(1)
    model = s2m()
    if wait_while_saving:
        model.__class__ = _WaitsWhileSaving
        _WaitsWhileSaving.heard.append(tell)
    run = config(steps=4 if wait_while_saving else 1_000_000, checkpoint_every=2)
    try:
        train(model, S2MStage(ALPHA_BAR_T), source(), run, out, Aloud(tell))
    except KeyboardInterrupt:
        sys.exit(130)
