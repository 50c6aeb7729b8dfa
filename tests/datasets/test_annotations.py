"""Labels as they lie on disk: what is read, what is refused, and what `describe` says of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierasurg_core.datasets.annotations import (
    canonical_name,
    find_labels,
    load_cholec80_phases,
    load_cholec80_tools,
    load_cholect50,
    load_labels,
    with_rate_of,
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
    labels = load_cholec80_phases(phases_file(tmp_path / "video03-phase.txt", phases))
    assert (labels.name, labels.fps, labels.num_frames) == ("video03", 25, 75)
    assert [labels.at_second(second)[0] for second in (0, 0.96, 1.0, 1.96, 2.0, 3.0)] == [0, 0, 1, 1, 6, -1]
    phases[51] = "Suturing"
    with pytest.raises(DataError, match="line 53: unknown phase 'Suturing'"):
        load_cholec80_phases(phases_file(tmp_path / "video03-phase.txt", phases))


@pytest.mark.parametrize(
    "content",
    [
        b"Frame\tPhase\n0\tPreparation\n1\t-1\n2\tGallbladderRetraction\n",
        b"\xef\xbb\xbfFrame\tPhase\r\n0\tPreparation\r\n1\t-1\r\n2\tGallbladderRetraction\r\n",
        b"\xef\xbb\xbf0 Preparation\n1 -1\n2 GallbladderRetraction",
        b"0\tpreparation\t\n1\tnan\n\n2\tgallbladder retraction\n",
        b"frame,phase\n0,0\n1,-1\n2,6\n",
        b"0   PREPARATION\n1   -1\n2   Gallbladder Extraction\n",
        "Frame\tPhase\n0\tPreparation\n1\t-1\n2\tGallbladderRetraction\n".encode("utf-16"),
    ],
)
def test_phase_files_are_read_as_people_write_them(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "video01-phase.txt").write_bytes(content)
    labels = load_cholec80_phases(tmp_path / "video01-phase.txt")
    assert labels.phase_F.tolist() == [0, -1, 6]
    assert (labels.num_unlabelled, labels.missing) == (1, ())


def test_the_rate_of_phase_files_is_told_by_their_numbers_or_the_frames(tmp_path: Path) -> None:
    path = written(tmp_path / "video01-phase.txt", "0\tPreparation\n25\tClippingCutting\n75\tPreparation\n")
    labels = load_cholec80_phases(path)
    assert (labels.fps, labels.fps_from, labels.phase_F.tolist()) == (1, "numbers", [0, 2, -1, 0])
    assert (labels.missing, labels.num_unlabelled) == ((2,), 0)
    labels = load_cholec80_phases(phases_file(path, ["Preparation"] * 100))
    assert (labels.fps, labels.fps_from) == (25, "assumed")
    for seconds, fps, fps_from in ((4, 25, "frames"), (100, 1, "frames"), (30, 25, "assumed")):
        settled = with_rate_of(labels, seconds)
        assert (settled.fps, settled.fps_from) == (fps, fps_from)


def test_describe_says_which_rate_a_phase_file_is_in(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for number, labels in ((1, 100), (2, 4), (3, 50)):
        frame_folder(tmp_path / "videos" / f"video0{number}", 4)
        phases_file(
            tmp_path / "labels" / f"video0{number}-phase.txt", ["Preparation"] * (labels - 1) + ["-1"]
        )
    result = describe(tmp_path / "videos", tmp_path / "labels")
    assert [line.split("; ")[1] for line in result.lines() if line.startswith("video")] == [
        "100 labels at 25 fps (by the number of frames), 0 missing, 1 without a phase (-1)",
        "4 labels at 1 fps (by the number of frames), 0 missing, 1 without a phase (-1)",
        "50 labels at 25 fps (by the number of frames), 0 missing, 1 without a phase (-1)",
    ]
    assert result.phases["preparation"] == 99 + 3 + 49
    assert [one["labels_unlabelled"] for one in result.to_dict()["operations"]] == [1, 1, 1]


def test_cholec80_is_found_under_its_parent(tmp_path: Path) -> None:
    for name in ("phase_annotations", "tool_annotations"):
        (tmp_path / name).mkdir()
    phases_file(tmp_path / "phase_annotations" / "video01-phase.txt", ["Preparation"] * 50)
    (tmp_path / "phase_annotations" / "video01-timestamp.txt").write_text("Frame\tTimestamp\n")
    rows = "0\t1\t0\t1\t0\t0\t0\t0\n25\t0\t0\t1\t0\t0\t0\t1\n"
    written(tmp_path / "tool_annotations" / "video01-tool.txt", f"Frame\tA\tB\tC\tD\tE\tF\tG\n{rows}")
    found = find_labels(tmp_path)
    assert found.labels["video01"].num_frames == 50
    assert found.labels["video01"].tools == {0: (0, 2), 1: (2, 6)}
    assert [one.path.name for one in found.skipped] == ["video01-timestamp.txt"]
    frame_folder(tmp_path / "videos" / "video01", 2)
    described = describe(tmp_path / "videos", tmp_path)
    assert (described.instruments["hook"], described.instruments["grasper"]) == (2, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"fps": 1, "fps": 25}', "the key 'fps' is given twice; keep one of them"),
        ('{"annotations": {"3": [], "3": []}}', "the key '3' is given twice"),
        ("9" * 5000, r"the number '9+ \.\.\. \(5,000 characters\) has more than 20 digits"),
        ('{"num_frames": ' + "9" * 4000 + "}", r"\(4,000 characters\) has more than 20 digits"),
        ("[" * 200_000, "it nests deeper than 64"),
        ('{"annotations": {"' + "1" * 5000 + '": []}, "fps": 1, "num_frames": 5}', "is no number of a frame"),
        (
            '{"annotations": {}, "fps": 1, "num_frames": 5, "categories": {"phase": [1]}}',
            "phase is .1., not names",
        ),
    ],
)
def test_hostile_json_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load_cholect50(written(tmp_path / "VID01.json", text))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        text = json.dumps(cholect50({"0": [GRASPER]}))
        (tmp_path / "VID01.json").write_text(text, encoding=encoding)
        assert load_cholect50(tmp_path / "VID01.json").triplets_F[0] == (17,)


def test_a_bad_file_costs_its_operation(tmp_path: Path) -> None:
    written(tmp_path / "VID01.json", "{")
    written(tmp_path / "VID02.json", cholect50({"0": [GRASPER]}))
    written(tmp_path / "seq_1.json", cholect50({"0": [HOOK]}))
    found = find_labels(tmp_path, ["seq_1"])
    assert list(found.labels) == ["seq_1", "video02"]
    assert list(found.faults) == ["video01"]
    assert "is no JSON: line 1" in found.faults["video01"]
    assert list(find_labels(tmp_path).labels) == ["video02"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Frame\tPhase\n", "holds no labels"),
        ("0\tPreparation\n0\tPreparation\n", "line 2: frame 0 is listed twice"),
        ("0\tPreparation\t1\n", "line 1 has 3 columns, not 2"),
        ("Frame\tPhase\n-1\tPreparation\n", "line 2: '-1' is no number of a frame"),
        (f"{'9' * 5000}\tPreparation\n", "line 1: '99999.*' is no number of a frame"),
        ("\N{SUPERSCRIPT TWO}\tPreparation\n0\tPreparation\n\N{SUPERSCRIPT TWO}\tPreparation\n", "line 3: "),
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
