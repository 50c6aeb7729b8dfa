"""Runs of tiny models by the ranks of one process group, with whole copies (DDP) and in pieces (FSDP2)."""

from pathlib import Path
from typing import Any

import torch
from tiny_runs import m2v_config
from tiny_runs import train as train_run
from tiny_training import clips, config, model_and_stage
from torch import nn

from hierasurg_core.errors import HieraSurgError
from hierasurg_core.progress import SilentProgress
from hierasurg_core.runtime import process_group, rank, world_size
from hierasurg_core.training import LatentCacheSource, train
from hierasurg_core.training.previews import sample
from hierasurg_core.training.trainer import Extras

EVERYTHING: dict[str, Any] = {
    "batch": 1,
    "schedule": "cosine",
    "ema": 0.9,
    "accumulate": 2,
    "condition_dropout": 0.5,
    "gradient_checkpointing": True,
    "grad_clip": 0.5,
    "checkpoint_every": 2,
    "keep": 3,
}


def run(name: str, out: Path, *, extras: Extras | None = None, wide: bool = False, **changes: Any) -> None:
    """Trains a tiny model, or a wider one, on this rank's share of the clips."""
    model, stage = model_and_stage(name)
    if wide:
        model.proj_out = nn.Linear(32, 24)
    settings = config(**{**EVERYTHING, **changes})
    variants = torch.randn(6, 3, 4, 4, 6, generator=torch.Generator().manual_seed(9))
    source = LatentCacheSource(
        clips(),
        settings.batch,
        settings.seed,
        first_frames_NKCHW=variants,
        rank=rank(),
        world_size=world_size(),
    )
    train(model, stage, source, settings, out, SilentProgress(), extras=extras)


def equal(folder: Path) -> None:
    """The same run in copies and in pieces; each goes on from the middle of itself and of the other."""
    for name in ("s2m", "m2v"):
        for sharding in ("none", "full"):
            run(name, folder / f"{name}-{sharding}", sharding=sharding, steps=6)
        for sharding, before in (("full", "full"), ("full", "none"), ("none", "full")):
            resume = str(folder / f"{name}-{before}" / "checkpoint-2")
            run(name, folder / f"{name}-{sharding}-after-{before}", sharding=sharding, steps=6, resume=resume)


def half(folder: Path) -> None:
    for sharding in ("none", "full"):
        run("m2v", folder / f"bf16-{sharding}", sharding=sharding, precision="bf16", accumulate=1)


class Shown:
    """Samples from the model, as previews do, and keeps what came of it."""

    def __init__(self, name: str) -> None:
        self.stage: Any = model_and_stage(name)[1]
        self.latents: list[torch.Tensor] = []

    def __call__(self, model: nn.Module, step: int, write: bool) -> None:
        model.eval()
        self.latents.append(sample(model, self.stage, clips(2), steps=2, seed=3))
        model.train()


def shown(folder: Path) -> None:
    for sharding in ("none", "full"):
        previews = Shown("m2v")
        run(
            "m2v",
            folder / f"shown-{sharding}",
            sharding=sharding,
            preview_every=1,
            steps=6,
            extras=Extras(previews=previews),
        )
        if rank() == 0:
            torch.save(previews.latents, folder / f"shown-{sharding}.pt")


def kept(folder: Path) -> None:
    """The ways of recomputation, and compiled blocks where they were asked for."""
    ways: dict[str, dict[str, Any]] = {
        "keep": {"gradient_checkpointing": False},
        "attention": {"keep_attention": True},
    }
    for name, changes in ways.items():
        run("s2m", folder / f"memory-{name}", sharding="full", **changes)


def compiled(folder: Path) -> None:
    for sharding in ("none", "full"):
        run("s2m", folder / f"compiled-{sharding}", sharding=sharding, compile=True, accumulate=1)


def refused(folder: Path) -> None:
    """Each rank says why it can't go on from a checkpoint of another model."""
    try:
        run(
            "m2v",
            folder / "larger",
            sharding="full",
            resume=str(folder / "m2v-full" / "checkpoint-2"),
            wide=True,
        )
    except HieraSurgError as error:
        (folder / f"refused-{rank()}.txt").write_text(str(error))


def updates(folder: Path) -> None:
    """Low-rank updates through whole runs; base and data set lie in the folder."""
    for name, changes in (
        ("lora-none", {"sharding": "none"}),
        ("lora-full", {"sharding": "full"}),
        ("lora-on", {"sharding": "full", "resume": str(folder / "runs" / "lora-full" / "checkpoint-2")}),
    ):
        settings = m2v_config(
            folder, name, steps=4, lora_rank=2, ema=0.9, checkpoint_every=2, hierarchical=True, **changes
        )
        train_run(settings)


def run_parts(folder: Path, parts: tuple[str, ...]) -> None:
    """What each rank does: the parts, which leave their runs in the folder."""
    with process_group("cpu"):
        for part in parts:
            globals()[part](folder)
