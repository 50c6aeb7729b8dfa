"""Labels as they lie on disk: what is read, what is refused, and what `describe` says of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierasurg_core.datasets.annotations import (
    canonical_name,
    load_cholec80_phases,
    load_cholec80_tools,
    load_cholect50,
    load_labels,
)
from hierasurg_core.datasets.describe import describe
from hierasurg_core.errors import DataError

GRASPER = [17, 0, 1.0, 0.1, 0.2, 0.3, 0.4, 1, 0, -1, -1, -1, -1, -1, 2]
HOOK = [60, 2, 1.0, -1, -1, -1, -1, 2, 0, -1, -1, -1, -1, -1, 2]
NOTHING = [-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 3]


def cholect50(frames: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"video": 1, "fps": 1, "num_frames": 5, "annotations": frames, **changes}


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("text", ["VID01", "Video01", "video01", "01", "1", "vid_01", " VIDEO1 "])
def test_one_operation_has_one_name(text: str) -> None:
    assert canonical_name(text) == "video01"


@pytest.mark.parametrize("text", ["", "operation", "video", "video01_masks", "VID01b"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(DataError, match="names no operation"):
        canonical_name(text)


def test_cholect50_is_read(tmp_path: Path) -> None:
    frames = {"0": [GRASPER, HOOK], "1": [NOTHING], "2": [], "4": [HOOK]}
    labels = load_cholect50(written(tmp_path / "VID07.json", cholect50(frames)))
    assert (labels.name, labels.fps, labels.num_frames) == ("video07", 1.0, 5)
    assert labels.phase_F.tolist() == [2, 3, -1, -1, 2]
    assert labels.phase_F.dtype == np.int16
    assert labels.triplets_F == ((17, 60), (), (), (), (60,))
    assert labels.missing == (3,)
    grasper, hook = labels.instances_F[0]
    assert (grasper.instrument, grasper.verb, grasper.target) == (0, 1, 0)
    assert grasper.box == (0.1, 0.2, 0.3, 0.4)
    assert grasper.target_box is None
    assert hook.box is None
    assert labels.at_second(0.9) == (2, (17, 60))
    assert labels.at_second(5) == (-1, ())


def changed(position: int, value: Any) -> list[Any]:
    return [value if i == position else number for i, number in enumerate(GRASPER)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"VID01\.json is no JSON: line 1"),
        ([], "it has no 'annotations'"),
        (cholect50({}, fps=0), "'fps' is 0, not a number above 0"),
        (cholect50({}, num_frames=None), "'num_frames' is None"),
        (cholect50({}, num_frames=2.5), "'num_frames' is 2.5"),
        (cholect50({"x": []}), "'x' is no number of a frame"),
        (cholect50({"5": []}), "frame 5 lies behind the 5 frames"),
        (cholect50({"1": [], "01": []}), "frame 1 is listed twice"),
        (cholect50({"1": None}), "frame 1: None is no list"),
        (cholect50({"3": [GRASPER, GRASPER[:14]]}), "frame 3: instance 1 is 14 numbers, not 15"),
        (cholect50({"3": [changed(0, 100)]}), "number 0, the triplet, is 100: ids go from 0 to 99, or -1"),
        (cholect50({"3": [changed(1, 6)]}), "number 1, the instrument, is 6"),
        (cholect50({"3": [changed(7, -2)]}), "number 7, the verb, is -2"),
        (cholect50({"3": [changed(8, 1.5)]}), "number 8, the target, is 1.5"),
        (cholect50({"3": [changed(14, 7)]}), "number 14, the phase, is 7"),
        (cholect50({"3": [changed(2, "a")]}), "number 2 is 'a', not a number"),
        (cholect50({"3": [changed(5, 300)]}), "numbers 3 to 6, a box, are 0.1 0.2 300 0.4"),
        (cholect50({"3": [GRASPER, NOTHING]}), "frame 3: its instances are of phases 2 and 3"),
        (cholect50({}, categories={"verb": {"0": "retract"}}), "verb 0 is 'retract', but 'grasp' in"),
        (cholect50({}, categories={"phase": {"9": "rest"}}), "phase 9 is 'rest', but no such id in"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, content: object, said: str) -> None:
    path = written(tmp_path / "VID01.json", content)
    with pytest.raises(DataError, match=said) as caught:
        load_cholect50(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def phases_file(path: Path, phases: list[str]) -> Path:
    rows = "".join(f"{index}\t{phase}\n" for index, phase in enumerate(phases))
    return written(path, f"Frame\tPhase\n{rows}")


def test_cholec80_phases_are_read(tmp_path: Path) -> None:
    phases = ["Preparation"] * 25 + ["CalotTriangleDissection"] * 25 + ["GallbladderRetraction"] * 25
    with pytest.raises(DataError, match="line 52: unknown phase"):
        load_cholec80_phases(phases_file(tmp_path / "video03-phase.txt", phases))
    labels = load_cholec80_phases(phases_file(tmp_path / "video03-phase.txt", phases[:50]))
    assert (labels.name, labels.fps, labels.num_frames) == ("video03", 25, 50)
    assert [labels.at_second(second)[0] for second in (0, 0.96, 1.0, 1.96, 2.0)] == [0, 0, 1, 1, -1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Frame\tPhase\n", "holds no labels"),
        ("0\tPreparation\n0\tPreparation\n", "line 2: frame 0 is listed twice"),
        ("0\tPreparation\t1\n", "line 1 has 3 columns, not 2"),
        ("Frame\tPhase\n-1\tPreparation\n", "line 2: '-1' is no number of a frame"),
    ],
)
def test_bad_phase_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_cholec80_phases(written(tmp_path / "video01-phase.txt", text))


def test_cholec80_tools_are_read(tmp_path: Path) -> None:
    head = "Frame\tGrasper\tBipolar\tHook\tScissors\tClipper\tIrrigator\tSpecimenBag\n"
    path = written(tmp_path / "video01-tool.txt", head + "0\t1\t0\t1\t0\t0\t0\t0\n25\t0\t0\t0\t0\t0\t0\t1\n")
    assert load_cholec80_tools(path) == {0: (0, 2), 25: (6,)}
    with pytest.raises(DataError, match="line 2: a tool is 0 or 1"):
        load_cholec80_tools(written(path, head + "0\t2\t0\t1\t0\t0\t0\t0\n"))


def test_json_wins_and_phases_complement_it(tmp_path: Path) -> None:
    written(tmp_path / "VID01.json", cholect50({"0": [GRASPER]}, num_frames=2))
    phases_file(tmp_path / "video01-phase.txt", ["Preparation"] * 50)
    phases_file(tmp_path / "video02-phase.txt", ["Preparation"] * 50)
    written(tmp_path / "readme.json", "none of ours")
    labels = load_labels(tmp_path)
    assert list(labels) == ["video01", "video02"]
    assert labels["video01"].phase_F.tolist() == [2, 0]
    assert labels["video01"].triplets_F == ((17,), ())
    written(tmp_path / "video1.json", cholect50({}))
    with pytest.raises(DataError, match="are both of video01"):
        load_labels(tmp_path)


def test_folders_without_labels(tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "holds no labels"), (tmp_path / "none", "does not exist")):
        with pytest.raises(DataError, match=said):
            load_labels(folder)


def frame_folder(folder: Path, count: int, black: int = 0) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        picture = np.full((16, 16, 3), 0 if index < black else 120, np.uint8)
        Image.fromarray(picture).save(folder / f"{index:06d}.jpg")


def test_describe_compares_found_with_expected(tmp_path: Path) -> None:
    for name, count in (("video01", 5), ("video02", 40), ("video03", 3), ("video04", 2)):
        frame_folder(tmp_path / "videos" / name, count, black=1)
    (tmp_path / "videos" / "video01_masks").mkdir()
    (tmp_path / "labels").mkdir()
    for number in (1, 2, 3, 5):
        frames = {str(index): [GRASPER, HOOK] for index in range(5 - (number == 1))}
        written(tmp_path / "labels" / f"VID{number:02d}.json", cholect50(frames))
    result = describe(tmp_path / "videos", tmp_path / "labels")
    found = {one.name: (one.frames, one.expected, one.fps, one.fps_from) for one in result.operations}
    assert found == {
        "video01": (5, 5, 1.0, "labels"),
        "video02": (40, 40, 8.0, "labels"),
        "video03": (3, None, None, None),
        "video04": (2, None, None, None),
        "video05": (None, None, None, None),
    }
    assert [problem.split(":")[0] for problem in result.problems] == [
        "video01",
        "video03",
        "video04",
        "video05",
    ]
    assert "leaves out 1 of its 5 frames, first 4" in result.problems[0]
    assert [one.black for one in result.operations] == [1, 1, 1, 1, 0]
    assert result.phases["clipping-and-cutting"] == 19
    assert result.instruments["hook"] == 19
    assert list(result.triplets.values()) == [19, 19]
    json.dumps(result.to_dict(), allow_nan=False)
    frames, labels = result.lines()[0].split("; ")
    assert frames == "video01: 5 of 5 frames at 1 fps (from the labels), 1 black"
    assert labels == "5 labels at 1 fps, 1 missing"


def test_describe_without_frames(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no frame folders"):
        describe(tmp_path, None)
    with pytest.raises(DataError, match="does not exist"):
        describe(tmp_path / "none", None)
