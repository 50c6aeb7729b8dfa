"""The six instruments, drawn as signed distances in their own frame, each with its own tip and colours.

Owns shape and look; where an instrument is and how wide it opens come from `motion`. Legend: N instruments
(clips times frames), Y X pixels; ``u`` runs from the tip back along the shaft, ``v`` across it, both in world
units.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

# A row for each instrument id: grasper, bipolar, hook, scissors, clipper, irrigator.
_SHAFT_RADIUS = (0.062, 0.054, 0.046, 0.052, 0.088, 0.072)
_SHAFT_RGB = (
    (0.62, 0.64, 0.68),
    (0.16, 0.26, 0.52),
    (0.13, 0.13, 0.15),
    (0.58, 0.60, 0.64),
    (0.44, 0.47, 0.50),
    (0.80, 0.84, 0.84),
)
_SLEEVE_LENGTH = (0.05, 0.10, 0.08, 0.09, 0.10, 0.0)
_SLEEVE_RGB = (
    (0.40, 0.42, 0.46),
    (0.30, 0.52, 0.92),
    (0.52, 0.40, 0.16),
    (0.92, 0.46, 0.08),
    (0.56, 0.24, 0.66),
    (0.80, 0.84, 0.84),
)
_JAW_LENGTH = (0.22, 0.19, 0.17, 0.20, 0.16, 0.05)
_JAW_RADIUS = (0.027, 0.018, 0.017, 0.016, 0.034, 0.050)
_JAW_TAPER = (0.35, 0.55, 0.0, 0.85, 0.10, 0.0)
_JAW_RGB = (
    (0.78, 0.80, 0.83),
    (0.72, 0.80, 0.93),
    (0.86, 0.68, 0.26),
    (0.90, 0.92, 0.95),
    (0.50, 0.78, 0.60),
    (0.72, 0.76, 0.76),
)
_OPENING_FACTOR = (1.0, 0.75, 0.0, 0.85, 0.70, 0.0)
_HOOK, _IRRIGATOR = 2, 5
_SIZE = 1.3


@dataclasses.dataclass(frozen=True)
class Shape:
    """N instruments on a pixel grid, not yet coloured.

    Attributes:
        instrument_N: Instrument ids 0..5.
        distance_NYX: Signed distance of the whole instrument.
        shaft_NYX: Of its shaft alone, in the instrument's own unit, as all that follows.
        jaw_NYX: Of its jaws alone.
        u_NYX: From the tip back along the shaft.
        v_NYX: Across it.
    """

    instrument_N: Tensor
    distance_NYX: Tensor
    shaft_NYX: Tensor
    jaw_NYX: Tensor
    u_NYX: Tensor
    v_NYX: Tensor

    def colours(self, pixel: float) -> Tensor:
        """Returns colours (N, 3, Y, X), before any light of the scene; `pixel` is a pixel's world size."""
        u, v, jaw = self.u_NYX, self.v_NYX, self.jaw_NYX
        side = v.abs()
        radius, jaw_length = self._table(_SHAFT_RADIUS), self._table(_JAW_LENGTH)
        # A cylinder under a light next to the camera: bright along its middle, with a line of gloss.
        across = (side / radius).clamp(0, 1)
        gloss = torch.exp(-(((v / radius + 0.35) / 0.14) ** 2))
        roundness = 0.45 + 0.60 * (1 - across * across) + 0.35 * gloss
        sleeve = (u < jaw_length + self._table(_SLEEVE_LENGTH)).unsqueeze(1)
        body = torch.where(sleeve, self._colour(_SLEEVE_RGB), self._colour(_SHAFT_RGB))
        body = body * roundness.unsqueeze(1)
        rib = 1 - 0.25 * (torch.sin(u * (2 * torch.pi / 0.035)) > 0.4)
        jaw_light = 0.70 + 0.45 * (-jaw / self._table(_JAW_RADIUS)).clamp(0, 1)
        jaw_rgb = self._colour(_JAW_RGB) * (jaw_light * rib).unsqueeze(1)
        holes = (torch.sin(u * (2 * torch.pi / 0.085)) > 0.5) & (side < 0.45 * radius) & (u < 0.36)
        bore = (holes | (u < 0.012)) & (self.instrument_N == _IRRIGATOR).view(-1, 1, 1)
        rgb = torch.where((jaw < self.shaft_NYX).unsqueeze(1), jaw_rgb, body)
        rgb = torch.where(bore.unsqueeze(1), 0.22 * rgb, rgb)
        # A dark outline keeps thin jaws readable on bright tissue.
        rim = (1 + self.distance_NYX / (1.5 * pixel)).clamp(0, 1)
        return rgb * (1 - 0.45 * rim).unsqueeze(1)

    def first_frames(self, frames: int, count: int) -> Shape:
        """Those of the first `count` frames of each clip; N counts clips times `frames`."""
        if count == frames:
            return self
        row_N = torch.arange(len(self.instrument_N), device=self.u_NYX.device)
        chosen = row_N.view(-1, frames)[:, :count].flatten()
        return Shape(**{f.name: getattr(self, f.name)[chosen] for f in dataclasses.fields(self)})

    def _table(self, rows: tuple[float, ...]) -> Tensor:
        return _of_each(rows, self.instrument_N, self.u_NYX)

    def _colour(self, rows: tuple[tuple[float, float, float], ...]) -> Tensor:
        return self.u_NYX.new_tensor(rows)[self.instrument_N].view(-1, 3, 1, 1)


def _of_each(rows: tuple[float, ...], instrument_N: Tensor, like: Tensor) -> Tensor:
    """A number of each of N instruments, (N, 1, 1)."""
    return like.new_tensor(rows)[instrument_N].view(-1, 1, 1)


def shape_instruments(instrument_N: Tensor, opening_N: Tensor, offset_NYX2: Tensor, axis_N2: Tensor) -> Shape:
    """Places N instruments on a pixel grid.

    Args:
        instrument_N: Instrument ids 0..5.
        opening_N: Half angle of the jaws in radians.
        offset_NYX2: World xy of each pixel minus that of the tip.
        axis_N2: Unit vector from the tip to the trocar.
    """

    def table(rows: tuple[float, ...]) -> Tensor:
        return _of_each(rows, instrument_N, offset_NYX2)

    dx, dy = (offset_NYX2 / _SIZE).unbind(-1)
    ax, ay = axis_N2[:, 0].view(-1, 1, 1), axis_N2[:, 1].view(-1, 1, 1)
    u = dx * ax + dy * ay
    v = dy * ax - dx * ay
    jaw_length = table(_JAW_LENGTH)
    side = v.abs()

    shaft = torch.maximum(side - table(_SHAFT_RADIUS), jaw_length - u)
    # Both jaws at once: the instrument is symmetric about its axis, so one jaw on |v| is enough.
    half = (opening_N.view(-1, 1, 1) * table(_OPENING_FACTOR)).clamp(0, 1.2)
    cos, sin = torch.cos(half), torch.sin(half)
    back = jaw_length - u
    along = back * cos + side * sin
    t = (along / jaw_length).clamp(0, 1)
    away_along = along - t * jaw_length
    away_across = side * cos - back * sin
    jaw = torch.sqrt(away_along * away_along + away_across * away_across) - table(_JAW_RADIUS) * (
        1 - table(_JAW_TAPER) * t
    )
    # The hook's foot stands across the tip, to one side.
    foot_v = v - v.clamp(-0.085, 0.0)
    foot = torch.sqrt(u * u + foot_v * foot_v) - 0.019
    jaw = torch.where((instrument_N == _HOOK).view(-1, 1, 1), torch.minimum(jaw, foot), jaw)
    return Shape(instrument_N, torch.minimum(shaft, jaw) * _SIZE, shaft, jaw, u, v)
