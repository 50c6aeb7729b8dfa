"""All that the program prints: results on stdout as text or JSON, everything else on stderr.

A stdout that takes no more never ends the work: see `Stdout`.

Owns the look of progress: bars where stderr is a terminal, a plain line now and then where it is a file. It
computes nothing; commands hand it frozen results.
"""

import contextlib
import enum
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hierasurg_core.errors import ResourceError
from hierasurg_core.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 30.0
_LONGEST_LINE = 2000  # characters of an error


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


class Stdout(io.RawIOBase):
    """A stdout that writes as long as somebody reads, and then keeps the fault for the end.

    What the program prints is the last that it does: by then the files it made are whole. So a closed pipe
    or a full disk must not end it in the middle, with a traceback of a library.

    Example:
        >>> sink = Stdout(1)
        >>> sys.stdout = sink.as_text("utf-8")
    """

    def __init__(self, descriptor: int) -> None:
        """Takes an open file descriptor, and leaves it open."""
        self._descriptor = descriptor
        self.fault: OSError | None = None

    def as_text(self, encoding: str) -> io.TextIOWrapper:
        """Returns a text stream, in which a letter that the encoding lacks becomes "?"."""
        buffered = io.BufferedWriter(self)
        return io.TextIOWrapper(buffered, encoding, errors="replace", line_buffering=self.isatty())

    def writable(self) -> bool:
        """Says yes."""
        return True

    def fileno(self) -> int:
        """Returns the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tells whether it is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        """Writes, or lets the bytes go where nothing can be written any more."""
        if self.fault is None:
            try:
                return os.write(self._descriptor, data)
            except OSError as error:
                self.fault = error
        return len(data)


def guard_stdout() -> Stdout | None:
    """Puts a `Stdout` in the place of this process's; None where it has none."""
    found = sys.stdout
    if not isinstance(found, io.TextIOWrapper):
        return None
    sink = Stdout(found.fileno())
    sys.stdout = sink.as_text(found.encoding)
    return sink


def exit_code(code: int, sink: Stdout | None) -> int:
    """Returns what the program ends with, after what is still to be printed.

    A reader that went away (`| head -1`) has read what it wanted, so this changes nothing. Any other fault
    of stdout is told on stderr and makes a success a failure of resources.
    """
    if sink is None:
        return code
    sys.stdout.flush()
    if sink.fault is None or isinstance(sink.fault, BrokenPipeError):
        return code
    show_error(
        f"cannot write to stdout: {sink.fault.strerror}; what was to be printed is lost, but files that "
        "were made are whole"
    )
    return code or ResourceError.exit_code


def show_result(result: Shown, as_json: bool, text: Callable[[Shown], str]) -> None:
    """Prints a result on stdout; of several ranks only the first does."""
    if speaks():
        print(json.dumps(result.to_dict(), indent=2, allow_nan=False) if as_json else text(result))


def show_error(message: str) -> None:
    """Prints an error as one line on stderr."""
    _say(f"hierasurg: {_one_line(message)}")


def show_error_as_json(message: str, code: int) -> None:
    """Prints an error as the one JSON object on stdout; of several ranks only the first does."""
    if speaks():
        print(json.dumps({"error": {"message": _one_line(message), "exit_code": code}}, indent=2))


def show_note(message: str) -> None:
    """Prints one line worth knowing on stderr."""
    print(message, file=sys.stderr)


def show_trace(trace: str) -> None:
    """Prints the traceback of a bug, which came from another process, on stderr."""
    _say(trace.rstrip())


def _say(text: str) -> None:
    """Prints on stderr; where that takes nothing, nobody can be told, and the work goes on."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison] - it is None where it is closed
            print(text, file=sys.stderr, flush=True)


def _one_line(message: str) -> str:
    """Without line breaks and what steers a terminal, and cut in the middle where it is very long."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    if len(line) <= _LONGEST_LINE:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} [...] {line[-half:]}"


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
        _say(message)

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
