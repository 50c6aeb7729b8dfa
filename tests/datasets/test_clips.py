import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_datasets import NUM_ENTITIES, SIZE_HW, frame, map_of, write_operation

from hierasurg_core.datasets.annotations import load_labels
from hierasurg_core.datasets.clips import ClipForm, ClipReader, list_clips, require_maps
from hierasurg_core.datasets.frames import read_manifest
from hierasurg_core.datasets.mapfiles import VideoMaps
from hierasurg_core.errors import DataError
from hierasurg_core.maps import PanopticClip, colour_map, fit_maps, palette_levels, save_map_png
from hierasurg_core.pictures import write_png

ONE_FPS = ClipForm(fps=1, step=1, size_hw=SIZE_HW, map_size_hw=(16, 16), first_frames=2, seed=0)
EIGHT_FPS = dataclasses.replace(ONE_FPS, fps=8, step=8)


def reader(root: Path, form: ClipForm = ONE_FPS, *, flip: float = 0, dropout: float = 0) -> ClipReader:
    videos = root / "videos"
    labels = load_labels(root / "labels")["video01"]
    folder, maps = read_manifest(videos / "video01"), VideoMaps(videos / "video01_masks")
    return ClipReader(folder, maps, labels, form, flip=flip, dropout=dropout)


def test_clips_of_16_frames_start_at_every_frame(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 24, black=(3,))
    of = reader(tmp_path)
    clips = list_clips(of.folder, of.maps, ONE_FPS)
    assert clips.starts == (4, 5, 6, 7, 8)
    assert clips.black == 4
    assert list_clips(of.folder, of.maps, dataclasses.replace(ONE_FPS, step=3)).starts == (6,)


def test_clips_of_48_frames_start_at_every_second(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 9, fps=8, black=(70,))
    of = reader(tmp_path, EIGHT_FPS)
    assert of.folder.num_frames == 72
    assert list_clips(of.folder, of.maps, EIGHT_FPS).starts == (0, 8, 16)
    clip = of.read(8)
    assert clip.id == "video01/000008"
    assert clip.frames_FHWC.shape == (49, *SIZE_HW, 3)
    assert clip.frames_FHWC[:48, 0, 0, 0].tolist() == [40 + index for index in range(8, 56)]
    assert np.array_equal(clip.map_SHW, np.stack([map_of(second) for second in range(1, 7)]))
    assert clip.phase_S.tolist() == [0] * 6
    assert clip.triplets_S == ((17, 19), (17,), (17, 19), (17,), (), (17,))


def test_a_clip_is_its_frames_maps_and_labels(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 20)
    clip = reader(tmp_path).read(2)
    assert np.array_equal(clip.frames_FHWC[:16], np.stack([frame(1, index) for index in range(2, 18)]))
    assert not clip.frames_FHWC[16].any()  # the padding frame is -1, black
    maps = np.stack([map_of(second) for second in range(2, 18)])
    assert np.array_equal(clip.map_SHW, maps)
    assert clip.max_id == NUM_ENTITIES + 1
    assert clip.coloured_SHWC is not None
    assert np.array_equal(clip.coloured_SHWC, colour_map(fit_maps(maps, (16, 16)), range(5)))
    assert clip.photo_HWC.shape == (16, 16, 3)
    assert clip.phase_S.tolist() == [0] * 6 + [1] * 8 + [2] * 2
    assert clip.triplets_S[:5] == ((17,), (17, 19), (17,), (), (17,))
    np.testing.assert_allclose(clip.first_KHWC[0], frame(1, 2) / 127.5 - 1, atol=1e-6)


def test_pickles_and_pngs_say_the_same(tmp_path: Path) -> None:
    write_operation(tmp_path / "png", 1, 20)
    write_operation(tmp_path / "pkl", 1, 20, pickles=True)
    ours, theirs = (reader(tmp_path / form).read(2) for form in ("png", "pkl"))
    assert np.array_equal(ours.map_SHW, theirs.map_SHW)
    assert ours.max_id == theirs.max_id
    # At 8 fps the last clips start behind the last pickle, which covers them.
    maps = VideoMaps(tmp_path / "pkl" / "videos" / "video01_masks")
    assert maps.has(14, 6)
    assert not maps.has(15, 6)
    assert np.array_equal(maps.clip(14, 6).map_FHW, np.stack([map_of(second) for second in range(14, 20)]))


def test_another_epoch_draws_anew_and_the_same_again(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 20)
    of = reader(tmp_path, flip=0.5, dropout=0.5)
    epochs = [of.read(1, epoch) for epoch in range(6)]
    again = reader(tmp_path, flip=0.5, dropout=0.5).read(1, 5)
    assert np.array_equal(again.frames_FHWC, epochs[5].frames_FHWC)
    assert np.array_equal(again.first_KHWC, epochs[5].first_KHWC)
    assert len({clip.first_KHWC.tobytes() for clip in epochs}) == 6
    assert len({clip.map_SHW.tobytes() for clip in epochs}) > 2


def test_dropped_object_leaves_map_colours_and_frames(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 16)
    plain, dropped = (reader(tmp_path, dropout=chance).read(0) for chance in (0, 1))
    gone = sorted(set(np.unique(plain.map_SHW)) - set(np.unique(dropped.map_SHW)))
    assert len(gone) == 1
    assert gone[0] < NUM_ENTITIES
    changed_FHW = (plain.frames_FHWC[:16] != dropped.frames_FHWC[:16]).any(axis=-1)
    assert changed_FHW.any()
    assert plain.coloured_SHWC is not None
    assert dropped.coloured_SHWC is not None
    assert (plain.coloured_SHWC != dropped.coloured_SHWC).any()


def test_palette_lasts_as_long_as_the_ids() -> None:
    assert palette_levels(PanopticClip(np.zeros((1, 2, 2), np.uint8), 18)) == tuple(range(20))
    many = PanopticClip(np.arange(30, dtype=np.uint8).reshape(1, 5, 6), 40)
    assert palette_levels(many) is None
    few = PanopticClip(np.array([[[7, 40, 41]]], np.uint8), 40)
    assert palette_levels(few) == (7, 40, 41)


def test_a_missing_map_is_named(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 20)
    (tmp_path / "videos" / "video01_masks" / "000002.png").unlink()
    of = reader(tmp_path)
    clips = list_clips(of.folder, of.maps, ONE_FPS)
    assert clips.starts == (3, 4)
    assert clips.unlabelled == (0, 1, 2)
    with pytest.raises(DataError, match=r"3 clips of video01 have no maps, the first is .*000000.png: run"):
        require_maps([(of.maps, clips)])


def test_folders_without_maps_or_with_both_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no maps at"):
        VideoMaps(tmp_path / "video01_masks")
    with pytest.raises(DataError, match="holds no maps"):
        VideoMaps(tmp_path)
    for name in ("000000.png", "000000.pkl"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"as \.pkl and as \.png"):
        VideoMaps(tmp_path)


def test_mixed_sizes_are_refused(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 20)
    write_png(tmp_path / "videos" / "video01" / "000007.png", np.full((32, 40, 3), 90, np.uint8))
    with pytest.raises(DataError, match=r"000007\.png is 40x32, but the other frames are 48x32"):
        reader(tmp_path).read(2)
    masks = tmp_path / "videos" / "video01_masks"
    save_map_png(masks / "000001.png", np.full((16, 24), NUM_ENTITIES, np.uint8), NUM_ENTITIES)
    with pytest.raises(DataError, match="differ in size"):
        reader(tmp_path).read(0)
    for path in masks.iterdir():
        save_map_png(path, np.full((32, 32), NUM_ENTITIES, np.uint8), NUM_ENTITIES)
    with pytest.raises(DataError, match="is not the shape of the frames"):
        reader(tmp_path).read(0)


def test_labels_of_another_recording_are_refused(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 20)
    write_operation(tmp_path, 2, 16)
    labels = load_labels(tmp_path / "labels")["video02"]
    good = reader(tmp_path)
    with pytest.raises(DataError, match="labels of video01 end at 16 s, but its frames at 20 s"):
        ClipReader(good.folder, good.maps, labels, ONE_FPS, flip=0, dropout=0)


def test_another_rate_is_refused(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 20)
    good = reader(tmp_path)
    folder = dataclasses.replace(good.folder, fps=8.0)
    with pytest.raises(DataError, match="video01 was extracted at 8 fps, not 1: give --fps 8"):
        ClipReader(folder, good.maps, None, ONE_FPS, flip=0, dropout=0)


def test_a_rate_that_no_clip_has_is_never_advised(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 20)
    good = reader(tmp_path)
    folder = dataclasses.replace(good.folder, fps=2.0)
    with pytest.raises(DataError) as caught:
        ClipReader(folder, good.maps, None, ONE_FPS, flip=0, dropout=0)
    assert str(caught.value) == (
        "video01 was extracted at 2 fps, not 1: extract the videos into another folder with --fps 1"
    )
