import filecmp
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation.test_generate import Told, refused, run, start_files

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.generation import generate
from hierasurg_core.generation.storyboard import PlannedClip, Segment, plan_clips, plan_stories
from hierasurg_core.generation.telling import _faded
from hierasurg_core.maps import load_clip, load_map_image
from hierasurg_core.pictures import read_image, write_png
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import read_video

ROOT = Path(__file__).parents[2]
NO_WORDS: dict[str, Any] = {"phase": None, "triplet": None}
STORY = """segments:
  - {phase: calot, triplet: "17@0-9; 60@10-", seconds: 18}
  - {triplet: [60, 60, 17], phase: calot}
"""


def planned(assets: Path, *segments: tuple[int, bool], fps: int = 1) -> tuple[PlannedClip, ...]:
    start = plan_stories(GenerateConfig(phase="1", seconds=1), 16, 1, assets / "scenes")[0].segments[0].start
    seconds = {1: 16, 8: 6}[fps]
    parts = [Segment(1, (17,) * length, cut, start if cut else None) for length, cut in segments]
    return plan_clips(parts, seconds, fps)


def spans(clips: tuple[PlannedClip, ...]) -> list[tuple[int, int, int, int]]:
    return [(clip.begin, clip.known, clip.first, clip.end) for clip in clips]


def test_clips_cover_a_story_and_begin_with_what_is_told(assets: Path):
    assert spans(planned(assets, (16, True))) == [(0, 0, 0, 16)]
    assert spans(planned(assets, (30, True))) == [(0, 0, 0, 16), (11, 5, 16, 27), (22, 5, 27, 30)]
    assert spans(planned(assets, (10, True), (9, False))) == [(0, 0, 0, 10), (5, 5, 10, 19)]


def test_after_a_cut_the_overlap_is_what_there_is(assets: Path):
    clips = planned(assets, (10, True), (3, True), (4, False))
    assert spans(clips) == [(0, 0, 0, 10), (10, 0, 10, 13), (12, 1, 13, 17)]
    assert [clip.start is None for clip in clips] == [False, False, True]


def test_at_eight_frames_a_second_clips_meet_inside_a_second(assets: Path):
    clips = planned(assets, (16, True), fps=8)
    assert spans(clips) == [(0, 0, 0, 45), (5, 5, 45, 85), (10, 5, 85, 128)]
    assert [(clip.first_second, clip.end_second) for clip in clips] == [(0, 6), (6, 11), (11, 16)]


def test_a_clip_is_told_its_new_seconds(assets: Path):
    start = planned(assets, (16, True))[0].start
    clips = plan_clips([Segment(1, (17,) * 10, True, start), Segment(2, (60, 61), False, None)], 16, 1)
    assert clips[1].phase == 2
    assert clips[1].triplet_S == (60, 60, 60, 60, 60, 60, 61)


def test_the_first_clip_is_what_generate_makes(assets: Path, tmp_path: Path):
    run(assets, tmp_path, seconds=16)
    run(assets, tmp_path, out=tmp_path / "plain")
    for name in ("0000.mp4", "0000_maps.mp4"):
        assert filecmp.cmp(tmp_path / "samples" / name, tmp_path / "plain" / name, shallow=False)


def test_a_story_is_one_video_whose_entities_stay(assets: Path, tmp_path: Path):
    script = tmp_path / "story.yaml"
    script.write_text(STORY)
    told = Told()
    options = {**NO_WORDS, "script": script, "contact_sheet": True, "overlay": True, "maps_dir": True}
    result = run(assets, tmp_path, told, **options)
    video, fps = read_video(tmp_path / "samples" / "0000.mp4")
    assert (len(video), fps) == (21, 1)
    maps = load_clip(tmp_path / "samples" / "0000_maps")
    assert len(maps.map_FHW) == 21
    assert maps.num_entities == 4
    record = read_json(tmp_path / "samples" / "0000.json")
    assert record["story"]["joints"] == [16, 18]
    assert record["triplet"]["by_second"] == [17] * 10 + [60] * 10 + [17]
    assert [segment["seconds"] for segment in record["story"]["segments"]] == [18, 3]
    assert told.stages == ["load models", "0000 story of 21 s", "0000 write"]
    assert not (tmp_path / "samples" / "0000_parts").exists()
    assert read_image(result.samples[0].record.parent / "contact_sheet.png").shape[1] == 8 * 196 + 4
    assert len(read_video(result.samples[0].outputs["overlay"])[0]) == 21
    assert run(assets, tmp_path, **options).samples[0].kept


def test_a_killed_story_goes_on_to_the_same_bytes(assets: Path, tmp_path: Path):
    script = tmp_path / "story.yaml"
    script.write_text(STORY)
    run(assets, tmp_path, **NO_WORDS, script=script, out=tmp_path / "whole")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, str(Path(__file__)), str(assets), str(script), str(tmp_path / "parts")]
    parts = tmp_path / "parts" / "0000_parts"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        steps = 0
        for line in process.stdout:
            steps = steps + 1 if line == "step\n" else 0
            # A clip is two stages of two steps: in the second, when the first is written beside it.
            if steps >= 6 and (parts / "000000.safetensors").is_file():
                break
        process.send_signal(signal.SIGKILL)
    assert (parts / "000000.safetensors").is_file()
    run(assets, tmp_path, **NO_WORDS, script=script, out=tmp_path / "parts")
    for name in ("0000.mp4", "0000_maps.mp4"):
        assert filecmp.cmp(tmp_path / "parts" / name, tmp_path / "whole" / name, shallow=False)


def test_parts_of_another_story_stay_for_it(assets: Path, tmp_path: Path):
    parts = tmp_path / "samples" / "0000_parts"
    parts.mkdir(parents=True)
    (parts / "story.json").write_text('{"fingerprint": "other"}')
    (parts / "000000.safetensors").write_bytes(b"of another story")
    run(assets, tmp_path, seconds=4)
    assert len(read_video(tmp_path / "samples" / "0001.mp4")[0]) == 4
    assert (parts / "000000.safetensors").read_bytes() == b"of another story"
    assert not (tmp_path / "samples" / "0001_parts").exists()


def test_a_cut_starts_from_a_scene_of_its_own(assets: Path, tmp_path: Path):
    script = tmp_path / "story.yaml"
    script.write_text(
        "segments:\n- {phase: calot, triplet: 17, seconds: 2}\n- {phase: packaging, seconds: 2, cut: true}\n"
    )
    run(assets, tmp_path, **NO_WORDS, script=script, steps=1)
    record = read_json(tmp_path / "samples" / "0000.json")
    assert [segment["start"] for segment in record["story"]["segments"]] == [
        {"scene": "000"},
        {"scene": "002"},
    ]
    assert record["story"]["joints"] == []


def test_a_cut_starts_from_a_frame_of_the_users_own(assets: Path, tmp_path: Path):
    start = start_files(tmp_path)
    (tmp_path / "stories").mkdir()
    script = tmp_path / "stories" / "story.yaml"  # paths are relative to it, not to the working folder
    own = "cut: true, frame: ../frame.png, map: ../map.png"
    script.write_text(
        "segments:\n- {phase: calot, triplet: 17, seconds: 2}\n"
        f"- {{phase: packaging, triplet: 12, seconds: 2, {own}}}\n- {{phase: packaging, seconds: 1}}\n"
    )
    run(assets, tmp_path, **NO_WORDS, script=script, steps=1)
    record = read_json(tmp_path / "samples" / "0000.json")
    starts = [segment["start"] for segment in record["story"]["segments"]]
    assert starts[0] == {"scene": "000"}
    assert starts[1]["frame"]["sha256"] == sha256_file(start["frame"])
    assert starts[1]["map"]["sha256"] == sha256_file(start["map"])
    assert starts[2] is None
    told = load_clip(tmp_path / "samples" / "0000_maps.mp4").map_FHW
    assert (told[2] == load_map_image(start["map"])).mean() > 0.9


def test_a_story_may_begin_with_a_frame_of_its_own(assets: Path, tmp_path: Path):
    start = start_files(tmp_path)
    script = tmp_path / "story.yaml"
    script.write_text("segments:\n- {phase: calot, seconds: 2, frame: frame.png, map: map.png}\n")
    config = GenerateConfig(script=script)
    (story,) = plan_stories(config, 16, 1, assets / "scenes")
    first = story.segments[0].start
    assert first is not None
    assert first.source["frame"]["path"] == str(start["frame"])
    twice = GenerateConfig(script=script, frame=start["frame"], map=start["map"])
    with pytest.raises(UsageError, match=r"story\.yaml, line 2: frame and --frame .* exclude each other"):
        plan_stories(twice, 16, 1, assets / "scenes")


def test_a_frame_of_another_size_than_its_map_names_the_line(assets: Path, tmp_path: Path):
    start_files(tmp_path)
    write_png(tmp_path / "frame.png", np.zeros((80, 80, 3), np.uint8))
    script = tmp_path / "story.yaml"
    script.write_text("segments:\n- {phase: calot, seconds: 2, frame: frame.png, map: map.png}\n")
    message = r"story\.yaml, line 2: the map .* is 96x64 px, but its frame .* is 80x80 px"
    refused(DataError, message, assets, tmp_path, **NO_WORDS, script=script)


def test_what_the_vae_lost_fades_out():
    new = np.full((8, 1, 1, 3), 100, np.uint8)
    told, again = np.full((1, 1, 3), 90, np.uint8), np.full((1, 1, 3), 78, np.uint8)
    assert _faded(new, told, again)[:, 0, 0, 0].tolist() == [111, 109, 107, 105, 103, 101, 100, 100]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("segments:\n- {phase: calot, triplet: 17}\n", "line 2: seconds are missing"),
        ("segments:\n- {phase: calot, seconds: 0}\n", "line 2: seconds must be a whole number of 1 or more"),
        (
            "segments:\n- {phase: calot, triplet: [1, 2], seconds: 3}\n",
            "the list has 2 triplets for 3 seconds",
        ),
        ("segments:\n- {seconds: 3}\n", "line 2: phase is missing"),
        ("segments:\n- {phase: lunch, seconds: 3}\n", "line 2: unknown phase 'lunch'"),
        ("segments:\n- {phase: calot, triplet: 17@0-5, seconds: 3}\n", "line 2: the seconds 0-5"),
        ("segments:\n- {phase: calot, second: 3}\n", r"unknown key 'second' \(did you mean 'seconds'"),
        ("segments:\n- {phase: calot, seconds: 3, cut: perhaps}\n", "cut must be true or false"),
        ("segments:\n- {phase: calot, seconds: 3, map: a.png}\n", "line 2: map needs frame"),
        (
            "segments:\n- {phase: calot, seconds: 3}\n- {seconds: 3, frame: a.png}\n",
            "line 3: frame needs 'cut: true'",
        ),
        ("segmnts:\n- {phase: calot}\n", r"unknown key 'segmnts' \(did you mean 'segments'"),
    ],
)
def test_wrong_scripts_name_the_line_and_leave_nothing(assets: Path, tmp_path: Path, text: str, message: str):
    script = tmp_path / "story.yaml"
    script.write_text(text)
    refused(UsageError, message, assets, tmp_path, **NO_WORDS, script=script)


HOURS = "make the story longer than 12 hours"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {phase: calot, seconds: 1000000000}", f"line 1: seconds '1000000000' {HOURS}"),
        (f"- {{phase: calot, seconds: 1{'0' * 30}}}", f"line 1: seconds '1{'0' * 30}' {HOURS}"),
        ("- {phase: calot, triplet: 17@0-, seconds: 43201}", f"line 1: seconds '43201' {HOURS}"),
        ("- {phase: calot, seconds: 43200}\n- {seconds: 1}", f"line 2: seconds '1' {HOURS}"),
        (f"- {{phase: calot, seconds: {'9' * 5000}}}", "5,000 characters"),
        (f"- {{phase: calot, triplet: [{'17,' * 43201}]}}", f"43201 triplets, one a second, {HOURS}"),
        *(
            (f"- {{phase: calot, seconds: {value}}}", f"whole number of 1 or more, not '{value}'")
            for value in ("0", "-3", ".nan", "nan", "1e3", "2.5", "ten")
        ),
        (f"- {{phase: calot, triplet: 17@0-{'9' * 30}, seconds: 3}}", "is no triplet with seconds"),
        (f"- {{phase: '{'9' * 5000}', seconds: 3}}", r"line 1: phase '9+ \.\.\. \(5,000 characters\)"),
        (f"- {{phase: 1, triplet: '{'9' * 5000}', seconds: 3}}", r"line 1: triplet '9+ \.\.\. \(5,000"),
        ("- {phase: calot, seconds: 1}\n" * 5001, "1 stories of 5,001 segments are 5,001 segments"),
    ],
    ids=lambda value: "",
)
def test_lengths_are_checked_before_anything_is_built(
    assets: Path, tmp_path: Path, text: str, message: str
) -> None:
    script = tmp_path / "story.yaml"
    script.write_text(text)
    tracemalloc.start()
    with pytest.raises(UsageError, match=message) as caught:
        plan_stories(GenerateConfig(script=script), 16, 1, assets / "scenes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert len(str(caught.value)) < 500


def test_a_run_of_too_many_long_stories_is_refused(assets: Path, tmp_path: Path):
    script = tmp_path / "story.yaml"
    script.write_text("- {phase: calot, seconds: 43200}")
    with pytest.raises(UsageError, match="30 stories of 3,927 clips are 117,810 clips; a run takes at most"):
        plan_stories(GenerateConfig(script=script, num=30), 16, 1, assets / "scenes")


def test_a_billion_stories_are_refused_at_once(assets: Path):
    with pytest.raises(UsageError, match="1,000,000,000 stories of 1 segments are 1,000,000,000 segments"):
        plan_stories(GenerateConfig(phase="1", seconds=4, num=10**9), 16, 1, assets / "scenes")


def test_options_have_the_same_bounds():
    assert GenerateConfig(seconds=43200).seconds == 43200
    with pytest.raises(UsageError, match=r"seconds must be 43200 or less \(12 hours\), not 43201"):
        GenerateConfig(seconds=43201)


def test_a_story_excludes_given_maps():
    with pytest.raises(UsageError, match="a story excludes edit"):
        GenerateConfig(seconds=30, edit="remove 1")
    with pytest.raises(UsageError, match="script excludes phase"):
        GenerateConfig(script=Path("a.yaml"), phase="calot")


class Aloud(SilentProgress):
    """Tells the parent process of each stage and step."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        sys.stdout.write(f"{stage}\n")

    def advance(self, n: int = 1) -> None:
        for _ in range(n):
            sys.stdout.write("step\n")
        sys.stdout.flush()


if __name__ == "__main__":
    wanted = GenerateConfig(script=Path(sys.argv[2]), out=Path(sys.argv[3]))
    generate(wanted, Aloud(), assets=Path(sys.argv[1]))
