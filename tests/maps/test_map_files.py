import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from maps.moving_shapes import moving_ids
from PIL import Image

from hierasurg_core.errors import DataError
from hierasurg_core.maps import (
    PanopticClip,
    colour_map,
    describe_levels,
    load_clip,
    load_map_image,
    map_num_entities,
    save_clip,
    save_map_png,
)
from hierasurg_core.video import write_mp4


def test_a_map_png_keeps_ids_and_number_of_entities(tmp_path: Path):
    map_HW = np.array([[0, 1, 4], [1, 1, 4]], np.uint8)
    save_map_png(tmp_path / "a.png", map_HW, num_entities=4)
    assert load_map_image(tmp_path / "a.png").tolist() == map_HW.tolist()
    assert map_num_entities(tmp_path / "a.png") == 4
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((0, 0)) == (31, 119, 180)


def test_without_a_number_the_two_highest_ids_are_background_and_border(tmp_path: Path):
    save_map_png(tmp_path / "a.png", np.array([[0, 1, 4]], np.uint8))
    assert map_num_entities(tmp_path / "a.png") == 3
    Image.fromarray(np.array([[0, 5]], np.uint8)).save(tmp_path / "grey.png")
    assert load_map_image(tmp_path / "grey.png").tolist() == [[0, 5]]
    assert map_num_entities(tmp_path / "grey.png") == 4
    save_map_png(tmp_path / "zero.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="id 0 only"):
        map_num_entities(tmp_path / "zero.png")


def test_a_map_png_of_more_ids_than_colours_keeps_them(tmp_path: Path):
    map_HW = np.arange(60, dtype=np.uint8).reshape(6, 10)
    save_map_png(tmp_path / "a.png", map_HW, num_entities=58)
    assert np.array_equal(load_map_image(tmp_path / "a.png"), map_HW)
    with pytest.raises(ValueError, match="id 59"):
        save_map_png(tmp_path / "b.png", map_HW, num_entities=57)


def test_what_is_no_map_is_refused_by_name(tmp_path: Path):
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "photo.png")
    for name, message in (("text.png", "readable"), ("photo.png", "mode RGB"), ("none.png", "No such file")):
        with pytest.raises(DataError, match=message) as caught:
            load_map_image(tmp_path / name)
        assert name in str(caught.value)


def test_a_truncated_map_is_refused(tmp_path: Path):
    save_map_png(tmp_path / "a.png", moving_ids(num_frames=1)[0])
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="readable"):
        load_map_image(tmp_path / "a.png")


def png_folder(folder: Path, map_FHW, start: int = 0, num_entities: int | None = None) -> Path:
    folder.mkdir()
    for index, map_HW in enumerate(map_FHW, start):
        save_map_png(folder / f"{index:06d}.png", map_HW, num_entities)
    return folder


def test_a_folder_of_pngs_is_a_clip(tmp_path: Path):
    map_FHW = np.array([[[0, 1, 2]], [[0, 0, 2]], [[1, 1, 1]]], np.uint8)
    folder = png_folder(tmp_path / "maps", map_FHW, start=25)
    (folder / "entities.json").write_text("{}")
    clip = load_clip(folder)
    assert np.array_equal(clip.map_FHW, map_FHW)
    assert clip.num_entities == 1
    assert load_clip(folder, num_frames=2).map_FHW.shape == (2, 1, 3)
    with pytest.raises(DataError, match="3 frames, but 16 are needed"):
        load_clip(folder, num_frames=16)
    (folder / "000026.png").unlink()
    with pytest.raises(DataError, match=r"gap: 000025\.png is followed by 000027\.png"):
        load_clip(folder)


def test_a_folder_that_states_its_entities_needs_no_border(tmp_path: Path):
    folder = png_folder(tmp_path / "maps", np.array([[[0, 1, 2]]], np.uint8), num_entities=5)
    assert load_clip(folder).num_entities == 5


def test_folders_that_are_no_clip(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="name them"):
        load_clip(tmp_path / "empty")
    save_clip(tmp_path / "empty" / "000000.pkl", PanopticClip(np.zeros((1, 2, 2), np.uint8), 0))
    with pytest.raises(DataError, match="give one of those files"):
        load_clip(tmp_path / "empty")
    folder = png_folder(tmp_path / "sizes", np.array([[[0, 1, 2]]], np.uint8))
    save_map_png(folder / "000001.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(DataError, match="differ in size: 2x1, 3x1"):
        load_clip(folder)
    folder = png_folder(tmp_path / "mixed", np.array([[[0, 1, 2]]], np.uint8), num_entities=1)
    save_map_png(folder / "000001.png", np.array([[0, 1, 2]], np.uint8), num_entities=2)
    with pytest.raises(DataError, match="different clips"):
        load_clip(folder)


def coloured_mp4(path: Path, map_FHW, comment: str | None) -> Path:
    write_mp4(path, colour_map(map_FHW, np.unique(map_FHW).tolist()), 1, comment)
    return path


def test_a_coloured_mp4_of_ours_gives_its_ids_back(tmp_path: Path):
    map_FHW = moving_ids(num_entities=8, num_frames=4)
    map_FHW[map_FHW == 3] = 8  # a level that does not occur
    clip = PanopticClip(map_FHW, num_entities=8)
    read = load_clip(
        coloured_mp4(tmp_path / "maps.mp4", map_FHW, describe_levels(clip.levels, 8)), num_frames=3
    )
    assert read.num_entities == 8
    assert read.levels == clip.levels
    assert read.map_FHW.shape[0] == 3
    assert (read.map_FHW == map_FHW[:3]).mean() > 0.99


@pytest.mark.parametrize("num_entities", [2, 6, 10, 15])
def test_a_coloured_mp4_of_others_is_read_by_its_palette(tmp_path: Path, num_entities: int):
    map_FHW = moving_ids(num_entities, num_frames=3)
    assert np.unique(map_FHW).tolist() == list(range(num_entities + 2))
    read = load_clip(coloured_mp4(tmp_path / "maps.mp4", map_FHW, "made by somebody"))
    assert read.num_entities == num_entities
    assert (read.map_FHW == map_FHW).mean() > 0.99


def test_mp4s_that_are_no_maps(tmp_path: Path):
    grey = np.full((2, 32, 32), 0, np.uint8)
    with pytest.raises(DataError, match="single colour"):
        load_clip(coloured_mp4(tmp_path / "one.mp4", grey, None))
    for wrong in (
        '{"num_entities": 1}',
        '{"levels": [0, 9], "num_entities": 1}',
        '{"levels": ["a"], "num_entities": 1}',
    ):
        with pytest.raises(DataError, match="names wrong levels"):
            load_clip(coloured_mp4(tmp_path / "wrong.mp4", grey, wrong))
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(DataError, match=r"text\.mp4"):
        load_clip(tmp_path / "text.mp4")


def test_paths_that_are_no_form_of_maps(tmp_path: Path):
    (tmp_path / "maps.txt").write_text("hello")
    with pytest.raises(DataError, match=r"maps\.txt is no form of maps"):
        load_clip(tmp_path / "maps.txt")
    with pytest.raises(DataError, match=r"no maps at .*nothing"):
        load_clip(tmp_path / "nothing")


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG whose header says this size, with these chunks behind it."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (head, *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_the_png_written_by_hand_is_a_map(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png_of(2, 1, (b"IDAT", zlib.compress(b"\0\3\4"))))
    assert load_map_image(tmp_path / "a.png").tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_of(100_000, 100_000), "too large for a map"),
        (png_of(8193, 8192, (b"IDAT", zlib.compress(bytes(8194 * 8192)))), "says that it is 8193x8192"),
        (png_of(13_000, 13_000), "says that it is 13000x13000|too large"),
        (png_of(0, 0), "no readable image"),
        (png_of(2, 1), "no readable image"),
        (png_of(2, 1, (b"IDAT", b"abcd")), "no readable image"),
        (png_of(2, 1)[:30], "no readable image"),
        (png_of(2, 1, (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28)))), "no readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF", "no readable image"),
        (b"P5 1 1 255 a", "no readable image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_pictures_take_little_memory(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "000000.png"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError, match=message) as caught:
        load_map_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 16e6


def test_a_folder_of_more_pixels_than_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = png_folder(tmp_path / "maps", moving_ids(num_frames=3))
    monkeypatch.setattr("hierasurg_core.maps.files.MAX_FOLDER_PIXELS", moving_ids(num_frames=2).size)
    assert len(load_clip(folder, num_frames=2).map_FHW) == 2
    with pytest.raises(DataError, match=f"{folder} have more than"):
        load_clip(folder)


@pytest.mark.parametrize(
    "comment", ['{"levels": ' + "[" * 500, '{"levels": [NaN], "num_entities": 1}', "9" * 5000]
)
def test_a_hostile_comment_says_nothing(tmp_path: Path, comment: str):
    map_FHW = moving_ids(2, num_frames=2)
    assert load_clip(coloured_mp4(tmp_path / "maps.mp4", map_FHW, comment)).num_entities == 2
