"""Videos as a player shows them: turned, stretched, without combs, in the right colours."""

import gc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from odd_videos import (
    UPRIGHT_CORNERS,
    combed_frames,
    combs,
    corners,
    four_colours,
    turn_as_exif,
    turn_by_header,
    write_odd,
)

from hierasurg_core.datasets.decoding import look_at_video
from hierasurg_core.display import Display, deinterlaced
from hierasurg_core.errors import DataError
from hierasurg_core.video import iter_video, probe_video, read_video


def colours_are(picture_HWC: np.ndarray, orientation: int = 1) -> bool:
    apart = np.array(corners(picture_HWC)) - np.array(UPRIGHT_CORNERS[orientation])
    return bool(np.abs(apart).max() <= 3)


@pytest.mark.parametrize(
    ("orientation", "words"),
    [
        (1, ()),
        (2, ("mirrored left to right",)),
        (3, ("rotated 180 degrees",)),
        (4, ("mirrored top to bottom",)),
        (5, ("rotated 90 degrees clockwise and mirrored left to right",)),
        (6, ("rotated 90 degrees clockwise",)),
        (7, ("rotated 90 degrees counterclockwise and mirrored left to right",)),
        (8, ("rotated 90 degrees counterclockwise",)),
    ],
)
def test_a_display_matrix_turns_and_mirrors(tmp_path: Path, orientation: int, words: tuple[str, ...]) -> None:
    path = tmp_path / "a.mp4"
    write_odd(path, [four_colours(64, 96)] * 2)
    turn_as_exif(path, orientation)
    video, _ = read_video(path)
    size_hw = (96, 64) if orientation >= 5 else (64, 96)
    assert video.shape == (2, *size_hw, 3)
    assert colours_are(video[0], orientation)
    assert probe_video(path) == (2, 25, size_hw)
    assert look_at_video(path, deinterlaces=True).done == words


def test_another_angle_is_refused(tmp_path: Path) -> None:
    write_odd(tmp_path / "a.mp4", [four_colours(64, 96)] * 2)
    turn_by_header(tmp_path / "a.mp4", (0.866, 0.5, -0.5, 0.866))
    with pytest.raises(DataError, match="no multiple of 90 degrees"):
        read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("size_hw", "sar", "shown_hw"),
    [
        ((64, 90), Fraction(64, 45), (64, 128)),  # PAL, 16:9
        ((64, 90), Fraction(16, 15), (64, 96)),  # PAL, 4:3
        ((64, 90), Fraction(10, 11), (64, 81)),  # NTSC, 4:3: 81.8 columns
        ((64, 96), Fraction(1), (64, 96)),
        ((64, 854), Fraction(1280, 1281), (64, 854)),  # Cholec80's: less than a column
    ],
)
def test_pixels_become_square(
    tmp_path: Path, size_hw: tuple[int, int], sar: Fraction, shown_hw: tuple[int, int]
) -> None:
    write_odd(tmp_path / "a.mp4", [four_colours(*size_hw)] * 2, sar=sar)
    video, _ = read_video(tmp_path / "a.mp4")
    assert video.shape[1:3] == shown_hw
    assert colours_are(video[0])
    rows, columns = shown_hw
    done = look_at_video(tmp_path / "a.mp4", deinterlaces=True).done
    said = f"sar {sar.numerator}:{sar.denominator} -> {columns}x{rows} (width x height)"
    assert done == (() if shown_hw == size_hw else (said,))


def test_turned_and_square(tmp_path: Path) -> None:
    """After a quarter turn a pixel is 45:64, and its columns are scaled by that, as ffmpeg does it."""
    write_odd(tmp_path / "a.mp4", [four_colours(64, 90)] * 2, sar=Fraction(64, 45))
    turn_as_exif(tmp_path / "a.mp4", 6)
    video, _ = read_video(tmp_path / "a.mp4")
    assert video.shape[1:3] == (90, 45)
    assert colours_are(video[0], 6)
    assert look_at_video(tmp_path / "a.mp4", deinterlaces=True).done == (
        "rotated 90 degrees clockwise",
        "sar 64:45 -> 45x90 (width x height)",
    )


def test_pixels_that_no_camera_has_are_refused() -> None:
    with pytest.raises(DataError, match=r"a\.mp4 claims pixels of 1:1000"):
        Display("a.mp4", Fraction(1, 1000))
    Display("a.mp4", Fraction(0))  # FFmpeg's "unknown"


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_combs_go(tmp_path: Path, pix_fmt: str) -> None:
    frames = combed_frames(6)
    write_odd(tmp_path / "a.mp4", frames, interlaced=True, pix_fmt=pix_fmt)
    video, rate = read_video(tmp_path / "a.mp4")
    assert len(video) == 6
    assert rate == 25
    assert min(combs(frame) for frame in frames) > 20
    assert max(combs(frame) for frame in video) < 3
    for index, frame_HWC in enumerate(video):  # each shows its own moment: the bar of its first field
        bar = np.flatnonzero(frame_HWC[20:44].mean(axis=(0, 2)) > 125)
        assert abs(int(bar[0]) - (8 + 12 * index)) <= 2
    assert look_at_video(tmp_path / "a.mp4", deinterlaces=True).done == ("deinterlaced (bwdif)",)
    assert look_at_video(tmp_path / "a.mp4", deinterlaces=False).done == ()


def test_deinterlacing_gives_a_frame_for_each(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        write_odd(tmp_path / "a.mp4", combed_frames(count), interlaced=True)
        with av.open(str(tmp_path / "a.mp4")) as container:
            frames = list(container.decode(video=0))
        assert all(frame.interlaced_frame for frame in frames)
        assert len(list(deinterlaced(frames))) == count


@pytest.mark.parametrize("interlaced", [False, True])
def test_few_frames_are_held(tmp_path: Path, interlaced: bool) -> None:
    write_odd(tmp_path / "a.mp4", combed_frames(40, width=1024), interlaced=interlaced)
    turn_as_exif(tmp_path / "a.mp4", 6)
    gc.collect()
    gc.disable()
    try:
        assert sum(1 for _ in iter_video(tmp_path / "a.mp4")) == 40
        assert sum(type(one) is av.VideoFrame for one in gc.get_objects()) <= 3
    finally:
        gc.enable()


def test_progressive_frames_are_not_touched(tmp_path: Path) -> None:
    write_odd(tmp_path / "a.mp4", combed_frames(4))
    assert min(combs(frame) for frame in iter_video(tmp_path / "a.mp4")) > 20


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("space", [None, Colorspace.ITU601, Colorspace.ITU709])
def test_matrix_and_range_are_the_files_own(
    tmp_path: Path, space: Colorspace | None, full_range: bool
) -> None:
    write_odd(tmp_path / "a.mp4", [four_colours(64, 96)] * 2, space=space, full_range=full_range)
    assert colours_are(read_video(tmp_path / "a.mp4")[0][0])


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv420p16le", "yuv444p", "yuva420p", "bgr0"])
def test_forms_of_pixels(tmp_path: Path, pix_fmt: str) -> None:
    write_odd(tmp_path / "a.mkv", [four_colours(64, 96)] * 2, codec="ffv1", pix_fmt=pix_fmt)
    assert colours_are(read_video(tmp_path / "a.mkv")[0][0])


@pytest.mark.parametrize(("height", "width"), [(63, 95), (33, 47), (64, 95)])
def test_odd_sizes(tmp_path: Path, height: int, width: int) -> None:
    picture = four_colours(height, width)
    write_odd(tmp_path / "a.mkv", [picture] * 2, codec="ffv1")
    video, _ = read_video(tmp_path / "a.mkv")
    assert video.shape[1:3] == (height, width)
    assert colours_are(video[0])
    write_odd(tmp_path / "b.mkv", [picture] * 2, pix_fmt="yuv444p", sar=Fraction(4, 3))
    assert read_video(tmp_path / "b.mkv")[0].shape[1:3] == (height, 4 * width // 3)


def test_a_cut_off_video_gives_its_whole_frames_first(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 96, 3), np.uint8)
    write_odd(tmp_path / "a.mp4", list(noise), rate=1, options={"movflags": "+faststart"})
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    frames = []
    with pytest.raises(DataError) as caught:
        for frame_HWC in iter_video(tmp_path / "cut.mp4"):
            frames.append(frame_HWC)
    assert "cut.mp4 is cut off or damaged after" in str(caught.value)
    assert "of 12.0 s" in str(caught.value)
    assert 2 <= len(frames) <= 7
    whole, _ = read_video(tmp_path / "a.mp4")
    assert all(np.array_equal(*pair) for pair in zip(frames, whole, strict=False))
