"""Lists of entries in YAML or CSV, read strictly and with the line that each entry stands on.

Owns the reading of request files and stories as text: every value stays text, every key is held to those
that exist, and every error names file and line. What a value means belongs to `requests` and `storyboard`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from hierasurg_core.config.reading import suggest
from hierasurg_core.config.yaml_nodes import line_of, pairs_of, read_yaml
from hierasurg_core.errors import UsageError
from hierasurg_core.text_files import read_text

MAX_CSV_BYTES = 32 << 20
MAX_ENTRIES = 100_000  # of a list; a day of samples at one a second


@dataclass(frozen=True)
class Entry:
    """One entry of a list.

    Attributes:
        file: Where it stands.
        line: Counted from 1.
        values: Text by key; a list where the file has a list. Empty values are left out.
    """

    file: Path
    line: int
    values: Mapping[str, str | tuple[str, ...]]

    def text(self, key: str) -> str | None:
        """Returns a value that is no list, None where it is not given.

        Raises:
            UsageError: It is a list.
        """
        value = self.values.get(key)
        if isinstance(value, tuple):
            raise self.error(f"{key} is a list, but takes one value")
        return value

    def error(self, message: str) -> UsageError:
        """Returns the error that says file, line and message."""
        return UsageError(f"{self.file}, line {self.line}: {message}")


def read_entries(
    file: Path, *, section: str, keys: Collection[str], header: Collection[str] = ()
) -> tuple[Entry, list[Entry]]:
    """Reads a YAML list of mappings, or a CSV whose first line names the columns.

    Args:
        file: YAML (.yaml, .yml, .json) or CSV (.csv).
        section: In YAML the list may stand under this key, beside those of `header`.
        keys: That an entry may have.
        header: That may stand beside the list.

    Returns:
        What stands beside the list, as an entry of its own, and the list.

    Raises:
        UsageError: The file is missing, no text, of another form, empty, too large (YAML 1 MB, CSV 32 MB and
            100,000 entries), or has a key that does not exist or is given twice.
    """
    suffix = file.suffix.lower()
    if suffix == ".csv":
        text = read_text(file, most_bytes=MAX_CSV_BYTES, error=UsageError)
        beside, entries = Entry(file, 1, {}), _read_csv(file, text, section, keys)
    elif suffix in (".yaml", ".yml", ".json"):
        beside, entries = _read_yaml(file, section, keys, header)
    else:
        raise UsageError(f"cannot read {file}: its name must end in .yaml, .yml, .json or .csv")
    if not entries:
        raise UsageError(f"{file} holds no {section}")
    return beside, entries


def _read_csv(file: Path, text: str, section: str, keys: Collection[str]) -> list[Entry]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    entries: list[Entry] = []
    try:
        columns = [name.strip() for name in next(rows, [])]
        for name in columns:
            _expect_known(Entry(file, 1, {}), name, keys)
            if columns.count(name) > 1:
                raise Entry(file, 1, {}).error(f"the column '{name}' is given twice")
        for row in rows:
            values = [value.strip() for value in row]
            entry = Entry(file, rows.line_num, {})
            if not any(values):
                continue
            if len(values) != len(columns):
                raise entry.error(
                    f"{len(values)} values for {len(columns)} columns; a value with a comma needs quotes"
                )
            if len(entries) == MAX_ENTRIES:
                raise entry.error(
                    f"the file holds more than {MAX_ENTRIES:,} {section}; make several files of it"
                )
            given = {name: value for name, value in zip(columns, values, strict=True) if value}
            entries.append(Entry(file, rows.line_num, given))
    except csv.Error as error:
        raise UsageError(f"{file}, line {rows.line_num}: {error}") from error
    return entries


def _read_yaml(
    file: Path, section: str, keys: Collection[str], header: Collection[str]
) -> tuple[Entry, list[Entry]]:
    node = read_yaml(file, more="a CSV file may be longer")
    top = Entry(file, 1, {})
    beside: dict[str, str | tuple[str, ...]] = {}
    if isinstance(node, yaml.MappingNode):
        found: yaml.Node | None = None
        for key, value in _pairs(file, node, {section, *header}):
            if key == section:
                found = value
            else:
                _put(beside, Entry(file, line_of(value), {}), key, value)
        if found is None:
            raise UsageError(f"{file} has no '{section}:' with a list below it")
        node = found
    if not isinstance(node, yaml.SequenceNode):
        raise UsageError(f"{file} holds no list of {section}: begin each of them with '- '")
    entries: list[Entry] = []
    for item in node.value:
        entry = Entry(file, line_of(item), {})
        if not isinstance(item, yaml.MappingNode):
            raise entry.error(f"one of the {section} must be 'key: value' lines")
        values: dict[str, str | tuple[str, ...]] = {}
        for key, value in _pairs(file, item, keys):
            _put(values, Entry(file, line_of(value), {}), key, value)
        entries.append(Entry(file, entry.line, values))
    return Entry(file, top.line, beside), entries


def _pairs(file: Path, node: yaml.MappingNode, keys: Collection[str]) -> list[tuple[str, yaml.Node]]:
    pairs: list[tuple[str, yaml.Node]] = []
    try:
        for name, key, value in pairs_of(node):
            _expect_known(Entry(file, line_of(key), {}), name, keys)
            pairs.append((name, value))
    except ValueError as error:  # it names the line
        raise UsageError(f"{file}, {error}") from error
    return pairs


def _put(values: dict[str, str | tuple[str, ...]], entry: Entry, key: str, node: yaml.Node) -> None:
    """Adds a scalar or a list of scalars; nothing for an empty one."""
    if isinstance(node, yaml.ScalarNode):
        if node.value not in ("", "null", "~"):
            values[key] = str(node.value)
        return
    if not isinstance(node, yaml.SequenceNode) or not all(
        isinstance(item, yaml.ScalarNode) for item in node.value
    ):
        raise entry.error(f"{key} must be a value or a list of values")
    values[key] = tuple(str(item.value) for item in node.value)


def _expect_known(entry: Entry, name: str, keys: Collection[str]) -> None:
    if name not in keys:
        raise entry.error(f"unknown key {suggest(name, keys)}")
