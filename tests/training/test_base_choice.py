"""What a run starts from: the base asked for, a teacher, a finished unconditional run, or CogVideoX-2b."""

from pathlib import Path
from typing import Any

import pytest

from hierasurg_core.artifacts import write_json
from hierasurg_core.config import PRESETS, TrainM2VConfig, TrainS2MConfig
from hierasurg_core.training.base_choice import choose_base

PUBLISHED = "THUDM/CogVideoX-2b"
BY_PRESET = {"base": str(PRESETS / "2b-1fps.yaml")}
BY_OPTION = {"base": "--base"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where M2V goes; beside it lies a finished unconditional run."""
    (tmp_path / "m2v-unconditional").mkdir()
    write_json(tmp_path / "m2v-unconditional" / "train.json", {"finished": True, "step": 5})
    return tmp_path / "m2v"


def chosen(config: TrainS2MConfig | TrainM2VConfig, given: dict[str, str] | None) -> tuple[str, list[str]]:
    notes: list[str] = []
    return choose_base(config, given, notes), notes


@pytest.mark.parametrize(
    ("settings", "given"), [({}, {}), ({}, None), ({"base": PUBLISHED}, BY_PRESET)], ids=str
)
def test_m2v_starts_from_its_finished_first_stage(
    out: Path, settings: dict[str, Any], given: dict[str, str] | None
) -> None:
    first = f"{out}-unconditional"
    said = f"starting from the unconditional run {first}, in place of {PUBLISHED}"
    assert chosen(TrainM2VConfig(out=out, **settings), given) == (first, [said])


@pytest.mark.parametrize("given", [BY_OPTION, {"base": "hierasurg.yaml"}, None], ids=str)
def test_a_base_that_the_user_names_wins(out: Path, given: dict[str, str] | None) -> None:
    first = f"{out}-unconditional"
    said = f"starting from mini as asked, not from the unconditional run {first}; --base {first} takes that"
    assert chosen(TrainM2VConfig(out=out, base="mini"), given) == ("mini", [said])
    assert chosen(TrainM2VConfig(out=out, base=first), given) == (first, [])


def test_a_first_stage_that_is_not_finished_is_not_used(out: Path) -> None:
    first = out.with_name("m2v-unconditional")
    write_json(first / "train.json", {"finished": False, "step": 5})
    said = f"the unconditional run {first} is not finished and not used; starting from {PUBLISHED}"
    assert chosen(TrainM2VConfig(out=out), {}) == (PUBLISHED, [said])


def test_s2m_students_and_the_first_stage_have_no_first_stage(out: Path) -> None:
    assert chosen(TrainS2MConfig(out=out), {}) == (PUBLISHED, [])
    assert chosen(TrainM2VConfig(out=out, stage="unconditional"), {}) == (PUBLISHED, [])
    assert chosen(TrainM2VConfig(out=out, distill="teacher"), {"distill": "--distill"}) == ("teacher", [])
