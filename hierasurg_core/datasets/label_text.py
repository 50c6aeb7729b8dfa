"""The text in files of labels: JSON, and tables of columns, as people and programs write them.

Owns what of the writing does not matter: a byte-order mark, line ends, tabs or spaces between columns, a head
or none. It refuses what cannot be labels in one line: a key that is there twice, numbers of thousands of
digits, lists nested without end.
"""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from hierasurg_core.errors import DataError

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?", re.ASCII)
_MOST_DIGITS = 15  # of any number in labels
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Why a JSON file is refused."""


def read_label_json(path: Path) -> Any:
    """Reads a JSON file of labels.

    Raises:
        DataError: It is missing, unreadable or no JSON, has a key twice, a number of too many digits, or is
            nested too deep.
    """
    try:
        return json.loads(_text(path, "JSON"), object_pairs_hook=_object, parse_int=_whole)
    except _Refused as error:
        raise DataError(f"{path}: {error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON: line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{path} is no file of labels: its lists are nested too deep") from error


def read_table(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """Reads the lines of a table after its head, where it has one, with their numbers from 1.

    Columns are divided by tabs, commas, semicolons or spaces; the last of two may hold spaces.

    Raises:
        DataError: It is missing, unreadable or no text, holds no line, or one with other columns.
    """
    lines = _text(path, "text file of labels").splitlines()
    rows = [(i, _cells(line, columns)) for i, line in enumerate(lines, start=1) if line.strip()]
    if rows and not _NUMBER.fullmatch(rows[0][1][0]):
        del rows[0]
    for line, cells in rows:
        if len(cells) != columns:
            raise DataError(f"{path}: line {line} has {len(cells)} columns, not {columns}")
    if not rows:
        raise DataError(f"{path} holds no labels")
    return rows


def _cells(line: str, columns: int) -> list[str]:
    """The columns of a line; where no way of dividing it gives as many as wanted, those of the likeliest."""
    ways = [line.split(mark) for mark in "\t,;" if mark in line]
    ways += [line.split()] if ways or columns != 2 else [line.split(None, 1)]
    found = [[cell.strip() for cell in cells] for cells in ways]
    for cells in found:
        while len(cells) > columns and not cells[-1]:
            cells.pop()
    return next((cells for cells in found if len(cells) == columns), found[0])


def _text(path: Path, what: str) -> str:
    try:
        data = path.read_bytes()
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        return data.decode(encoding)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no {what}: it is not UTF-8 text") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"the key {key[:40]!r} is there twice: keep one of them")
        found[key] = value
    return found


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise _Refused(f"{digits[:_MOST_DIGITS]}... is a number of {len(digits)} digits")
    return int(digits)
