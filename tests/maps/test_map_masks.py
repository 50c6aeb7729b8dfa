import filecmp
import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
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
        (file_of(EQUAL + b"}(K\x00K\x01ub"), "sets state on a function"),
        (file_of(EQUAL + b"}(X\x01\x00\x00\x00aK\x01ub"), "no number"),
        # a persistent id, and an extension code
        (b"\x80\x04K\x01Q.", "no map file"),
        (b"\x80\x04\x82\x01.", "no map file"),
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


IDS = zlib.compress(bytes([0, 1, 2, 3, 1, 1, 2, 3]))


def own_file(packed: bytes, shape: tuple[int, ...] = (2, 1, 2, 2)) -> bytes:
    """A file as ours of two frames, whose id map is this stream and has this shape."""
    number = {n: b"J" + struct.pack("<i", n) for n in (*range(4), *shape)}
    ids = b"cnumpy\nfrombuffer\n(czlib\ndecompress\n(B" + struct.pack("<I", len(packed)) + packed + b"tR"
    ids += b"X\x05\x00\x00\x00uint8tR"
    reshaped = b"cnumpy\nreshape\n(" + ids + b"(" + b"".join(number[n] for n in shape) + b"ttRq\x00"
    masks = b""
    for frame in range(2):
        plane = (reshaped if frame == 0 else b"h\x00") + number[frame]
        plane = b"coperator\ngetitem\n(" + plane + b"tRq\x01"
        masks += number[frame] + b"}("
        for entity in range(4):
            masks += number[entity] + b"cnumpy\nequal\n(" + (plane if entity == 0 else b"h\x01")
            masks += number[entity] + b"tR"
        masks += b"u"
    return b"\x80\x04}(" + masks + b"u."


def test_the_file_written_by_hand_is_one_of_ours(tmp_path: Path):
    path = tmp_path / "000000.pkl"
    path.write_bytes(own_file(IDS))
    assert load_clip(path).map_FHW.tolist() == [[[0, 1], [2, 3]], [[1, 1], [2, 3]]]
    assert pickle.loads(own_file(IDS))[1][1].tolist() == [[[True, True], [False, False]]]


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"abcd", "incorrect header check"),
        (IDS[:-5], "cut off"),
        (IDS * 2, "cut off"),
        (IDS + b"x", "cut off"),
        (zlib.compress(bytes(7)), "cut off"),
        (zlib.compress(bytes(9)), "cut off"),
        (zlib.compress(bytes(1 << 30)), "cut off"),
        (b"", "cut off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_stream_of_ids_is_refused(tmp_path: Path, packed: bytes, message: str):
    path = tmp_path / "000000.pkl"
    path.write_bytes(own_file(packed))
    peak = peak_of_refusal(path, message)
    assert peak < 16e6


def peak_of_refusal(path: Path, message: str) -> int:
    """Reads a file that is to be refused, and returns the most bytes that this took at a time."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            load_clip(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < len(str(path)) + 400
    return peak


def integer(value: int) -> bytes:
    return b"\x8a" + bytes([8]) + struct.pack("<q", value)


BOMB = zlib.compress(bytes(1 << 29))
MASK = pickle.dumps(np.ones((1, 2048, 2048), bool), 2)[2:-1]
DEEP = b"N" + b"\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # the memo of Python's own unpickler would have 2^31 places, or its frame 2^40 bytes
        (b"\x80\x04Nr\x00\x00\x00\x08.", "no dictionary"),
        (b"\x80\x04Nr\xff\xff\xff\xff.", "no dictionary"),
        (b"\x80\x04\x95\x00\x00\x00\x00\x00\x01\x00\x00N.", "no dictionary"),
        (b"\x80\x04\x96\x00\x00\x00\x00\x00\x01\x00\x00.", "an item of 1,099,511,627,776 bytes"),
        (b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.", "an item of 1,099,511,627,776 bytes"),
        (b"\x80\x04B\xff\xff\xff\xff.", "an item of 4,294,967,295 bytes"),
        # a range of 2^31 ids, and ids that are none
        (
            b"\x80\x04}K\x00}" + integer(2**31 - 2) + MASK + b"ss.",
            "has the id 2147483646; ids go from 0 to 255",
        ),
        (b"\x80\x04}K\x00}" + integer(256) + MASK + b"ss.", "has the id 256"),
        (b"\x80\x04}K\x00}" + integer(-1) + MASK + b"ss.", "has the id -1"),
        (b"\x80\x04}" + integer(2**40) + b"}K\x00" + MASK + b"ss.", "frames do not count 0, 1"),
        (b"\x80\x04}" + integer(-1) + b"}K\x00" + MASK + b"ss.", "frames do not count 0, 1"),
        (b"\x80\x04L" + b"9" * 5000 + b"L\n.", "no map file"),
        # the same stream, unpacked again and again
        (
            file_of(b"czlib\ndecompress\n(B" + struct.pack("<I", len(BOMB)) + BOMB + b"q\x00tR").replace(
                b"uu.", b"u" + b"czlib\ndecompress\n(h\x00tR" * 20 + b"u."
            ),
            "no dictionary|no map file",
        ),
        # one mask of 4 MB as each of 256 ids of 100 frames
        (
            b"\x80\x04}K\x00}K\x00"
            + MASK
            + b"r\x00\x00\x00\x01s"
            + b"".join(b"J" + struct.pack("<i", i) + b"j\x00\x00\x00\x01s" for i in range(1, 256))
            + b"r\x01\x00\x00\x01s"
            + b"".join(b"J" + struct.pack("<i", i) + b"j\x01\x00\x00\x01s" for i in range(1, 100))
            + b".",
            "masks have 107,374,182,400 pixels",
        ),
        # a key that takes 2^60 steps to hash
        (b"\x80\x04" + DEEP + b"}h\x00Ns.", "no number"),
        # more steps than a map has
        (b"\x80\x04" + b"K\x00" * 1_000_000 + b".", "more than 1,000,000 steps"),
        (b"\x80\x04(ttt.", "takes more values than it holds"),
        (b"\x80\x04(0.", "the step POP"),
        (b"\x80\x04X\x04\x00\x00\x00\xf0\x9f\x98\x80.", "stands for no bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_pickle_takes_no_more_than_its_file(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "000000.pkl"
    path.write_bytes(content)
    assert peak_of_refusal(path, message) < 3 * len(content) + 16e6


def test_a_map_larger_than_any_clip_is_not_unpacked(tmp_path: Path):
    path = tmp_path / "000000.pkl"
    path.write_bytes(own_file(BOMB, (2, 1, 2**15, 2**15)))
    assert peak_of_refusal(path, "2 x 1 x 32768 x 32768 is empty or larger than 536870912 bytes") < 16e6


def test_a_decompression_bomb_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "000000.pkl"
    save_clip(path, PanopticClip(np.zeros((16, 256, 256), np.uint8), num_entities=1))
    monkeypatch.setattr("hierasurg_core.maps.known_calls.MAX_MAP_BYTES", 1 << 16)
    with pytest.raises(DataError, match="larger than 65536 bytes"):
        load_clip(path)
