"""Files are whole or absent, whatever happens in the middle; disk trouble is told as such."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from hierasurg_core.artifacts import (
    atomic_file,
    atomic_folder,
    check_free_space,
    delete_folder,
    ensure_writable_folder,
    read_json,
    remove_leftovers,
    sha256_file,
    write_json,
)
from hierasurg_core.errors import DataError, ResourceError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    with atomic_file(target) as part:
        assert part.parent == tmp_path
        assert part.suffix == ".mp4"
        part.write_bytes(b"half")
        assert not target.exists()
        part.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert names(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_failure_in_the_middle_leaves_the_older_file(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(type(failure)), atomic_file(target) as part:
        part.write_text("ne")
        raise failure
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_failure_before_anything_was_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), atomic_file(tmp_path / "a"):
        raise ValueError("no")
    assert names(tmp_path) == []


def test_folder_replaces_the_older_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    for content in ("first", "second"):
        with atomic_folder(target) as part:
            (part / "state").mkdir()
            (part / "state" / f"{content}.txt").write_text(content)
    assert names(target / "state") == ["second.txt"]
    assert names(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_failure_in_the_middle_leaves_the_older_folder(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "checkpoint"
    with atomic_folder(target) as part:
        (part / "a").write_text("old")
    with pytest.raises(type(failure)), atomic_folder(target) as part:
        (part / "a").write_text("new")
        raise failure
    assert (target / "a").read_text() == "old"
    assert names(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "Permission denied; choose another folder"),
        (errno.EROFS, "Read-only file system; choose another folder"),
        (errno.EFBIG, "larger than a file may be here"),
    ],
)
def test_disk_trouble_is_a_resource_error(tmp_path: Path, code: int, said: str) -> None:
    target = tmp_path / "a.bin"
    for atomic in (atomic_file, atomic_folder):
        with pytest.raises(ResourceError, match=said) as caught, atomic(target) as part:
            raise OSError(code, os.strerror(code), str(part))
        assert str(caught.value).startswith(f"cannot write {target}: ")
        assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match="the disk is full"),
        atomic_file(tmp_path / "a.bin"),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_libraries_that_name_the_full_disk_only_in_words(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the disk is full"), atomic_file(tmp_path / "a.safetensors"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_a_deletion_that_is_cut_short_leaves_a_leftover_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "video01_masks"
    folder.mkdir()
    (folder / "000000.pkl").touch()

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            delete_folder(folder)
    assert not folder.exists()
    assert len(remove_leftovers(tmp_path)) == 1
    assert names(tmp_path) == []


def test_a_folder_that_is_deleted_meanwhile_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    for error in (FileNotFoundError(errno.ENOENT, "No such file or directory"), None):
        folder.mkdir()
        with pytest.raises(ResourceError) as caught, atomic_file(folder / "a.json") as part:
            part.write_text("{}")
            part.unlink()
            folder.rmdir()
            if error is not None:
                raise error
        assert str(caught.value) == (
            f"cannot write {folder}/a.json: its folder was deleted meanwhile; run it again, and let no other "
            "program delete the folder"
        )


def test_a_bug_in_a_deleted_folder_stays_a_bug(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    with pytest.raises(TypeError, match="a bug"), atomic_file(tmp_path / "samples" / "a.json"):
        (tmp_path / "samples").rmdir()
        raise TypeError("a bug")


def test_an_error_of_ours_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^the clip is damaged$"), atomic_file(tmp_path / "a"):
        raise DataError("the clip is damaged")


def test_trouble_with_a_file_that_is_only_read_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_file(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.png")


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(
        path, {"out": Path("samples"), "name": "Galle\N{LATIN SMALL LETTER U WITH DIAERESIS}", "n": [1, 2.5]}
    )
    assert read_json(path) == {
        "out": "samples",
        "name": "Galle\N{LATIN SMALL LETTER U WITH DIAERESIS}",
        "n": [1, 2.5],
    }
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_json_that_cannot_be_said_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"psnr": float("nan")})
    with pytest.raises(TypeError, match="set has no form in JSON"):
        write_json(tmp_path / "a.json", {"ids": {1}})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1,\n}', "is no JSON: line 2"),
        (b"\xff\xff", "is no JSON: it is not UTF-8"),
        (None, "No such file"),
    ],
)
def test_wrong_json_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "scenes.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_digest_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"x" * (2 << 20))
    assert sha256_file(path) == hashlib.sha256(b"x" * (2 << 20)).hexdigest()
    with pytest.raises(DataError, match="cannot read"):
        sha256_file(tmp_path / "none")


def test_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    ensure_writable_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


def test_folder_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("")
    with pytest.raises(ResourceError, match="samples: it is a file; choose another folder"):
        ensure_writable_folder(tmp_path / "samples")
    with pytest.raises(ResourceError, match="part of its path is a file"):
        ensure_writable_folder(tmp_path / "samples" / "deeper")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no folder that nobody may write")
def test_folder_that_cannot_be_written() -> None:
    with pytest.raises(ResourceError, match="cannot write to the folder /proc/hierasurg: "):
        ensure_writable_folder(Path("/proc/hierasurg"))


def test_free_space_is_asked_of_the_nearest_existing_folder(tmp_path: Path) -> None:
    check_free_space(tmp_path / "not" / "yet", 1, "one sample")
    with pytest.raises(
        ResourceError, match=r"16 samples need 1,000,000,000,000 MB in .*, but only .* MB are free"
    ):
        check_free_space(tmp_path / "not" / "yet", 10**18, "16 samples")
