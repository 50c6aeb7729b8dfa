"""`hierasurg build-dataset`: frames, maps and labels become a data set for training."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    resolve,
)
from hierasurg_cli.output import output_folder
from hierasurg_core.config import BuildDatasetConfig

if TYPE_CHECKING:
    from hierasurg_core.datasets.build import BuildDatasetResult

EPILOG = "Example: hierasurg build-dataset videos dataset --labels labels --base THUDM/CogVideoX-2b"


def build_dataset(
    ctx: typer.Context,
    videos: Annotated[
        Path | None,
        typer.Argument(
            metavar="[VIDEOS]", help="Frame folders with their maps (default: videos).", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUT]", help="Where the data set goes (default: dataset).", show_default=False
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="CholecT50 JSON or Cholec80 phase files (default: labels)."),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where videoNN_masks lie (default: with the videos)."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Folder with vae/, Hub id, or mini "
            "(default: THUDM/CogVideoX-2b; mini for the phantom's frames).",
            autocompletion=lambda: ["mini", "THUDM/CogVideoX-2b"],
        ),
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(
            metavar="1|8",
            help="Frames a second of the videos (default: 1).",
            autocompletion=lambda: ["1", "8"],
        ),
    ] = None,
    step: Annotated[
        str | None, typer.Option(metavar="N", help="Frames between clips (default: one second of them).")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of video and maps (default: the VAE's, 480x720).")
    ] = None,
    map_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of S2M's coloured maps (default: 256x384).")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(metavar="FILE", help="List of videos to train on (default: the published).")
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="List of videos to validate on (default: the published)."),
    ] = None,
    val_fraction: Annotated[
        str | None, typer.Option(metavar="X", help="Share of the videos that validates, instead of lists.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N", help="Clips encoded at once (default: 1).")
    ] = None,
    on_the_fly: Annotated[
        bool | None,
        typer.Option("--on-the-fly/--latents", help="Write an index only and let training encode."),
    ] = None,
    drop_unlabelled: Annotated[
        bool | None,
        typer.Option("--drop-unlabelled/--require-maps", help="Leave out clips that have no maps."),
    ] = None,
    notice: Annotated[
        bool | None,
        typer.Option("--notice/--no-notice", help="Put CAMMA's licence notice into the manifest."),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option("--resume/--no-resume", help="Keep finished shards (the default), or start anew."),
    ] = None,
    describe: Annotated[
        bool | None, typer.Option("--describe/--build", help="Only tell what videos and labels hold.")
    ] = None,
    seed: Annotated[
        str | None, typer.Option(metavar="N", help="Seed of split, flips and noise (default: 0).")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="auto, cpu, cuda, cuda:N or mps (default: auto).",
            autocompletion=lambda: ["auto", "cpu", "cuda", "mps"],
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="auto, bf16, fp16 or fp32 (default: auto).",
            autocompletion=lambda: ["auto", "bf16", "fp16", "fp32"],
        ),
    ] = None,
    gpus: Gpus = None,
    nodes: Nodes = 1,
    node_rank: NodeRank = 0,
    rendezvous: Rendezvous = None,
    config: ConfigFile = None,
    set_: Sets = None,
    json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn frames, maps and labels into latents for training."""
    wanted = resolve(BuildDatasetConfig, ctx, config, set_)
    if wanted.describe:
        from hierasurg_core.datasets import describe as describing

        found = describing.describe(wanted.videos, wanted.labels)
        console.show_result(found, json, lambda result: "\n".join(result.lines()))
        return
    check_numbers(wanted)
    from hierasurg_core.datasets.base_choice import choose_base, expect_building_possible  # loads no torch
    from hierasurg_core.models.hub import local_folder

    expect_building_possible(wanted)
    chosen, note = choose_base(wanted)
    folder = local_folder(chosen, parts=["vae"])
    wanted = dataclasses.replace(wanted, base=chosen)
    loudness = console.volume(quiet, verbose, least=ctx.obj)
    with output_folder(ctx, wanted.out, loudness, wanted.node_rank):
        if launch(wanted, device=wanted.device):
            return
        with console.working(loudness) as progress:
            if note is not None:
                progress.note(note)
            with importing(progress):
                from hierasurg_core.datasets.build import build_dataset as build
                from hierasurg_core.datasets.plan import plan_dataset
                from hierasurg_core.models import encoder
                from hierasurg_core.runtime import process_group, resolve_dtype

            with process_group(wanted.device) as device_:
                number_type = resolve_dtype(wanted.dtype, device_)
                vae = encoder.identify_vae(folder, chosen)
                plan = plan_dataset(wanted, vae, encoder.precision_name(number_type), progress)
                latents = None if wanted.on_the_fly else encoder.VaeEncoder(folder, vae, device_, number_type)
                result = build(plan, latents, progress)
    console.show_result(result, json, _as_text)


def _as_text(result: "BuildDatasetResult") -> str:
    """Where the data set is, what it holds, and how fast it came."""
    from hierasurg_core.datasets.usable import unusable_in_words

    clips = ", ".join(f"{count} {split}" for split, count in result.clips.items())
    dropped = f"; dropped {result.black} with black frames, {result.unlabelled} without maps"
    speed = f"built {result.built} clips in {result.seconds:.0f} s: {result.clips_per_second:.2f} clips/s"
    busy = f"encoder busy {result.encoder_busy:.0%}, {result.bytes_a_clip / 1e6:.2f} MB a clip"
    lines = [str(result.out), f"{clips} clips of {result.videos} videos{dropped}"]
    if unusable := sum(result.s2m_unusable.values()):
        lines.append(unusable_in_words(unusable, sum(result.clips.values())))
    if result.skipped:
        lines.append(f"{len(result.skipped)} files or folders skipped")
    return "\n".join([*lines, f"{speed}, {busy}"])
