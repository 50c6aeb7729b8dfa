import filecmp
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from full_disk import largest_file
from safetensors.numpy import load_file

from hierasurg_core.datasets.shards import Shard, ShardWriter, read_fingerprint
from hierasurg_core.errors import DataError, ResourceError


def write(path: Path) -> None:
    with ShardWriter(path, {"schema": 1, "fps": 8}) as shard:
        assert shard.append("start", np.array([3, 4], np.int32)) == 0
        assert shard.append("mean", np.arange(12, dtype=np.float16).reshape(2, 2, 3)) == 0
        assert shard.append("start", np.array([9], np.int32)) == 2
        shard.append("bytes", np.arange(5, dtype=np.uint8))
        shard.append("end", np.array([5], np.int64))
        shard.append("empty", np.empty(0, np.int16))


def test_rows_come_back_and_any_reader_agrees(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    shard = Shard(path)
    assert shard.fingerprint == read_fingerprint(path) == {"schema": 1, "fps": 8}
    assert shard.tensors["start"].tolist() == [3, 4, 9]
    assert shard.tensors["mean"].shape == (2, 2, 3)
    assert shard.tensors["empty"].shape == (0,)
    theirs = load_file(path)
    assert set(theirs) == set(shard.tensors)
    for name, tensor in theirs.items():
        assert np.array_equal(tensor, shard.tensors[name])
        assert tensor.dtype == shard.tensors[name].dtype
    assert not shard.tensors["mean"].flags.writeable


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors")
    assert filecmp.cmp(tmp_path / "a.safetensors", tmp_path / "b.safetensors", shallow=False)


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "a.safetensors", {}) as shard:
        shard.append("start", np.array([1], np.int32))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is float16"), ShardWriter(tmp_path / "a.safetensors", {}) as shard:
        shard.append("mean", np.zeros((1, 2), np.float16))
        shard.append("mean", np.zeros((1, 3), np.float16))
    with pytest.raises(ValueError, match="no float64"), ShardWriter(tmp_path / "a.safetensors", {}) as shard:
        shard.append("mean", np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:4], "is no safetensors file"),
        (lambda data: b"\xff" * len(data), "is no safetensors file"),
        (lambda data: data[:-3], "is damaged"),
        (lambda data: data.replace(b"hierasurg dataset", b"somebody elses ds"), "no shard of a hierasurg"),
        (lambda data: data.replace(b'"I64"', b'"I65"'), "is damaged"),
    ],
)
def test_damaged_and_foreign_files_are_refused(
    damage: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    write(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=said):
        Shard(path)


def shard_of(**tensors: dict[str, object]) -> bytes:
    """A shard of 16 bytes of numbers whose header describes these tensors."""
    metadata = {"format": "hierasurg dataset", "fingerprint": "{}"}
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(range(16))


def tensor(begin: object, end: object, shape: object, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_the_shard_written_by_hand_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(shard_of(a=tensor(0, 4, [4]), b=tensor(4, 16, [2, 3], "I16")))
    assert Shard(path).tensors["a"].tolist() == [0, 1, 2, 3]
    assert Shard(path).tensors["b"].tolist() == [[0x0504, 0x0706, 0x0908], [0x0B0A, 0x0D0C, 0x0F0E]]


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": tensor(-4, 0, [4])},
        {"a": tensor(0, 17, [17])},
        {"a": tensor(4, 0, [-4])},
        {"a": tensor(0, 4, [-2, -2])},
        {"a": tensor(0, 0, [2**32, 2**32])},
        {"a": tensor(0, 4, [2**63, 4])},
        {"a": tensor(0, 2**63, [2**63])},
        {"a": tensor(0, 4, [4.0])},
        {"a": tensor(0, 4, [True, 4])},
        {"a": tensor(0, 4, "4")},
        {"a": tensor("0", "4", [4])},
        {"a": tensor(0, 4, [1] * 40 + [4])},
        {"a": tensor(0, 8, [8]), "b": tensor(4, 12, [8])},
        {"a": tensor(0, 4, [4]), "b": tensor(0, 4, [4])},
        {"a": tensor(4, 8, [4])},
        {"a": {"dtype": "U8"}},
        {"a": {"dtype": ["U8"], "shape": [4], "data_offsets": [0, 4]}},
        {"a": 3},
    ],
    ids=lambda value: "",
)
def test_a_header_that_cannot_be_is_refused(tensors: dict[str, dict[str, object]], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(shard_of(**tensors))
    with pytest.raises(DataError, match=rf"^the shard {path} is damaged \(.*delete it and build"):
        Shard(path)


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"a": 1, "a": 2}', b"9" * 5000, b"[]", b"\xff"])
def test_a_hostile_header_is_one_line(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(DataError, match=r"is no (safetensors file|shard)"):
        Shard(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the shard"):
        Shard(tmp_path / "a.safetensors")


@pytest.mark.parametrize("size", [100, 5000, 20000])
def test_a_full_disk_leaves_nothing_of_a_shard(size: int, tmp_path: Path) -> None:
    path = tmp_path / "video01-00000.safetensors"
    rows = np.arange(4000, dtype=np.int32)
    with (
        largest_file(size),
        pytest.raises(ResourceError, match=r"cannot write .*video01-00000.safetensors: larger than a file"),
        ShardWriter(path, {"schema": 1}) as shard,
    ):
        for _ in range(2):
            shard.append("start", rows)
    assert list(tmp_path.iterdir()) == []
