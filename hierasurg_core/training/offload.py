"""AdamW whose moments wait on the host, so that a card of 24 GB can train all of a 2b model.

Owns the transfers: a few parameters at a time, on two streams, so that one part's numbers travel while
another's are used. The arithmetic is torch's own fused AdamW on the parameters' device, so a run with it
goes the same way as one without. Refuses: moving parameters or gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hierasurg_core.training.adamw import adamw_step

_CHUNK = 1 << 26  # parameters that travel together: 512 MiB of moments
_MOMENTS = ("exp_avg", "exp_avg_sq")


class OffloadedAdamW(torch.optim.AdamW):
    """AdamW with `exp_avg` and `exp_avg_sq` in pinned memory of the host; saved and loaded alike."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Takes one step for all parameters that have a gradient.

        Raises:
            ValueError: A closure; the trainer computes gradients itself.
        """
        if closure is not None:
            raise ValueError("OffloadedAdamW takes no closure")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                self._begin(parameter)
            if not parameters:
                continue
            with _two_streams(parameters[0].device) as streams:
                for index, chunk in enumerate(_chunks(parameters)):
                    with streams[index % 2]:
                        self._step_chunk(chunk, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads states and brings the moments back to the host."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in _MOMENTS:
                state[name] = _on_host(state[name], parameter.device)

    def _begin(self, parameter: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in _MOMENTS:
                state[name] = _on_host(torch.zeros(parameter.shape, dtype=parameter.dtype), parameter.device)

    def _step_chunk(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        device = parameters[0].device
        here = {name: [state[name].to(device, non_blocking=True) for state in states] for name in _MOMENTS}
        steps = [state["step"] for state in states]
        adamw_step(parameters, here["exp_avg"], here["exp_avg_sq"], steps, group)
        for name, moments in here.items():
            for state, moment in zip(states, moments, strict=True):
                if state[name] is not moment:
                    state[name].copy_(moment, non_blocking=True)


def _chunks(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    chunk: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if chunk and size + parameter.numel() > _CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(parameter)
        size += parameter.numel()
    yield chunk


@contextlib.contextmanager
def _two_streams(device: torch.device) -> Iterator[list[contextlib.AbstractContextManager[Any]]]:
    """Two streams that start after what is queued so far, and that what is queued later waits for."""
    if device.type != "cuda":
        yield [contextlib.nullcontext(), contextlib.nullcontext()]
        return
    now = torch.cuda.current_stream(device)
    streams = [torch.cuda.Stream(device) for _ in range(2)]
    for stream in streams:
        stream.wait_stream(now)
    yield [torch.cuda.stream(stream) for stream in streams]
    for stream in streams:
        now.wait_stream(stream)


def _on_host(moment: Tensor, device: torch.device) -> Tensor:
    host = moment.to("cpu")
    return host.pin_memory() if device.type == "cuda" and not host.is_pinned() else host
