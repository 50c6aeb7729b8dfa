"""How phases, triplets and panoptic maps enter the transformers.

Owns: label tables, the condensers over frames, the map encoder's blocks (reference: the published
S2M and M2V, parameter names included).
Refuses: names of labels (ids arrive as integers) and position codes.

Letters: B batch, F frames (1 fps), E embedding width, C channels, H W map pixels, N tokens, D inner width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import nn

from hierasurg_core.errors import UsageError
from hierasurg_core.models.convolving import convolve

CONDENSE_KERNEL = 5


class LabelEmbedding(nn.Module):
    """A table of one vector per label; a negative index stands for a dropped label and gives zeros."""

    def __init__(self, num_labels: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_labels, width)

    def forward(self, index_BF: torch.Tensor) -> torch.Tensor:
        """Return (B, F, E) for integer rows (B, F) of the table."""
        vector_BFE = self.embedding_table(index_BF.clamp(min=0))
        return vector_BFE * (index_BF >= 0).unsqueeze(-1).to(vector_BFE.dtype)


def expect_ids(name: str, ids: Iterable[int], count: int) -> None:
    """Holds ids of a label to those that exist; -1 stands for none.

    Args:
        name: Of the argument, for the message ("phase").
        ids: Of one clip or of many, in any order.
        count: How many labels there are.

    Raises:
        UsageError: One is no whole number, or lies below -1 or above count - 1.
    """
    for value in ids:
        if isinstance(value, bool) or not isinstance(value, Integral) or not -1 <= value < count:
            raise UsageError(
                f"{name} must be a whole number from 0 to {count - 1}, or -1 for none, not {value!r}"
            )


def vector_embedding(vector_dim: int, width: int) -> nn.Sequential:
    """Return the projection that takes the place of a table where text vectors are the condition."""
    return nn.Sequential(nn.Linear(vector_dim, width), nn.ReLU())


class SilentLinear(nn.Linear):
    """A linear layer that begins with zeros, so that a model to which it is added stays what it was."""

    def reset_parameters(self) -> None:
        """Sets all of it to zero."""
        for parameter in self.parameters(recurse=False):
            nn.init.zeros_(parameter)


def condenser(width: int, condensed: int) -> nn.Sequential:
    """Return the convolution over frames whose mean is a clip's condition (see `condense`)."""
    return nn.Sequential(nn.Conv1d(width, condensed, CONDENSE_KERNEL, padding=CONDENSE_KERNEL // 2))


def condense(module: nn.Sequential, sequence_BFE: torch.Tensor) -> torch.Tensor:
    """Return the mean over frames of the convolved sequence, (B, condensed).

    The mean forgets when a label was said: of the order only what the first and last two frames lack in the
    convolution's padding is left (see `SilentLinear` and S2M's ``frame_labels``).
    """
    return module(sequence_BFE.transpose(1, 2)).mean(dim=2)


class MapResidualBlock(nn.Module):
    """3D residual block that halves height and width and keeps the frames: (B, C, F, H, W) in and out."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        stride = (1, 2, 2)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(out_channels)
        self.downsample = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm3d(out_channels)
        )

    def forward(self, x_BCFHW: torch.Tensor) -> torch.Tensor:
        """Return the block's output, (B, out_channels, F, ceil(H / 2), ceil(W / 2))."""
        inner = F.relu(self.bn1(convolve(self.conv1, x_BCFHW)))
        return F.relu(self.bn2(convolve(self.conv2, inner)) + self.downsample(x_BCFHW))


def map_stem(width: int) -> nn.Sequential:
    """Return the 2D convolution that sees each map alone and halves its sides."""
    return nn.Sequential(nn.Conv2d(1, width, 2, stride=2))


def map_blocks(widths: Sequence[int], dim: int) -> nn.ModuleList:
    """Return the residual blocks that widen the stem's channels step by step to ``dim``."""
    outs = [*widths[1:], dim]
    return nn.ModuleList(MapResidualBlock(i, o) for i, o in zip(widths, outs, strict=True))


def map_grid(map_hw: tuple[int, int], *, downscale: int, num_blocks: int) -> tuple[int, int]:
    """Return the rows and columns of tokens a map of this size gives; (480, 720) gives (15, 23)."""
    rows, columns = (side // downscale // 2 for side in map_hw)
    for _ in range(num_blocks):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return rows, columns


def encode_maps(
    maps_BFHW: torch.Tensor, stem: nn.Sequential, blocks: nn.ModuleList, *, downscale: int
) -> torch.Tensor:
    """Return map tokens (B, F * rows * columns, D) of maps with values id / max id in [0, 1].

    Nearest downscale, 2D stem on each map, 3D blocks over the clip; tokens run frame by frame, row by row.
    """
    batch, frames, height, width = maps_BFHW.shape
    rows, columns = height // downscale * downscale, width // downscale * downscale
    small = maps_BFHW[..., :rows:downscale, :columns:downscale]
    stem_NCHW = stem(small.reshape(batch * frames, 1, *small.shape[-2:]))
    x_BCFHW = stem_NCHW.unflatten(0, (batch, frames)).transpose(1, 2)
    if x_BCFHW.is_cuda:  # the order in which a GPU multiplies; it stays so up to the tokens
        x_BCFHW = x_BCFHW.contiguous(memory_format=torch.channels_last_3d)
    for block in blocks:
        x_BCFHW = block(x_BCFHW)
    return x_BCFHW.flatten(2).transpose(1, 2)
