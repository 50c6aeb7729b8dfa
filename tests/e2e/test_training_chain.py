"""From videos on disk to a generated one, each command as a person types it, in one folder on a CPU."""

import filecmp
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch

import hierasurg_core
from hierasurg_cli.app import run
from hierasurg_core.maps import load_clip
from hierasurg_core.models.defaults import read_sampling
from hierasurg_core.phantom.operation import write_operations
from hierasurg_core.progress import SilentProgress

Hierasurg = Callable[..., str]


@pytest.fixture
def hierasurg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Hierasurg:
    """Runs a line in the folder of the test; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str) -> str:
        capsys.readouterr()
        code = run(arguments)
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return typed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_videos_become_maps_maps_models_and_models_a_video(tmp_path: Path, hierasurg: Hierasurg) -> None:
    cpu = torch.device("cpu")
    one_clip: dict[str, Any] = {"videos": 1, "seconds": 16, "size_hw": (128, 192), "seed": 0}
    write_operations(tmp_path, **one_clip, progress=SilentProgress(), device=cpu)
    hierasurg("extract", "in")
    hierasurg("label")
    labelled = load_clip(tmp_path / "videos" / "video01_masks" / "000000.pkl")
    assert 1 <= labelled.num_entities <= 16
    data = ("--base", "mini", "--map-size", "128x192", "--val-fraction", "0", "--json")
    assert json.loads(hierasurg("build-dataset", *data))["clips"]["train"] == 1
    short = ("--preset", "mini", "--steps", "1", "--batch", "1", "--json")
    assert json.loads(hierasurg("train-s2m", *short))["model"] == "runs/s2m/transformer"
    trained = json.loads(hierasurg("train-m2v", *short, "--export", "pipeline"))
    assert (trained["model"], trained["export"]) == ("runs/m2v/transformer", "pipeline")

    words = ("--phase", "calot", "--triplet", "grasper,retract,gallbladder", "--steps", "1", "--json")
    made = json.loads(hierasurg("generate", *words))
    trained_for = "1 step of training"
    assert made["model"] == f"S2M of runs/s2m, {trained_for}, and M2V of runs/m2v, {trained_for}"
    with av.open(str(tmp_path / "samples" / "0000.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16

    made = json.loads(hierasurg("generate", *words, "--model", "pipeline", "--out", "again"))
    assert made["model"] == "pipeline"
    first, again = (tmp_path / name / "0000.mp4" for name in ("samples", "again"))
    assert filecmp.cmp(first, again, shallow=False)
    assert {path.name for path in (tmp_path / "pipeline").iterdir()} == {
        *("README.md", "m2v", "model_index.json", "s2m", "scheduler", "vae")
    }
    mini = read_sampling(Path(hierasurg_core.__file__).parent / "assets" / "mini")
    for of_mini in (
        "pipeline",
        "runs/s2m",
        "runs/m2v",
    ):  # they started from mini
        assert read_sampling(tmp_path / of_mini) == mini, of_mini
    card = (tmp_path / "pipeline" / "README.md").read_text()
    for said in (
        "license: ",
        "## Licence and citation",
        "- size: 128x192",
        "- rate: 1 fps",
        "training loss at the end",
    ):
        assert said in card
