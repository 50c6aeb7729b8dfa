"""`label` from frames to files, with a segmenter that knows the truth."""

import json
import pickle
import random
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import start, start_ranks
from full_disk import largest_file
from labeling_program import label_aloud
from PIL import Image
from true_segmenter import COLOURS, SIZE_HW, TrueModels, true_map, write_frames

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.config import LabelConfig
from hierasurg_core.config.label import MapFormat
from hierasurg_core.datasets.mapfiles import VideoMaps
from hierasurg_core.errors import DataError, ResourceError
from hierasurg_core.labeling.label import LabelResult, label
from hierasurg_core.labeling.store import MANIFEST
from hierasurg_core.maps import load_clip
from hierasurg_core.pictures import read_image
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import read_video


def labelled(videos: Path, models: TrueModels | None = None, **settings: Any) -> LabelResult:
    return label(
        LabelConfig(videos=videos, **settings),
        torch.device("cpu"),
        SilentProgress(),
        models or TrueModels(),
    )


def files(folder: Path) -> dict[str, str]:
    """Names and digests of the maps."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.suffix != ".json"}


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def expect_true(maps: VideoMaps, start: int) -> None:
    """The clip has the true maps, with some other ids."""
    found = maps.clip(start, 16).map_FHW
    wanted = np.stack([true_map(second) for second in range(start, start + 16)])
    pairs = set(zip(wanted.ravel().tolist(), found.ravel().tolist(), strict=True))
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


@pytest.mark.parametrize("form", ["pkl", "png"])
def test_every_clip_has_the_true_maps(form: str, tmp_path: Path) -> None:
    write_frames(tmp_path / "videos" / "video01", 90)
    result = labelled(tmp_path / "videos", format=form)
    (video,) = result.videos
    assert (video.frames, video.clips, video.entities) == (90, 75 if form == "pkl" else 0, 4)
    assert not video.skipped
    maps = VideoMaps(tmp_path / "videos" / "video01_masks")
    for second in range(75):
        expect_true(maps, second)


def test_in_pngs_ids_last_for_the_video(tmp_path: Path) -> None:
    write_frames(tmp_path / "videos" / "video01", 80)
    labelled(tmp_path / "videos", format="png")
    found = load_clip(tmp_path / "videos" / "video01_masks")
    wanted = np.stack([true_map(second) for second in range(80)])
    pairs = set(zip(wanted.ravel().tolist(), found.map_FHW.ravel().tolist(), strict=True))
    assert len(pairs) == 6  # also the entity that was away for 10 s, and came back
    assert found.num_entities == 4
    said = manifest(tmp_path / "videos" / "video01_masks")
    assert said["counts"] == {
        "frames": 80,
        "clips": 0,
        "windows": 3,
        "entities": 4,
        "entities_a_clip": None,
    }
    assert {"frames": 70, "first": 0, "last": 79} in said["entities"].values()
    assert said["complete"] is True
    assert said["notice"]["license"] == "CC BY-NC-SA 4.0"
    assert not (tmp_path / "videos" / "video01_masks" / ".label").exists()


def test_a_clips_ids_run_without_gaps_and_the_manifest_knows_them(tmp_path: Path) -> None:
    write_frames(tmp_path / "videos" / "video01", 80)
    labelled(tmp_path / "videos")
    folder = tmp_path / "videos" / "video01_masks"
    said = manifest(folder)["clip_ids"]
    assert list(said) == [f"{start:06d}" for start in range(65)]
    late = load_clip(folder / "000060.pkl")  # without the one that left after 40 s
    assert late.num_entities == 3
    assert late.levels == (0, 1, 2, 3, 4)
    assert len(said["000060"].split()) == 3
    shared = set(said["000000"].split()) & set(said["000060"].split())
    assert len(shared) == 2


def test_plain_pickle_gives_the_public_structure(tmp_path: Path) -> None:
    write_frames(tmp_path / "videos" / "video01", 16)
    labelled(tmp_path / "videos")
    with (tmp_path / "videos" / "video01_masks" / "000000.pkl").open("rb") as file:
        masks = pickle.load(file)
    assert list(masks) == list(range(16))
    assert list(masks[0]) == [0, 1, 2, 3, 4]
    assert masks[15][2].shape == (1, *SIZE_HW)
    assert masks[15][2].dtype == bool


def test_what_is_done_is_skipped_and_what_changed_is_redone(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_frames(videos / "video01", 20)
    write_frames(videos / "video02", 20)
    first = TrueModels()
    labelled(videos, first, visualize=True)
    assert first.true.encoded == 40
    before = files(videos / "video01_masks")
    again = TrueModels()
    assert [video.skipped for video in labelled(videos, again, visualize=True).videos] == [True, True]
    assert again.true.encoded == 0
    Image.fromarray(COLOURS[true_map(70)]).save(videos / "video02" / "000007.png")
    stale = (videos / "video02_overlay.mp4").stat().st_mtime_ns
    third = TrueModels()
    assert [video.skipped for video in labelled(videos, third, visualize=True).videos] == [True, False]
    assert third.true.encoded == 20
    assert files(videos / "video01_masks") == before
    assert (videos / "video02_overlay.mp4").stat().st_mtime_ns > stale
    labelled(videos, third, format="png")
    assert not list((videos / "video01_masks").glob("*.pkl"))
    (videos / "video01_masks" / "000003.png").unlink()
    assert [video.skipped for video in labelled(videos, third, format="png").videos] == [False, True]


def test_overlays_keep_a_colour_for_an_id(tmp_path: Path) -> None:
    write_frames(tmp_path / "videos" / "video01", 50)
    result = labelled(tmp_path / "videos", visualize=True)
    assert result.videos[0].overlay == tmp_path / "videos" / "video01_overlay.mp4"
    clips, _ = read_video(tmp_path / "videos" / "video01_overlay.mp4")
    assert clips.shape == (50, *SIZE_HW, 3)
    shutil.rmtree(tmp_path / "videos" / "video01_masks")
    labelled(tmp_path / "videos", visualize=True, format="png")
    pngs, _ = read_video(tmp_path / "videos" / "video01_overlay.mp4")
    assert (clips == pngs).all()
    colours = {tuple(clips[second][true_map(second) == 0].mean(0).round(-1)) for second in range(50)}
    assert len(colours) <= 2  # coding aside
    sheet_HWC = read_image(tmp_path / "videos" / "video01_sheet.png")
    assert sheet_HWC.shape == (240 * 5 + 22, 320 * 4, 3)  # 17 tiles and a legend


def test_at_8_fps_a_map_is_a_second(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_frames(videos / "video01", 136)
    said = {"schema": 1, "name": "video01", "fps": 8.0, "num_frames": 136, "size_hw": list(SIZE_HW)}
    rest = {"black": [], "digest": "0", "settings": {"start": 0.0}, "complete": True}
    for index in range(136):
        path = videos / "video01" / f"{index:06d}.png"
        Image.fromarray(COLOURS[true_map(index // 8)]).save(
            path.with_suffix(".jpg"), quality=100, subsampling=0
        )
        path.unlink()
    (videos / "video01" / "extract.json").write_text(json.dumps({**said, **rest}))
    assert labelled(videos).videos[0].frames == 17
    found = VideoMaps(videos / "video01_masks").clip(1, 16)
    assert found.num_entities == 3


def test_bad_frames_are_named_or_skipped(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_frames(videos / "video01", 20)
    (videos / "video01" / "000005.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"cannot read the image .*000005.png: .*--skip-bad"):
        labelled(videos)
    Image.fromarray(COLOURS[true_map(6)][:40]).save(videos / "video01" / "000006.png")
    assert labelled(videos, skip_bad=True).videos[0].bad_frames == 2
    found = load_clip(videos / "video01_masks" / "000000.pkl").map_FHW
    assert (found[5] == found[4]).all()
    assert (found[6] == found[4]).all()
    said = manifest(videos / "video01_masks")["bad_frames"]
    assert list(said) == ["000005", "000006"]
    assert "is 40x64, but the video's frames are 48x64" in said["000006"]
    (videos / "video01" / "000005.png").unlink()
    Image.fromarray(COLOURS[true_map(5)]).save(videos / "video01" / "000005.png")
    with pytest.raises(DataError, match=r"000006.png is 40x64, but the video's frames are 48x64"):
        labelled(videos)


def test_data_that_cannot_become_maps(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    with pytest.raises(DataError, match="there is no folder"):
        labelled(videos)
    videos.mkdir()
    with pytest.raises(DataError, match="holds no frame folders"):
        labelled(videos)
    (videos / "video01").mkdir()
    with pytest.raises(DataError, match="video01 holds no frames"):
        labelled(videos)
    (videos / "video01").rmdir()
    write_frames(videos / "video01", 15)
    with pytest.raises(DataError, match=r"video01 has 15 frames .* use --format png"):
        labelled(videos)
    assert labelled(videos, format="png").videos[0].frames == 15
    (videos / "video01" / "000003.png").unlink()
    with pytest.raises(DataError, match="lacks frame 000003"):
        labelled(videos, format="png")


def test_a_bad_folder_costs_itself(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for name in ("seq_1", "VID02", "video03", "video_03", "video04"):
        write_frames(videos / name, 18)
    (videos / "video04" / "000003.png").unlink()
    (videos / "notes.txt").touch()
    (videos / "Thumbs.db").touch()
    result = labelled(videos)
    assert [video.name for video in result.videos] == ["seq_1", "video02"]
    assert (videos / "seq_1_masks" / "000000.pkl").exists()
    assert [failure.name for failure in result.failures] == ["video03", "video04"]
    assert "are both video03: keep one of them" in result.failures[0].message
    assert "lacks frame 000003" in result.failures[1].message
    said = result.to_dict()
    assert list(said) == ["out", "videos", "failures", "seconds", "skipped", "passed_over"]
    assert [Path(one["path"]).name for one in said["skipped"]] == ["notes.txt", "video03", "video_03"]
    assert said["passed_over"] == 1
    assert [video.name for video in labelled(videos).videos if video.skipped] == ["seq_1", "video02"]


def test_a_frame_that_is_found_bad_while_labelling_costs_its_video(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for name in ("video01", "video02"):
        write_frames(videos / name, 18)
    path = videos / "video01" / "000004.png"
    path.write_bytes(path.read_bytes()[:-40])  # its head is whole
    result = labelled(videos)
    assert [video.name for video in result.videos] == ["video02"]
    assert "cannot read the image" in result.failures[0].message


def test_maps_of_others_are_not_written_over(tmp_path: Path) -> None:
    write_frames(tmp_path / "videos" / "video01", 16)
    theirs = tmp_path / "videos" / "video01_masks"
    theirs.mkdir()
    (theirs / "000000.pkl").write_bytes(b"theirs")
    with pytest.raises(DataError, match="holds maps that label did not write"):
        labelled(tmp_path / "videos")
    assert (theirs / "000000.pkl").read_bytes() == b"theirs"
    (theirs / MANIFEST).write_text('{"kind": "other"}')
    with pytest.raises(DataError, match="is no manifest of labels"):
        labelled(tmp_path / "videos")


def test_one_folder_a_list_and_a_limit(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for number in (1, 2, 3):
        write_frames(videos / f"video0{number}", 24)
    (videos / "video02").rename(videos / "VID02")
    result = labelled(videos / "VID02", limit=18)
    assert [(video.name, video.frames) for video in result.videos] == [("video02", 18)]
    assert result.out == videos.resolve()
    (tmp_path / "list.txt").write_text("VID03  # late\n")
    assert [video.name for video in labelled(videos, only=tmp_path / "list.txt").videos] == ["video03"]
    (tmp_path / "list.txt").write_text("VID04")
    with pytest.raises(DataError, match=r"lacks 1 of the videos in .*list.txt: video04"):
        labelled(videos, only=tmp_path / "list.txt")


def test_what_happens_to_maps_that_are_there_is_said(tmp_path: Path) -> None:
    class Noted(SilentProgress):
        def __init__(self, stop_at: int = 10**9) -> None:
            self.notes: list[str] = []
            self.left = stop_at

        def note(self, message: str) -> None:
            self.notes.append(message)

        def advance(self, n: int = 1) -> None:
            self.left -= n
            if self.left < 0:
                raise KeyboardInterrupt

    videos = tmp_path / "videos"
    write_frames(videos / "video01", 90)

    def notes(told: Noted, **settings: Any) -> list[str]:
        label(LabelConfig(videos=videos, batch=8, **settings), torch.device("cpu"), told, TrueModels())
        return told.notes

    with pytest.raises(KeyboardInterrupt):
        notes(Noted(stop_at=85))
    assert notes(Noted()) == ["video01: goes on behind the 79 frames that are done"]
    assert notes(Noted()) == []
    masks = videos / "video01_masks"
    assert notes(Noted(), format="png") == [
        f"{masks}: its maps are of other frames or settings and made anew"
    ]


def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_frames(videos / "video01", 20)
    labelled(videos, out=tmp_path / "whole")
    masks = tmp_path / "full" / "video01_masks"
    with (
        largest_file(1000),
        pytest.raises(ResourceError, match=f"cannot write {masks}/.*: larger than a file"),
    ):
        labelled(videos, out=tmp_path / "full")
    assert [path for path in masks.rglob("*") if ".partial" in path.name] == []
    labelled(videos, out=tmp_path / "full")
    assert files(masks) == files(tmp_path / "whole" / "video01_masks")


@pytest.mark.slow
def test_processes_share_the_videos(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for number in range(1, 7):
        write_frames(videos / f"video0{number}", 16 + number)
    labelled(videos, out=tmp_path / "alone", batch=4)
    ranks = start_ranks(2, label_aloud, LabelConfig(videos=videos, out=tmp_path / "shared", batch=4))
    seen = [sum(numbers) for _, numbers in ranks]
    for process, _ in ranks:
        process.join()
    assert [process.exitcode for process, _ in ranks] == [0, 0]
    assert sum(seen) == sum(range(17, 23)) + 2 * 6  # and either looks at six folders
    for number in range(1, 7):
        name = f"video0{number}_masks"
        assert files(tmp_path / "shared" / name) == files(tmp_path / "alone" / name)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pkl", "png"])
def test_killed_at_any_moment_it_ends_in_the_same_files(form: MapFormat, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_frames(videos / "video01", 120)
    labelled(videos, out=tmp_path / "whole", format=form, batch=4)
    chance = random.Random(0)
    config = LabelConfig(videos=videos, out=tmp_path / "killed", format=form, batch=4)
    kills = 0
    for _ in range(40):
        process, numbers = start(label_aloud, config)
        for _ in islice(numbers, chance.randrange(1, 40)):
            pass
        time.sleep(chance.random() * 0.1)
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
    labelled(videos, out=tmp_path / "killed", format=form, batch=4)
    assert kills
    assert files(tmp_path / "killed" / "video01_masks") == files(tmp_path / "whole" / "video01_masks")
    one, other = (manifest(tmp_path / name / "video01_masks") for name in ("killed", "whole"))
    assert {**one, "timing": None} == {**other, "timing": None}
