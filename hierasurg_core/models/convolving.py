"""Convolutions over frames on a CPU, where torch's choice of a kernel is up to nine times slower than oneDNN.

Owns that choice. Refuses: everything else; gradients are torch's own.

Letters: B batch, C channels, F frames, H W rows and columns.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


def convolve(conv: nn.Conv3d, values_BCFHW: Tensor) -> Tensor:
    """Returns what the layer returns, the fastest way."""
    if type(conv) is nn.Conv3d and is_for_onednn(conv, values_BCFHW):
        return by_onednn(conv, values_BCFHW)
    return conv(values_BCFHW)


def is_for_onednn(conv: nn.Conv3d, values_BCFHW: Tensor) -> bool:
    """Tells where a CPU convolves faster by oneDNN, which torch leaves out for what it takes to be small.

    It counts all but the last axis, so that a chunk of 8 frames at 128x192 falls short by one and takes six
    times as long.
    """
    on_cpu = values_BCFHW.device.type == "cpu" and values_BCFHW.dtype == torch.float32
    return on_cpu and conv.kernel_size[-1] > 1 and torch.backends.mkldnn.is_available()


def by_onednn(conv: nn.Conv3d, values_BCFHW: Tensor) -> Tensor:
    """Returns what the layer returns, by oneDNN; its padding is zeros."""
    padding = cast(tuple[int, int, int], conv.padding)
    return torch.mkldnn_convolution(
        values_BCFHW, conv.weight, conv.bias, padding, conv.stride, conv.dilation, conv.groups
    )
