"""`hierasurg label`: frames get panoptic maps, or the maps that are there are compared with true ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

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
from hierasurg_core.config import LabelConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hierasurg_core.datasets.operations import Failure
    from hierasurg_core.evaluation.label_check import LabelCheck
    from hierasurg_core.labeling.label import LabelResult

EPILOG = "Example: hierasurg label videos --sam large --visualize --gpus 8"


def label(
    ctx: typer.Context,
    videos: Annotated[
        Path | None,
        typer.Argument(
            metavar="[VIDEOS]", help="Frame folders, or one of them (default: videos).", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where videoNN_masks go (default: beside the frames)."),
    ] = None,
    sam: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="SAM 2.1 tiny, small, base-plus or large, or mini "
            "(default: large; mini for the phantom's frames).",
            autocompletion=lambda: ["tiny", "small", "base-plus", "large", "mini"],
        ),
    ] = None,
    sam_checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its weights (default: from the Hub, kept).")
    ] = None,
    weights_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to look for weights before the Hub.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Backbone that tells objects apart: folder, Hub id, sam (its own embedding) or mini "
            "(default: nvidia/C-RADIOv4-H; sam with --sam mini).",
            autocompletion=lambda: ["nvidia/C-RADIOv4-H", "sam", "mini"],
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool | None,
        typer.Option(
            "--trust-remote-code/--no-remote-code",
            help="Run the code that the backbone brings; needs --features ID@COMMIT.",
        ),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="X", help="Squared error below which masks are one object's (default: its own)."
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="pkl|png",
            help="A clip of 16 frames a file, or one indexed PNG a frame (default: pkl).",
            autocompletion=lambda: ["pkl", "png"],
        ),
    ] = None,
    visualize: Annotated[
        bool | None,
        typer.Option("--visualize/--no-visualize", help="Also write an overlay video and a contact sheet."),
    ] = None,
    only: Annotated[
        Path | None, typer.Option(metavar="FILE", help="List of videos to take, one a line.")
    ] = None,
    limit: Annotated[
        str | None, typer.Option(metavar="N", help="Label the first N seconds of each video (default: all).")
    ] = None,
    skip_bad: Annotated[
        bool | None,
        typer.Option("--skip-bad/--strict", help="Let the frame before take the place of a bad one."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N", help="Frames encoded at once (default: 8).")
    ] = None,
    max_objects: Annotated[
        str | None,
        typer.Option(metavar="N", help="Most objects followed at once (default: 18, what S2M tells apart)."),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Run SAM 2 through torch.compile."),
    ] = None,
    notice: Annotated[
        bool | None,
        typer.Option("--notice/--no-notice", help="Put CAMMA's licence notice into the manifest."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="TRUTH", help="Label nothing; compare the maps that are there with these."),
    ] = None,
    gpus: Gpus = None,
    nodes: Nodes = 1,
    node_rank: NodeRank = 0,
    rendezvous: Rendezvous = None,
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
    config: ConfigFile = None,
    set_: Sets = None,
    json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make panoptic maps of whole operations."""
    ctx.params["format"], ctx.params["compile"] = format_, compile_
    wanted = resolve(LabelConfig, ctx, config, set_)
    loudness = console.volume(quiet, verbose, least=ctx.obj)
    if wanted.check is not None:
        with console.working(loudness) as progress:
            from hierasurg_core.evaluation.label_check import check_labels

            checked = check_labels(wanted, progress)
        console.show_result(checked, json, _check_as_text)
        _end(checked.failures, len(checked.videos), "compared")
    check_numbers(wanted)
    from hierasurg_core.labeling.checking import expect_labelling_possible  # loads no torch

    expect_labelling_possible(wanted)
    with output_folder(ctx, _maps_folder(wanted), loudness, wanted.node_rank):
        if launch(wanted, device=wanted.device):
            return
        with console.working(loudness) as progress:
            with importing(progress):
                from hierasurg_core.labeling.label import label as core
                from hierasurg_core.runtime import process_group

            with process_group(wanted.device) as device_:
                result = core(wanted, device_, progress)
    console.show_result(result, json, _as_text)
    _end(result.failures, len(result.videos), "labelled")


def _end(failures: "Sequence[Failure]", num_done: int, done: str) -> NoReturn:
    """Ends the program; says first which videos are not done, and how many."""
    for failure in failures:
        console.show_error(failure.message)
    if failures:
        console.show_error(f"{len(failures)} of {num_done + len(failures)} videos are not {done}")
    # Of several ranks only the one that tells it ends so, or else the launcher would stop it on the way.
    worst = max((failure.exit_code for failure in failures), default=0)
    raise typer.Exit(worst if console.speaks() else 0)


def _maps_folder(wanted: LabelConfig) -> Path | None:
    """Where the maps go; None where there are no frames to label."""
    from hierasurg_core.datasets.operations import find_frame_folders, maps_folder

    if wanted.out is not None:
        return wanted.out
    if not wanted.videos.is_dir():
        return None
    return maps_folder(wanted.videos, find_frame_folders(wanted.videos))


def _as_text(result: "LabelResult") -> str:
    """What is done, one video a line."""
    lines: list[str] = []
    for video in result.videos:
        extra = [f"{video.frames} frames", f"{video.entities} objects", f"SAM 2 {video.segmenter}"]
        if video.bad_frames:
            extra.append(f"{video.bad_frames} bad frames")
        extra.append("done before" if video.skipped else f"{video.frames_per_second:.2f} frames/s")
        lines.append(f"{video.folder}: {', '.join(extra)}")
    return "\n".join([*lines, f"{len(result.videos)} videos done in {result.seconds:.1f} s"])


def _check_as_text(result: "LabelCheck") -> str:
    """The measures, one video a line and their means."""
    rows = [*((video.name, video.scores) for video in result.videos), ("mean", result.mean)]
    shown = [
        f"{name}: "
        + ", ".join(
            f"{title} {value:.3f}" if isinstance(value, float) else f"{title} {value}"
            for title, value in scores.to_dict().items()
            if value is not None
        )
        for name, scores in rows
    ]
    return "\n".join(shown)
