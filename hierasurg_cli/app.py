"""The program `hierasurg`: its commands, and the boundary at which errors become a line and an exit code.

Exit codes: 0 done; 2 usage and config, 3 data, 4 weights, 5 resources (all from `hierasurg_core.errors`);
130 interrupted, by Ctrl-C or SIGTERM. A bug is no error of the user and keeps its traceback. With `--json` an
error is an object on stdout as well: {"error": {"message": ..., "exit_code": ...}}.
"""

import gc
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer
from typer.main import get_command

import hierasurg_core
from hierasurg_cli import console, launch
from hierasurg_cli.commands import build_dataset, evaluate, extract, generate, label, train
from hierasurg_cli.options import Quiet, Verbose
from hierasurg_core.errors import HieraSurgError

INTERRUPTED = 130

app = typer.Typer(
    name="hierasurg",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(epilog=extract.EPILOG)(extract.extract)
app.command(epilog=label.EPILOG)(label.label)
app.command(epilog=build_dataset.EPILOG)(build_dataset.build_dataset)
app.command(epilog=train.EPILOG_S2M)(train.train_s2m)
app.command(epilog=train.EPILOG_M2V)(train.train_m2v)
app.command(epilog=generate.EPILOG)(generate.generate)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hierasurg {hierasurg_core.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def hierasurg(
    ctx: typer.Context,
    quiet: Quiet = False,
    verbose: Verbose = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Surgical video from a phase, an action triplet and a first frame, by way of panoptic maps."""
    ctx.obj = console.volume(quiet, verbose)
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; only a bug raises."""
    as_json = "--json" in arguments
    try:
        # Calling the app itself would put typer's own excepthook in place of the one for ranks.
        code = get_command(app).main(list(arguments), prog_name="hierasurg", standalone_mode=False)
    except HieraSurgError as error:
        return _failed(str(error), error.exit_code, as_json)
    except typer.TyperException as error:
        return _failed(error.format_message(), error.exit_code, as_json)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        return _failed("interrupted", INTERRUPTED, as_json)
    if not isinstance(code, int):
        return 0
    if code:  # the command has told what failed, and the result of the rest
        launch.tell_launcher("", code)
    return code


def _failed(message: str, code: int, as_json: bool) -> int:
    """Shows an error, or leaves that to the launcher, which shows the first of all ranks."""
    if not launch.tell_launcher(message, code):
        console.show_error(message)
        if as_json:
            console.show_error_as_json(message, code)
    return code


def _treat_sigterm_as_ctrl_c() -> None:
    """Makes SIGTERM raise KeyboardInterrupt, so that it ends every command in the same clean way.

    Not in ranks: one that waits for the others inside a library would never notice, and their launcher ends
    them by SIGTERM.
    """
    if not launch.is_rank() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """The console script's entry."""
    gc.set_threshold(50_000, 20, 100)  # importing torch makes a million objects that stay: look less often
    launch.end_with_launcher()
    launch.catch_bugs()
    _treat_sigterm_as_ctrl_c()
    sink = console.guard_stdout()
    sys.exit(console.exit_code(run(sys.argv[1:]), sink))
