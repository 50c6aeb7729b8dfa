"""What `extract` does to pixels, what it says about that, and what it may be asked of a source."""

import filecmp
import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numbered_videos import even_ticks, numbered_frame, numbers_in, read_number, write_video
from odd_videos import UPRIGHT_CORNERS, combed_frames, combs, corners, four_colours, turn_as_exif, write_odd
from PIL import Image

from hierasurg_core.config import ExtractConfig
from hierasurg_core.datasets.extract import ExtractResult, extract, read_manifest
from hierasurg_core.errors import ResourceError, UsageError
from hierasurg_core.pictures import read_image
from hierasurg_core.progress import SilentProgress


class Listener(SilentProgress):
    """Keeps the lines for the user."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def run(source: Path, out: Path, **settings: Any) -> tuple[ExtractResult, list[str]]:
    listener = Listener()
    return extract(ExtractConfig(source=source, out=out, **settings), listener), listener.notes


def test_a_turned_video_with_oblong_pixels(tmp_path: Path) -> None:
    source = tmp_path / "video01.mp4"
    write_odd(source, [four_colours(64, 90)] * 25, sar=Fraction(64, 45))
    turn_as_exif(source, 8)
    words = ["rotated 90 degrees counterclockwise", "sar 64:45 -> 45x90 (width x height)"]
    _, notes = run(source, tmp_path / "out")
    assert notes == [f"{source}: {', '.join(words)}"]
    folder = read_manifest(tmp_path / "out" / "video01")
    assert folder.size_hw == (90, 45)
    assert folder.pixels == tuple(words)
    frame_HWC = read_image(folder.frame_path(0))
    assert frame_HWC.shape == (90, 45, 3)
    assert np.abs(np.array(corners(frame_HWC)) - np.array(UPRIGHT_CORNERS[8])).max() <= 6
    result, notes = run(source, tmp_path / "out")
    assert result.videos[0].skipped
    assert notes == [f"{source}: {', '.join(words)}"]


def test_size_and_crop_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    source = tmp_path / "video01.mp4"
    write_odd(source, [four_colours(64, 90)] * 25, sar=Fraction(64, 45))
    run(source, tmp_path / "out", crop="64x128", size="32x64")
    assert read_image(tmp_path / "out" / "video01" / "000000.jpg").shape == (32, 64, 3)
    result, _ = run(source, tmp_path / "more", crop="64x129")
    assert "is 64x128 (rows x columns), too small" in result.failures[0].message


def test_frames_of_before_that_were_not_turned_are_made_again(tmp_path: Path) -> None:
    source = tmp_path / "video01.mp4"
    write_odd(source, [four_colours(64, 96)] * 25)
    turn_as_exif(source, 6)
    run(source, tmp_path / "out")
    manifest = tmp_path / "out" / "video01" / "extract.json"
    content = json.loads(manifest.read_text())
    assert content.pop("pixels") == ["rotated 90 degrees clockwise"]
    manifest.write_text(json.dumps(content))
    result, _ = run(source, tmp_path / "out")
    assert not result.videos[0].skipped


@pytest.mark.parametrize("fps", [1.0, 8.0, 25.0])
@pytest.mark.parametrize("strict", [False, True])
def test_interlaced_video(tmp_path: Path, fps: float, strict: bool) -> None:
    source = tmp_path / "video01.mp4"
    write_odd(source, combed_frames(26, width=384), interlaced=True)
    _, notes = run(source, tmp_path / "out", fps=fps, strict=strict)
    assert notes == [f"{source}: deinterlaced (bwdif)"]
    paths = sorted((tmp_path / "out" / "video01").glob("*.jpg"))
    expected = [int(25 * index / fps) for index in range(26) if 25 * index / fps < 26]
    assert len(paths) == len(expected)
    for path, number in zip(paths, expected, strict=True):
        frame_HWC = read_image(path)
        assert combs(frame_HWC) < 4
        bar = np.flatnonzero(frame_HWC[20:44].mean(axis=(0, 2)) > 125)
        assert abs(int(bar[0]) - (8 + 12 * number)) <= 2, "the frame of its own time"


def test_deinterlacing_can_be_switched_off(tmp_path: Path) -> None:
    source = tmp_path / "video01.mp4"
    write_odd(source, combed_frames(26, width=384), interlaced=True)
    _, notes = run(source, tmp_path / "out", deinterlace="off")
    assert notes == []
    assert combs(read_image(tmp_path / "out" / "video01" / "000001.jpg")) > 4
    result, _ = run(source, tmp_path / "out")
    assert not result.videos[0].skipped, "another setting makes the frames again"
    assert combs(read_image(tmp_path / "out" / "video01" / "000001.jpg")) < 4
    with pytest.raises(UsageError, match="deinterlace must be one of auto, off, not 'yes'"):
        ExtractConfig(deinterlace="yes")  # pyright: ignore[reportArgumentType]


def one_after_another(path: Path, first: Path, second: Path) -> None:
    """Joins two files of 50 frames at 25 fps into one stream."""
    with av.open(str(path), "w") as target, av.open(str(first)) as a, av.open(str(second)) as b:
        stream = target.add_stream_from_template(a.streams.video[0])
        for offset, source in ((0, a), (180_000, b)):  # two seconds of 90 kHz
            for packet in source.demux(video=0):
                if packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    target.mux(packet)


def test_a_video_that_becomes_interlaced_later(tmp_path: Path) -> None:
    """The first second is progressive; its frames are given once, and the rest lose their combs."""
    plain, combed = tmp_path / "plain.ts", tmp_path / "combed.ts"
    write_odd(combed, combed_frames(50, width=1344), interlaced=True)
    write_odd(plain, [np.full((64, 1344, 3), 90, np.uint8)] * 50)
    source = tmp_path / "video01.ts"
    one_after_another(source, plain, combed)
    _, notes = run(source, tmp_path / "out", fps=5.0)
    frames = [read_image(path) for path in sorted((tmp_path / "out" / "video01").glob("*.jpg"))]
    assert abs(int(frames[0].mean()) - 90) <= 2
    assert all(combs(frame_HWC) < 4 for frame_HWC in frames)
    assert len(frames) == 20
    assert [abs(int(frame_HWC.mean()) - 90) <= 2 for frame_HWC in frames] == [True] * 10 + [False] * 10
    assert f"{source}: deinterlaced (bwdif)" in notes


def test_images_of_16_bits(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "VID01"
    folder.mkdir(parents=True)
    for number in range(3):
        value = np.full((64, 96), (40 + 20 * number) * 257, np.uint16)
        Image.fromarray(value).save(folder / f"{number:06d}.png")
    _, notes = run(tmp_path / "in", tmp_path / "out")
    assert notes == [f"{folder}: 16 bit scaled to 8"]
    assert read_manifest(tmp_path / "out" / "video01").pixels == ("16 bit scaled to 8",)
    means = [read_image(tmp_path / "out" / "video01" / f"{n:06d}.jpg").mean() for n in range(3)]
    assert [round(float(mean)) for mean in means] == [40, 60, 80]


def test_only_an_upright_8_bit_jpeg_is_copied(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "VID01"
    folder.mkdir(parents=True)
    tags = Image.Exif()
    tags[274] = 6
    photo = Image.fromarray(four_colours(64, 64))
    photo.save(folder / "000000.jpg")
    photo.convert("L").save(folder / "000001.jpg")
    photo.save(folder / "000002.jpg", exif=tags, quality=100)
    photo.convert("CMYK").save(folder / "000003.jpg", quality=100)
    photo.save(tmp_path / "renamed.png")
    shutil.move(tmp_path / "renamed.png", folder / "000004.jpg")
    _, notes = run(tmp_path / "in", tmp_path / "out")
    out = tmp_path / "out" / "video01"
    same = [filecmp.cmp(folder / f"{n:06d}.jpg", out / f"{n:06d}.jpg", shallow=False) for n in range(5)]
    assert same == [True, True, False, False, False]
    for number, orientation in ((2, 6), (3, 1), (4, 1)):
        with Image.open(out / f"{number:06d}.jpg") as image:
            assert (image.format, image.mode, dict(image.getexif())) == ("JPEG", "RGB", {})
        found = np.array(corners(read_image(out / f"{number:06d}.jpg")))
        assert np.abs(found - np.array(UPRIGHT_CORNERS[orientation])).max() <= 6
    said = "rotated 90 degrees clockwise (EXIF orientation) in 1 of 5 images, CMYK to RGB in 1 of 5 images"
    assert notes == [f"{folder}: {said}"]


def test_images_that_are_not_read_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "VID01"
    folder.mkdir(parents=True)
    Image.fromarray(numbered_frame(0)).save(folder / "000000.png")
    frames = [Image.fromarray(numbered_frame(number)) for number in (1, 2)]
    frames[0].save(folder / "000001.png", save_all=True, append_images=frames[1:])
    _, notes = run(tmp_path / "in", tmp_path / "out")
    assert "1 images are no readable images (first 000001.png), the first at frame 000001" in notes[0]
    assert "000001.png: it is a PNG with 2 frames" in notes[0]
    assert numbers_in(tmp_path / "out" / "video01") == [0, 0]
    Image.fromarray(np.zeros((64, 96), np.float32)).save(tmp_path / "float.tif")
    shutil.move(tmp_path / "float.tif", folder / "000000.png")
    result, _ = run(tmp_path / "in", tmp_path / "again")
    assert "000000.png: it is a TIFF of 32-bit floating point" in result.failures[0].message


def deep_images(folder: Path, numbers: list[int], shape: tuple[int, int] = (64, 96)) -> None:
    """Writes grey images of 16 bits, whose value of 8 bits is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(np.full(shape, number * 257, np.uint16)).save(folder / f"{number}.png")


def test_filled_seconds_and_pixels_are_both_told_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "VID01"
    deep_images(folder, [40, 46])
    Image.fromarray(np.full((64, 96, 3), 42, np.uint8)).save(folder / "42.png")
    for number in (43, 45):
        (folder / f"{number}.png").write_bytes(b"none")
    out = tmp_path / "out"
    _, notes = run(tmp_path / "in", out, first_index=39)
    filled = f"{folder}: 3 images are missing and 2 images are no readable images (first 43.png), the first "
    assert notes[0].startswith(f"{filled}at frame 000000; ")
    assert notes[0].count("\n") == 0
    assert "43.png: it is text" in notes[0], "and why"
    assert notes[1:] == [f"{folder}: 16 bit scaled to 8 in 2 of 3 images"]
    content = json.loads((out / "video01" / "extract.json").read_text())
    assert content["filled"] == [0, 2, 4, 5, 6]
    assert content["pixels"] == ["16 bit scaled to 8"]
    shown = [round(float(read_image(out / "video01" / f"{n:06d}.jpg").mean())) for n in range(8)]
    assert shown == [40, 40, 40, 42, 42, 42, 42, 46]


def test_frames_before_the_first_image_are_done_once(tmp_path: Path) -> None:
    deep_images(tmp_path / "in" / "VID01", [5, 6])
    for skipped in (False, True):
        result, notes = run(tmp_path / "in", tmp_path / "out", first_index=0, end=3.0)
        assert result.videos[0].skipped is skipped
        assert notes[-1].endswith("VID01: 16 bit scaled to 8")
    assert read_manifest(tmp_path / "out" / "video01").num_frames == 3


def test_the_sizes_of_a_folder_are_those_of_upright_images(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "VID01"
    folder.mkdir(parents=True)
    tags = Image.Exif()
    tags[274] = 6
    Image.fromarray(four_colours(64, 96)).save(folder / "0.jpg", exif=tags)
    Image.fromarray(four_colours(96, 64)).save(folder / "1.jpg")
    assert run(tmp_path / "in", tmp_path / "out")[0].exit_code == 0
    Image.fromarray(four_colours(64, 96)).save(folder / "1.jpg")
    result, _ = run(tmp_path / "in", tmp_path / "again")
    assert "1.jpg is 64x96 (rows x columns), but the images before it are 96x64" in result.failures[0].message
    result, _ = run(tmp_path / "in", tmp_path / "cut", crop="80x60", size="64x64")
    assert "1.jpg is 64x96 (rows x columns), too small for --crop 80x60" in result.failures[0].message


def test_a_source_whose_look_fails_costs_itself_alone(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("good", "small", "first"):
        deep_images(source / name, [0, 1], (8, 8) if name == "small" else (64, 96))
    (source / "first" / "0.png").write_bytes(b"none")
    (source / "bad.mp4").write_bytes(b"none")
    for name in ("case.mp4", "case.mkv"):
        write_video(source / name, even_ticks(30))
    (source / "notes.txt").write_text("")
    result, _ = run(source, tmp_path / "out", size="64x64")
    assert [video.name for video in result.videos] == ["good"]
    assert [(failure.name, failure.exit_code) for failure in result.failures] == [
        *(("bad", 3), ("case", 3), ("first", 3), ("small", 2))
    ]
    assert "first has no first frame: cannot read the image" in result.failures[2].message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["extract.yaml", "good"]
    assert [one.path.name for one in result.skipped] == ["notes.txt", "case.mkv", "case.mp4"]


def test_a_plain_folder_is_read_by_the_same_reader(tmp_path: Path) -> None:
    folder = tmp_path / "video01"
    folder.mkdir()
    tags = Image.Exif()
    tags[274] = 8
    Image.fromarray(four_colours(64, 96)).save(folder / "000000.png", exif=tags)
    Image.fromarray(np.full((64, 96), 200, np.uint16)).save(folder / "000001.png", exif=tags)
    found = read_manifest(folder)
    assert (found.size_hw, found.black) == ((96, 64), {1})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fps": 100000.0}, "shows 25 frames a second: --fps 100000 asks for more; give --fps 25 or less"),
        ({"fps": 26.0}, "give --fps 25 or less"),
        ({"size": "99999x99999"}, "more than 4 times the 64x96 (rows x columns)"),
        ({"size": "257x96"}, "give 256x384 or less"),
        ({"size": "64x96", "crop": "16x16"}, "more than 4 times the 16x16"),
    ],
)
def test_more_than_a_source_has_is_refused_before_work(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    write_video(tmp_path / "video01.mp4", even_ticks(50))
    result, _ = run(tmp_path / "video01.mp4", tmp_path / "out", **settings)
    assert said in result.failures[0].message
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_faulty_request_of_one_video_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "video01.mp4", even_ticks(50))
    write_video(tmp_path / "in" / "video02.mp4", even_ticks(6, 6400), rate=2)
    result, _ = run(tmp_path / "in", tmp_path / "out", fps=8.0)
    assert [video.name for video in result.videos] == ["video01"]
    assert "video02.mp4 shows 2 frames a second" in result.failures[0].message


def test_a_rate_that_is_rounded_up_is_taken(tmp_path: Path) -> None:
    ticks = [1001 * index for index in range(60)]
    write_video(tmp_path / "video01.mp4", ticks, time_base=Fraction(1, 30000), rate=30)
    run(tmp_path / "video01.mp4", tmp_path / "out", fps=30.0)
    assert 60 <= len(numbers_in(tmp_path / "out" / "video01")) <= 61


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "video01.mp4", even_ticks(50))
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ResourceError, match="50 frames need"):
        run(tmp_path / "video01.mp4", tmp_path / "out", fps=25.0)
    assert not (tmp_path / "out").exists()


def test_what_is_there_of_a_cut_off_video_can_be_taken(tmp_path: Path) -> None:
    write_odd(
        tmp_path / "whole.mp4",
        [numbered_frame(index) for index in range(100)],
        options={"movflags": "+faststart"},
    )
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "video01.mp4").write_bytes(data[: len(data) * 6 // 10])
    result, _ = run(tmp_path / "video01.mp4", tmp_path / "out", fps=25.0)
    message = result.failures[0].message
    assert "of 4.0 s, " in message
    assert " s are missing" in message
    end = float(message.rsplit("--end ", 1)[1])
    assert 0 < end < 4
    result, _ = run(tmp_path / "video01.mp4", tmp_path / "part", fps=25.0, end=end)
    assert result.exit_code == 0
    assert numbers_in(tmp_path / "part" / "video01") == list(range(math.ceil(25 * end)))
    assert read_number(read_image(tmp_path / "out" / "video01" / "000003.jpg")) == 3
