"""Operations on disk have the form that a lab's own data have, and their truth belongs to their frames."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hierasurg_core import taxonomy
from hierasurg_core.maps import load_map_image, map_num_entities
from hierasurg_core.phantom.operation import draw_operation, label_file, plan_operation, write_operations
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import read_video

SIZE = (64, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("operations")
    write_operations(out, videos=2, seconds=9, size_hw=SIZE, seed=0, progress=SilentProgress())
    return out


def test_files_are_those_of_a_lab(folder: Path):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    masks = [f"truth/video{n:02d}_masks/{s:06d}.png" for n in (1, 2) for s in range(9)]
    videos = ["in/video01.mp4", "in/video02.mp4", "labels/VID01.json", "labels/VID02.json"]
    assert files == sorted([*videos, "truth/entities.json", *masks])
    video, fps = read_video(folder / "in" / "video01.mp4")
    assert video.shape == (9 * 25, *SIZE, 3)
    assert fps == 25


def test_labels_are_cholect50s_fifteen_numbers(folder: Path):
    labels = json.loads((folder / "labels" / "VID01.json").read_text())
    assert labels["fps"] == 1
    assert labels["num_frames"] == 9
    assert labels["categories"]["phase"]["1"] == "carlot-triangle-dissection"
    assert sorted(map(int, labels["annotations"])) == list(range(9))
    for rows in labels["annotations"].values():
        for row in rows:
            assert len(row) == 15
            triplet = taxonomy.TRIPLETS[row[0]]
            assert (row[1], row[7], row[8]) == (triplet.instrument_id, triplet.verb_id, triplet.target_id)
            assert 0 <= row[14] <= 6
            assert row[9:14] == [-1.0] * 5
            assert all(v == -1 or 0 <= v <= 1 for v in row[3:7])
    phases = [labels["annotations"][str(s)][0][14] for s in range(9)]
    assert phases == sorted(phases)
    assert set(phases) == set(range(7))


def test_truth_belongs_to_the_frames(folder: Path):
    names = json.loads((folder / "truth" / "entities.json").read_text())["video01"]
    video, _ = read_video(folder / "in" / "video01.mp4")
    count = len(names) - 2
    assert names[str(count)] == "background"
    assert names[str(count + 1)] == "black_border"
    for second in (0, 4, 8):
        path = folder / "truth" / "video01_masks" / f"{second:06d}.png"
        ids = load_map_image(path)
        assert ids.shape == SIZE
        assert map_num_entities(path) == count
        border = ids == count + 1
        assert video[second * 25][border].mean() < 16
        assert video[second * 25][~border].mean() > 40
        gallbladder = ids == int(next(k for k, v in names.items() if v == "gallbladder"))
        if gallbladder.sum() > 40 and second < 3:
            red, green, _ = video[second * 25][gallbladder].mean(0)
            assert green > red


def test_the_box_holds_the_tip():
    operation = plan_operation(1, 40, 3)
    labels = label_file(operation, SIZE)
    segment = operation.segments[0]
    last = segment.start + segment.seconds - 1
    frames = list(draw_operation(operation, SIZE, 1))
    assert len(frames) == 40
    _, ids = frames[last]
    tool = next(i for i, name in operation.entities.items() if name == segment.triplet.instrument)
    x, y, w, h = np.array(labels["annotations"][str(last)][0][3:7]) * np.tile(SIZE[::-1], 2)
    box = ids[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1]
    assert (box == tool).sum() > 5


def test_the_same_plan_twice_and_another_for_another_number():
    first, again, other = (plan_operation(number, 30, 7) for number in (1, 1, 2))
    assert [s.triplet for s in first.segments] == [s.triplet for s in again.segments]
    assert torch.equal(first.segments[0].scene.anchor_BT2, again.segments[0].scene.anchor_BT2)
    assert not torch.equal(first.segments[0].scene.anchor_BT2, other.segments[0].scene.anchor_BT2)
    assert first.seconds == 30
    with pytest.raises(ValueError, match="at least 1 second"):
        plan_operation(1, 0, 0)
