"""`label` with the true segmenter in processes of its own, for tests that kill it or let several share.

The processes are forked from a server that has loaded torch, so that starting one takes no ten seconds.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from multiprocessing.process import BaseProcess

from true_segmenter import TrueModels

from hierasurg_core.config import LabelConfig
from hierasurg_core.labeling.label import label
from hierasurg_core.progress import SilentProgress
from hierasurg_core.runtime import process_group

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["hierasurg_core.labeling.label"])


class _Aloud(SilentProgress):
    """Tells how many frames each block of frames has that it sees."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.tell = tell

    def advance(self, n: int = 1) -> None:
        self.tell(n)


def start_labelling(config: LabelConfig, **environment: str) -> tuple[BaseProcess, Iterator[int]]:
    """Starts a process; returns it with the numbers that it tells until it ends."""
    heard, told = _CONTEXT.Pipe(duplex=False)
    with closing(told):
        process = _CONTEXT.Process(target=_label, args=(config, environment, told.send))
        process.start()

    def numbers() -> Iterator[int]:
        with closing(heard):
            while True:
                try:
                    yield heard.recv()
                except EOFError:
                    return

    return process, numbers()


def _label(config: LabelConfig, environment: Mapping[str, str], tell: Callable[[int], None]) -> None:
    os.environ.update(environment)
    with process_group("cpu") as device:
        label(config, device, _Aloud(tell), TrueModels())
