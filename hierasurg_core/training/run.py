"""One whole training: a plan becomes data, model and loop, and a finished run what others take.

Owns what a run's folder holds besides the loop's own (see `checkpoint`):

    out/train-STAGE.yaml   the resolved config, itself a valid --config
    out/start.tsv          what became of every tensor of the base
    out/data.json          what the data set was, for the model's card
    out/vae/, scheduler/   the base's, which `generate` needs beside the transformer
    out/sampling.json      how the base's models are sampled, where it says so
    out/public/            the public code's form, where asked for

All ranks call `run_training`; rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierasurg_core.artifacts import atomic_file, ensure_writable_folder, read_json, write_json
from hierasurg_core.config import to_dict, write_config
from hierasurg_core.datasets.plan import LATENTS
from hierasurg_core.datasets.splits import TRAIN, VAL
from hierasurg_core.datasets.usable import TOO_MANY_IDS
from hierasurg_core.errors import UsageError
from hierasurg_core.models import CogVideoXStack, load_scheduler, load_transformer, load_vae
from hierasurg_core.models.defaults import read_sampling, write_sampling
from hierasurg_core.models.digest import weights_digest
from hierasurg_core.models.encoder import VaeEncoder, identify_vae
from hierasurg_core.models.export import (
    Card,
    copy_parts,
    copy_text_vectors,
    expect_same_text_vectors,
    write_pipeline,
    write_public,
)
from hierasurg_core.models.lora import Lora, expect_same_base, is_lora, undated
from hierasurg_core.models.trained import is_finished
from hierasurg_core.models.warmstart import start_from
from hierasurg_core.progress import Progress
from hierasurg_core.runtime import (
    deterministic,
    device_milliseconds,
    rank,
    resolve_dtype,
    wait_for_all,
    world_size,
)
from hierasurg_core.text_files import parse_json, read_text
from hierasurg_core.training.batch import Batch
from hierasurg_core.training.distill import (
    SUFFIX,
    DistilledStage,
    as_student,
    freeze_maps,
    load_teacher,
    make_grid,
)
from hierasurg_core.training.from_dataset import DatasetSource, StageName
from hierasurg_core.training.id_stage import S2MIdStage
from hierasurg_core.training.plan import TrainingPlan, open_clips
from hierasurg_core.training.previews import Previews
from hierasurg_core.training.reporting import open_reporter
from hierasurg_core.training.resuming import DATA, describe_data
from hierasurg_core.training.stages import M2VStage, S2MStage, UnconditionalStage, VelocityStage
from hierasurg_core.training.trainer import Extras, TrainResult, train

PUBLIC = "public"
_MATRIX = 8192  # sides of the product that stands for a GPU's peak; an H100 reaches 782 TFLOP/s in bf16
_LONGEST_METRICS = 1 << 30  # bytes of a run of millions of lines


@dataclass(frozen=True)
class TrainRunResult:
    """How a call of `train-s2m` or `train-m2v` ended.

    Attributes:
        out: The run's folder.
        stage: "s2m", "m2v", "m2v-unconditional", "s2m-student" or "m2v-student".
        trained: What the loop says.
        export: Folder that was exported; None if none was.
        notes: What was chosen for the user.
    """

    out: Path
    stage: str
    trained: TrainResult
    export: Path | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for JSON."""
        return {
            "out": str(self.out),
            "stage": self.stage,
            "step": self.trained.step,
            "finished": self.trained.finished,
            "checkpoint": str(self.trained.checkpoint),
            "model": None if self.trained.model is None else str(self.trained.model),
            "loss": self.trained.loss,
            "seconds": self.trained.seconds,
            "export": None if self.export is None else str(self.export),
            "notes": list(self.notes),
        }


def run_training(plan: TrainingPlan, device: torch.device, progress: Progress) -> TrainRunResult:
    """Trains what a plan says.

    Raises:
        HieraSurgError: As `train`, and where data, base or export do not fit.
        KeyboardInterrupt: As `train`.
    """
    with deterministic(plan.config.deterministic):
        return _run(plan, device, progress)


def _run(plan: TrainingPlan, device: torch.device, progress: Progress) -> TrainRunResult:
    config = plan.config
    assert plan.base is not None, "only a dry run has no base at hand"
    if config.export is not None and config.export != PUBLIC:
        _expect_other_stage(plan)
    first = rank() == 0
    for note in plan.notes:
        progress.note(note)
    if plan.is_done:
        assert plan.run is not None
        done = TrainResult(
            plan.run.step, True, plan.run.checkpoint, config.out / "transformer", None, plan.run.seconds
        )
        return TrainRunResult(config.out, plan.run.stage, done, _exported(plan, done, progress), plan.notes)
    resumed = None if plan.run is None else plan.run.checkpoint
    if resumed is not None:
        expect_same_text_vectors(config.text_vectors, config.out)
    wait_for_all()  # no rank writes before all have chosen
    ensure_writable_folder(config.out)
    model, lora = build_model(plan, resumed, progress)
    stage = build_stage(plan, model, device)
    batches, preview_clips = open_data(plan, device, progress)
    reporter = None
    if first:
        reporter = open_reporter(config.report_to, config.out, to_dict(config))
    extras = Extras(
        lora=lora,
        previews=_previews(plan, stage, preview_clips, device),
        reporter=reporter,
        begin=lambda: _write_beginnings(plan),
        load=plan.load,
        peak_flops=_peak_flops(device),
    )
    try:
        trained = train(model, stage, batches, config, config.out, progress, extras=extras)
    finally:
        if reporter is not None:
            reporter.close()
    del model
    return TrainRunResult(config.out, stage.name, trained, _exported(plan, trained, progress), plan.notes)


def _exported(plan: TrainingPlan, trained: TrainResult, progress: Progress) -> Path | None:
    """Writes what `export` asks for of a finished run, and returns its folder."""
    config = plan.config
    if not trained.finished or config.export is None:
        return None
    export = config.out / PUBLIC if config.export == PUBLIC else Path(config.export)
    if rank() == 0:
        _export(plan, export, trained)
        progress.note(f"exported to {export}")
    wait_for_all()
    return export


def build_model(
    plan: TrainingPlan, resumed: Path | None, progress: Progress
) -> tuple[CogVideoXStack, Lora | None]:
    """Returns the model at the run's start, and its low-rank updates where only those are trained.

    A run that goes on reads its base for low-rank updates only.

    Raises:
        WeightsError: Base or checkpoint cannot be read, or do not belong together.
    """
    config = plan.config
    assert plan.part is not None
    if resumed is not None and not config.lora_rank and (resumed / "transformer").is_dir():
        model = load_transformer(resumed / "transformer", torch.float32)
        lora = None
    else:
        progress.start("load base", 1, "models")
        model, start = start_from(plan.part, plan.model_class, plan.arguments, config.seed)
        progress.advance()
        if resumed is None:
            progress.note(f"{start.summary()}; all of them in {config.out / 'start.tsv'}")
        lora = None
        if config.lora_rank:
            alpha = float(config.lora_rank) if config.lora_alpha is None else config.lora_alpha
            digest = weights_digest(plan.part)
            if resumed is not None and is_lora(resumed / "transformer"):
                expect_same_base(resumed / "transformer", plan.part, digest)
                note = undated(resumed / "transformer")
                if note is not None:
                    progress.note(note)
            lora = Lora(
                config.lora_rank, alpha, plan.stage, plan.part, plan.arguments, config.seed, start, digest
            )
    if plan.unconditional:
        freeze_maps(model)
    if config.distill is not None:
        as_student(model, config.distill_steps)
    return model, lora


def _write_beginnings(plan: TrainingPlan) -> None:
    """Writes what a run's folder holds besides the loop's own, once it is sure that the run goes on."""
    if rank() != 0:
        return
    config, out = plan.config, plan.config.out
    assert plan.base is not None
    write_config(out / f"train-{plan.stage}.yaml", f"train-{plan.stage}", config)
    if plan.start is not None and not (out / "start.tsv").exists():
        with atomic_file(out / "start.tsv") as part:
            part.write_text(plan.start.table(), encoding="utf-8")
    write_json(out / DATA, describe_data(config.dataset))
    copy_parts(plan.base, out)
    said = read_sampling(plan.base)
    if plan.start is not None and "photo_embed.weight" in plan.start.named("new"):
        said.pop("s2m", None)  # how coloured maps are sampled says nothing of ids
    write_sampling(said, out)
    if config.text_vectors is not None:
        copy_text_vectors(config.text_vectors, out)


def build_stage(
    plan: TrainingPlan, model: CogVideoXStack, device: torch.device
) -> VelocityStage | S2MIdStage:
    """Returns what says how the model is trained; a student's brings its teacher."""
    assert plan.base is not None
    alpha_bar_T = load_scheduler(plan.base).alphas_cumprod.to(device)
    if plan.unconditional:
        return UnconditionalStage(alpha_bar_T, model.inner_dim)
    if model.config["maps"] == "ids":
        numbers, scale = model.config["out_channels"], model.config["id_scale"]
        return S2MIdStage(numbers, scale, plan.vectors, compiled=plan.config.compile)
    stage: S2MStage | M2VStage = S2MStage(alpha_bar_T, plan.vectors)
    if plan.stage == "m2v":
        together = model.config["maps_a_latent"] if model.config["maps"] == "patches" else 0
        stage = M2VStage(
            alpha_bar_T,
            bool(model.config["hierarchical"]),
            plan.vectors,
            maps_a_latent=together,
            num_numbers=model.config["num_numbers"],
        )
    return stage if plan.config.distill is None else _distilled(plan, stage, device)


def _distilled(plan: TrainingPlan, stage: S2MStage | M2VStage, device: torch.device) -> DistilledStage:
    config = plan.config
    assert plan.base is not None
    assert plan.part is not None
    number_type = resolve_dtype(config.precision, device)
    tokens = plan.load.tokens if config.precision == "bf16" else None
    grid = make_grid(load_scheduler(plan.base), config.distill_steps, config.distill_substeps)
    return DistilledStage(
        stage,
        load_teacher(plan.part, number_type, device, tokens=tokens, compiled=config.compile),
        grid.to(device),
        config.distill_guidance,
        config.distill_own,
    )


def open_data(
    plan: TrainingPlan, device: torch.device, progress: Progress
) -> tuple[DatasetSource, Batch | None]:
    """Returns this rank's batches, and the clips that previews show; None where there are none."""
    config, manifest = plan.config, plan.manifest
    assert plan.base is not None
    encoder = None
    if manifest.contents != LATENTS:
        number_type = resolve_dtype("auto", device)
        encoder = VaeEncoder(
            plan.base, identify_vae(plan.base, str(config.distill or config.base)), device, number_type
        )
    threads = 1 if encoder is not None else 2
    stage_name: StageName = "s2m" if plan.stage == "s2m" else "m2v"
    numbers = _num_numbers(plan.arguments)
    source = DatasetSource(
        open_clips(manifest, config, TRAIN, encoder),
        stage_name,
        config.batch,
        config.seed,
        device=device,
        rank=rank(),
        world_size=world_size(),
        threads=threads,
        num_numbers=numbers,
    )
    if source.left_out:
        progress.note(f"{source.left_out} clips have {TOO_MANY_IDS}: left out")
    if not config.preview_every:
        return source, None
    shown_clips = None
    if any(entry.split == VAL and entry.clips for entry in manifest.shards):
        held_out = open_clips(manifest, config, VAL, encoder)
        shown_clips = held_out if plan.stage != "s2m" or numbers or held_out.paintable() else None
    if shown_clips is None:
        progress.note("the validation split has no clip for this stage; previews show clips of training")
        shown_clips = open_clips(manifest, config, TRAIN, encoder)
    shown = DatasetSource(
        shown_clips,
        stage_name,
        config.previews,
        config.seed,
        device=device,
        threads=threads,
        ahead=1,
        num_numbers=numbers,
    )
    return source, next(iter(shown))


def _num_numbers(arguments: Mapping[str, Any]) -> int | None:
    """Returns how many numbers a model's maps have; None where it takes no numbers."""
    if arguments.get("maps") == "ids":
        return int(arguments["out_channels"])
    return int(arguments.get("num_numbers", 20)) if arguments.get("maps") == "patches" else None


def _previews(
    plan: TrainingPlan,
    stage: VelocityStage | S2MIdStage,
    clips: Batch | None,
    device: torch.device,
) -> Previews | None:
    if clips is None:
        return None
    config, form = plan.config, plan.manifest.form
    assert plan.base is not None
    return Previews(
        stage,
        clips,
        load_vae(plan.base, resolve_dtype("auto", device), device),
        config.out,
        fps=form.fps,
        frames=form.num_frames,
        steps=config.preview_steps if config.distill is None else config.distill_steps,
        seed=config.seed,
    )


def _peak_flops(device: torch.device) -> float | None:
    """Returns what this GPU makes of one large bf16 matrix product, operations a second; None on a CPU."""
    if device.type != "cuda":
        return None
    left, right = (torch.randn(_MATRIX, _MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)

    milliseconds = device_milliseconds(multiply, device)
    return 2.0 * _MATRIX**3 / (milliseconds / 1000)


def _expect_other_stage(plan: TrainingPlan) -> None:
    """A pipeline needs both stages; the other one has to be finished before this one begins."""
    other = _other_run(plan)
    if not is_finished(other):
        raise UsageError(
            f"--export needs both stages, and {other} is no finished run: train it first, then call this "
            "again (a finished run only exports)"
        )


def _other_run(plan: TrainingPlan) -> Path:
    """The run beside this one; for a student the other student, where that is finished."""
    name = "m2v" if plan.stage == "s2m" else "s2m"
    student = plan.config.out.with_name(name + SUFFIX)
    if plan.config.distill is not None and is_finished(student):
        return student
    return plan.config.out.with_name(name)


def _export(plan: TrainingPlan, target: Path, trained: TrainResult) -> None:
    config = plan.config
    if config.export == PUBLIC:
        ensure_writable_folder(target)
        write_public(load_transformer(config.out / "transformer"), target / "transformer")
        copy_parts(config.out, target)
        if config.text_vectors is not None:
            copy_text_vectors(config.text_vectors, target)
        return
    other = _other_run(plan)
    s2m, m2v = (config.out, other) if plan.stage == "s2m" else (other, config.out)
    number_type = resolve_dtype(config.precision, torch.device("cpu"))
    write_pipeline(
        target,
        s2m=s2m / "transformer",
        m2v=m2v / "transformer",
        shared=config.out,
        dtype=number_type,
        sampling={
            stage: said[stage]
            for stage, run in (("s2m", s2m), ("m2v", m2v))
            if stage in (said := read_sampling(run))
        },
        card=_card(s2m, m2v),
    )


def _card(s2m: Path, m2v: Path) -> Card:
    """Gathers what both runs wrote of their data and training."""
    facts: dict[str, dict[str, str]] = {}
    notice = None
    for name, run in (("S2M", s2m), ("M2V", m2v)):
        data, done = read_json(run / DATA), read_json(run / "train.json")
        notice = notice or data.get("notice")
        form, config = data["form"], done["config"]
        size = form["map_size_hw"] if name == "S2M" else form["size_hw"]
        facts[f"{name}: data"] = {
            "clips": ", ".join(f"{count} {split}" for split, count in data["clips"].items()),
            "videos": ", ".join(f"{len(names)} {split}" for split, names in data["splits"].items()),
            "size": f"{size[0]}x{size[1]} (rows x columns)",
            "rate": f"{form['fps']} fps",
            "VAE": f"{data['vae']['name']} (SHA-256 {data['vae']['sha256'][:16]})",
        }
        facts[f"{name}: training"] = {
            "base": str(config["base"]),
            **_teacher_of(config),
            "steps": f"{done['step']}, batch {config['batch']} x {config['accumulate']} a process",
            "averaged weights": "yes" if done["ema"] else "no",
            "low-rank updates": "no" if done["lora"] is None else f"rank {done['lora']['rank']}",
            "learning rate": f"{config['lr']:g}",
            "weights (SHA-256)": done["weights"]["sha256"],
        }
        facts[f"{name}: metrics"] = {
            **_last_metrics(run / "metrics.jsonl"),
            "samples": "not measured; `hierasurg evaluate` compares samples with real clips",
        }
    return Card("HieraSurg pipeline", notice, facts)


def _teacher_of(config: dict[str, Any]) -> dict[str, str]:
    """What a card tells of a student."""
    if config.get("distill") is None:
        return {}
    return {"few-step student": f"{config['distill_steps']} steps, taught by {config['distill']}"}


def _last_metrics(path: Path) -> dict[str, str]:
    lines = read_text(path, most_bytes=_LONGEST_METRICS).splitlines()
    last = parse_json(lines[-1], f"the last line of {path}") if lines else {}
    loss = last.get("loss") if isinstance(last, dict) else None
    return {"training loss at the end": f"{loss:.4g}"} if isinstance(loss, (int, float)) else {}
