"""YAML of the user, read within bounds into nodes whose scalars are text.

Owns how far a YAML file is trusted: its size, how deep it nests, and how much its aliases (`*name`) repeat.
Tags construct nothing. What keys and values mean is the caller's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from hierasurg_core.errors import UsageError
from hierasurg_core.text_files import read_text

MAX_YAML_BYTES = 1 << 20  # 8 seconds of reading; a story or config takes kilobytes
MAX_DEPTH = 32  # lists and mappings inside each other
MAX_NODES = 1_000_000  # with whatever aliases repeat


def read_yaml(path: Path, name: str | None = None, *, more: str = "") -> yaml.Node | None:
    """Reads a YAML (or JSON) file into a tree of nodes, without making anything of them.

    Args:
        path: The file.
        name: What messages call it; None: its path.
        more: What a user whose file is too large can do.

    Returns:
        The tree, whose scalars are all text; None for an empty file. Its nesting is bounded.

    Raises:
        UsageError: The file is missing, larger than 1 MB, not UTF-8 or no YAML; or it nests deeper than 32,
            or its aliases repeat more than a million values, or lead in a circle.
    """
    name = str(path) if name is None else name
    try:
        text = read_text(
            path, name=name, form="YAML", most_bytes=MAX_YAML_BYTES, advice=more, error=UsageError
        )
        node = _BoundedLoader(text).get_single_node()
        if node is not None:
            _expect_small(node, {}, set())
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    except (ValueError, OverflowError) as error:  # a character or a version that does not exist
        raise UsageError(f"{name} is no YAML: {error}") from error
    return node


def pairs_of(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.ScalarNode, yaml.Node]]:
    """Yields key, node of the key and node of the value of a mapping.

    Raises:
        ValueError: A key is no text, or is given twice, of which YAML would silently take the last; the
            message names it.
    """
    seen: set[str] = set()
    for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {line_of(key)}: a key must be text")
        name = str(key.value)
        if name in seen:
            raise ValueError(f"line {line_of(key)}: '{name}' is given twice")
        seen.add(name)
        yield name, key, value


def plain(node: yaml.Node | None) -> Any:
    """Returns a tree as dictionaries, lists and text.

    Raises:
        ValueError: As `pairs_of`.
    """
    if isinstance(node, yaml.MappingNode):
        return {key: plain(value) for key, _, value in pairs_of(node)}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in cast("list[yaml.Node]", node.value)]
    return None if node is None else str(cast("object", node.value))


def line_of(node: yaml.Node) -> int:
    """Returns the line that a node begins on, counted from 1."""
    return int(node.start_mark.line) + 1


class _BoundedLoader(yaml.BaseLoader):
    """Composes nodes no deeper than allowed, long before Python's own stack ends."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = cast("Any", self).peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"it nests deeper than {MAX_DEPTH}", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _expect_small(node: yaml.Node, known: dict[int, tuple[int, int]], open_: set[int]) -> tuple[int, int]:
    """Returns how many values a node holds and how deep it nests, with its aliases written out."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_:
        raise ValueError(f"line {line_of(node)}: what an alias repeats holds that alias itself")
    open_.add(id(node))
    count, depth = 1, 1
    for child in _children(node):
        own, below = _expect_small(child, known, open_)
        count, depth = count + own, max(depth, below + 1)
    if count > MAX_NODES:
        raise ValueError(f"line {line_of(node)}: its aliases repeat more than {MAX_NODES:,} values")
    if depth > MAX_DEPTH:
        raise ValueError(f"line {line_of(node)}: it nests deeper than {MAX_DEPTH}")
    if isinstance(node, yaml.ScalarNode):
        str(node.value).encode()  # half of a surrogate pair is no character, and no ValueError elsewhere
    open_.remove(id(node))
    known[id(node)] = count, depth
    return count, depth


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from cast("list[yaml.Node]", node.value)
