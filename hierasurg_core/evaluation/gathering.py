"""From numbers on disk, unit by unit, to arrays over all clips of a role.

Owns the order and the bookkeeping of clips without numbers. Features go to a memory map, so that memory does
not grow with the number of clips; single numbers a clip stay in memory.

Legend: N clips with numbers.
"""

from __future__ import annotations

import tempfile
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
    """

    arrays: Mapping[str, NDArray[Any]]
    tasks: tuple[Task, ...]
    places: NDArray[np.intp]


def gather(work: Work, role: Role, measurer: Measurer, store: Store, names: Sequence[str]) -> Gathered | None:
    """Reads what was measured.

    Args:
        work: The side.
        role: Of it.
        measurer: Whose numbers.
        store: Where they are.
        names: Arrays that are wanted; those that the measurer does not give are left out.

    Returns:
        The arrays, large ones on disk; None where a unit is missing or no clip has numbers.
    """
    wanted = frozenset(names)
    tasks: list[Task] = []
    places: list[int] = []
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    units = list(work.units())
    position = 0
    for unit in units:
        stored = store.load(unit_key(unit, role, measurer), wanted)
        if stored is None:
            return None
        for place in np.flatnonzero(stored.kept_B):
            tasks.append(unit[place])
            places.append(position + int(place))
        for name, rows in stored.rows.items():
            shapes[name] = (rows.shape[1:], rows.dtype)
        position += len(unit)
    if not tasks:
        return None
    arrays = {
        name: _array(store.folder, (len(tasks), *shape), dtype) for name, (shape, dtype) in shapes.items()
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
    return Gathered(arrays, tuple(tasks), np.array(places, np.intp))


def _array(folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array in memory or, where it is large, in a file without a name, which goes with the process."""
    if int(np.prod(shape[1:])) < _LARGE:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def unreadable(work: Work, role: Role, measurer: Measurer, store: Store) -> dict[str, str]:
    """Returns the clips that a measurer gave no numbers for, and why; also where it gave none at all."""
    why: dict[str, str] = {}
    for unit in work.units():
        stored = store.load(unit_key(unit, role, measurer), frozenset())
        if stored is not None:
            why |= {unit[place].clip.name: reason for place, reason in stored.why.items()}
    return why
