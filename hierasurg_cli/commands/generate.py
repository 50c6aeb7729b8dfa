"""`hierasurg generate`: a phase and a triplet become a video."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hierasurg_cli import console
from hierasurg_cli.options import (
    AsJson,
    ConfigFile,
    Quiet,
    Sets,
    Verbose,
    complete_phase,
    complete_triplet,
    resolve,
)
from hierasurg_core.config import GenerateConfig
from hierasurg_core.taxonomy import parse_phase, parse_triplet

if TYPE_CHECKING:
    from hierasurg_core.generation import GenerateResult

EPILOG = "Example: hierasurg generate --phase calot --triplet grasper,retract,gallbladder"


def generate(
    ctx: typer.Context,
    phase: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Surgical phase, by name or id.", autocompletion=complete_phase),
    ] = None,
    triplet: Annotated[
        str | None,
        typer.Option(
            metavar="I,V,T",
            help="Action triplet: instrument,verb,target or id.",
            autocompletion=complete_triplet,
        ),
    ] = None,
    frame: Annotated[
        Path | None,
        typer.Option(metavar="IMAGE", help="Image to start from, with --map (default: a bundled scene)."),
    ] = None,
    map: Annotated[  # noqa: A002 - called as its option
        Path | None, typer.Option(metavar="PNG", help="Panoptic map of --frame: an indexed PNG.")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Maps of the whole clip in place of S2M's: .pkl, folder of PNGs, mp4."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Pipeline folder or Hub id (default: finished runs here, else the mini models).",
        ),
    ] = None,
    s2m: Annotated[
        str | None, typer.Option(metavar="PATH", help="Run, checkpoint or folder in place of the S2M model.")
    ] = None,
    m2v: Annotated[
        str | None, typer.Option(metavar="PATH", help="Run, checkpoint or folder in place of the M2V model.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where the samples go (default: samples)."),
    ] = None,
    num: Annotated[
        str | None, typer.Option("--num", "-n", metavar="N", help="How many samples (default: 1).")
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(metavar="N", help="Seed of the first sample; the next count on (default: 0)."),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="N", help="Denoising steps of each stage (default: the model's).")
    ] = None,
    guidance: Annotated[
        str | None, typer.Option(metavar="X", help="Guidance scale, 1 is off (default: the model's).")
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(
            metavar="1|8", help="Frames a second (default: the model's).", autocompletion=lambda: ["1", "8"]
        ),
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
    contact_sheet: Annotated[
        bool | None,
        typer.Option("--contact-sheet/--no-contact-sheet", help="Also write one PNG of all frames."),
    ] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make videos that show a phase and an action triplet."""
    wanted = resolve(GenerateConfig, ctx, config, set_)
    if wanted.phase is not None:
        parse_phase(wanted.phase)
    if wanted.triplet is not None:
        parse_triplet(wanted.triplet)
    with console.working(console.volume(quiet, verbose, least=ctx.obj)) as progress:
        progress.start("import torch", 1, "module")
        from hierasurg_core import generation

        progress.advance()
        result = generation.generate(wanted, progress)
    console.show_result(result, json, _as_text)


def _as_text(result: "GenerateResult") -> str:
    """What was written, one path a line, and what made it."""
    written = [sample.video for sample in result.samples]
    if result.contact_sheet is not None:
        written.append(result.contact_sheet)
    return "\n".join([*map(str, written), f"made by {result.model} in {result.seconds:.1f} s"])
