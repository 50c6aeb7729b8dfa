"""The settings of how many processes share a command's work; the same for every command that can share."""

from dataclasses import dataclass, field

LAST = "last"
"""Mark of fields that come last where a config is written, after the command's own settings."""

_LAST = {LAST: True}


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Processes and machines that work together. `hierasurg_cli.launch` checks and starts them.

    Attributes:
        gpus: Processes on this machine, each on a GPU of its own; None: one.
        nodes: Machines, each with as many processes.
        node_rank: This machine's number, from 0.
        rendezvous: "HOST:PORT" of machine 0, where all machines meet; None: there is one machine.
    """

    gpus: int | None = field(default=None, metadata=_LAST)
    nodes: int = field(default=1, metadata=_LAST)
    node_rank: int = field(default=0, metadata=_LAST)
    rendezvous: str | None = field(default=None, metadata=_LAST)
