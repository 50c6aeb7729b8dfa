"""Paths of the user that name no file at all."""

from pathlib import Path

import pytest

from hierasurg_core.config.paths import as_path
from hierasurg_core.errors import UsageError


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert as_path("out", "~/x") == Path("/home/me/x")
    assert as_path("out", "a" * 255) == Path("a" * 255)
    assert as_path("out", "a/~b") == Path("a/~b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "out must be a path"),
        ("~nobody-of-this-name/x", "there is no home folder of ~nobody-of-this-name; write ./~nobody"),
        ("a\0b", r"out 'a\x00b' is no path: it holds a NUL character"),
        ("a\ud800", "text that is not Unicode"),
        ("a" * 256, "(256 characters) is too long for a path"),
        ("x/" + "é" * 128, "is too long for a path"),
        ("a/" * 3000, "is too long for a path"),
    ],
    ids=lambda value: "",
)
def test_texts_that_are_no_path(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        as_path("out", text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
