"""The reading of JSON that has to have a certain form, with errors that name file and place.

Owns the types of JSON's values; what they mean belongs to `schema`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from hierasurg_core.errors import DataError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Place:
    """A value inside a report, and where it stands; every reading method raises DataError."""

    value: object
    source: str
    path: str

    def refuse(self, wanted: str) -> DataError:
        """Returns the error that names the place, what it must be and what it is."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return DataError(f"{self.source}: {self.path or 'the report'} must be {wanted}, not {shown}")

    def mapping(self) -> Mapping[str, Any]:
        """Reads an object."""
        if not isinstance(self.value, dict):
            raise self.refuse("an object")
        return cast("dict[str, Any]", self.value)

    def get(self, key: str) -> Place:
        """Returns the place of a key that must be there."""
        path = f"{self.path}.{key}" if self.path else key
        inner = self.mapping()
        if key not in inner:
            raise DataError(f"{self.source}: {path} is missing; evaluate again")
        return Place(inner[key], self.source, path)

    def find(self, key: str) -> Place | None:
        """Returns the place of a key; None where it is missing or null."""
        return None if self.mapping().get(key) is None else self.get(key)

    def by_name(self, read: Callable[[Place], Item]) -> dict[str, Item]:
        """Reads each value of an object."""
        return {key: read(self.get(key)) for key in self.mapping()}

    def each(self, read: Callable[[Place], Item]) -> tuple[Item, ...]:
        """Reads each item of a list."""
        if not isinstance(self.value, list):
            raise self.refuse("a list")
        items = cast("list[object]", self.value)
        return tuple(
            read(Place(item, self.source, f"{self.path}[{index}]")) for index, item in enumerate(items)
        )

    def text(self) -> str:
        """Reads text."""
        if not isinstance(self.value, str):
            raise self.refuse("text")
        return self.value

    def boolean(self) -> bool:
        """Reads true or false."""
        if not isinstance(self.value, bool):
            raise self.refuse("true or false")
        return self.value

    def integer(self) -> int:
        """Reads a whole number."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.refuse("a whole number")
        return self.value

    def count(self) -> int:
        """Reads a whole number that is 0 or more."""
        number = self.integer()
        if number < 0:
            raise self.refuse("0 or more")
        return number

    def number(self) -> float:
        """Reads a finite number."""
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool):
            raise self.refuse("a number")
        if not math.isfinite(self.value):
            raise self.refuse("a finite number")
        return float(self.value)

    def pair(self) -> tuple[float, float]:
        """Reads two numbers."""
        numbers = self.each(Place.number)
        if len(numbers) != 2:
            raise self.refuse("two numbers")
        return numbers[0], numbers[1]


def optional(at: Place | None, read: Callable[[Place], Item]) -> Item | None:
    """Reads what may be missing or null."""
    return None if at is None else read(at)
