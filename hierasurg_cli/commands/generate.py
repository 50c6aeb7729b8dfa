"""`hierasurg generate`: a phase and a triplet become a video."""

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
    complete_phase,
    complete_triplet,
    resolve,
)
from hierasurg_cli.output import output_folder
from hierasurg_core.config import GenerateConfig
from hierasurg_core.taxonomy import parse_phase, parse_triplet

if TYPE_CHECKING:
    from hierasurg_core.generation import GenerateResult
    from hierasurg_core.generation.listing import EntityList

_SAMPLES_SHOWN = 6
EPILOG = "Example: hierasurg generate --phase calot --triplet grasper,retract,gallbladder"


def _at_once_or_over_time(texts: list[str] | None) -> str | None:
    """Joins a repeated --triplet: spans of seconds follow each other, bare triplets are meant at once."""
    if not texts:
        return None
    return ("; " if all("@" in text for text in texts) else " + ").join(texts)


def _one_after_another(texts: list[str] | None) -> str | None:
    return "; ".join(texts) if texts else None


def generate(
    ctx: typer.Context,
    phase: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Surgical phase, by name or id.", autocompletion=complete_phase),
    ] = None,
    triplet: Annotated[
        list[str] | None,
        typer.Option(
            metavar="I,V,T",
            help="Action triplet: instrument,verb,target or id; over time A@0-7 and, repeated, B@8-15.",
            autocompletion=complete_triplet,
            callback=_at_once_or_over_time,
        ),
    ] = None,
    frame: Annotated[
        Path | None,
        typer.Option(metavar="IMAGE", help="Image to start from (default: a bundled scene)."),
    ] = None,
    map: Annotated[  # noqa: A002 - called as its option
        Path | None,
        typer.Option(metavar="PNG", help="Panoptic map of --frame: an indexed PNG; else SAM 2 makes it."),
    ] = None,
    sam: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which SAM 2 does that (default: mini).",
            autocompletion=lambda: ["mini", "tiny", "small", "base-plus", "large"],
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Maps of the whole clip in place of S2M's: .pkl, folder of PNGs, mp4."
        ),
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EDIT",
            help="Change the maps: 'move WHO by 40,0 over 16', 'remove WHO' or 'keep WHO'. Repeatable.",
            callback=_one_after_another,
        ),
    ] = None,
    list_entities: Annotated[
        bool,
        typer.Option("--list-entities", help="Only list ids and names that --edit can name; make nothing."),
    ] = False,
    requests: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML or CSV, a sample a line: phase, triplet, frame, map, maps, seed, name."
        ),
    ] = None,
    from_dataset: Annotated[
        Path | None,
        typer.Option(metavar="DATASET", help="Take frames, maps and labels of a data set's clips."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="train or val of that data set (default: val).",
            autocompletion=lambda: ["train", "val"],
        ),
    ] = None,
    true_maps: Annotated[
        bool | None,
        typer.Option("--true-maps/--own-maps", help="Take that data set's maps in place of S2M's."),
    ] = None,
    limit: Annotated[
        str | None, typer.Option(metavar="N", help="At most so many of its clips, spread evenly.")
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML of a story: segments of phase, triplet and seconds; 'cut: true' begins at a scene, or "
            "at 'frame: IMAGE' (and 'map: PNG'), relative to the file.",
        ),
    ] = None,
    seconds: Annotated[
        str | None, typer.Option(metavar="N", help="Length of one long video, or of the script's beginning.")
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
    text_vectors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Vectors by name, for models trained with them (default: beside the model)."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where the samples go (default: samples)."),
    ] = None,
    num: Annotated[
        str | None, typer.Option("--num", "-n", metavar="N", help="How many samples (default: 1).")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N", help="Samples made at once (default: one on a CPU).")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume", help="Keep samples that are there (the default), or start anew."
        ),
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
    maps_guidance: Annotated[
        str | None, typer.Option(metavar="X", help="The same of S2M alone (default: as --guidance).")
    ] = None,
    newcomers: Annotated[
        str | None, typer.Option(metavar="N", help="Ids kept free for what comes into view (default: 0).")
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
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="sde-dpm++, dpm++ or ddim (default: the model's).",
            autocompletion=lambda: ["sde-dpm++", "dpm++", "ddim"],
        ),
    ] = None,
    compile: Annotated[  # noqa: A002 - called as its option
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the models (default: if it pays)."),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="none, first-block, taylorseer or pab (default: none).",
            autocompletion=lambda: ["none", "first-block", "taylorseer", "pab"],
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="auto, fast, offload or group-offload (default: auto).",
            autocompletion=lambda: ["auto", "fast", "offload", "group-offload"],
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="none, fp8 or int8 weights (default: none).",
            autocompletion=lambda: ["none", "fp8", "int8"],
        ),
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic/--fastest",
            help="Fix all kernels, so that a seed gives the same bytes again (default: fastest).",
        ),
    ] = None,
    maps_dir: Annotated[
        bool | None,
        typer.Option("--maps-dir/--no-maps-dir", help="Also write the maps as indexed PNGs."),
    ] = None,
    frames_dir: Annotated[
        bool | None, typer.Option("--frames-dir/--no-frames-dir", help="Also write the frames as PNGs.")
    ] = None,
    overlay: Annotated[
        bool | None, typer.Option("--overlay/--no-overlay", help="Also write the maps over the frames.")
    ] = None,
    side_by_side: Annotated[
        bool | None,
        typer.Option("--side-by-side/--no-side-by-side", help="Also write frames and maps side by side."),
    ] = None,
    gif: Annotated[bool | None, typer.Option("--gif/--no-gif", help="Also write a GIF.")] = None,
    contact_sheet: Annotated[
        bool | None,
        typer.Option("--contact-sheet/--no-contact-sheet", help="Also write one PNG of all frames."),
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
    """Make videos that show a phase and an action triplet."""
    wanted = resolve(GenerateConfig, ctx, config, set_)
    if wanted.phase is not None:
        parse_phase(wanted.phase)
    if wanted.triplet is not None and not {"@", "+"} & set(wanted.triplet):
        parse_triplet(wanted.triplet)
    check_numbers(wanted)
    from hierasurg_core.generation import planning  # pictures and maps, but no torch

    loudness = console.volume(quiet, verbose, least=ctx.obj)
    with console.working(loudness) as progress:
        planned = planning.plan(wanted, progress)
    if list_entities:
        from hierasurg_core.generation import listing

        with console.working(loudness) as progress:
            listed = listing.list_entities(wanted, planned, progress)
        console.show_result(listed, json, _entities_as_text)
        return
    with output_folder(ctx, wanted.out, loudness, wanted.node_rank):
        if launch(wanted, device=wanted.device):
            return
        with console.working(loudness) as progress:
            with importing(progress):
                from hierasurg_core import generation

            result = generation.generate(wanted, progress, planned=planned)
    console.show_result(result, json, _as_text)


def _as_text(result: "GenerateResult") -> str:
    """What was written, one path a line, and what made it."""
    written = [sample.video for sample in result.samples]
    if result.contact_sheet is not None:
        written.append(result.contact_sheet)
    kept = sum(sample.kept for sample in result.samples)
    before = f"; {kept} of {len(result.samples)} were there already" if kept else ""
    return "\n".join([*map(str, written), f"made by {result.model} in {result.seconds:.1f} s{before}"])


def _entities_as_text(result: "EntityList") -> str:
    """Ids, names, sizes and places of what each start shows, as columns."""
    lines: list[str] = []
    for listed in result.starts:
        shown = ", ".join(listed.samples[:_SAMPLES_SHOWN])
        more = len(listed.samples) - _SAMPLES_SHOWN
        lines.append(f"{listed.start} (samples {shown}{f' and {more} more' if more > 0 else ''})")
        lines += [f"  {entity.id:>3}  {entity.name or '-':<22}  {entity.size}" for entity in listed.entities]
        lines += [] if listed.entities else ["  no entities"]
    return "\n".join(lines)
