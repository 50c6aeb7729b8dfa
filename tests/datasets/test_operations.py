"""Which files and folders are operations, for every command, and what is said of the others."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hierasurg_core.datasets.annotations import operation_name
from hierasurg_core.datasets.frames import read_manifest
from hierasurg_core.datasets.numbering import number_images
from hierasurg_core.datasets.operations import (
    find_frame_folders,
    find_map_folders,
    find_sources,
    skipped_in_words,
)
from hierasurg_core.errors import DataError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (("10.png", "9.png", "100.png"), [9, 10, 100]),
        (("frame_0001.jpg", "frame_0002.jpg"), [1, 2]),
        (("video05_000001.png", "video05_000010.png"), [1, 10]),
        (("IMG_0001.JPG", "IMG_0002.jpeg"), [1, 2]),
        (("000001_640.bmp", "000002_640.bmp"), [1, 2]),
        (("a1b7.tif", "a1b8.tiff", "a1b9.webp"), [7, 8, 9]),
        (("op3_frame5.png",), [5]),
        (("image.png", "scene.png"), []),
    ],
)
def test_the_number_is_the_last_one_that_varies(tmp_path: Path, names: tuple[str, ...], numbers: list[int]):
    assert list(number_images(touch(tmp_path, *names)).by_number) == numbers


def test_masks_strangers_and_clutter_are_no_frames(tmp_path: Path) -> None:
    frames = [f"frame_{number}_endo.png" for number in (80, 81, 82)]
    masks = [f"frame_{number}_endo_{kind}.png" for number in (80, 81) for kind in ("mask", "color_mask")]
    touch(tmp_path, *frames, *masks, "cover.png", "photo1.png", "Thumbs.db", ".frame_83_endo.png")
    images = number_images(tmp_path)
    assert [path.name for path in images.paths] == frames
    assert images.num_clutter == 2
    assert {one.path.name: one.reason for one in images.skipped} == {
        **dict.fromkeys(masks, "a mask, not a frame"),
        "cover.png": "its name holds no number",
        "photo1.png": "not named as the other images are (frame_80_endo.png)",
    }


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("7.png", "007.png", "8.png"), "holds number 7 twice, as 007.png and 7.png: keep one"),
        (("0.jpg", "0.png"), "holds number 0 twice, as 0.jpg and 0.png: keep one"),
        (("left_1.png", "right_1.png"), r"mixes several kinds of names: left_1.png \(1\), right_1.png \(1\)"),
    ],
)
def test_names_without_an_order_are_a_fault(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    touch(tmp_path / "case_A", *names)
    with pytest.raises(DataError, match=said):
        read_manifest(tmp_path / "case_A")
    assert [fault.name for fault in find_sources(tmp_path).faults] == ["case_A"]


def test_sources_are_videos_and_folders_of_images(tmp_path: Path) -> None:
    touch(tmp_path, "VID01.mp4", "case_A.AVI", "readme.md", "logo.png", ".hidden", "extract.yaml")
    touch(tmp_path / "seq_1", "frame_1.png")
    touch(tmp_path / "deep" / "left", "1.png")
    touch(tmp_path / "empty")
    touch(tmp_path / "__MACOSX", "1.png")
    touch(tmp_path / "video09_masks", "000000.png")
    touch(tmp_path / "video08", "000000.jpg", "extract.json")
    found = find_sources(tmp_path)
    assert list(found.sources) == ["case_A", "seq_1", "video01"]
    assert {one.path.name: one.reason.split(":")[0] for one in found.skipped} == {
        "readme.md": "neither a video nor a folder of images",
        "logo.png": "an image beside operations",
        "deep": "holds no images; the folders in it are not searched",
        "empty": "holds no images",
    }
    assert found.passed_over == 5


def test_two_sources_of_one_name_cost_that_name(tmp_path: Path) -> None:
    touch(tmp_path, "video01.mp4", "video_01.mp4", "video02.mp4", "video03.mp4")
    found = find_sources(tmp_path)
    assert list(found.sources) == ["video02", "video03"]
    assert [fault.name for fault in found.faults] == ["video01"]
    assert [path.name for path in found.faults[0].paths] == ["video01.mp4", "video_01.mp4"]
    with pytest.raises(DataError, match="are both video01: keep one of them"):
        found.require("video01", "not there")
    with pytest.raises(DataError, match="not there"):
        found.require("video04", "not there")


def test_a_folder_of_images_is_one_operation(tmp_path: Path) -> None:
    touch(tmp_path / "VID07", "000000.png", "000001.png", "000002.png", "notes.txt")
    touch(tmp_path / "VID07" / "more", "0.png")
    found = find_sources(tmp_path / "VID07")
    assert list(found.sources) == ["video07"]
    assert sorted(one.path.name for one in found.skipped) == ["more", "notes.txt"]
    assert find_frame_folders(tmp_path / "VID07").paths == {"video07": tmp_path / "VID07"}


def test_every_command_knows_the_same_names(tmp_path: Path) -> None:
    for name in ("seq_1", "case_A", "VID01"):
        touch(tmp_path / name, "000000.png")
        touch(tmp_path / f"{name}_masks", "000000.png")
    touch(tmp_path, "label.yaml", "seq_1_overlay.mp4", "seq_1_sheet.png", "seq_1.mp4", "video09.mp4")
    names = ["case_A", "seq_1", "video01"]
    frames = find_frame_folders(tmp_path)
    assert list(frames.sources) == names
    assert [one.path.name for one in frames.skipped] == ["video09.mp4"]
    assert "hierasurg extract" in frames.skipped[0].reason
    assert list(find_map_folders(tmp_path).sources) == names
    assert [operation_name(text) for text in ("VID1", "seq_1")] == ["video01", "seq_1"]


def test_frames_of_any_name_are_read_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "seq_1"
    folder.mkdir()
    for number in range(11):
        Image.fromarray(np.full((16, 16, 3), 100, np.uint8)).save(folder / f"frame_{number}.png")
    frames = read_manifest(folder)
    assert frames.num_frames == 11
    assert frames.frame_path(10).name == "frame_10.png"
    (folder / "frame_0.png").unlink()
    with pytest.raises(DataError, match=r"lacks frame 000000 \(then comes frame_1.png\).*hierasurg extract"):
        read_manifest(folder)


def test_a_folder_that_cannot_be_read_costs_itself(tmp_path: Path) -> None:
    touch(tmp_path / "seq_1", "0.png")
    touch(tmp_path, "video02.mp4")
    (tmp_path / "seq_1").chmod(0)
    try:
        if os.access(tmp_path / "seq_1", os.R_OK):
            pytest.skip("this user may read everything")
        found = find_sources(tmp_path)
    finally:
        (tmp_path / "seq_1").chmod(0o700)
    assert list(found.sources) == ["video02"]
    assert "cannot read the folder" in found.faults[0].message


def test_pictures_that_label_writes_are_no_operation(tmp_path: Path) -> None:
    touch(tmp_path, "video01_sheet.png", "video02_sheet.png", "video03_sheet.png")
    touch(tmp_path / "video01", "000000.png")
    assert list(find_frame_folders(tmp_path).sources) == ["video01"]
    assert list(find_sources(tmp_path).sources) == ["video01"]
    assert number_images(tmp_path).by_number == {}


def test_many_files_of_one_reason_are_one_line(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{letter}.txt" for letter in "abcdefg"), "video01.mp4")
    (line,) = skipped_in_words(find_sources(tmp_path).skipped)
    assert line == (
        f"skipped 7 in {tmp_path}: neither a video nor a folder of images "
        "(a.txt, b.txt, c.txt, d.txt, e.txt, ...)"
    )
