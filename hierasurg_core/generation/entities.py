"""The entities of a map in words: what `--edit` can name.

Owns how an entity is told to a user: its id, its name where one is known, else how much of the frame it
covers and where it lies.

Legend: F frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hierasurg_core.maps import PanopticClip

_ROWS, _COLUMNS = ("top", "centre", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class Entity:
    """One entity of a clip's maps.

    Attributes:
        id: 0 to K-1.
        name: What it is called; None where that is not known.
        share: Part of the first frame that it covers, 0 to 1.
        where: "centre left" and such, by its centre in the first frame; None where it is not seen there.
    """

    id: int
    name: str | None
    share: float
    where: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"id": self.id, "name": self.name, "share": round(self.share, 4), "where": self.where}

    @property
    def size(self) -> str:
        """Share and place: "4 % of the frame, centre left"."""
        if self.where is None:
            return "not in the first frame"
        percent = "under 1" if self.share < 0.01 else f"{self.share:.0%}".removesuffix("%")
        return f"{percent} % of the frame, {self.where}"

    def __str__(self) -> str:
        return f"{self.id} ({self.size})" if self.name is None else f"{self.id} {self.name}"


def entities_of(maps: PanopticClip, names: Mapping[int, str] | None = None) -> tuple[Entity, ...]:
    """Return a clip's entities by rising id.

    Args:
        maps: Of which the first is looked at.
        names: What entities are called, where that is known.
    """
    map_HW = maps.map_FHW[0]
    found: list[Entity] = []
    for id_ in range(maps.num_entities):
        rows, columns = np.nonzero(map_HW == id_)
        where = None
        if len(rows):
            row = _ROWS[int(3 * rows.mean() / map_HW.shape[0])]
            column = _COLUMNS[int(3 * columns.mean() / map_HW.shape[1])]
            where = row if row == column else f"{row} {column}"
        found.append(Entity(id_, (names or {}).get(id_), len(rows) / map_HW.size, where))
    return tuple(found)


def list_entities(maps: PanopticClip, names: Mapping[int, str] | None = None) -> str:
    """Return a clip's entities in one line: "0 gallbladder, 1 cystic_duct"; or what to say of none."""
    return ", ".join(map(str, entities_of(maps, names))) or "none"
