"""YAML of the user: what is read, and that whatever is wrong is one line that names the file."""

import tracemalloc
from pathlib import Path

import pytest

from hierasurg_core.config.yaml_nodes import plain, read_yaml
from hierasurg_core.errors import UsageError


def refused(path: Path, content: bytes, said: str) -> int:
    """Reads a file that is to be refused, and returns the most bytes that this took at a time."""
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises((UsageError, ValueError)) as caught:
        plain(read_yaml(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError) or message.startswith(str(path))
    return peak


def test_all_scalars_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: [1, 1e-4, yes, null, '']\nb: {c: !!python/name:os.system x}\n")
    assert plain(read_yaml(path)) == {"a": ["1", "1e-4", "yes", "null", ""], "b": {"c": "x"}}
    path.write_text("")
    assert plain(read_yaml(path)) is None


def test_an_alias_repeats_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &size [1, 2]\nb: *size\n")
    assert plain(read_yaml(path)) == {"a": ["1", "2"], "b": ["1", "2"]}


BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)
)
CHAIN = b"- &a0 [x]\n" + b"".join(b"- &a%d [*a%d]\n" % (i, i - 1) for i in range(1, 100))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", "is no YAML"),
        (b"a: b: c", "is no YAML"),
        (b"\xff\xff", "is no YAML: it is not UTF-8 text"),
        (b"a: \0", "is no YAML"),
        (b'a: "\\UFFFFFFFF"', "is no YAML"),
        (b'a: "\\ud800"', "is no YAML"),
        (b"%YAML " + b"9" * 5000 + b".1\n---\na: 1\n", "is no YAML"),
        (b"[" * 33 + b"]" * 33, "nests deeper than 32"),
        (b"[" * 100_000, "nests deeper than 32"),
        (b"{a: " * 100_000, "nests deeper than 32"),
        (b"- " * 100_000 + b"a", "nests deeper than 32"),
        (BOMB, "aliases repeat more than 1,000,000 values"),
        (CHAIN, "nests deeper than 32"),
        (b"&a [*a]", "holds that alias itself"),
        (b"a: 1\na: 2\n", "line 2: 'a' is given twice"),
        (b"? [a]\n: 1\n", "line 1: a key must be text"),
        (b"a: *none", "is no YAML"),
        (b"a: 1\n" + b"#" * (1 << 20), "is larger than 1 MB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_yaml_takes_little_memory(tmp_path: Path, content: bytes, said: str) -> None:
    assert refused(tmp_path / "a.yaml", content, said) < 40e6


def test_the_deepest_yaml_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("[" * 32 + "]" * 32)
    assert plain(read_yaml(path))
