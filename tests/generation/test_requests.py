import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation.test_generate import Told, clip_file, refused, run, start_files
from generation.tiny_assets import NUM_ENTITIES, SIZE_HW
from maps.moving_shapes import moving_ids
from safetensors.torch import load_file, save_file

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.generation import generate
from hierasurg_core.generation.requests import plan_jobs
from hierasurg_core.maps import load_clip
from hierasurg_core.pictures import read_image
from hierasurg_core.progress import SilentProgress

ROOT = Path(__file__).parents[2]
NO_WORDS: dict[str, Any] = {"phase": None, "triplet": None}


def files(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.mp4"))}


def frames(folder: Path) -> np.ndarray:
    return np.stack([read_image(path) for path in sorted(folder.iterdir())]).astype(int)


def test_requests_make_what_each_line_says(assets: Path, tmp_path: Path):
    start = start_files(tmp_path)
    maps = clip_file(tmp_path / "maps.pkl")
    file = tmp_path / "wanted.csv"
    file.write_text(
        "name,phase,triplet,frame,map,maps,seed\n"
        "a,calot,17,,,,5\n"
        f"b,calot,17@0-7;60@8-,{start['frame']},{start['map']},,\n"
        f",,,{start['frame']},,{maps},\n"
    )
    result = run(assets, tmp_path, **NO_WORDS, requests=file, out=tmp_path / "many", seed=3)
    assert [(sample.record.stem, sample.seed) for sample in result.samples] == [
        ("a", 5),
        ("b", 4),
        ("0002", 5),
    ]
    run(assets, tmp_path, seed=5, out=tmp_path / "one")
    assert files(tmp_path / "many")["a.mp4"] == files(tmp_path / "one")["0000.mp4"]
    record = read_json(tmp_path / "many" / "b.json")
    assert record["triplet"]["by_second"] == [17] * 8 + [60] * 8
    assert record["start"]["frame"]["path"] == str(start["frame"])
    assert read_json(tmp_path / "many" / "0002.json")["start"]["maps"]["path"] == str(maps)


def test_wrong_lines_are_refused_before_anything_is_made(own_assets: Path, tmp_path: Path):
    for path in (own_assets / "mini").rglob("*.safetensors"):
        path.write_bytes(b"never read")
    file = tmp_path / "wanted.yaml"

    def refuse(text: str, message: str, error: Any = UsageError) -> None:
        file.write_text(text)
        refused(error, message, own_assets, tmp_path, **NO_WORDS, requests=file)

    good = "- phase: calot\n"
    refuse(f"{good}- phase: lunch\n", r"wanted\.yaml, line 2: unknown phase 'lunch'")
    refuse(f"{good}- sede: 3\n", r"line 2: unknown key 'sede' \(did you mean 'seed'\?\)")
    refuse(f"{good}- seed: -3\n", "line 2: seed must be a whole number, not '-3'")
    refuse(f"{good}- seed: {2**63}\n", "line 2: seed must lie between")
    refuse(f"{good}- map: a.png\n", "line 2: map needs frame")
    refuse("- name: ../a\n", "line 1: name '../a' is no name for files")
    refuse(f"- name: {'a' * 61}\n", r"name 'a+ \.\.\. \(61 characters\) is no name for files: use at most 60")
    refuse(f"{good}- seed: {'9' * 5000}\n", r"line 2: seed must be a whole number, not '9+ \.\.\. \(5,000")
    refuse(
        f"{good}- {{frame: ~nobody-of-this-name/x, phase: 1}}\n", "line 2: frame .* no home folder of ~nobody"
    )
    refuse(f'{good}- {{frame: "a\\0b", phase: 1}}\n', r"line 2: frame 'a\\x00b' is no path: it holds a NUL")
    refuse(f"{good}- {{maps: {'a' * 300}}}\n", r"line 2: maps 'a+ \.\.\. .* is too long for a path")
    refuse("- name: a_maps\n", "line 1: name 'a_maps' is no name for files")
    refuse("- name: '0001'\n- phase: calot\n", "line 2: name '0001' is that of line 1")
    refuse(f"{good}- maps: none.pkl\n", r"wanted\.yaml, line 2: there are no maps at none\.pkl", DataError)


def test_a_long_list_is_checked_in_sight_and_bounded(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "wanted.csv"
    file.write_text("phase,triplet\n" + "calot,17\n" * 201)
    told = Told()
    jobs = plan_jobs(GenerateConfig(requests=file), 16, 1, assets / "scenes", told)
    assert [job.name for job in jobs[:2]] == ["0000", "0001"]
    assert told.stages == ["check requests"]
    monkeypatch.setattr("hierasurg_core.generation.entries.MAX_ENTRIES", 200)
    with pytest.raises(
        UsageError, match=r"wanted\.csv, line 202: the file holds more than 200 requests; make"
    ):
        plan_jobs(GenerateConfig(requests=file), 16, 1, assets / "scenes", told)


def test_a_billion_samples_are_refused_at_once(assets: Path):
    with pytest.raises(UsageError, match="num must be 100,000 or less, not 1000000000: make several runs"):
        plan_jobs(GenerateConfig(num=10**9), 16, 1, assets / "scenes", Told())


def test_requests_exclude_words_of_one_sample():
    with pytest.raises(UsageError, match="phase and requests exclude each other"):
        GenerateConfig(requests=Path("a.csv"), phase="calot")
    with pytest.raises(UsageError, match="num and from_dataset exclude each other"):
        GenerateConfig(from_dataset=Path("dataset"), num=2)
    with pytest.raises(UsageError, match="requests and from_dataset exclude"):
        GenerateConfig(requests=Path("a.csv"), from_dataset=Path("dataset"))
    with pytest.raises(UsageError, match="limit needs from_dataset"):
        GenerateConfig(limit=3)


def test_what_is_there_is_kept_and_said(assets: Path, tmp_path: Path):
    run(assets, tmp_path, num=2)
    before = files(tmp_path / "samples")
    (tmp_path / "samples" / "0001.mp4").unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").glob("0000*")}
    told = Told()
    result = run(assets, tmp_path, told, num=2)
    assert [sample.kept for sample in result.samples] == [True, False]
    assert "0000: kept, it was made by the same request, models and settings" in told.notes
    assert files(tmp_path / "samples") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert not any(sample.kept for sample in run(assets, tmp_path, num=2, resume=False).samples)


def test_all_kept_loads_no_model(assets: Path, tmp_path: Path):
    run(assets, tmp_path)
    told = Told()
    assert run(assets, tmp_path, told).samples[0].kept
    assert told.stages == []


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"steps": 1},
        {"guidance": 2.0},
        {"phase": "preparation"},
        {"triplet": "17@0-3"},
        {"edit": "remove 0"},
    ],
)
def test_another_request_or_setting_goes_on_with_the_next_number(
    assets: Path, tmp_path: Path, change: dict[str, Any]
):
    run(assets, tmp_path)
    before = files(tmp_path / "samples")
    sample = run(assets, tmp_path, **change).samples[0]
    assert not sample.kept
    assert sample.video == tmp_path / "samples" / "0001.mp4"
    after = files(tmp_path / "samples")
    assert {name: after[name] for name in before} == before


def test_another_model_or_a_damaged_record_goes_on_with_the_next_number(own_assets: Path, tmp_path: Path):
    run(own_assets, tmp_path)
    record = tmp_path / "samples" / "0000.json"
    record.write_text("{")
    sample = run(own_assets, tmp_path).samples[0]
    assert (sample.kept, sample.video.name) == (False, "0001.mp4")
    weights = own_assets / "mini" / "m2v" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "proj_out.bias": tensors["proj_out.bias"] + 0.1}, weights)
    sample = run(own_assets, tmp_path).samples[0]
    assert (sample.kept, sample.video.name) == (False, "0002.mp4")
    assert record.read_text() == "{"


def test_a_batch_makes_what_single_samples_are(assets: Path, tmp_path: Path):
    run(assets, tmp_path, num=3, out=tmp_path / "single", frames_dir=True)
    run(assets, tmp_path, num=3, batch=2, out=tmp_path / "batch", frames_dir=True)
    for name in ("0000", "0001", "0002"):
        one, many = (frames(tmp_path / way / f"{name}_frames") for way in ("single", "batch"))
        # Batches add up in another order; an mp4's encoder would make much of a rounding here or there.
        assert np.abs(one - many).max() <= 1
        assert (one != many).mean() < 1e-3
        maps = [load_clip(tmp_path / way / f"{name}_maps.mp4").map_FHW for way in ("single", "batch")]
        assert (maps[0] == maps[1]).mean() > 0.99
    one, other = files(tmp_path / "single")["0000.mp4"], files(tmp_path / "single")["0001.mp4"]
    assert one != other


def test_given_and_made_maps_share_a_batch(assets: Path, tmp_path: Path):
    maps = clip_file(tmp_path / "maps.pkl")
    file = tmp_path / "wanted.yaml"
    frame = start_files(tmp_path)["frame"]
    file.write_text(f"- {{phase: calot, triplet: 17}}\n- {{frame: {frame}, maps: {maps}}}\n")
    run(assets, tmp_path, **NO_WORDS, requests=file, batch=2)
    written = load_clip(tmp_path / "samples" / "0001_maps.mp4").map_FHW
    assert (written == moving_ids(NUM_ENTITIES, 16, SIZE_HW, 7)).mean() > 0.97


def test_a_killed_run_goes_on_to_the_same_bytes(assets: Path, tmp_path: Path):
    run(assets, tmp_path, num=3, out=tmp_path / "whole")
    command = [sys.executable, str(Path(__file__)), str(assets), str(tmp_path / "parts")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("0001 video"):
                break
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "parts" / "0002.json").exists()
    result = run(assets, tmp_path, num=3, out=tmp_path / "parts")
    assert result.samples[0].kept
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


class Aloud(SilentProgress):
    """Tells the parent process of each stage."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        sys.stdout.write(f"{stage}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    words = json.loads('{"phase": "calot", "triplet": "grasper,retract,gallbladder"}')
    wanted = GenerateConfig(**words, num=3, out=Path(sys.argv[2]))
    generate(wanted, Aloud(), assets=Path(sys.argv[1]))
