"""Progress of the phantom's own commands as lines with the time, since they run for minutes without a person.

Owns nothing else; the program `hierasurg` has bars of its own.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from hierasurg_core import runtime


class PrintedProgress:
    """A `Progress` that prints stages and notes on rank 0, with the seconds since it was made."""

    def __init__(self, to: TextIO | None = None) -> None:
        """Starts the clock; lines go to standard output where nothing else is said."""
        self._to = to or sys.stdout
        self._began = time.monotonic()

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """Prints a stage's beginning."""
        self.note(f"{stage}: {total} {unit}")

    def advance(self, n: int = 1) -> None:
        """Prints nothing: a line a step would bury the notes."""
        del n

    def note(self, message: str) -> None:
        """Prints a line."""
        if runtime.rank() == 0:
            print(f"[{time.monotonic() - self._began:6.0f} s] {message}", file=self._to, flush=True)
