"""What a folder holds: its forms, its labels, what cannot be read, and how clips are cut and paired."""

from pathlib import Path

import numpy as np
import pytest
import tiny_datasets
from evaluation.phantom_sides import drawn, write_samples, write_videos

from hierasurg_core.artifacts import write_json
from hierasurg_core.config import EvaluateConfig
from hierasurg_core.datasets.frames import encode_jpeg, write_frame
from hierasurg_core.datasets.manifest import read_dataset_manifest
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.evaluation.collect import maps_of, pair_up
from hierasurg_core.evaluation.protocol import PRESETS, Protocol
from hierasurg_core.evaluation.recordings import cut
from hierasurg_core.evaluation.settling import settle_protocol, settle_sampling
from hierasurg_core.evaluation.sides import open_side
from hierasurg_core.evaluation.taking import take
from hierasurg_core.pictures import fit_image, write_png
from hierasurg_core.video import write_mp4


def noise(frames: int, seed: int = 0, size_hw: tuple[int, int] = (32, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(30, 255, (frames, *size_hw, 3), dtype=np.uint8)


def write_frames(folder: Path, frames: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        write_png(folder / f"{index:06d}.png", frame)
    return folder


def test_samples_carry_their_labels_maps_and_seeds(tmp_path: Path):
    clips = drawn(2, 1, frames=4, size_hw=(32, 48))
    side = open_side(write_samples(tmp_path / "samples", clips))
    write_mp4(tmp_path / "samples" / "0000_overlay.mp4", noise(4), 1)
    side = open_side(tmp_path / "samples")
    assert (side.kind, [r.name for r in side.recordings]) == ("samples", ["0000", "0001"])
    second = side.recordings[1]
    assert (second.labels.phase, second.labels.triplet, second.seed) == (1, 7, 1)
    assert second.labels.triplets == {7}
    assert second.maps is not None
    assert second.maps().map_FHW.shape == (4, 32, 48)
    (clip,), short = cut(side, frames=4, stride=1, skip=0, num=1)
    assert not short
    assert clip.read().shape == (4, 32, 48, 3)


def test_a_damaged_video_is_named_and_the_others_count(tmp_path: Path):
    folder = write_videos(tmp_path / "videos", drawn(2, 1, frames=4, size_hw=(32, 48)))
    (folder / "0002.mp4").write_bytes(b"no video at all")
    side = open_side(folder)
    assert (side.kind, len(side.recordings)) == ("videos", 2)
    assert [entry.file for entry in side.unreadable] == ["0002.mp4"]
    for file in folder.iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"nothing in .* can be read, first 0000\.mp4"):
        open_side(folder)


def test_frame_folders_are_cut_without_overlap_and_without_black_frames(tmp_path: Path):
    frames = noise(14)
    frames[5] = 0
    write_frames(tmp_path / "videos" / "video01", frames)
    write_frames(tmp_path / "videos" / "video02", noise(3))
    side = open_side(tmp_path / "videos")
    clips, short = cut(side, frames=4, stride=1, skip=0, num=None)
    assert [clip.frames for clip in clips] == [(0, 1, 2, 3), (6, 7, 8, 9), (10, 11, 12, 13)]
    assert [clip.name for clip in clips] == ["video01/000000", "video01/000006", "video01/000010"]
    assert [(entry.file, entry.why) for entry in short] == [
        ("video02", "it has 3 frames, and a clip takes 4")
    ]
    np.testing.assert_array_equal(clips[1].read(), frames[6:10])
    strided, _ = cut(side, frames=2, stride=2, skip=1, num=None)
    assert strided[0].frames == (1, 3)
    alone = open_side(tmp_path / "videos" / "video01")
    assert [r.name for r in alone.recordings] == ["video01"]
    assert len({clip.digest for clip in clips}) == 3


def test_a_video_that_is_extracted_in_another_way_is_another_recording(tmp_path: Path):
    def extracted(quality: int) -> str:
        for index, frame in enumerate(noise(6)):
            write_frame(folder, [index], encode_jpeg(frame, quality))
        said = {"schema": 1, "complete": True, "name": "video01", "fps": 1, "num_frames": 6, "black": []}
        said |= {"size_hw": [32, 48], "digest": "of the video", "settings": {"start": 0}}
        write_json(folder / "extract.json", said)
        return open_side(tmp_path).recordings[0].digest

    folder = tmp_path / "video01"
    folder.mkdir()
    assert extracted(90) == extracted(90)
    assert extracted(90) != extracted(50)


def test_folders_without_clips_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="there is no folder"):
        open_side(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds nothing to evaluate"):
        open_side(tmp_path / "empty")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of two videos, the second of which validates."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        tiny_datasets.write_operation(tmp_path, number, 18)
    tiny_datasets.write_vae(tmp_path / "model")
    (tmp_path / "train.txt").write_text("video01\n")
    (tmp_path / "val.txt").write_text("video02\n")
    wanted = tiny_datasets.config(tmp_path, train=tmp_path / "train.txt", val=tmp_path / "val.txt", flip=1.0)
    tiny_datasets.build(wanted)
    return tmp_path / "dataset"


def test_a_data_sets_clips_are_read_from_its_frames_unflipped(dataset: Path):
    side = open_side(dataset)
    assert side.kind == "dataset"
    assert "'val'" in side.notes[0]
    assert [r.name for r in side.recordings] == ["video02/000000", "video02/000001", "video02/000002"]
    (clip, *_), _ = cut(side, frames=16, stride=1, skip=0, num=None)
    np.testing.assert_array_equal(
        clip.read()[3], fit_image(tiny_datasets.frame(2, 3), clip.recording.size_hw)
    )
    maps = maps_of(clip, clip.recording.size_hw)
    assert maps is not None
    np.testing.assert_array_equal(maps.map_FHW[3], tiny_datasets.map_of(3))
    assert clip.recording.labels.phase in (0, 1)
    assert clip.recording.labels.triplets == {17, 19}
    assert next(r.name for r in open_side(dataset, "train").recordings) == "video01/000000"
    with pytest.raises(DataError, match="no clip in its split 'test'"):
        open_side(dataset, "test")


def test_other_frames_and_maps_are_other_recordings(dataset: Path):
    def digest() -> str:
        return open_side(dataset).recordings[0].digest

    before = digest()
    assert digest() == before
    (frame, *_) = sorted((dataset.parent / "videos" / "video02").glob("0*"))
    frame.write_bytes(frame.read_bytes() + b" ")
    after_frame = digest()
    (map_file, *_) = sorted((dataset.parent / "videos" / "video02_masks").glob("0*"))
    map_file.write_bytes(map_file.read_bytes() + b" ")
    assert len({before, after_frame, digest()}) == 3


def test_a_split_is_a_data_sets(tmp_path: Path):
    folder = write_videos(tmp_path / "videos", drawn(1, 1, frames=4, size_hw=(32, 48)))
    with pytest.raises(UsageError, match="is no data set, so it has no split 'val'"):
        open_side(folder, "val")


def test_samples_find_the_clip_that_they_were_started_from_in_any_split(dataset: Path, tmp_path: Path):
    clips = drawn(3, 1, frames=16, size_hw=(32, 48))
    names = ["video01/000001", "video02/000002", "video09/000000"]
    folder = write_samples(
        tmp_path / "samples", clips, source=lambda i: {"dataset": "dataset", "clip": names[i]}
    )
    generated, real = open_side(folder), open_side(dataset)
    tasks = pair_up(cut(generated, frames=16, stride=1, skip=0, num=None)[0], generated, real)
    assert [task.real and task.real.recording.name for task in tasks] == [*names[:2], None]
    assert tasks[2].unsure is not None
    assert "video09/000000" in tasks[2].unsure
    measured = tasks[0].read()
    assert measured.real_FHWC is not None
    assert measured.given_HWC is not None
    np.testing.assert_array_equal(measured.given_HWC, measured.real_FHWC[0])
    assert measured.maps is not None
    assert len({task.digest for task in tasks}) == 3


def test_videos_of_one_name_are_pairs(tmp_path: Path):
    clips = drawn(2, 1, frames=4, size_hw=(32, 48))
    one, other = (open_side(write_videos(tmp_path / name, clips)) for name in "ab")
    tasks = pair_up(cut(one, frames=4, stride=1, skip=0, num=None)[0], one, other)
    measured = tasks[0].read()
    assert measured.real_FHWC is not None
    np.testing.assert_array_equal(measured.video_FHWC, measured.real_FHWC)


# Rates, lengths and the protocol


def sides(tmp_path: Path, rates: tuple[float, float], frames: tuple[int, int]):
    for name, rate, count in zip(("g", "r"), rates, frames, strict=True):
        (tmp_path / name).mkdir()
        for index in range(2):
            write_mp4(tmp_path / name / f"{index}.mp4", noise(count, index), rate)
    return open_side(tmp_path / "g"), open_side(tmp_path / "r")


def test_different_rates_are_refused_unless_one_is_asked_for(tmp_path: Path):
    pair = sides(tmp_path, (8, 1), (48, 6))
    with pytest.raises(UsageError, match=r"8 frames a second and .* 1: give --fps 1"):
        settle_sampling(EvaluateConfig(), Protocol(), *pair)
    sampling = settle_sampling(EvaluateConfig(fps=1), Protocol(), *pair)
    assert (sampling.generated_step, sampling.real_step, sampling.frames, sampling.fps) == (8, 1, 6, 1)
    with pytest.raises(UsageError, match=r"r has 1 frames a second, fewer than 3: give --fps 1, or less"):
        settle_sampling(EvaluateConfig(fps=3), Protocol(), *pair)


def test_rates_without_a_common_part_take_the_nearest_frames(tmp_path: Path):
    generated, real = sides(tmp_path, (25, 8), (50, 24))
    with pytest.raises(UsageError, match="give --fps 8 to compare"):
        settle_sampling(EvaluateConfig(), Protocol(), generated, real)
    sampling = settle_sampling(EvaluateConfig(fps=8), Protocol(), generated, real)
    assert (sampling.generated_step, sampling.real_step) == (3.125, 1)
    assert (sampling.frames, sampling.stride, sampling.fps) == (16, 1, 8)
    assert f"{generated.path} has 25 frames a second: the nearest frames to 8 a second are taken" in " ".join(
        sampling.notes
    )
    taken = take(EvaluateConfig(), Protocol(), sampling, generated, real)
    task = taken.generated[0]
    assert task.clip.frames == (0, 3, 6, 9, 13, 16, 19, 22, 25, 28, 31, 34, 38, 41, 44, 47)
    assert task.real is not None
    assert task.real.frames == tuple(range(16))
    without_first = settle_sampling(EvaluateConfig(fps=8, first_frame=False), Protocol(), generated, real)
    taken = take(EvaluateConfig(), Protocol(), without_first, generated, real)
    assert without_first.frames == 15
    assert taken.generated[0].clip.frames == task.clip.frames[1:]
    assert taken.generated[0].clip.lead == 3
    assert taken.generated[0].real is not None
    assert taken.generated[0].real.frames == tuple(range(1, 16))


def test_a_last_frame_that_would_be_rounded_past_the_end_does_not_count(tmp_path: Path):
    pair = sides(tmp_path, (25, 8), (15, 24))  # frames 0, 3, 6, 9, 13; the next would be 16
    assert settle_sampling(EvaluateConfig(fps=8), Protocol(), *pair).frames == 5
    (tmp_path / "longer").mkdir()
    pair = sides(tmp_path / "longer", (25, 8), (16, 24))
    assert settle_sampling(EvaluateConfig(fps=8), Protocol(), *pair).frames == 5
    (tmp_path / "longest").mkdir()
    pair = sides(tmp_path / "longest", (25, 8), (17, 24))
    assert settle_sampling(EvaluateConfig(fps=8), Protocol(), *pair).frames == 6


def test_long_clips_are_spread_and_short_ones_shorten_all(tmp_path: Path):
    long = sides(tmp_path, (8, 8), (48, 48))
    assert settle_sampling(EvaluateConfig(), Protocol(), *long).stride == 3
    assert settle_sampling(EvaluateConfig(stride=1), Protocol(), *long).stride == 1
    without_first = settle_sampling(EvaluateConfig(first_frame=False), Protocol(), *long)
    assert (without_first.skip, without_first.stride, without_first.frames) == (1, 2, 16)
    (tmp_path / "short").mkdir()
    short = sides(tmp_path / "short", (1, 1), (16, 10))
    sampling = settle_sampling(EvaluateConfig(), PRESETS["hierasurg"], *short)
    assert sampling.frames == 10
    assert "10 are compared, not 16" in sampling.notes[0]


def test_one_folder_has_one_rate(tmp_path: Path):
    _one, other = sides(tmp_path, (1, 1), (8, 8))
    write_mp4(tmp_path / "g" / "2.mp4", noise(8), 2)
    with pytest.raises(DataError, match=r"mixes rates \(1, 2 frames a second\)"):
        settle_sampling(EvaluateConfig(), Protocol(), open_side(tmp_path / "g"), other)


@pytest.mark.parametrize("preset", ["hierasurg", "styleganv", "cd-fvd"])
@pytest.mark.parametrize("sees", ["mini", "224"])
def test_a_settled_protocol_leaves_nothing_open(tmp_path: Path, preset: str, sees: str):
    sampling = settle_sampling(EvaluateConfig(), PRESETS[preset], *sides(tmp_path, (1, 1), (16, 16)))
    settled, deviations = settle_protocol(
        PRESETS[preset], sampling, counts=(2, 2), extractor=("net", "0" * 64, sees), seed=0
    )
    assert settled.unknown == ()
    assert settled.num_real == 2
    assert any("num_generated" in said for said in deviations)
    assert any("extractor" in said for said in deviations)


def test_a_data_sets_folders_are_found_beside_it_wherever_one_works(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = (dataset / "manifest.json").read_text().replace(str(tmp_path / "videos"), "videos")
    (dataset / "manifest.json").write_text(text)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "videos").mkdir(parents=True)  # of other operations
    monkeypatch.chdir(elsewhere)
    manifest = read_dataset_manifest(dataset)
    assert manifest.folder_of("videos") == tmp_path / "videos"
    assert open_side(dataset).recordings[0].name == "video02/000000"
    (tmp_path / "videos").rename(tmp_path / "gone")
    assert manifest.folder_of("maps") == Path("videos")
    (elsewhere / "videos").rmdir()
    for opened in (lambda: open_side(dataset), lambda: manifest.folder_of("maps")):
        with pytest.raises(
            DataError, match=r"there is no folder videos, of whose (videos|maps) .* was made: run"
        ):
            opened()
