"""Processes of tests that kill them or let several share work.

They are forked from a server that has loaded torch, so that starting one takes no ten seconds. What runs in
one must lie in a module that a fresh process can import.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess

import torch

from hierasurg_core.progress import SilentProgress

Tell = Callable[[int], None]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["hierasurg_core.labeling.label", "hierasurg_core.models.encoder", "hierasurg_core.training.run"]
)
_SECONDS = 400


class Aloud(SilentProgress):
    """Tells by how much the work advances."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def advance(self, n: int = 1) -> None:
        self.tell(n)


def start(work: Callable[..., object], *arguments: object) -> tuple[BaseProcess, Iterator[int]]:
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


def start_ranks(
    count: int, work: Callable[..., object], *arguments: object
) -> list[tuple[BaseProcess, Iterator[int]]]:
    """Runs `work(tell, *arguments)` in so many processes of one process group, each with one thread."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    return [start(_as_rank, rank, count, port, work, arguments) for rank in range(count)]


def run_ranks(count: int, work: Callable[..., object], *arguments: object) -> None:
    """Runs `work(*arguments)` in the ranks of one process group, to its end."""
    ranks = [process for process, _ in start_ranks(count, _untold, work, *arguments)]
    for rank in ranks:
        rank.join(_SECONDS)
    ended = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert ended == [0] * count, "what they said is above"


def _untold(_: Tell, work: Callable[..., object], *arguments: object) -> None:
    work(*arguments)


def _as_rank(
    tell: Tell, rank: int, count: int, port: int, work: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in named.items()}, MASTER_ADDR="localhost")
    torch.set_num_threads(1)
    work(tell, *arguments)
