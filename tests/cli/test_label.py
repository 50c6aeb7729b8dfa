"""`hierasurg label` from outside: refusals, JSON, and the whole way with random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from true_segmenter import write_frames

from hierasurg_cli.app import run
from hierasurg_core.labeling.mini_sam import write_mini
from hierasurg_core.labeling.segmenter import build_mini_network
from hierasurg_core.phantom.operation import write_operations
from hierasurg_core.progress import SilentProgress


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--batch", "0"], 2, "batch must be 1 or more, not 0"),
        (["--max-objects", "201"], 2, "max_objects must be 200 or less, not 201"),
        (["--limit", "x"], 2, "limit must be a whole number, not 'x'"),
        (["--match", "0"], 2, "match must be more than 0, not 0.0"),
        (["--format", "npz"], 2, "format must be one of pkl, png, not 'npz'"),
        (["--device", "tpu"], 2, "device must be auto, cpu, cuda"),
        (["--sam-checkpoint", "a.pt"], 2, "sam_checkpoint needs sam: "),
        (["--trust-remote-code"], 2, "trust_remote_code needs features: "),
        (
            ["--trust-remote-code", "--features", "nvidia/RADIO-L"],
            2,
            "trust_remote_code needs a pinned revision: give features as nvidia/RADIO-L@COMMIT",
        ),
        (["--gpus", "0"], 2, "--gpus must be 1 or more, not 0"),
        ([], 3, "there is no folder videos: make it with 'hierasurg extract'"),
        (["--check", "truth"], 3, "there is no folder truth of true maps"),
        (["--only", "none.txt"], 3, "there is no folder videos"),
    ],
)
def test_refusals(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["label", "--quiet", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"hierasurg: {said}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bad_setting_loads_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from hierasurg_cli.app import run; code = run(['label', '--batch', '0']); "
        "sys.exit(code == 2 and 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0


@pytest.mark.slow
def test_from_the_phantoms_video_to_checked_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    write_mini(tmp_path / "mini", build_mini_network().state_dict())
    write_operations(tmp_path, videos=1, seconds=17, size_hw=(96, 144), seed=1, progress=SilentProgress())
    assert run(["extract", "in", "--quiet"]) == 0
    capsys.readouterr()
    line = ["label", "--sam", "mini", "--json", "--quiet", "--visualize", "--device", "cpu"]
    line[2] = str(tmp_path / "mini")
    assert run(line) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["out", "videos", "failures", "seconds", "skipped", "passed_over"]
    (video,) = result["videos"]
    assert list(video) == [
        *("name", "folder", "frames", "clips", "entities", "bad_frames", "segmenter", "features"),
        *("same_below", "frames_per_second", "overlay", "skipped"),
    ]
    assert (video["frames"], video["clips"], video["skipped"]) == (17, 2, False)
    assert sorted(path.name for path in Path("videos").iterdir()) == [
        *("extract.yaml", "label.yaml", "video01", "video01_masks", "video01_overlay.mp4"),
        "video01_sheet.png",
    ]
    assert "notice" not in json.loads(Path("videos/video01_masks/label.json").read_text())
    assert run([*line, "--config", "videos/label.yaml"]) == 0
    assert json.loads(capsys.readouterr().out)["videos"][0]["skipped"] is True
    assert run(["label", "--check", "truth", "--json", "--quiet"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert list(checked["mean"]) == [
        *("panoptic_quality", "clip_quality", "mean_iou", "boundary_f", "background_iou"),
        *("id_consistency", "temporal_iou", "temporal_iou_truth", "id_switches", "frames"),
    ]
    assert checked["mean"]["frames"] == 17


@pytest.mark.slow
def test_several_processes_tell_once_which_videos_are_not_labelled(tmp_path: Path) -> None:
    write_frames(tmp_path / "videos" / "video01", 17)
    write_frames(tmp_path / "videos" / "video02", 3)
    line = ["label", "--sam", "mini", "--json", "--quiet", "--device", "cpu", "--gpus", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "hierasurg_cli", *line],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)
    assert [video["name"] for video in result["videos"]] == ["video01"]
    assert [failure["name"] for failure in result["failures"]] == ["video02"]
    first, second = done.stderr.splitlines()
    assert first.startswith("hierasurg: video02 has 3 frames (one a second), and a clip takes 16: use ")
    assert second == "hierasurg: 1 of 2 videos are not labelled"
