"""`hierasurg extract`: videos become folders of frames."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hierasurg_cli import console
from hierasurg_cli.options import AsJson, ConfigFile, Quiet, Sets, Verbose, resolve
from hierasurg_cli.output import output_folder
from hierasurg_core.config import ExtractConfig

if TYPE_CHECKING:
    from hierasurg_core.datasets.extract import ExtractResult

EPILOG = "Example: hierasurg extract cholec80/videos videos --fps 8"


def extract(
    ctx: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="IN", help="Video, folder of videos, or folder of image folders.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT]", help="Where the frames go (default: videos).", show_default=False),
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(
            metavar="X", help="Frames a second (default: 1).", autocompletion=lambda: ["1", "8", "25"]
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Size of the frames, cropped to its shape (default: as they are)."),
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="HxW", help="Cut this out of the middle first (default: nothing).")
    ] = None,
    quality: Annotated[
        str | None, typer.Option(metavar="N", help="Quality of the JPEGs, 1 to 100 (default: 95).")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N", help="Videos at a time (default: by the cores).")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="S", help="Second to begin at, becomes frame 000000 (default: 0).")
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="S", help="Second to stop before (default: the end).")
    ] = None,
    only: Annotated[
        Path | None, typer.Option(metavar="FILE", help="List of operations to take, one a line.")
    ] = None,
    first_index: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Number of the image that shows second 0 (default: the first image's)."
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--lenient", help="Decode every frame and refuse videos with damaged ones."),
    ] = None,
    overwrite: Annotated[
        bool | None,
        typer.Option(
            "--overwrite/--keep", help="Replace frames that have maps, and delete the maps (default: refuse)."
        ),
    ] = None,
    deinterlace: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="Take combs out of interlaced video: auto or off (default: auto).",
            autocompletion=lambda: ["auto", "off"],
        ),
    ] = None,
    with_fix: Annotated[
        bool | None,
        typer.Option("--with-fix", help="Accepted, changes nothing: first timestamps are always put right."),
    ] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take frames out of videos at a steady rate."""
    wanted = resolve(ExtractConfig, ctx, config, set_)
    loudness = console.volume(quiet, verbose, least=ctx.obj)
    with output_folder(ctx, wanted.out, loudness), console.working(loudness) as progress:
        from hierasurg_core.datasets import extract as core

        result = core.extract(wanted, progress)
    console.show_result(result, json, _as_text)
    for failure in result.failures:
        console.show_error(failure.message)
    if len(result.failures) > 1:
        console.show_error(f"{len(result.failures)} of {result.total} operations are not done")
    raise typer.Exit(result.exit_code)


def _as_text(result: "ExtractResult") -> str:
    """What is done, one folder a line, and how many are not."""
    lines: list[str] = []
    for video in result.videos:
        extra = [f"{video.num_frames} frames"]
        if video.black:
            extra.append(f"{video.black} black")
        if video.undecodable:
            extra.append(f"{video.undecodable} undecodable in the source")
        if video.skipped:
            extra.append("done before")
        lines.append(f"{video.folder}: {', '.join(extra)}")
    left = f"; {len(result.skipped)} files or folders skipped" if result.skipped else ""
    done = f"{len(result.videos)} of {result.total} videos done in {result.seconds:.1f} s{left}"
    return "\n".join([*lines, done])
