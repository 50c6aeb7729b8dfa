"""The folder of measured numbers: whole or named as damaged, bounded in size, shared by processes."""

import os
from pathlib import Path

import numpy as np
import pytest

from hierasurg_core.errors import ResourceError
from hierasurg_core.evaluation.cache import Store, Stored, user_cache_folder


def numbers(value: float, count: int = 3) -> Stored:
    rows = {"clip": np.full((count, 4), value), "warp": np.arange(count, dtype=np.float32)}
    return Stored(rows, np.array([True] * (count - 1) + [False]), {count - 1: "it is cut short"})


def test_what_is_saved_is_found_by_another(tmp_path: Path):
    with Store(tmp_path) as store:
        store.save("a", numbers(2.5))
    with Store(tmp_path) as store:
        assert store.has("a")
        assert not store.has("b")
        found = store.load("a", frozenset({"clip"}))
    assert found is not None
    assert {name: rows.tolist() for name, rows in found.rows.items()} == {"clip": [[2.5] * 4] * 3}
    assert found.kept_B.tolist() == [True, True, False]
    assert found.why == {2: "it is cut short"}


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_named_and_can_be_written_again(tmp_path: Path, damage: str):
    with Store(tmp_path) as store:
        store.save("a", numbers(2.5))
        path = store.path("a")
    content = path.read_bytes()
    last = bytes([content[-1] ^ 1])
    broken = {"cut": content[:-8], "flipped": content[:-1] + last, "foreign": b"something else"}
    path.write_bytes(broken[damage])
    lines: list[str] = []
    with Store(tmp_path) as store:
        assert not store.has("a", lines.append)
        (line,) = lines
        assert line.startswith(f"{path} is damaged (")
        assert line.endswith("its clips are measured again")
        store.save("a", numbers(1.5))
        assert store.has("a", lines.append)
    assert len(lines) == 1


def aged(store: Store, key: str, seconds: int) -> None:
    path = store.path(key)
    os.utime(path, (seconds, seconds))


def test_the_least_recently_used_go_first(tmp_path: Path):
    store = Store(tmp_path)
    for age, key in enumerate("abc"):
        store.save(key, numbers(age))
        aged(store, key, 1000 + age)
    size = store.path("a").stat().st_size
    assert store.load("a") is not None  # used now, so "b" is the oldest
    store.close()
    with Store(tmp_path, limit_bytes=2 * size) as store:
        left = store.path("a").parent / ".x.1-2.partial.safetensors"
        left.write_bytes(b"of a killed process")
    with Store(tmp_path) as store:
        assert [store.has(key) for key in "abc"] == [True, False, True]
    assert not left.exists()


def test_nothing_is_removed_while_another_uses_the_folder(tmp_path: Path):
    first, second = Store(tmp_path, limit_bytes=1), Store(tmp_path, limit_bytes=1)
    first.save("a", numbers(1))
    assert first.close() == 0
    assert second.has("a")
    assert second.close() == 1


def test_without_a_limit_nothing_is_removed(tmp_path: Path):
    store = Store(tmp_path)
    store.save("a", numbers(1))
    assert store.close() == 0


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert user_cache_folder() == tmp_path / "caches" / "hierasurg" / "evaluate"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unusable in ("", "relative"):  # as the XDG specification has it
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert user_cache_folder() == tmp_path / "home" / ".cache" / "hierasurg" / "evaluate"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write to"):
        Store(tmp_path / "file")
