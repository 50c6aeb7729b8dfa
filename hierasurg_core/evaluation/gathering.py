"""From numbers on disk, unit by unit, to arrays over all clips of a role.

Owns the order and the bookkeeping of clips without numbers. Features go to a memory map, so that memory does
not grow with the number of clips; single numbers a clip stay in memory.

Legend: N clips with numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.evaluation.cache import Store
from hierasurg_core.evaluation.collect import Role, Task, Work, unit_key
from hierasurg_core.evaluation.measuring import Measurer

_LARGE = 64  # numbers of a clip from which on an array goes to disk


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a measurer found in a role.

    Attributes:
        arrays: (N, ...) by name.
        tasks: The clips with numbers, in order.
        places: Their places among all tasks of the side.
        why: Reasons for the others, by name of the clip.
    """

    arrays: Mapping[str, NDArray[Any]]
    tasks: tuple[Task, ...]
    places: NDArray[np.intp]
    why: Mapping[str, str]


def gather(
    work: Work, role: Role, measurer: Measurer, store: Store, scratch: Path, names: Sequence[str]
) -> Gathered | None:
    """Reads what was measured.

    Args:
        work: The side.
        role: Of it.
        measurer: Whose numbers.
        store: Where they are.
        scratch: Folder for memory maps.
        names: Arrays that are wanted; those that the measurer does not give are left out.

    Returns:
        The arrays; None where a unit is missing or no clip has numbers.
    """
    wanted = frozenset(names)
    tasks: list[Task] = []
    places: list[int] = []
    why: dict[str, str] = {}
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    units = list(work.units())
    position = 0
    for unit in units:
        stored = store.load(unit_key(unit, role, measurer), wanted)
        if stored is None:
            return None
        why |= {unit[place].clip.name: reason for place, reason in stored.why.items()}
        for place in np.flatnonzero(stored.kept_B):
            tasks.append(unit[place])
            places.append(position + int(place))
        for name, rows in stored.rows.items():
            shapes[name] = (rows.shape[1:], rows.dtype)
        position += len(unit)
    if not tasks:
        return None
    arrays = {
        name: _array(scratch / f"{measurer.role}-{role.name}-{name}.npy", (len(tasks), *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }
    filled = 0
    for unit in units:
        stored = store.load(unit_key(unit, role, measurer), wanted)
        if stored is None:
            return None
        count = int(stored.kept_B.sum())
        for name, rows in stored.rows.items():
            arrays[name][filled : filled + count] = rows[stored.kept_B]
        filled += count
    return Gathered(arrays, tuple(tasks), np.array(places, np.intp), why)


def _array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if int(np.prod(shape[1:])) < _LARGE:
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
