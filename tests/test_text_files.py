"""Text and JSON of the user: what is read, and that whatever is wrong is one line that names the file."""

import tracemalloc
from pathlib import Path

import pytest

from hierasurg_core.errors import DataError, WeightsError, shown
from hierasurg_core.text_files import parse_json, read_json, read_text


def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + '{"name": "é", "list": [1, -2.5, true, null, 1e3]}'.encode())
        assert read_json(path) == {"name": "é", "list": [1, -2.5, True, None, 1000.0]}
    assert parse_json(b"18446744073709551615", "a") == 2**64 - 1
    assert parse_json('"\\ud83d\\ude00"', "a") == "\U0001f600"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no JSON: line 1"),
        (b'{"a": 1,\n}', "is no JSON: line 2"),
        (b"\xff\xfe{\x00}\x00", "is no JSON: it is not UTF-8 text (byte 0); save it again as UTF-8"),
        (b'{"a": 1, "b": {"c": 2, "d": 3, "c": 4}}', "the key 'c' is given twice"),
        (b"[1, NaN]", "NaN is no number"),
        (b"[Infinity]", "Infinity is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"1e999", "the number '1e999' is too large"),
        (b"123456789012345678901", "the number '123456789012345678901' has more than 20 digits"),
        (b"9" * 5000, "... (5,000 characters) has more than 20 digits"),
        (b"[" * 65 + b"]" * 65, "it nests deeper than 64"),
        (b"[" * 500 + b"]" * 500, "it nests deeper than 64"),
        (b"[" * 100_000, "it nests deeper than 64"),
        (b'{"a":' * 100_000, "it nests deeper than 64"),
        (b'"\\ud800"', "text that is not Unicode"),
        (b'{"\\udfff": 1}', "text that is not Unicode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_one_short_line_that_names_the_file(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert said in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 200
    with pytest.raises(WeightsError):
        read_json(path, error=WeightsError)


def test_the_deepest_json_that_is_read() -> None:
    assert parse_json("[" * 64 + "]" * 64, "a")


def test_no_more_of_a_file_is_read_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abcd")
    assert read_text(path, most_bytes=4) == "abcd"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"is larger than 4 MB, the most .*; split it$"):
        read_text(path, most_bytes=4_000_000, advice="split it")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9e6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_read_where_it_is_asked_for(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    path.write_bytes((mark + "é 1").encode(encoding))
    assert read_text(path, utf_16=True) == "é 1"
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(DataError, match=r"cannot read .*a.txt: it is not UTF-16 text \(byte 2\)"):
        read_text(path, utf_16=True)


@pytest.mark.parametrize("name", ["none.json", ".", "a" * 300, "a\0b", "none/a.json"])
def test_what_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_json(tmp_path / name)


def test_a_message_quotes_short_values_whole_and_cuts_long_ones() -> None:
    assert shown("abc") == "'abc'"
    assert shown(12) == "12"
    assert shown("9" * 5000, most=12) == "'9999 ... (5,000 characters)"
    assert len(shown([1] * 10**6)) < 100
