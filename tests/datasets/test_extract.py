"""Which frames `extract` takes, and what it makes of them."""

import filecmp
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_videos import even_ticks, numbered_frame, numbers_in, write_video
from PIL import Image

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.config import ExtractConfig
from hierasurg_core.datasets.extract import ExtractResult, extract, read_manifest
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.pictures import read_image
from hierasurg_core.progress import SilentProgress


def run(source: Path, out: Path, **settings: Any) -> ExtractResult:
    return extract(ExtractConfig(source=source, out=out, **settings), SilentProgress())


@pytest.fixture(scope="module")
def at_25(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "video01.mp4"
    write_video(path, even_ticks(110))
    return path


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("fps", [1, 5, 8, 25])
def test_frames_are_exactly_those_at_their_times(
    at_25: Path, tmp_path: Path, fps: int, strict: bool, workers: int
) -> None:
    assert run(at_25, tmp_path, fps=float(fps), strict=strict, workers=workers).exit_code == 0
    expected = [25 * index // fps for index in range(110) if 25 * index // fps < 110]
    assert numbers_in(tmp_path / "video01") == expected


@pytest.mark.parametrize("name", ["video01.mp4", "video01.mov", "video01.mkv", "video01.avi"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str) -> None:
    write_video(tmp_path / name, even_ticks(60, 1), codec=codec, time_base=Fraction(1, 25))
    assert run(tmp_path / name, tmp_path / "out", fps=8.0).exit_code == 0
    assert numbers_in(tmp_path / "out" / "video01") == [25 * index // 8 for index in range(20)]


@pytest.mark.parametrize("fps", [1, 5, 8, 25])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_rate(tmp_path: Path, suffix: str, fps: int) -> None:
    steps = np.random.default_rng(7).choice([20, 33, 40, 41, 120, 700], size=90)
    times_ms = [0, *np.cumsum(steps).tolist()]
    write_video(tmp_path / f"video01{suffix}", times_ms, time_base=Fraction(1, 1000))
    assert run(tmp_path / f"video01{suffix}", tmp_path / "out", fps=float(fps)).exit_code == 0
    moments = [1000 * index / fps for index in range(10**4)]
    expected = [sum(time <= at for time in times_ms) - 1 for at in moments if at <= times_ms[-1]]
    found = numbers_in(tmp_path / "out" / "video01")
    assert found[: len(expected)] == expected
    assert set(found[len(expected) :]) <= {90}, "after its time, only the last frame is shown"


@pytest.mark.parametrize("fps", [1, 5, 8, 25])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_start_at_3_2_seconds(tmp_path: Path, suffix: str, fps: int) -> None:
    write_video(tmp_path / f"video01{suffix}", even_ticks(80, 40, first=3200), time_base=Fraction(1, 1000))
    assert run(tmp_path / f"video01{suffix}", tmp_path / "out", fps=float(fps)).exit_code == 0
    expected = [25 * index // fps for index in range(80) if 25 * index // fps < 80]
    assert numbers_in(tmp_path / "out" / "video01") == expected


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_broken_first_timestamp(tmp_path: Path, suffix: str) -> None:
    write_video(
        tmp_path / f"video01{suffix}", even_ticks(80, 40), time_base=Fraction(1, 1000), broken_first_by=5000
    )
    for out, with_fix in (("plain", False), ("fix", True)):
        run(tmp_path / f"video01{suffix}", tmp_path / out, fps=8.0, with_fix=with_fix)
        assert numbers_in(tmp_path / out / "video01") == [25 * index // 8 for index in range(26)]


def test_times_that_the_container_rounds(tmp_path: Path) -> None:
    ticks = [round(1000 * index / 30) for index in range(60)]
    write_video(tmp_path / "video01.mkv", ticks, time_base=Fraction(1, 1000), rate=30)
    run(tmp_path / "video01.mkv", tmp_path / "out", fps=30.0)
    assert numbers_in(tmp_path / "out" / "video01") == list(range(60))


def test_more_frames_than_a_video_shows_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "video01.mp4", even_ticks(6, 6400), rate=2)
    failure = run(tmp_path / "video01.mp4", tmp_path / "out", fps=8.0).failures[0]
    assert "shows 2 frames a second: --fps 8 asks for more; give --fps 2 or less" in failure.message
    assert failure.exit_code == 2
    assert not (tmp_path / "out").exists(), "nothing is begun"
    run(tmp_path / "video01.mp4", tmp_path / "out", fps=2.0)
    assert numbers_in(tmp_path / "out" / "video01") == list(range(6))


def test_what_is_left_undecoded_changes_no_byte(at_25: Path, tmp_path: Path) -> None:
    run(at_25, tmp_path / "few", fps=2.0)
    run(at_25, tmp_path / "all", fps=2.0, strict=True)
    assert folder_digests(tmp_path / "few" / "video01") == folder_digests(tmp_path / "all" / "video01")


def folder_digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def test_a_part_of_the_time(at_25: Path, tmp_path: Path) -> None:
    run(at_25, tmp_path, fps=5.0, start=1.0, end=2.5)
    assert numbers_in(tmp_path / "video01") == [25 + 5 * index for index in range(8)]
    assert read_manifest(tmp_path / "video01").start == 1.0
    result = run(at_25, tmp_path / "late", start=60.0)
    assert "choose an earlier --start" in result.failures[0].message


def test_size_and_crop(at_25: Path, tmp_path: Path) -> None:
    for name, settings, shape in (
        ("crop", {"crop": "32x48"}, (32, 48)),
        ("size", {"size": "32x32"}, (32, 32)),
        ("both", {"crop": "64x64", "size": "32x32"}, (32, 32)),
    ):
        run(at_25, tmp_path / name, **settings)
        assert read_manifest(tmp_path / name / "video01").size_hw == shape
        assert read_image(tmp_path / name / "video01" / "000000.jpg").shape[:2] == shape
    same = [sha256_file(tmp_path / name / "video01" / "000002.jpg") for name in ("size", "both")]
    assert same[0] == same[1], "a size crops to its own shape"
    result = run(at_25, tmp_path / "none", crop="480x720")
    assert "too small for --crop 480x720" in result.failures[0].message


def test_black_frames_are_listed(tmp_path: Path) -> None:
    frames = [
        numbered_frame(0) if index // 25 % 2 else np.zeros((64, 96, 3), np.uint8) for index in range(75)
    ]
    write_video(tmp_path / "video01.mp4", even_ticks(75), frames=frames)
    result = run(tmp_path / "video01.mp4", tmp_path / "out")
    assert result.videos[0].black == 2
    assert read_manifest(tmp_path / "out" / "video01").black == {0, 2}


def test_the_manifest(at_25: Path, tmp_path: Path) -> None:
    result = run(at_25, tmp_path)
    folder = read_manifest(tmp_path / "video01")
    assert (folder.name, folder.fps, folder.num_frames, folder.size_hw) == ("video01", 1.0, 5, (64, 96))
    content = json.loads((tmp_path / "video01" / "extract.json").read_text())
    assert content["complete"] is True
    assert (content["codec"], content["kept"], content["undecodable"]) == ("h264", 5, 0)
    assert content["digest"] == folder.digest
    assert len(folder.digest) == 64
    assert list(result.to_dict()) == ["out", "videos", "failures", "seconds", "skipped", "passed_over"]
    assert (tmp_path / "extract.yaml").read_text().startswith("extract:\n")


def test_a_folder_of_videos_by_its_list(at_25: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("VID01.mp4", "Video02.mp4", "video10.MP4", "my operation.mp4"):
        (source / name).write_bytes(at_25.read_bytes())
    (source / "notes.txt").write_text("none")
    result = run(source, tmp_path / "all")
    assert [video.name for video in result.videos] == ["my operation", "video01", "video02", "video10"]
    (tmp_path / "list.txt").write_text("video10\n\n# no more\nVID02\nvideo80\n")
    result = run(source, tmp_path / "some", only=tmp_path / "list.txt")
    assert [video.name for video in result.videos] == ["video02", "video10"]
    (tmp_path / "list.txt").write_text("video80\n")
    with pytest.raises(DataError, match="none of the 1 operations"):
        run(source, tmp_path / "none", only=tmp_path / "list.txt")
    (source / "VID10.mp4").write_bytes(b"")
    result = run(source, tmp_path / "twice")
    assert [video.name for video in result.videos] == ["my operation", "video01", "video02"]
    assert [failure.name for failure in result.failures] == ["video10"]
    assert re.search(r"VID10\.mp4 and .*video10\.MP4 are both video10", result.failures[0].message)
    assert result.exit_code == 3
    assert {path["path"] for path in result.to_dict()["skipped"]} == {
        str(source / name) for name in ("notes.txt", "VID10.mp4", "video10.MP4")
    }


def test_sources_and_frames_may_share_a_folder(at_25: Path, tmp_path: Path) -> None:
    (tmp_path / "video01.mp4").write_bytes(at_25.read_bytes())
    run(tmp_path, tmp_path)
    assert [video.skipped for video in run(tmp_path, tmp_path).videos] == [True]


def write_images(folder: Path, numbers: list[int], suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        Image.fromarray(numbered_frame(number)).save(folder / f"{number:06d}{suffix}", quality=80)


def test_a_tree_of_images(tmp_path: Path) -> None:
    write_images(tmp_path / "CholecT50" / "videos" / "VID01", [0, 1, 2, 3])
    write_images(tmp_path / "CholecT50" / "videos" / "VID02", [0, 1], ".jpg")
    result = run(tmp_path / "CholecT50", tmp_path / "out")
    assert result.exit_code == 0
    assert numbers_in(tmp_path / "out" / "video01") == [0, 1, 2, 3]
    source = tmp_path / "CholecT50" / "videos" / "VID02" / "000001.jpg"
    assert filecmp.cmp(tmp_path / "out" / "video02" / "000001.jpg", source, shallow=False)
    assert read_manifest(tmp_path / "out" / "video01").fps == 1
    assert "needs the video file" in run(tmp_path / "CholecT50", tmp_path / "8", fps=8.0).failures[0].message
    run(tmp_path / "CholecT50", tmp_path / "part", start=1.0, end=3.0)
    assert numbers_in(tmp_path / "part" / "video01") == [1, 2]


def test_images_that_are_missing_keep_their_number(tmp_path: Path) -> None:
    write_images(tmp_path / "in" / "VID01", [0, 1, 3, 4])
    (tmp_path / "in" / "VID01" / "000004.png").write_bytes(b"none")
    result = run(tmp_path / "in", tmp_path / "out")
    assert result.videos[0].undecodable == 2
    assert numbers_in(tmp_path / "out" / "video01") == [0, 1, 1, 3, 3]
    assert "--strict" in run(tmp_path / "in", tmp_path / "strict", strict=True).failures[0].message


def test_images_are_not_written_over(tmp_path: Path) -> None:
    write_images(tmp_path / "video01", [0, 1], ".jpg")
    with pytest.raises(UsageError, match="written over"):
        run(tmp_path, tmp_path)


def test_a_folder_without_a_manifest_is_read_too(tmp_path: Path) -> None:
    write_images(tmp_path / "video01", [0, 1, 2])
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "video01" / "000001.png")
    folder = read_manifest(tmp_path / "video01")
    assert (folder.fps, folder.num_frames, folder.size_hw, folder.black) == (None, 3, (64, 96), {1})
    assert folder.frame_path(2).name == "000002.png"
    (tmp_path / "video01" / "000001.png").unlink()
    with pytest.raises(DataError, match="lacks frame 000001"):
        read_manifest(tmp_path / "video01")


def named_images(folder: Path, **numbers: int) -> Path:
    """Writes pictures that carry a number under names of any form; `__` stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in numbers.items():
        Image.fromarray(numbered_frame(number)).save(folder / name.replace("__", "."))
    return folder


@pytest.mark.parametrize("form", ["{:06d}.png", "{}.PNG", "frame_{:04d}.jpg", "a1_{:06d}_9.bmp", "s {}.webp"])
def test_images_of_any_name_become_frames(form: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "seq_1").mkdir(parents=True)
    for number in range(12):
        Image.fromarray(numbered_frame(number)).save(tmp_path / "in" / "seq_1" / form.format(number))
    result = run(tmp_path / "in", tmp_path / "out")
    assert [(video.name, video.num_frames) for video in result.videos] == [("seq_1", 12)]
    assert numbers_in(tmp_path / "out" / "seq_1") == list(range(12))


def test_numbering_from_one_is_said_and_settled(tmp_path: Path) -> None:
    write_images(tmp_path / "in" / "VID01", [1, 2, 3])
    said = Notes()
    extract(ExtractConfig(source=tmp_path / "in", out=tmp_path / "auto"), said)
    assert numbers_in(tmp_path / "auto" / "video01") == [1, 2, 3]
    assert "numbered from 000001.png, which is taken as second 0" in said.notes[0]
    assert manifest(tmp_path / "auto")["first_index"] == 1
    assert run(tmp_path / "in", tmp_path / "auto", first_index=0).videos[0].skipped is False
    for first, numbers in ((0, [1, 1, 2, 3]), (1, [1, 2, 3]), (2, [2, 3])):
        run(tmp_path / "in", tmp_path / str(first), first_index=first)
        assert numbers_in(tmp_path / str(first) / "video01") == numbers
        assert manifest(tmp_path / str(first))["first_index"] == first
    assert manifest(tmp_path / "0")["filled"] == [0]
    assert "before --first-index 9" in run(tmp_path / "in", tmp_path / "9", first_index=9).failures[0].message


def test_a_long_gap_before_the_first_image_takes_a_start(tmp_path: Path) -> None:
    write_images(tmp_path / "in" / "VID01", [30, 31])
    result = run(tmp_path / "in", tmp_path / "out", first_index=0)
    assert "lacks its first 30 seconds" in result.failures[0].message
    assert "--start 30" in result.failures[0].message
    run(tmp_path / "in", tmp_path / "out", first_index=0, start=30.0)
    assert numbers_in(tmp_path / "out" / "video01") == [30, 31]
    assert read_manifest(tmp_path / "out" / "video01").start == 30


def test_every_25th_number_is_a_second(tmp_path: Path) -> None:
    write_images(tmp_path / "in" / "VID01", [0, 25, 75])
    said = Notes()
    extract(ExtractConfig(source=tmp_path / "in", out=tmp_path / "out"), said)
    assert numbers_in(tmp_path / "out" / "video01") == [0, 25, 25, 75]
    assert manifest(tmp_path / "out")["index_step"] == 25
    assert any("numbers rise by 25" in note for note in said.notes)


def test_a_folder_of_images_that_is_not_right_costs_itself(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_images(source / "VID01", [0, 1])
    named_images(source / "twice", **{"7__png": 0, "007__png": 1})
    named_images(source / "sizes", **{"0__png": 0})
    Image.new("RGB", (40, 30)).save(source / "sizes" / "1.png")
    write_images(source / "sparse", [0, 1, 40])
    named_images(source / "forms", left_0__png=0, right_0__png=0)
    named_images(source / "mixed", **{"0__png": 0, "1__jpg": 1})
    said = Notes()
    result = extract(ExtractConfig(source=source, out=tmp_path / "out"), said)
    assert [video.name for video in result.videos] == ["mixed", "video01"]
    messages = {failure.name: failure.message for failure in result.failures}
    assert list(messages) == ["forms", "sizes", "sparse", "twice"]
    assert "mixes several kinds of names: left_0.png (1), right_0.png (1)" in messages["forms"]
    assert "1.png is 30x40 (rows x columns), but the images before it are 64x96" in messages["sizes"]
    assert "holds 3 images numbered 0 to 40, so most numbers are missing" in messages["sparse"]
    assert "holds number 7 twice, as 007.png and 7.png" in messages["twice"]
    assert result.exit_code == 3
    assert any("of several kinds (1 .png, 1 .jpg)" in note for note in said.notes)
    assert [video.name for video in run(source / "sizes", tmp_path / "fit", size="32x48").videos] == ["sizes"]


def test_a_hole_and_a_bad_image_are_told_apart(tmp_path: Path) -> None:
    write_images(tmp_path / "in" / "VID01", [0, 1, 3, 4])
    (tmp_path / "in" / "VID01" / "000004.png").write_bytes(b"none")
    said = Notes()
    extract(ExtractConfig(source=tmp_path / "in", out=tmp_path / "out"), said)
    assert "1 images are missing and 1 images are no readable images (first 000004.png)" in said.notes[0]
    assert "the first at frame 000002" in said.notes[0]
    assert manifest(tmp_path / "out")["filled"] == [2, 4]


def manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "video01" / "extract.json").read_text())


class Notes(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
