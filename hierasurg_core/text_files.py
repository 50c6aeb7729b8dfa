"""Text files of the user, read within bounds: plain text and JSON.

Owns how far a file is trusted before its content is known: its size, its encoding, how deep it nests and how
large its numbers are. Every reader of text and JSON in the core goes through here, so a hostile or damaged
file is one line that names it, and costs bounded time and memory. What the content means is the caller's.
"""

import codecs
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from hierasurg_core.errors import DataError, HieraSurgError, shown

MAX_JSON_BYTES = 64 << 20  # labels of an operation take a few MB
MAX_DEPTH = 64  # lists and objects inside each other; files of this project nest 8 deep
MAX_DIGITS = 20  # of a whole number: 64 bits have 19 digits


class _RefusedError(ValueError):
    """A value that the reader does not take; the message says why."""


def read_text(
    path: Path,
    *,
    name: str | None = None,
    form: str | None = None,
    most_bytes: int = MAX_JSON_BYTES,
    advice: str = "",
    utf_16: bool = False,
    error: type[HieraSurgError] = DataError,
) -> str:
    """Reads a UTF-8 file, with or without a byte order mark.

    Args:
        path: The file.
        name: What messages call it ("the config a.yaml"); None: its path.
        form: What it should be ("JSON"), for the message about another encoding.
        most_bytes: A larger file is refused; no more of it than that is read.
        advice: What to do where it is larger.
        utf_16: Read UTF-16 with a byte order mark as well, as some editors write it.
        error: Raised in place of `DataError`.

    Raises:
        DataError: The file is missing, unreadable, too large, or in another encoding.
    """
    name = str(path) if name is None else name
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as caught:
        raise error(f"cannot read {name}: {caught.strerror or caught}") from caught
    except ValueError as caught:  # a name with a NUL byte
        raise error(f"cannot read {name}: {caught}") from caught
    if len(data) > most_bytes:
        limit = f"{name} is larger than {most_bytes / 1e6:.0f} MB, the most that is read of such a file"
        raise error(f"{limit}; {advice}" if advice else limit)
    is_utf_16 = utf_16 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as caught:
        what = f"{name} is no {form}" if form else f"cannot read {name}"
        coding = "UTF-16" if is_utf_16 else "UTF-8"
        raise error(
            f"{what}: it is not {coding} text (byte {caught.start}); save it again as UTF-8"
        ) from caught


def read_json(path: Path, *, error: type[HieraSurgError] = DataError) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: As `read_text` and `parse_json`; the message names the file and, where it can, the line.
            `error` is raised in its place.
    """
    return parse_json(read_text(path, form="JSON", error=error), str(path), error=error)


def parse_json(text: str | bytes, name: str, *, error: type[HieraSurgError] = DataError) -> Any:
    """Reads JSON more strictly than `json.loads`, which takes the last of two equal keys and knows NaN.

    Args:
        text: The JSON.
        name: Where it comes from, for messages.
        error: Raised in place of `DataError`.

    Raises:
        DataError: It is no JSON, a key is given twice, a number is NaN, infinite or of more than 20 digits,
            it nests deeper than 64, or it holds text that is not Unicode.

    Example:
        >>> parse_json('{"a": [1, 2]}', "a.json")
        {'a': [1, 2]}
    """
    try:
        value: Any = json.loads(
            text,
            object_pairs_hook=_as_object,
            parse_int=_as_int,
            parse_float=_as_float,
            parse_constant=_refuse_constant,
        )
        _expect_shallow(value)
        if "\\ud" in (text if isinstance(text, str) else text.decode("latin1")).lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except json.JSONDecodeError as caught:
        raise error(f"{name} is no JSON: line {caught.lineno}: {caught.msg}") from caught
    except UnicodeError as caught:
        raise error(f"{name} is no JSON: it holds text that is not Unicode") from caught
    except RecursionError as caught:
        raise error(f"{name} is not read: it nests deeper than {MAX_DEPTH}") from caught
    except _RefusedError as caught:
        raise error(f"{name} is not read: {caught}") from caught
    return value


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f"the key {shown(key)} is given twice; keep one of them")
            seen.add(key)
    return made


def _as_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _RefusedError(f"the number {shown(text)} has more than {MAX_DIGITS} digits")
    return int(text)


def _as_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedError(f"the number {shown(text)} is too large")
    return value


def _refuse_constant(text: str) -> float:
    raise _RefusedError(f"{text} is no number")


def _expect_shallow(value: Any) -> None:
    """Looks at one level after the other, so that the depth of the file is not the depth of a call."""
    level = _containers([value])
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _containers(_items(outer))]
        if not level:
            return
    raise _RefusedError(f"it nests deeper than {MAX_DEPTH}")


def _items(container: Any) -> Iterable[Any]:
    return cast("dict[str, Any]", container).values() if isinstance(container, dict) else container


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, (dict, list))]
