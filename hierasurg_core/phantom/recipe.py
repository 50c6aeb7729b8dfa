"""The recipe of the bundled mini models: ``python -m hierasurg_core.phantom.recipe OUT``.

One command trains the VAE, then S2M and M2V, on clips that it draws itself, and bundles the result as a
pipeline folder. It goes on from what OUT holds, so it may be stopped at any time, or run in pieces with
``--minutes``. ``--piece s2m-student`` and ``m2v-student`` make few-step students of finished stages, and
``--piece bundle --students s2m m2v`` a pipeline of them. The figures of the bundled models are measured by
`hierasurg_core.phantom.measure`.

Every session of a piece draws its own clips (seeded by how far the run has come) and encodes them once;
training then reads latents from memory. With ``--stream 1`` it goes on drawing meanwhile, best on another GPU
(``--draw-on cuda:1``): a few ten thousand clips are learnt by heart in a long run. Refuses to train on
anything but the phantom: data on disk has commands of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hierasurg_core import artifacts, runtime
from hierasurg_core.config import TrainConfig
from hierasurg_core.config.sampling import StageSampling, own_sampling
from hierasurg_core.errors import UsageError
from hierasurg_core.models import (
    CogVideoXStack,
    frames_a_latent,
    ids,
    load_transformer,
    load_vae,
    start_as_identity,
)
from hierasurg_core.models.backbone import CogVideoXDPMScheduler
from hierasurg_core.models.conditioning import map_grid
from hierasurg_core.models.defaults import MODEL_INDEX
from hierasurg_core.models.export import model_index
from hierasurg_core.models.ids import ids_arguments
from hierasurg_core.models.warmstart import stage_class, start_from, starting_arguments
from hierasurg_core.phantom.encoded import NUM_NUMBERS, Wanted, draw_together
from hierasurg_core.phantom.frame_vae import train_frame_vae
from hierasurg_core.phantom.labels import name_triplets_by_parts
from hierasurg_core.phantom.printed import PrintedProgress
from hierasurg_core.phantom.stream import drawing
from hierasurg_core.phantom.vae import (
    train_vae,
    unfinished_steps,
)
from hierasurg_core.progress import Progress
from hierasurg_core.training import Batch, BatchSource, LatentCacheSource, M2VStage, S2MStage, train
from hierasurg_core.training.checkpoint import checkpoints, read_state
from hierasurg_core.training.distill import SUFFIX, DistilledStage, as_student, load_teacher, make_grid
from hierasurg_core.training.id_stage import S2MIdStage
from hierasurg_core.training.memory import Workload
from hierasurg_core.training.trainer import Extras

SCHEDULER_CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
}
"""CogVideoX-2b's own scheduler settings."""

_GRID: dict[str, Any] = {
    "sample_width": 24,
    "sample_height": 16,
    "sample_frames": 17,
    "spatial_interpolation_scale": 1.0,
    "text_embed_dim": 16,
}
_BLOCKS: dict[str, Any] = {
    **_GRID,
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "num_layers": 10,
    "time_embed_dim": 64,
    "condition_embed_dim": 64,
    "condense_dim": 32,
    "frame_labels": True,
}
S2M_CONFIG: dict[str, Any] = {**_BLOCKS, **ids_arguments(NUM_NUMBERS)}
M2V_CONFIG: dict[str, Any] = {
    **_GRID,
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "num_layers": 6,
    "time_embed_dim": 48,
    "condition_embed_dim": 48,
    "condense_dim": 24,
    "repeat_first_frame": True,
    "in_channels": 32,
    "map_widths": (16, 32, 64),
    "map_downscale": 1,
    "hierarchical": True,
    "use_segmap_posenc": True,
    # One map token lies over one patch, four maps over one latent frame.
    "segmap_posenc_spatial_scale": 1.0,
    "segmap_posenc_temporal_scale": 4.0,
}
PATCHES_CONFIG: dict[str, Any] = {
    **_BLOCKS,
    "in_channels": 32,
    "repeat_first_frame": True,
    "maps": "patches",
    "num_numbers": NUM_NUMBERS,
    "maps_a_latent": 1,
    "hierarchical": True,
}
"""M2V over a VAE that codes each frame alone."""
SAMPLING = {
    "s2m": StageSampling(steps=4, guidance=1.5, solver="ddim"),
    "m2v": StageSampling(steps=4, guidance=1.0, solver="dpm++"),
}
"""Of the bundled pipeline."""
VAE_STEPS, VAE_CLIPS = 9600, 8
_RARE = 0.3  # see `ids.weigh_shares`
_CHECKPOINT_STEPS = 2000
_WARMUP_STEPS = 300  # or a tenth of a short schedule, which would be warm-up else
_STREAM_PART, _STREAM_BEGINS = 240, 4096  # clips of a part, and those that the first step waits for


@dataclasses.dataclass(frozen=True)
class Piece:
    """How a transformer of the recipe is trained.

    Attributes:
        steps: Optimiser steps of the whole schedule.
        batch: Clips a step.
        lr: Peak learning rate.
        clips: Clips drawn and encoded in each session; of a stream those in memory at once.
        stream: 1 goes on drawing while it trains, new clips in place of the oldest.
        draw_on: Device that draws; "" is the one that trains.
        courses: Share of these in which instruments come and go; the others show one act from its start.
        workers: Processes that draw them; they change no clip.
        ema: Decay of the averaged weights that are bundled.
        start: Folder of a model of the same shape to begin with; "" begins with random weights. A student
            begins with its teacher, "" is OUT/STAGE/transformer.
        frame_labels: 1 gives an S2M of colours to start from labels that steer their own frames; a new model
            has them in any case.
        optimizer: As in `TrainConfig`.
        emphasis: Of what moves in the loss, see `S2MIdStage.moving` and `M2VStage.moving`.
        triplets: How the triplets' vectors begin where a model is given: "kept" as they are, or "parts" anew,
            as those of a new model do (see `labels`).
        grid: Sampling steps of a student.
        substeps: Of its teacher in each of them.
        guidance: Of its teacher, which it takes over; 0 takes the pipeline's own.
    """

    steps: int = 24000
    batch: int = 64
    lr: float = 1.2e-3
    clips: int = 16384
    stream: int = 0
    draw_on: str = ""
    courses: float = 0.0
    workers: int = 1
    ema: float = 0.999
    start: str = ""
    frame_labels: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    emphasis: float = 5.0
    triplets: Literal["kept", "parts"] = "kept"
    grid: int = 4
    substeps: int = 8
    guidance: float = 0.0


STUDENT = Piece(steps=4000, lr=3e-4)
"""A student begins where its teacher ended, so it is soon done."""


def train_stage(
    name: str,
    out: Path,
    piece: Piece,
    seed: int,
    device: torch.device,
    max_seconds: float,
    progress: Progress,
) -> bool:
    """Trains S2M or M2V, or a student of one, for one session; returns whether its schedule is done.

    Args:
        name: "s2m", "m2v", "s2m-student" or "m2v-student".
        out: The recipe's folder; the VAE in it must be done.
        piece: The schedule.
        seed: Of everything.
        device: Where to train.
        max_seconds: Time for drawing, encoding and training together.
        progress: Told of each step.
    """
    began = time.monotonic()
    run = out / name
    left = unfinished_steps(out)
    if left:
        raise UsageError(f"the VAE in {out} lacks {left} steps: run --piece vae to its end first")
    present = checkpoints(run)
    done = read_state(present[-1])["step"] if present else 0
    if done >= piece.steps and (run / "train.json").exists():
        return True
    scheduler = CogVideoXDPMScheduler(**SCHEDULER_CONFIG)
    alpha_bar_T = scheduler.alphas_cumprod.to(device)
    torch.manual_seed(seed)
    part, is_student = name.removesuffix(SUFFIX), name.endswith(SUFFIX)
    if piece.frame_labels and part != "s2m":
        raise UsageError(f"--frame-labels is for S2M, whose frames are seconds: leave it out for {name}")
    start = piece.start or (str(out / part / "transformer") if is_student else "")
    frames_alone = frames_a_latent(load_vae(out / "vae", torch.float32, "cpu")) == 1
    model = _begun(part, start, bool(piece.frame_labels), frames_alone, seed)
    if piece.triplets == "parts" or not start:
        name_triplets_by_parts(model)
    data_seed = seed * 1000 + 1 + done
    stage = _stage(part, model, alpha_bar_T, piece, compiled=device.type == "cuda")
    distilled: DistilledStage | None = None
    if is_student:
        if isinstance(stage, S2MIdStage):
            raise UsageError("an S2M on ids needs no student: it samples in a few steps as it is")
        as_student(model, piece.grid)
        dtype = runtime.resolve_dtype("auto", device)
        teacher = load_teacher(Path(start), dtype, device, compiled=device.type == "cuda")
        distilled = DistilledStage(
            stage,
            teacher,
            make_grid(scheduler, piece.grid, piece.substeps).to(device),
            guidance=piece.guidance or SAMPLING[part].guidance,
        )
    config = TrainConfig(
        steps=piece.steps,
        batch=piece.batch,
        lr=piece.lr,
        optimizer=piece.optimizer,
        warmup=min(_WARMUP_STEPS, piece.steps // 10),
        schedule="cosine",
        precision="bf16" if device.type == "cuda" else "fp32",
        ema=piece.ema,
        condition_dropout=0.0 if is_student else 0.1,
        gradient_checkpointing=False,
        compile=device.type == "cuda",
        checkpoint_every=min(piece.steps, _CHECKPOINT_STEPS),
        keep=1,
        seed=seed,
        log_every=50,
        device=str(device),
    )
    painted = part == "s2m" and model.config["maps"] == "colours"
    kind = "s2m-colours" if painted else part
    with _clips(kind, out / "vae", piece, data_seed, device, progress) as (source, example):
        drawn = time.monotonic() - began
        progress.note(f"{name}: the first clips drawn and encoded in {drawn:.0f} s")
        config = dataclasses.replace(config, max_seconds=max(1.0, max_seconds - drawn))
        work = Extras(load=_work(model, example))  # lets the trainer look for the fastest attention
        ended = train(model, distilled or stage, source, config, run, progress, extras=work)
    return ended.finished


@contextlib.contextmanager
def _clips(
    part: str, vae_folder: Path, piece: Piece, seed: int, device: torch.device, progress: Progress
) -> Iterator[tuple[BatchSource, Batch]]:
    """What a stage is trained on, drawn before or meanwhile, and a batch of its shapes."""
    rank, world_size = runtime.rank(), runtime.world_size()
    draw_on = torch.device(piece.draw_on) if piece.draw_on else device
    if piece.stream:
        own_seed = seed * world_size + rank
        size = min(piece.clips, _STREAM_PART)
        wanted = Wanted(part, vae_folder, own_seed, draw_on, piece.courses)
        with drawing(wanted, size, piece.clips, piece.batch, device, piece.workers) as stream:
            stream.wait_for(_STREAM_BEGINS)
            yield stream, stream.chosen(torch.zeros(1, dtype=torch.int64))
            progress.note(f"{part}: {stream.drawn} clips drawn")
        return
    clips, photos = draw_together(part, vae_folder, piece.clips, seed, draw_on, piece.workers, piece.courses)
    photos = None if photos is None else photos.to(device)
    yield (
        LatentCacheSource(
            clips.to(device),
            piece.batch,
            seed=seed,
            first_frames_NKCHW=photos,
            rank=rank,
            world_size=world_size,
        ),
        clips,
    )


def _begun(part: str, start: str, frame_labels: bool, frames_alone: bool, seed: int) -> CogVideoXStack:
    """The model as its training finds it: of a folder, or new."""
    cls, framed = stage_class(part), {"frame_labels": True} if frame_labels else {}
    if start and framed:
        return start_from(Path(start), cls, starting_arguments(Path(start), cls, framed), seed)[0]
    if start:
        return load_transformer(start, torch.float32)
    configs = {"s2m": S2M_CONFIG, "m2v": PATCHES_CONFIG if frames_alone else M2V_CONFIG}
    model = cls(**configs[part])
    start_as_identity(model)
    return model


def _stage(
    part: str, model: CogVideoXStack, alpha_bar_T: Tensor, piece: Piece, *, compiled: bool
) -> S2MIdStage | S2MStage | M2VStage:
    """The stage that fits a model's form of maps."""
    if part == "m2v" and model.config["maps"] == "patches":
        return M2VStage(
            alpha_bar_T,
            hierarchical=True,
            maps_a_latent=model.config["maps_a_latent"],
            num_numbers=model.config["num_numbers"],
            moving=piece.emphasis,
            rare=_RARE if piece.emphasis else 0.0,
        )
    if part == "m2v":
        return M2VStage(alpha_bar_T, hierarchical=True)
    if model.config["maps"] == "colours":
        return S2MStage(alpha_bar_T, emphasis=piece.emphasis)
    numbers, scale = model.config["out_channels"], model.config["id_scale"]
    return S2MIdStage(numbers, scale, moving=piece.emphasis, rare=_RARE, compiled=compiled)


def _work(model: CogVideoXStack, clips: Batch) -> Workload:
    """What one of these clips asks of a model."""
    patch = model.config["patch_size"]
    if clips.latents_BFCHW is None:
        assert clips.numbered_BFHW is not None
        frames, height, width = clips.numbered_BFHW.shape[1:]
        patch *= ids.CELL
    else:
        frames, _, height, width = clips.latents_BFCHW.shape[1:]
    stream = 1
    if clips.maps_BFHW is not None and model.config["maps"] == "tokens":
        seconds, *size_hw = clips.maps_BFHW.shape[1:]
        downscale, blocks = model.config["map_downscale"], len(model.config["map_widths"])
        rows, columns = map_grid((size_hw[0], size_hw[1]), downscale=downscale, num_blocks=blocks)
        stream = seconds * rows * columns
    tokens = frames * (height // patch) * (width // patch) + 1 + stream
    count = sum(parameter.numel() for parameter in model.parameters())
    return Workload(count, count, tokens, model.inner_dim, len(model.transformer_blocks))


def bundle(out: Path, target: Path, students: Collection[str] = ()) -> None:
    """Writes the finished parts as a pipeline folder with fp16 weights.

    Args:
        out: The recipe's folder.
        target: The pipeline folder, replaced whole.
        students: Stages whose student is taken in their place.
    """
    own: dict[str, StageSampling] = {}
    with artifacts.atomic_folder(target) as folder:
        for name in ("s2m", "m2v"):
            run = out / (name + SUFFIX if name in students else name)
            model = load_transformer(run / "transformer", torch.float16)
            model.save_pretrained(folder / name)
            own[name] = own_sampling(SAMPLING, name, model.config["distilled_steps"])
        load_vae(out / "vae", torch.float16, "cpu").save_pretrained(folder / "vae")
        CogVideoXDPMScheduler(**SCHEDULER_CONFIG).save_pretrained(folder / "scheduler")
        artifacts.write_json(folder / MODEL_INDEX, model_index(own))
        for path in folder.rglob("*"):
            # safetensors leaves files that only their owner may read; a package is read by all.
            path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    """Runs the recipe or a piece of it; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m hierasurg_core.phantom.recipe", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the runs; the command goes on from what it holds")
    pieces = ("all", "vae", "s2m", "m2v", "s2m-student", "m2v-student", "bundle")
    parser.add_argument("--piece", choices=pieces, default="all")
    parser.add_argument("--students", nargs="*", choices=("s2m", "m2v"), default=(), help="for bundle")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop this piece after so long")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=Path, default=None, help="pipeline folder (default OUT/mini)")
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS)
    parser.add_argument("--vae-clips", type=int, default=VAE_CLIPS, help="clips a step and GPU")
    parser.add_argument(
        "--frames-alone", action="store_true", help="a VAE without time compression, and an M2V for it"
    )
    parser.add_argument("--start-vae", type=Path, default=None, help="folder of a VAE to begin with")
    for field in dataclasses.fields(Piece):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=None)
    options = parser.parse_args()
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Piece)}
    piece = STUDENT if options.piece.endswith(SUFFIX) else Piece()
    piece = dataclasses.replace(piece, **{name: value for name, value in given.items() if value is not None})
    if not options.minutes > 0:
        raise UsageError(f"--minutes {options.minutes}: give a positive number")
    progress = PrintedProgress()
    deadline = time.monotonic() + options.minutes * 60
    wanted = ("vae", "s2m", "m2v", "bundle") if options.piece == "all" else (options.piece,)
    with runtime.process_group(options.device) as device:
        for name in wanted:
            left = deadline - time.monotonic()
            if name == "bundle":
                bundle(options.out, options.target or options.out / "mini", options.students)
                progress.note(f"bundled in {options.target or options.out / 'mini'}")
                continue
            if name == "vae":
                done = (train_frame_vae if options.frames_alone else train_vae)(
                    options.out,
                    steps=options.vae_steps,
                    clips_per_step=options.vae_clips,
                    seed=options.seed,
                    device=device,
                    max_seconds=left,
                    progress=progress,
                    start=options.start_vae,
                )
            else:
                done = train_stage(name, options.out, piece, options.seed, device, left, progress)
            progress.note(f"{name}: {'done' if done else 'not done; run the same command again'}")
            if not done:
                return


if __name__ == "__main__":
    main()
