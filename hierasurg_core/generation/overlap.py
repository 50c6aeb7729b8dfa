"""The end of one clip beside the beginning of the next.

While a GPU denoises, the host has nothing to do and the clip before is still to be decoded, fetched and
written. Here that end is handed to one thread, one clip at a time and in order, so files are the same and
come in the same order as without. Refuses: deciding whether memory allows it (`memory`, `acceleration`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Overlap:
    """Finishes clips at once, or beside what follows from `begin` on.

    Example:
        >>> with Overlap() as overlap:
        ...     overlap.begin()
        ...     for clip in clips:
        ...         frames = start(clip)
        ...         overlap.hand(lambda frames=frames: write(frames()))
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._handed: Future[None] | None = None

    @property
    def active(self) -> bool:
        """Whether what is handed over runs beside what follows."""
        return self._thread is not None

    def begin(self) -> None:
        """Has what is handed over from now on done by a thread."""
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="finish-clip")

    def hand(self, work: Callable[[], None]) -> None:
        """Has a clip finished; what was handed over before is done when this returns.

        Args:
            work: Finishes it; must not touch what the next clip's beginning changes.

        Raises:
            HieraSurgError: As the work before raised (or this work, without a thread).
        """
        if self._thread is None:
            work()
            return
        self.wait()
        self._handed = self._thread.submit(work)

    def wait(self) -> None:
        """Returns when all that was handed over is done.

        Raises:
            HieraSurgError: As that work raised.
        """
        handed, self._handed = self._handed, None
        if handed is not None:
            handed.result()

    def __enter__(self) -> Overlap:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets the last clip end, so that none is left half done; an error of the block comes first."""
        try:
            if kind is None:
                self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown(wait=True)
