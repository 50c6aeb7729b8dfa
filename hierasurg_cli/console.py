"""All that the program prints: results on stdout as text or JSON, everything else on stderr.

Owns the look of progress: bars where stderr is a terminal, a plain line now and then where it is a file. It
computes nothing; commands hand it frozen results.
"""

import contextlib
import enum
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hierasurg_core.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 30.0


class Volume(enum.IntEnum):
    """How much the program says besides results and errors."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class Result(Protocol):
    """What a command of the core returns."""

    def to_dict(self) -> Mapping[str, Any]:
        """Returns the result as plain values for JSON."""
        ...


Shown = TypeVar("Shown", bound=Result)


def volume(quiet: bool, verbose: bool, least: Volume | None = None) -> Volume:
    """Turns `-q` and `-v` into a volume; a command's own flags win over the program's (`least`)."""
    if quiet or verbose:
        return Volume.QUIET if quiet else Volume.VERBOSE
    return Volume.NORMAL if least is None else least


def hush_libraries(loudness: Volume) -> None:
    """Keeps warnings and logs of libraries off stderr unless `-v` asks for them; call it before they load."""
    if loudness == Volume.VERBOSE:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
        return
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


@contextlib.contextmanager
def working(loudness: Volume) -> Generator[Progress, None, None]:
    """Yields the `Progress` for a command's work, and keeps stdout free for its result meanwhile."""
    hush_libraries(loudness)
    with contextlib.redirect_stdout(sys.stderr):
        if loudness == Volume.QUIET or not speaks():
            yield SilentProgress()
        elif sys.stderr.isatty():
            with _bars() as bars:
                progress = _BarProgress(bars)
                yield progress
                progress.finish()
        else:
            lines = _LineProgress()
            yield lines
            lines.finish()


def speaks() -> bool:
    """Tells whether this process speaks for all that work together: it is their rank 0, or alone."""
    return os.environ.get("RANK", "0") == "0"


def show_result(result: Shown, as_json: bool, text: Callable[[Shown], str]) -> None:
    """Prints a result on stdout; of several ranks only the first does."""
    if speaks():
        print(json.dumps(result.to_dict(), indent=2, allow_nan=False) if as_json else text(result))


def show_error(message: str) -> None:
    """Prints an error as one line on stderr."""
    print(f"hierasurg: {' '.join(message.split())}", file=sys.stderr)


def show_note(message: str) -> None:
    """Prints one line worth knowing on stderr."""
    print(message, file=sys.stderr)


def show_trace(trace: str) -> None:
    """Prints the traceback of a bug, which came from another process, on stderr."""
    print(trace.rstrip(), file=sys.stderr)


class _BarProgress:
    """A bar for each stage on a terminal."""

    def __init__(self, bars: "RichProgress") -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """Completes the last bar and adds one below it."""
        self.finish()
        self._task = self._bars.add_task(stage, total=total, unit=unit)

    def advance(self, n: int = 1) -> None:
        """Moves the bar."""
        if self._task is not None:
            self._bars.advance(self._task, n)

    def note(self, message: str) -> None:
        """Prints a line above the bars."""
        self._bars.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """Completes the last bar, also where its total was not known."""
        if self._task is not None:
            done = self._bars.tasks[self._task].completed
            self._bars.update(self._task, total=done or 1, completed=done or 1)
            self._bars.stop_task(self._task)


def _bars() -> "RichProgress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _LineProgress:
    """A line when a stage ends, and one now and then while it lasts."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._total: int | None = None
        self._unit = ""
        self._done = 0
        self._started = self._last_line = 0.0

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """Reports the end of the last stage."""
        self.finish()
        self._stage, self._total, self._unit, self._done = stage, total, unit, 0
        self._started = self._last_line = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Reports where the stage is if the last line is long ago."""
        self._done += n
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES and self._done != self._total:
            self._last_line = now
            self.note(f"{self._stage}: {self._count()} {self._unit}{self._left(now)}")

    def note(self, message: str) -> None:
        """Prints the line."""
        print(message, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Reports the end of the last stage, if there is one."""
        if self._stage is not None:
            seconds = time.monotonic() - self._started
            self.note(f"{self._stage}: {self._count()} {self._unit} in {seconds:.1f} s")
            self._stage = None

    def _count(self) -> str:
        return f"{self._done}" if self._total is None else f"{self._done}/{self._total}"

    def _left(self, now: float) -> str:
        if self._total is None or not self._done:
            return ""
        seconds = (now - self._started) * (self._total - self._done) / self._done
        return f", about {seconds:.0f} s left"
