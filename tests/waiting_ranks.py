"""Ranks that wait for each other, for tests of what ends or outlasts the wait."""

import os
from pathlib import Path

import torch
from forked import Tell

from hierasurg_core.runtime import agree, process_group, rank, wait_for_all

NOTICED = 7


def one_ends_while_the_other_waits(tell: Tell) -> None:
    """Rank 1 vanishes without a word; rank 0 tells that its wait ended with an error."""
    with process_group("cpu"):
        wait_for_all()
        if rank() == 1:
            os._exit(3)
        try:
            wait_for_all()
        except RuntimeError:
            tell(NOTICED)
        os._exit(0)  # the group of a dead rank cannot be left in order


def answers(folder: Path) -> None:
    """Each rank writes what all agree on, though each has an answer of its own."""
    with process_group("cpu"):
        agreed = [agree("kernel", f"own-{rank()}"), agree("kernel", "later"), agree("other", "x")]
        (folder / str(rank())).write_text(" ".join(agreed))
        wait_for_all()
        assert torch.distributed.is_initialized()
