"""The command measures, prints its figures under their names and shows what it measured."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hierasurg_core
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.phantom.held_out import held_out_courses
from hierasurg_core.phantom.making import Making, make_course_maps
from hierasurg_core.phantom.measure import main

MINI = Path(hierasurg_core.__file__).parent / "assets" / "mini"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    monkeypatch.setattr(sys, "argv", ["measure", "--device", "cpu", *words])
    code = main()
    out, err = capsys.readouterr()
    return code, {name: score for line in out.splitlines() for name, score in json.loads(line).items()} or err


def test_the_vae_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    sheet = str(tmp_path / "look.png")
    words = ("--only", "vae", "--clips", "1", "--sheet", sheet, "--sheet-clips", "1")
    code, found = run(monkeypatch, capsys, *words)
    assert (code, list(found)) == (0, ["vae"])
    score = found["vae"]
    assert list(score) == [
        "clips",
        "vae_db",
        "instruments_db",
        "moved_db",
        "edges",
        "edges_in_place",
        "triplet",
        "real_triplet",
        "errors",
    ]
    assert score["clips"] == 1
    assert 25 < score["vae_db"] < 35
    assert score["instruments_db"] < score["vae_db"]  # thin things are what a VAE loses first
    assert 0 < score["edges"] < 1
    assert [path.name for path in tmp_path.iterdir()] == ["look-vae.png"]


@pytest.mark.slow
def test_videos_and_maps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    few = ("--clips", "1", "--starts", "1", "--courses", "1", "--steps", "1", "--guidance", "1")
    code, found = run(monkeypatch, capsys, *few)
    assert (code, list(found)) == (0, ["vae", "m2v", "s2m", "courses"])
    # Names that others read stay.
    assert {"clips", "model_db", "frozen_db", "vae_db"} <= set(found["m2v"])
    assert {"requests", "share", "frame_share", "chance", "standing_share"} <= set(found["s2m"])
    assert {"whole", "sized", "tip_thickness", "tip_gap", "true_share"} <= set(found["s2m"])
    assert {"instruments_db", "moved_db", "edges_to_vae", "triplet", "vae_triplet"} <= set(found["m2v"])
    named = {"new_seen", "new_whole", "old_gone", "unasked", "stays_whole", "anatomy_miou"}
    assert named | {"frozen_anatomy_miou"} <= set(found["courses"])
    assert found["s2m"]["requests"] == 3
    assert found["m2v"]["vae_db"] == pytest.approx(found["vae"]["vae_db"])


def test_maps_of_a_course_begin_with_its_first_map():
    pipeline = HieraSurgPipeline.from_pretrained(MINI)
    made = make_course_maps(pipeline, 1, Making(steps=1, guidance=1.0))
    assert np.array_equal(made[0][0], held_out_courses(1)[0].map_FHW[0])


def test_numbers_that_mean_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    code, said = run(monkeypatch, capsys, "--sheet-clips", "0")
    assert (code, said) == (2, "error: --sheet-clips 0: give 1 or more\n")


def test_another_vae_must_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    code, said = run(monkeypatch, capsys, "--only", "vae", "--vae", str(tmp_path / "none"))
    assert code == 4
    assert str(tmp_path / "none") in said
