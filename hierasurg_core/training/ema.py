"""The exponential moving average of a model's trained parameters, in float32.

What is frozen has no average but itself. Buffers (batch norms' running statistics) are averages already; the
averaged model uses the live ones. Of a model in pieces (`sharding`) each rank averages its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hierasurg_core.errors import WeightsError
from hierasurg_core.training.sharding import in_pieces, local, put


class Ema:
    """Shadow parameters that follow a model's."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Starts at the model's present parameters, those that require gradients."""
        trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        self._names = [name for name, _ in trained]
        self._live = [parameter for _, parameter in trained]
        self._shadow = [parameter.data.float().clone() for parameter in self._live]
        self._decay = decay

    def decay_at(self, step: int) -> float:
        """Returns the decay of update `step` = 1, 2, ...: min(decay, step / (step + 9)).

        It grows from 0.1, so that the first parameters, which are mostly noise, are soon forgotten.
        """
        return min(self._decay, step / (step + 9))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves each shadow to decay * shadow + (1 - decay) * parameter, after step 1, 2, ..."""
        live = [local(parameter.data).float() for parameter in self._live]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [local(shadow) for shadow in self._shadow], live, 1 - self.decay_at(step)
        )

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Lets the model have the averaged parameters within the block.

        No number is copied but where the model is in pieces: FSDP2 knows each piece by its memory.
        """
        if any(in_pieces(parameter) for parameter in self._live):
            self._exchange()
            try:
                yield
            finally:
                self._exchange()
            return
        live = [parameter.data for parameter in self._live]
        try:
            for parameter, shadow in zip(self._live, self._shadow, strict=True):
                parameter.data = shadow
            yield
        finally:
            for parameter, tensor in zip(self._live, live, strict=True):
                parameter.data = tensor

    def averages(self) -> dict[str, Tensor]:
        """Returns the averaged parameters by name, in pieces where the model is."""
        return dict(zip(self._names, self._shadow, strict=True))

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over averaged parameters by name; names that are no parameter (buffers) are passed over.

        Raises:
            WeightsError: A parameter is missing or has another shape.
        """
        for name, shadow in zip(self._names, self._shadow, strict=True):
            if name not in tensors or tensors[name].shape != shadow.shape:
                raise WeightsError(
                    f"the averaged weights of the checkpoint do not fit the model at {name}; "
                    "it belongs to another model"
                )
            put(tensors[name], shadow)

    @torch.no_grad()
    def _exchange(self) -> None:
        """Swaps the numbers of parameters and averages, one tensor at a time."""
        for parameter, shadow in zip(self._live, self._shadow, strict=True):
            live, average = local(parameter.data), local(shadow)
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)
