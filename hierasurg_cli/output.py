"""The output folder of a running command: locked against a second process, and cleared of leftovers."""

import contextlib
from collections.abc import Generator
from pathlib import Path

import typer

from hierasurg_cli import console, launch
from hierasurg_core.locking import locked_folder


@contextlib.contextmanager
def output_folder(
    ctx: typer.Context, folder: Path | None, loudness: console.Volume, node_rank: int = 0
) -> Generator[None, None, None]:
    """Locks a command's output folder for the time of the block, once for all that share the work.

    Args:
        ctx: Of the command.
        folder: Where it writes; None where that is not there and the command is about to say so.
        loudness: Whether a lock that is taken over is told.
        node_rank: This machine's number.

    Raises:
        ResourceError: Another process works there, or the folder cannot be written.
    """
    if folder is None or not launch.holds_the_lock(node_rank):
        yield
        return
    note = console.show_note if loudness > console.Volume.QUIET else _say_nothing
    with locked_folder(folder, f"hierasurg {ctx.info_name}", note):
        yield


def _say_nothing(message: str) -> None:
    pass
