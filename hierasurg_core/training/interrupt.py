"""SIGTERM and Ctrl-C as a wish to stop at the next good moment."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """While open, the first SIGINT or SIGTERM is only noted; a second one acts as it did before.

    Signals reach the main thread alone; in any other thread this notes nothing.

    Example:
        >>> with StopRequest() as stop:
        ...     while not stop.requested:
        ...         step()
    """

    def __init__(self) -> None:
        """Notes nothing yet."""
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Starts to listen."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        """Puts the former handlers back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
