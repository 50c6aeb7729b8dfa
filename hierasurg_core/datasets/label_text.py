"""The text in files of labels: JSON, and tables of columns, as people and programs write them.

Owns what of the writing does not matter: a byte order mark, line ends, tabs or spaces between columns, a head
or none. What `text_files` does not read is no labels either.
"""

import re
from pathlib import Path
from typing import Any

from hierasurg_core.errors import DataError
from hierasurg_core.text_files import parse_json, read_text

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?", re.ASCII)


def read_label_json(path: Path) -> Any:
    """Reads a JSON file of labels.

    Raises:
        DataError: As `text_files.read_text` and `text_files.parse_json`.
    """
    return parse_json(read_text(path, form="JSON", utf_16=True), str(path))


def read_table(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """Reads the lines of a table after its head, where it has one, with their numbers from 1.

    Columns are divided by tabs, commas, semicolons or spaces; the last of two may hold spaces.

    Raises:
        DataError: It is missing, unreadable or no text, holds no line, or one with other columns.
    """
    lines = read_text(path, form="text file of labels", utf_16=True).splitlines()
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
