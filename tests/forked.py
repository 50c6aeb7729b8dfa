"""Processes of tests that kill them or let several share work.

They are forked from a server that has loaded torch, so that starting one takes no ten seconds. What runs in
one must lie in a module that a fresh process can import.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess

from hierasurg_core.progress import SilentProgress

Tell = Callable[[int], None]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["hierasurg_core.labeling.label", "hierasurg_core.models.encoder"])


class Aloud(SilentProgress):
    """Tells by how much the work advances."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def advance(self, n: int = 1) -> None:
        self.tell(n)


def start(work: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Iterator[int]]:
    """Runs `work(tell, *arguments)` in a process; returns it with the numbers that it tells until it ends."""
    heard, told = _CONTEXT.Pipe(duplex=False)
    with closing(told):
        process = _CONTEXT.Process(target=work, args=(told.send, *arguments))
        process.start()

    def numbers() -> Iterator[int]:
        with closing(heard):
            while True:
                try:
                    yield heard.recv()
                except EOFError:
                    return

    return process, numbers()
