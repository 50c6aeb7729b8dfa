"""``python -m hierasurg_core.phantom OUT``: phantom operations, or with ``--sheet`` the contact sheet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hierasurg_core import pictures
from hierasurg_core.errors import HieraSurgError, UsageError
from hierasurg_core.phantom.operation import write_operations
from hierasurg_core.phantom.sheet import phantom_sheet
from hierasurg_core.runtime import resolve_device


class _Lines:
    """Progress as a line of text on stderr for each operation's tenth."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self.total, self.done, self.unit, self.stage = total or 1, 0, unit, stage

    def advance(self, n: int = 1) -> None:
        before, self.done = self.done * 10 // self.total, self.done + n
        if self.done * 10 // self.total != before:
            self.note(f"{self.stage}: {self.done} of {self.total} {self.unit}")

    def note(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) >= 64 and int(width) >= 64):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: give HEIGHTxWIDTH of at least 64x64, as 480x854"
        )
    return int(height), int(width)


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hierasurg_core.phantom", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write to (with --sheet: the PNG)")
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--size", type=_size, default=(480, 854), metavar="HEIGHTxWIDTH")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sheet", action="store_true", help="write the contact sheet of everything there is")
    options = parser.parse_args()
    try:
        if options.videos < 1 or options.seconds < 1 or options.seed < 0:
            raise UsageError("--videos and --seconds must be at least 1, --seed at least 0")
        device = resolve_device(options.device)
        if options.sheet:
            pictures.write_png(options.out, phantom_sheet(options.seed))
            return 0
        write_operations(
            options.out,
            videos=options.videos,
            seconds=options.seconds,
            size_hw=options.size,
            seed=options.seed,
            progress=_Lines(),
            device=device,
        )
    except HieraSurgError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
