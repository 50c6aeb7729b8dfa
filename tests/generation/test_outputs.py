from pathlib import Path
from typing import Any

import numpy as np
from generation.test_generate import clip_file, refused, run, start_files
from maps.moving_shapes import moving_ids
from PIL import Image

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.errors import UsageError
from hierasurg_core.generation.outputs import Footage, write_outputs
from hierasurg_core.maps import PanopticClip, colour_map, load_clip
from hierasurg_core.pictures import read_image
from hierasurg_core.video import read_video

MAPS = PanopticClip(moving_ids(2, 2, (32, 48), 1), 2)
FRAMES = np.random.default_rng(0).integers(0, 255, (16, 1, 1, 3), np.uint8).repeat(32, 1).repeat(48, 2)


def written(folder: Path, *forms: str, fps: int = 8) -> dict[str, Path]:
    names = {"video": "a.mp4", "maps": "a_maps.mp4", "overlay": "o.mp4", "side_by_side": "s.mp4"}
    names |= {"gif": "a.gif", "frames_dir": "frames", "maps_dir": "maps"}
    paths = {form: folder / names[form] for form in ("video", "maps", *forms)}
    write_outputs(paths, Footage.of_clip(FRAMES, MAPS, fps))
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths.values())
    return paths


def test_folders_hold_every_frame_and_map_exactly(tmp_path: Path):
    paths = written(tmp_path, "frames_dir", "maps_dir")
    assert [path.name for path in sorted(paths["frames_dir"].iterdir())][-1] == "000015.png"
    assert np.array_equal(read_image(paths["frames_dir"] / "000007.png"), FRAMES[7])
    again = load_clip(paths["maps_dir"])
    assert np.array_equal(again.map_FHW, MAPS.map_FHW)
    assert again.num_entities == 2


def test_overlay_and_side_by_side_show_the_map_of_the_second(tmp_path: Path):
    paths = written(tmp_path, "overlay", "side_by_side")
    painted = colour_map(MAPS.map_FHW, range(4)).astype(float)
    overlay, fps = read_video(paths["overlay"])
    assert (len(overlay), fps) == (16, 8)
    for frame, second in ((7, 0), (8, 1)):
        expected = 0.55 * FRAMES[frame] + 0.45 * painted[second]
        assert np.abs(overlay[frame] - expected).mean() < 6
    beside, _ = read_video(paths["side_by_side"])
    assert beside.shape == (16, 32, 48 + 4 + 48, 3)
    assert np.abs(beside[8][:, 52:] - painted[1]).mean() < 6
    assert np.abs(beside[8][:, :46].astype(float) - FRAMES[8][:, :46]).mean() < 6


def test_a_gif_plays_at_the_videos_rate(tmp_path: Path):
    with Image.open(written(tmp_path, "gif")["gif"]) as picture:
        assert (getattr(picture, "n_frames", 1), picture.size) == (16, (48, 32))
        assert picture.info["duration"] in (120, 130)  # hundredths of a second are all a GIF knows
        assert picture.info["loop"] == 0


def test_what_is_asked_for_lies_beside_the_sample(assets: Path, tmp_path: Path):
    result = run(assets, tmp_path, steps=1, gif=True, overlay=True, side_by_side=True, frames_dir=True)
    sample = result.samples[0]
    assert {form: path.name for form, path in sample.outputs.items()} == {
        "frames_dir": "0000_frames",
        "overlay": "0000_overlay.mp4",
        "side_by_side": "0000_side_by_side.mp4",
        "gif": "0000.gif",
    }
    assert all(path.exists() for path in sample.outputs.values())


def test_edits_reach_the_maps_and_the_video(assets: Path, tmp_path: Path):
    maps = clip_file(tmp_path / "maps.pkl")
    start: dict[str, Any] = {"maps": maps, "frame": start_files(tmp_path)["frame"]}
    run(assets, tmp_path, **start, out=tmp_path / "plain")
    run(assets, tmp_path, **start, out=tmp_path / "edited", edit="remove 1; move 0 by 20,0 over 8")
    plain, edited = (load_clip(tmp_path / way / "0000_maps.mp4").map_FHW for way in ("plain", "edited"))
    assert (plain[0] == edited[0]).mean() > 0.99
    assert (edited[2:] == 1).mean() < 0.002 < (plain[2:] == 1).mean()
    assert (plain[2:] == 0).mean() > 0.01
    assert (plain[8] != edited[8]).mean() > 0.02
    videos = [sha256_file(tmp_path / way / "0000.mp4") for way in ("plain", "edited")]
    assert videos[0] != videos[1]
    assert read_json(tmp_path / "edited" / "0000.json")["edit"] == "remove 1; move 0 by 20,0 over 8"


def test_edits_name_entities_of_a_scene(assets: Path, tmp_path: Path):
    refused(
        UsageError, "did you mean 'grasper'.*0 grasper, 1 gallbladder", assets, tmp_path, edit="keep graspr"
    )
