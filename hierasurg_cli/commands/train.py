"""`hierasurg train-s2m` and `hierasurg train-m2v`: a data set becomes a model."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hierasurg_cli import console
from hierasurg_cli.importing import importing
from hierasurg_cli.launch import check_numbers, launch
from hierasurg_cli.options import (
    AsJson,
    ConfigFile,
    Gpus,
    NodeRank,
    Nodes,
    Quiet,
    Rendezvous,
    Sets,
    Verbose,
    given_by,
    resolve,
)
from hierasurg_cli.output import output_folder
from hierasurg_core.config import PRESETS, TrainM2VConfig, TrainS2MConfig
from hierasurg_core.errors import UsageError

if TYPE_CHECKING:
    from hierasurg_core.training.plan import TrainingPlan
    from hierasurg_core.training.rehearsal import RunTime
    from hierasurg_core.training.run import TrainRunResult

_COLUMNS = 80  # of a terminal, which no line of a plan but a setting exceeds
EPILOG_S2M = "Example: hierasurg train-s2m dataset --preset 2b-1fps --gpus 8"
EPILOG_M2V = "Example: hierasurg train-m2v dataset --preset 2b-1fps --gpus 8"


def _presets() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _choice(*values: str) -> Any:
    """What Tab offers."""
    return lambda: list(values)


Dataset = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DATASET]", help="What build-dataset made (default: dataset).", show_default=False
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Folder, Hub id, or mini to start from (default: THUDM/CogVideoX-2b).",
        autocompletion=_choice("mini", "THUDM/CogVideoX-2b"),
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Settings to begin with: mini, 2b-1fps, 2b-8fps.", autocompletion=_presets
    ),
]
Fps = Annotated[
    str | None,
    typer.Option(metavar="1|8", help="Refuse data of another rate.", autocompletion=_choice("1", "8")),
]
Steps = Annotated[str | None, typer.Option(metavar="N", help="Optimiser steps in all (default: 10000).")]
Epochs = Annotated[str | None, typer.Option(metavar="X", help="Passes over the data, instead of --steps.")]
Batch = Annotated[str | None, typer.Option(metavar="N", help="Clips a step and process (default: 1).")]
Accumulate = Annotated[
    str | None, typer.Option(metavar="N", help="Batches that make up one step (default: 1).")
]
Lr = Annotated[str | None, typer.Option(metavar="X", help="Peak learning rate (default: 1e-4).")]
Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="constant or cosine, after the warm-up (default: constant).",
        autocompletion=_choice("constant", "cosine"),
    ),
]
Warmup = Annotated[
    str | None, typer.Option(metavar="N", help="Steps in which the rate rises (default: 500).")
]
Ema = Annotated[str | None, typer.Option(metavar="X", help="Decay of averaged weights, 0.9999 say.")]
ConditionDropout = Annotated[
    str | None, typer.Option(metavar="X", help="Share of clips trained without conditions (default: 0).")
]
ObjectDropout = Annotated[
    str | None, typer.Option(metavar="X", help="Share of clips that lose an object; for data on the fly.")
]
TextCondition = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="labels, or vectors of --text-vectors (default: labels).",
        autocompletion=_choice("labels", "vectors"),
    ),
]
TextVectors = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Safetensors: a vector for each phase's and triplet's name."),
]
LoraRank = Annotated[
    str | None, typer.Option(metavar="N", help="Train low-rank updates of this rank (needs peft).")
]
LoraAlpha = Annotated[
    str | None, typer.Option(metavar="X", help="Scale of the updates times the rank (default: the rank).")
]
Full = Annotated[bool, typer.Option("--full", help="Train all weights, whatever a config says of LoRA.")]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="bf16, fp32 or fp16 (default: bf16).",
        autocompletion=_choice("bf16", "fp32", "fp16"),
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto, or from fast to small: keep, attention, recompute, 8bit, offload (default: auto).",
        autocompletion=_choice("auto", "keep", "attention", "recompute", "8bit", "offload"),
    ),
]
Sharding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="With several GPUs: none holds all on each (DDP), full a part on each (FSDP) (default: none).",
        autocompletion=_choice("none", "full"),
    ),
]
CheckpointEvery = Annotated[
    str | None, typer.Option(metavar="N", help="Steps between checkpoints (default: 1000).")
]
Keep = Annotated[str | None, typer.Option(metavar="N", help="Checkpoints that stay (default: 2).")]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="latest, never, or a checkpoint's folder (default: latest).",
        autocompletion=_choice("latest", "never"),
    ),
]
ReportTo = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="none, tensorboard or wandb, besides metrics.jsonl (default: none).",
        autocompletion=_choice("none", "tensorboard", "wandb"),
    ),
]
PreviewEvery = Annotated[
    str | None, typer.Option(metavar="N", help="Steps between previews; 0 makes none (default: 0).")
]
Export = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="In the end write the pipeline of both runs; 'public' writes the public code's form.",
    ),
]
Distill = Annotated[
    str | None,
    typer.Option(
        metavar="TEACHER",
        help="Make a few-step student of this run, model or mini, in runs/*-student; in place of --base.",
        autocompletion=_choice("mini"),
    ),
]
DistillSteps = Annotated[
    str | None, typer.Option(metavar="N", help="Denoising steps of the student (default: 4).")
]
Seed = Annotated[str | None, typer.Option(metavar="N", help="Seed of everything (default: 0).")]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto, cpu, cuda or cuda:N (default: auto).",
        autocompletion=_choice("auto", "cpu", "cuda"),
    ),
]
Deterministic = Annotated[
    bool | None,
    typer.Option(
        "--deterministic/--fastest",
        help="Fix all kernels, so that a seed gives the same bytes again (default: fastest).",
    ),
]
MaxRestarts = Annotated[
    int, typer.Option(metavar="N", help="Times that all processes start again after one died.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Tell settings, sizes, memory, steps and time; leave nothing behind."),
]


def train_s2m(
    ctx: typer.Context,
    dataset: Dataset = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder (default: runs/s2m).")
    ] = None,
    base: Base = None,
    preset: Preset = None,
    frame_labels: Annotated[
        bool | None,
        typer.Option(
            "--frame-labels/--clip-labels",
            help="Labels steer their own second, or as published the clip by their mean (default: as base).",
        ),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(
            metavar="FORM",
            help="ids (categories) or, as published, colours through the VAE (default: as base).",
            autocompletion=lambda: ["ids", "colours"],
        ),
    ] = None,
    fps: Fps = None,
    steps: Steps = None,
    epochs: Epochs = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    lr: Lr = None,
    schedule: Schedule = None,
    warmup: Warmup = None,
    ema: Ema = None,
    condition_dropout: ConditionDropout = None,
    object_dropout: ObjectDropout = None,
    text_condition: TextCondition = None,
    text_vectors: TextVectors = None,
    lora_rank: LoraRank = None,
    lora_alpha: LoraAlpha = None,
    full: Full = False,
    precision: Precision = None,
    memory: Memory = None,
    sharding: Sharding = None,
    checkpoint_every: CheckpointEvery = None,
    keep: Keep = None,
    resume: Resume = None,
    report_to: ReportTo = None,
    preview_every: PreviewEvery = None,
    export: Export = None,
    distill: Distill = None,
    distill_steps: DistillSteps = None,
    seed: Seed = None,
    device: Device = None,
    deterministic: Deterministic = None,
    gpus: Gpus = None,
    nodes: Nodes = 1,
    node_rank: NodeRank = 0,
    rendezvous: Rendezvous = None,
    max_restarts: MaxRestarts = 0,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    set_: Sets = None,
    json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train S2M: phases and triplets to panoptic maps."""
    sources = config, _sets(ctx, set_), _preset(preset)
    wanted = resolve(TrainS2MConfig, ctx, *sources)
    _train(ctx, wanted, "s2m", given_by(TrainS2MConfig, ctx, *sources))


def train_m2v(
    ctx: typer.Context,
    dataset: Dataset = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder (default: runs/m2v).")
    ] = None,
    base: Base = None,
    preset: Preset = None,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="unconditional, or maps, which starts from it where it is (default: maps).",
            autocompletion=_choice("unconditional", "maps"),
        ),
    ] = None,
    hierarchical: Annotated[
        bool | None,
        typer.Option(
            "--hierarchical/--maps-only", help="Take phase and triplet as well (default: as the base)."
        ),
    ] = None,
    fps: Fps = None,
    steps: Steps = None,
    epochs: Epochs = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    lr: Lr = None,
    schedule: Schedule = None,
    warmup: Warmup = None,
    ema: Ema = None,
    condition_dropout: ConditionDropout = None,
    object_dropout: ObjectDropout = None,
    text_condition: TextCondition = None,
    text_vectors: TextVectors = None,
    lora_rank: LoraRank = None,
    lora_alpha: LoraAlpha = None,
    full: Full = False,
    precision: Precision = None,
    memory: Memory = None,
    sharding: Sharding = None,
    checkpoint_every: CheckpointEvery = None,
    keep: Keep = None,
    resume: Resume = None,
    report_to: ReportTo = None,
    preview_every: PreviewEvery = None,
    export: Export = None,
    distill: Distill = None,
    distill_steps: DistillSteps = None,
    seed: Seed = None,
    device: Device = None,
    deterministic: Deterministic = None,
    gpus: Gpus = None,
    nodes: Nodes = 1,
    node_rank: NodeRank = 0,
    rendezvous: Rendezvous = None,
    max_restarts: MaxRestarts = 0,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    set_: Sets = None,
    json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train M2V: panoptic maps to video."""
    sources = config, _sets(ctx, set_), _preset(preset)
    wanted = resolve(TrainM2VConfig, ctx, *sources)
    _train(ctx, wanted, "m2v", given_by(TrainM2VConfig, ctx, *sources))


def _train(
    ctx: typer.Context, wanted: TrainS2MConfig | TrainM2VConfig, stage: str, given: dict[str, str]
) -> None:
    """Does the work of both commands, whose flags lie in the context; `given` tells who gave a setting."""
    flags: dict[str, Any] = ctx.params
    check_numbers(wanted, wanted.max_restarts)
    from hierasurg_core.training.checking import expect_training_possible  # loads no torch

    expect_training_possible(wanted, stage, dry=flags["dry_run"], given=given)
    loudness = console.volume(flags["quiet"], flags["verbose"], least=ctx.obj)
    if flags["dry_run"]:
        _rehearse(wanted, stage, given, loudness, as_json=flags["json"])
        return
    out = wanted.run_folder
    with output_folder(ctx, out, loudness, wanted.node_rank):
        if launch(wanted, device=wanted.device, max_restarts=wanted.max_restarts, logs=out / "logs"):
            return
        with console.working(loudness) as progress:
            with importing(progress):
                from hierasurg_core.runtime import process_group, world_size
                from hierasurg_core.training.plan import plan_training
                from hierasurg_core.training.run import run_training

            with process_group(wanted.device) as device:
                plan = plan_training(wanted, stage, device, world_size(), given=given)
                result = run_training(plan, device, progress)
    console.show_result(result, flags["json"], _as_text)


def _rehearse(
    wanted: TrainS2MConfig | TrainM2VConfig,
    stage: str,
    given: dict[str, str],
    loudness: console.Volume,
    *,
    as_json: bool,
) -> None:
    """Shows what a run would be and how long it would take here; writes nothing and takes no lock."""
    with console.working(loudness) as progress:
        with importing(progress):
            from hierasurg_core.runtime import process_group
            from hierasurg_core.training.plan import plan_training
            from hierasurg_core.training.rehearsal import rehearse

        with process_group(wanted.device) as device:
            ranks = (wanted.gpus or 1) * wanted.nodes
            plan = plan_training(wanted, stage, device, ranks, dry=True, given=given)
            rehearsed = Rehearsed(plan, None if plan.is_done else rehearse(plan, device, progress))
    console.show_result(rehearsed, as_json, _plan_as_text)


def _preset(name: str | None) -> Path | None:
    if name is None:
        return None
    if name not in _presets():
        raise UsageError(f"there is no preset {name!r}: choose {', '.join(_presets())}")
    return PRESETS / f"{name}.yaml"


def _sets(ctx: typer.Context, sets: list[str] | None) -> list[str]:
    """Adds what `--full` stands for, and refuses options that exclude each other."""
    given: dict[str, Any] = ctx.params
    for first, second in (("full", "lora_rank"), ("full", "lora_alpha"), ("steps", "epochs")):
        if given[first] not in (None, False) and given[second] is not None:
            one, other = (f"--{name.replace('_', '-')}" for name in (first, second))
            raise UsageError(f"{one} and {other} exclude each other: give one of them")
    full = ["lora_rank=0", "lora_alpha="] if given["full"] else []
    by_steps = ["epochs="] if given["steps"] is not None else []
    return [*full, *by_steps, *(sets or [])]


@dataclass(frozen=True)
class Rehearsed:
    """What `--dry-run` tells.

    Attributes:
        plan: The run.
        time: How long it takes here; None where no step is left.
    """

    plan: "TrainingPlan"
    time: "RunTime | None"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {**self.plan.to_dict(), "time": None if self.time is None else self.time.to_dict()}


def _plan_as_text(rehearsed: Rehearsed) -> str:
    """The resolved config, sizes, memory, steps and time."""
    plan = rehearsed.plan
    told = plan.to_dict()
    lines = [f"{name}: {value}" for name, value in told["config"].items()]
    said = [*plan.notes]
    said.append(
        f"{told['parameters'] / 1e6:,.1f} M parameters, {told['trained_parameters'] / 1e6:,.1f} M of them "
        f"trained; {told['tokens']} tokens and {told['tflop_a_clip']:.2f} TFLOP a clip"
    )
    parts = ", ".join(
        f"{name} {value / 1e9:.1f}" for name, value in told["memory_estimate"].items() if name != "total"
    )
    total = told["memory_estimate"]["total"] / 1e9
    said.append(f"memory '{told['memory']}': about {total:.1f} GB a process ({parts})")
    said.append(
        f"{told['clips']} clips, {told['ranks']} processes: {told['steps_an_epoch']:.1f} steps an epoch, "
        f"{told['steps']} steps are {told['epochs']:.1f} epochs"
    )
    if rehearsed.time is not None:
        said.append(rehearsed.time.text())
    wrapped = [line for text in said for line in textwrap.wrap(text, _COLUMNS, subsequent_indent="  ")]
    return "\n".join([*lines, "", *wrapped])


def _as_text(result: "TrainRunResult") -> str:
    """Where the run stands, and what to do next."""
    trained = result.trained
    loss = "" if trained.loss is None else f", loss {trained.loss:.4g}"
    where = f"{trained.model}" if trained.model else f"{trained.checkpoint}, not finished"
    lines = [f"{where}: {trained.step} steps in {trained.seconds:.0f} s{loss}"]
    if result.export is not None:
        lines.append(f"exported to {result.export}")
    return "\n".join(lines)
