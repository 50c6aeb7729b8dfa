import filecmp
import io
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from maps.moving_shapes import moving_ids

from hierasurg_core.errors import DataError
from hierasurg_core.maps import PanopticClip, load_clip, save_clip


def tiny_clip() -> PanopticClip:
    return PanopticClip(np.array([[[0, 1], [2, 3]], [[1, 1], [2, 3]]], np.uint8), num_entities=2)


def test_a_written_clip_reads_back(tmp_path: Path):
    save_clip(tmp_path / "000000.pkl", tiny_clip())
    clip = load_clip(tmp_path / "000000.pkl")
    assert np.array_equal(clip.map_FHW, tiny_clip().map_FHW)
    assert clip.num_entities == 2
    assert [path.name for path in tmp_path.iterdir()] == ["000000.pkl"]


def test_plain_pickle_gives_the_public_dictionary(tmp_path: Path):
    save_clip(tmp_path / "000000.pkl", tiny_clip())
    masks = pickle.loads((tmp_path / "000000.pkl").read_bytes())
    expected = tiny_clip().to_masks()
    assert list(masks) == [0, 1]
    assert list(masks[0]) == [0, 1, 2, 3]
    for frame, entities in expected.items():
        for entity, mask in entities.items():
            assert masks[frame][entity].dtype == np.bool_
            assert np.array_equal(masks[frame][entity], mask)


def test_plain_pickle_needs_numpy_alone(tmp_path: Path):
    path = tmp_path / "000000.pkl"
    save_clip(path, tiny_clip())
    program = f"import pickle, sys; pickle.load(open({str(path)!r}, 'rb')); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "numpy" in loaded.stdout.split()
    assert not any(name.startswith(("hierasurg", "cv2", "torch")) for name in loaded.stdout.split())


def test_names_in_the_file_are_public_in_numpy_1_and_2(tmp_path: Path):
    save_clip(tmp_path / "000000.pkl", tiny_clip())
    names = Names(io.BytesIO((tmp_path / "000000.pkl").read_bytes()))
    names.load()
    assert names.asked == {
        ("zlib", "decompress"),
        ("numpy", "frombuffer"),
        ("numpy", "reshape"),
        ("numpy", "equal"),
        ("operator", "getitem"),
    }


class Names(pickle.Unpickler):
    asked: set[tuple[str, str]] = set()  # noqa: RUF012

    def find_class(self, module_name: str, global_name: str, /) -> object:
        self.asked.add((module_name, global_name))
        return super().find_class(module_name, global_name)


def test_a_clip_of_twelve_objects_takes_kilobytes(tmp_path: Path):
    map_FHW = moving_ids(num_entities=12, size_hw=(240, 427)).repeat(2, axis=1).repeat(2, axis=2)
    clip = PanopticClip(map_FHW, num_entities=12)
    save_clip(tmp_path / "a.pkl", clip)
    save_clip(tmp_path / "b.pkl", clip)
    assert (tmp_path / "a.pkl").stat().st_size <= 150_000
    assert filecmp.cmp(tmp_path / "a.pkl", tmp_path / "b.pkl", shallow=False)
    assert np.array_equal(load_clip(tmp_path / "a.pkl").map_FHW, clip.map_FHW)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_the_public_codes_plain_pickles_are_read(tmp_path: Path, protocol: int, core: bytes):
    masks = tiny_clip().to_masks()
    masks[1][1] = np.asfortranarray(masks[1][1])
    data = pickle.dumps({np.int64(frame): entities for frame, entities in masks.items()}, protocol)
    here = np.array(0).__reduce__()[0].__module__.rpartition(".")[0].encode()
    (tmp_path / "000000.pkl").write_bytes(renamed(data, here, core))
    clip = load_clip(tmp_path / "000000.pkl")
    assert np.array_equal(clip.map_FHW, tiny_clip().map_FHW)
    assert clip.num_entities == 2


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """Names modules as the other numpy does, with lengths and without frames, which would not fit."""
    for module in (b"multiarray", b"numeric"):
        before, after = old + b"." + module, new + b"." + module
        data = data.replace(bytes([len(before)]) + before, bytes([len(after)]) + after)
        data = data.replace(b"c" + before + b"\n", b"c" + after + b"\n")
    return data[:2] + data[11:] if data[2:3] == pickle.FRAME else data


class Touch:
    """Makes a file when it is unpickled in full trust."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Run:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.mark.parametrize("trap", [Touch, Run])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_named_and_not_run(tmp_path: Path, trap: type, protocol: int):
    path, touched = tmp_path / "000000.pkl", tmp_path / "touched"
    path.write_bytes(pickle.dumps({0: {0: trap(touched)}}, protocol))
    with pytest.raises(DataError, match=rf"{path} asks for \w+\.[\w.]+, which no map file needs"):
        load_clip(path)
    assert not touched.exists()
    pickle.loads(path.read_bytes())
    assert touched.exists(), "the trap would not have worked"


def file_of(value: bytes) -> bytes:
    """Returns a pickle of {0: {0: value, 1: value}}."""
    inner = b"}(K\x00" + value + b"K\x01" + value + b"u"
    return b"\x80\x04}(K\x00" + inner + b"u."


EQUAL = b"cnumpy\nequal\n"
HUGE = zlib.compress(bytes(1 << 20)) * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no map file"),
        (b"not a pickle", "no map file"),
        (b"\x80\x04N.", "no dictionary"),
        (pickle.dumps({0: [1]}), "no dictionary"),
        (pickle.dumps({0: {0: 1, 1: 2}}), "no array"),
        (pickle.dumps({"0": {0: np.ones((1, 2, 2), bool)}}), "no number"),
        (pickle.dumps({0: {0: np.ones((1, 2, 2)), 1: np.ones((1, 2, 2))}}), "masks are boolean"),
        (file_of(EQUAL), "no array"),
        (file_of(b"cnumpy\nndarray\n(tR"), "no content"),
        (file_of(EQUAL + b"(K\x01K\x01tR"), "no frame of ids"),
        # state on a function, as a BUILD with slots would set it
        (file_of(EQUAL + b"}(X\x01\x00\x00\x00aK\x01ub"), "sets state on a function"),
        # a persistent id, and an extension code
        (b"\x80\x04K\x01Q.", "no map file"),
        (b"\x80\x04\x82\x01.", "no map file"),
        # frombuffer of what is not compressed, of a wrong type, and of two streams
        (file_of(b"czlib\ndecompress\n" + b"B" + struct.pack("<I", 4) + b"abcd" + b"\x85R"), "no map file"),
        (file_of(b"czlib\ndecompress\n" + b"B" + struct.pack("<I", len(HUGE)) + HUGE + b"\x85R"), "cut off"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "000000.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_clip(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_id_map_of_another_shape_is_refused(tmp_path: Path):
    path = tmp_path / "000000.pkl"
    save_clip(path, tiny_clip())
    data = path.read_bytes()
    shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in (2, 1, 2, 2)) + b"t"
    assert data.count(shape) == 1
    for wrong in ((2, 1, 2, 3), (2, 2, 2, 1), (-2, 1, 2, -2), (2, 1, 2**30, 2**30)):
        changed = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in wrong) + b"t"
        path.write_bytes(data.replace(shape, changed))
        with pytest.raises(DataError, match="id map"):
            load_clip(path)
    # the ids of one frame compared with another id than its key
    key_and_id = b"J" + struct.pack("<i", 1) + pickle.TUPLE
    path.write_bytes(data.replace(key_and_id, b"J" + struct.pack("<i", 0) + pickle.TUPLE, 1))
    with pytest.raises(DataError, match=str(path)):
        load_clip(path)


def test_a_decompression_bomb_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "000000.pkl"
    save_clip(path, PanopticClip(np.zeros((16, 256, 256), np.uint8), num_entities=1))
    monkeypatch.setattr("hierasurg_core.maps.masks.MAX_MAP_BYTES", 1 << 16)
    with pytest.raises(DataError, match="larger than 65536 bytes"):
        load_clip(path)
