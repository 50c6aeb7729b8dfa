"""Which frames `extract` takes, and what it makes of them."""

import filecmp
import json
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
    assert list(result.to_dict()) == ["out", "videos", "failures", "seconds"]
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
    with pytest.raises(DataError, match=r"VID10\.mp4 and .*video10\.MP4 are both video10"):
        run(source, tmp_path / "twice")


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
