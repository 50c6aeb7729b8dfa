"""Where the parts of a pipeline lie while they work, and what leaves the device in between.

Owns the moves: a transformer that waits on the host comes for its stage and goes again; one that is brought
block by block is left to diffusers. The VAE stays, being a tenth of a transformer. Refuses: choosing
(`memory`), and anything that changes a result but the VAE's tiles.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hierasurg_core.runtime import SideStream

LARGEST_UNTILED_HW = 256 * 384  # pixels up to which a whole frame goes through the VAE at once on a CPU


@dataclass(frozen=True)
class Placement:
    """How the parts of a pipeline share a device.

    Attributes:
        device: Where they work.
        waiting: Transformers that lie on the host between their stages, by the stage's name.
        tiled: Whether the VAE decodes in tiles; None: on a CPU those sizes that exceed 256x384 pixels.
        compiled: Whether the VAE's large tensors go through torch.compile.
        side: Where videos are decoded beside the next clip's beginning; None: in the one queue there is.
    """

    device: torch.device
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    tiled: bool | None = None
    compiled: bool = False
    side: SideStream | None = None

    @contextlib.contextmanager
    def at_work(self, stage: str) -> Iterator[None]:
        """Has a stage's transformer on the device for the time of the block."""
        waiting = self.waiting.get(stage)
        if waiting is None:
            yield
            return
        waiting.come(self.device)
        try:
            yield
        finally:
            waiting.go()

    def aside(self, *inputs: Tensor) -> contextlib.AbstractContextManager[None]:
        """Has what the block does run beside what follows it, where that is wanted (`SideStream.after`)."""
        return contextlib.nullcontext() if self.side is None else self.side.after(*inputs)

    def tiles(self, size_hw: tuple[int, int]) -> bool:
        """Tells whether frames of this size are decoded in tiles."""
        if self.tiled is not None:
            return self.tiled
        return self.device.type != "cuda" and size_hw[0] * size_hw[1] > LARGEST_UNTILED_HW


class Waiting:
    """A module whose parameters wait on the host; nothing but them is ever copied, and never back."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        """Moves the module to the host, into pinned memory where a GPU will fetch it.

        Args:
            module: Its parameters must not change while it is at work.
            device: Where it works.
        """
        pinned = device.type == "cuda"
        self._on_host: list[tuple[Tensor, Tensor]] = []
        for tensor in [*module.parameters(), *module.buffers()]:
            host = tensor.detach().to("cpu")
            host = host.pin_memory() if pinned and not host.is_pinned() else host
            self._on_host.append((tensor, host))
        self.go()

    @torch.inference_mode(False)  # a parameter must not become an inference tensor
    def come(self, device: torch.device) -> None:
        """Brings the module to the device."""
        for tensor, host in self._on_host:
            tensor.data = host.to(device, non_blocking=True)

    def go(self) -> None:
        """Gives the device's memory back."""
        for tensor, host in self._on_host:
            tensor.data = host
