"""`hierasurg evaluate`: samples and real clips become numbers with their protocol and baselines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hierasurg_cli import console
from hierasurg_cli.importing import importing
from hierasurg_cli.launch import check_numbers, launch
from hierasurg_cli.options import AsJson, ConfigFile, Gpus, Quiet, Sets, Verbose, resolve
from hierasurg_cli.output import output_folder
from hierasurg_core.config import EvaluateConfig

if TYPE_CHECKING:
    from rich.table import Table

    from hierasurg_core.evaluation.evaluate import EvaluateResult
    from hierasurg_core.evaluation.report.compare import Comparison

EPILOG = "Example: hierasurg evaluate samples --real dataset; hierasurg evaluate --compare report other"


def evaluate(
    ctx: typer.Context,
    generated: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SAMPLES]",
            help="Samples, or any folder of mp4 files or frame folders (default: samples).",
            show_default=False,
        ),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Data set, mp4 files or frame folders (default: dataset)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where the report goes (default: report)."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Measured clips, shared by all reports (default: ~/.cache/hierasurg/evaluate).",
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Put two reports side by side instead.", show_default=False),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="hierasurg, styleganv, cd-fvd, or a file (default: hierasurg).",
            autocompletion=lambda: ["hierasurg", "styleganv", "cd-fvd"],
        ),
    ] = None,
    num: Annotated[
        str | None, typer.Option("--num", "-n", metavar="N", help="At most so many clips a side.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a data set: train or val (default: val if it has clips).",
            autocompletion=lambda: ["train", "val"],
        ),
    ] = None,
    fps: Annotated[
        str | None, typer.Option(metavar="N", help="Frames a second to compare at (default: the clips').")
    ] = None,
    clip_frames: Annotated[
        str | None, typer.Option(metavar="N", help="Frames of a clip (default: the protocol's).")
    ] = None,
    stride: Annotated[
        str | None, typer.Option(metavar="N", help="Take every Nth frame (default: the protocol's).")
    ] = None,
    first_frame: Annotated[
        bool | None,
        typer.Option("--first-frame/--no-first-frame", help="Whether the given first frame counts."),
    ] = None,
    i3d: Annotated[Path | None, typer.Option(metavar="FILE", help="TorchScript of I3D, for FVD.")] = None,
    videomae: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="VideoMAE of transformers, for FVD with it.")
    ] = None,
    inception: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of Inception-v3, for FID, KID and IS.")
    ] = None,
    lpips: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TorchScript of VGG16, for LPIPS.")
    ] = None,
    weights_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where weights lie under their published names.")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Of phase and triplet: mini, none, TorchScript, or a folder (default: mini).",
            autocompletion=lambda: ["mini", "none"],
        ),
    ] = None,
    detector: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Detector: TorchScript or ultralytics.")
    ] = None,
    sam: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="SAM 2 for map adherence: tiny to large, mini, none (default: auto).",
            autocompletion=lambda: ["auto", "mini", "none", "tiny", "small", "base-plus", "large"],
        ),
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Of the VAE baseline: folder, mini, none (default: the samples').",
            autocompletion=lambda: ["mini", "none"],
        ),
    ] = None,
    vae_clips: Annotated[
        str | None,
        typer.Option(metavar="N", help="At most so many real clips through the VAE (default: 256)."),
    ] = None,
    replicates: Annotated[
        str | None, typer.Option(metavar="N", help="Of bootstrap intervals, 0 for none (default: 1000).")
    ] = None,
    seed: Annotated[
        str | None, typer.Option(metavar="N", help="Seed of subsets and intervals (default: 0).")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N", help="Clips at once through a network (default: 4).")
    ] = None,
    gpus: Gpus = None,
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
            help="Of VAE and SAM 2: auto, bf16, fp16 or fp32 (default: auto).",
            autocompletion=lambda: ["auto", "bf16", "fp16", "fp32"],
        ),
    ] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure samples against real clips, with protocol and baselines."""
    wanted = resolve(EvaluateConfig, ctx, config, set_)
    loudness = console.volume(quiet, verbose, least=ctx.obj)
    if compare is not None:
        with output_folder(ctx, wanted.out, loudness):
            _compare(compare, wanted.out, json)
        return
    check_numbers(wanted)
    from hierasurg_core.evaluation.checking import expect_evaluating_possible  # loads no torch

    expect_evaluating_possible(wanted)
    with output_folder(ctx, wanted.out, loudness, wanted.node_rank):
        if launch(wanted, device=wanted.device):
            return
        with console.working(loudness) as progress:
            with importing(progress):
                from hierasurg_core.evaluation.evaluate import evaluate as measure
                from hierasurg_core.runtime import process_group

            with process_group(wanted.device) as device_:
                result = measure(wanted, progress, device_)
    console.show_result(result, json, _as_text)


def _compare(reports: tuple[Path, Path], out: Path, json: bool) -> None:
    """Reads two reports, refuses what must not be compared, shows them and writes a page."""
    from hierasurg_core.artifacts import ensure_writable_folder
    from hierasurg_core.evaluation.report.compare import compare as side_by_side
    from hierasurg_core.evaluation.report.compare import write_comparison_html
    from hierasurg_core.evaluation.report.schema import read_report

    a, b = (read_report(path) for path in reports)
    names = (str(reports[0]), str(reports[1]))
    comparison = side_by_side(a, b, names)
    page = out / "comparison.html"
    ensure_writable_folder(out)
    roots = tuple(path if path.is_dir() else path.parent for path in reports)
    write_comparison_html(comparison, page, (roots[0], roots[1]))

    def as_text(result: "Comparison") -> str:
        from hierasurg_cli.report_table import comparison_table

        return f"{_drawn(comparison_table(result))}\n{page}"

    console.show_result(comparison, json, as_text)


def _as_text(result: "EvaluateResult") -> str:
    """The table, what was left out, and where the report is."""
    from hierasurg_cli.report_table import table

    report = result.report
    assert report is not None  # only the process that has it prints
    reasons: dict[str, list[str]] = {}
    for left in report.left_out:
        reasons.setdefault(left.why, []).append(left.metric)
    left_out = [f"left out: {', '.join(metrics)}: {why}" for why, metrics in reasons.items()]
    unreadable = sum(len(side.unreadable) for side in (report.generated, report.real))
    counted = f"{report.generated.clips} generated and {report.real.clips} real clips"
    counted += f", {unreadable} files not readable" if unreadable else ""
    lines = [_drawn(table(report)), *left_out, f"{counted} in {result.seconds:.1f} s", str(result.html)]
    return "\n".join(lines)


def _drawn(table: "Table") -> str:
    """A table as text, coloured where it goes to a terminal."""
    from rich.console import Console

    screen = Console()
    with screen.capture() as captured:
        screen.print(table)
    return captured.get().rstrip("\n")
