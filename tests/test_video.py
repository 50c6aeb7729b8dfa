import filecmp
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.errors import DataError, ResourceError
from hierasurg_core.phantom import draw
from hierasurg_core.phantom.held_out import uint8_video
from hierasurg_core.pictures import read_image, write_png
from hierasurg_core.video import iter_video, probe_video, read_comment, read_video, write_mp4


def smooth_video(num_frames: int = 5, height: int = 64, width: int = 96) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([120 + 100 * np.sin((x + 3 * f) / 15), 130 + 90 * np.cos(y / 17), 60 + x * 0.5 + 2 * f], -1)
        for f in range(num_frames)
    ]
    return np.stack(frames).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("fps", [1, 8, 25])
def test_a_video_comes_back(tmp_path: Path, fps: int):
    video = smooth_video()
    write_mp4(tmp_path / "a.mp4", video, fps, comment='{"levels": [1]}')
    read, rate = read_video(tmp_path / "a.mp4")
    assert read.shape == video.shape
    assert rate == fps
    assert psnr(read, video) > 38
    assert np.abs((read.astype(float) - video).mean(axis=(0, 1, 2))).max() < 1, "colours are shifted"
    assert read_comment(tmp_path / "a.mp4") == '{"levels": [1]}'
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_video_is_what_browsers_play(tmp_path: Path):
    write_mp4(tmp_path / "a.mp4", smooth_video(), 1)
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_same_frames_give_the_same_bytes_in_any_process(tmp_path: Path):
    write_mp4(tmp_path / "a.mp4", smooth_video(), 8)
    write_mp4(tmp_path / "b.mp4", smooth_video(), 8)
    np.save(tmp_path / "video.npy", smooth_video())
    program = (
        "import sys, numpy; from pathlib import Path; from hierasurg_core.video import write_mp4;"
        "folder = Path(sys.argv[1]); write_mp4(folder / 'c.mp4', numpy.load(folder / 'video.npy'), 8)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    first, second, third = (sha256_file(tmp_path / f"{name}.mp4") for name in "abc")
    assert first == second == third


def test_an_odd_size_becomes_even_by_its_last_row_and_column(tmp_path: Path):
    video = smooth_video(height=33, width=47)
    write_mp4(tmp_path / "a.mp4", video, 1)
    read, _ = read_video(tmp_path / "a.mp4")
    assert read.shape[1:3] == (34, 48)
    assert psnr(read[:, :33, :47], video) > 35


def test_only_bytes_become_a_video(tmp_path: Path):
    for wrong in (np.full((1, 8, 8, 3), np.nan), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="not uint8"):
            write_mp4(tmp_path / "a.mp4", wrong, 1)
    with pytest.raises(ValueError, match="at least one frame"):
        write_mp4(tmp_path / "a.mp4", np.zeros((0, 8, 8, 3), np.uint8), 1)


def test_a_stream_of_frames_gives_the_same_bytes_as_the_array(tmp_path: Path):
    write_mp4(tmp_path / "array.mp4", smooth_video(), 1)
    write_mp4(tmp_path / "stream.mp4", (frame for frame in smooth_video()), 1)
    assert filecmp.cmp(tmp_path / "array.mp4", tmp_path / "stream.mp4", shallow=False)


def test_a_frame_of_another_size_leaves_no_file(tmp_path: Path):
    frames = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)]
    with pytest.raises(ValueError, match="frame 1 is uint8"):
        write_mp4(tmp_path / "a.mp4", frames, 1)
    assert not list(tmp_path.iterdir())


def test_a_rate_is_a_positive_number(tmp_path: Path):
    with pytest.raises(ValueError, match="fps"):
        write_mp4(tmp_path / "a.mp4", smooth_video(), float("nan"))
    assert not list(tmp_path.iterdir())


def test_some_frames_from_the_start(tmp_path: Path):
    write_mp4(tmp_path / "a.mp4", smooth_video(), 1)
    assert len(read_video(tmp_path / "a.mp4", num_frames=2)[0]) == 2
    assert len(read_video(tmp_path / "a.mp4", num_frames=99)[0]) == 5
    assert next(iter_video(tmp_path / "a.mp4")).shape == (64, 96, 3)


def test_a_folder_that_may_not_be_written(tmp_path: Path):
    with pytest.raises((ResourceError, FileNotFoundError)):
        write_mp4(tmp_path / "missing" / "a.mp4", smooth_video(), 1)


def test_videos_that_are_none(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("hello")
    write_mp4(tmp_path / "whole.mp4", smooth_video(), 1)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"mdat")])
    for name in ("text.mp4", "cut.mp4", "none.mp4"):
        with pytest.raises(DataError, match=name) as caught:
            read_video(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_video_that_is_cut_off_tells_its_size_but_not_its_frames(tmp_path: Path):
    write_mp4(tmp_path / "a.mp4", smooth_video(8), 25)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[:-10])
    assert probe_video(tmp_path / "a.mp4") == (8, 25, (64, 96))
    with pytest.raises(DataError, match=r"a\.mp4 is cut off or damaged after 0\.\d s"):
        list(iter_video(tmp_path / "a.mp4"))
    (tmp_path / "a.mp4").write_bytes(data[: data.index(b"mdat") + 100])
    with pytest.raises(DataError, match=r"a\.mp4 is cut off or damaged before its first frame"):
        probe_video(tmp_path / "a.mp4")


def test_a_photo_is_turned_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth_video()[0]).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (96, 64, 3)


def test_images_that_are_none(tmp_path: Path):
    (tmp_path / "text.png").write_text("hello")
    write_png(tmp_path / "whole.png", smooth_video()[0])
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "broken.png").write_bytes(data[:30] + b"xxxx" + data[34:])
    for name in ("text.png", "cut.png", "broken.png", "none.png"):
        with pytest.raises(DataError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_32_frames_written_a_dozen_times_give_one_file(tmp_path: Path):
    clips = draw.draw_clips(torch.tensor([1]), torch.tensor([17]), seed=3, num_frames=32, fps=8)
    frames = uint8_video(clips)[0]
    for number in range(12):
        write_mp4(tmp_path / f"{number}.mp4", frames, 8)
    assert len({sha256_file(tmp_path / f"{number}.mp4") for number in range(12)}) == 1
