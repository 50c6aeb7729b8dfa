"""The reading of report.json: what a report holds, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.report.schema import ROLES, Part, Value, parse_report, read_report


def changed(example: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    values = json.loads((example / "report.json").read_text())
    change(values)
    return values


def test_a_report_is_read_from_its_folder_or_its_file(example: Path):
    report = read_report(example)
    assert report == read_report(example / "report.json")
    assert report.digest.startswith("4f8a1c")
    assert report.generated.size_hw == (32, 48)
    assert report.real.unreadable[0].file == "0099.mp4"
    assert tuple(report.metrics["fvd-mini"].values) == ROLES
    assert report.metrics["psnr"].unit == "dB"
    assert report.metrics["psnr"].place is None
    assert [sample.name for sample in report.samples] == ["0000", "0001", "0002", "0003", "0004"]


def test_values_keep_all_digits():
    values = minimal()
    values["metrics"]["m"]["values"]["model"] = {"value": 1 / 3, "interval": [0.1, 0.7], "count": 4}
    values["plots"]["per_phase"] = {"m": {"calot": {"value": 2.5, "count": 3}}}
    values["plots"]["against_samples"] = {"m": [[8, 2], [4, 3]]}
    report = parse_report(values, "here")
    assert report.metrics["m"].values["model"] == Value(1 / 3, (0.1, 0.7), 4)
    assert report.plots.per_phase["m"] == {"calot": Part(2.5, 3)}
    assert report.plots.against_samples["m"] == ((4, 3), (8, 2))


def minimal() -> dict[str, Any]:
    """The least that is a report."""
    side = {"path": "x", "clips": 4, "frames": 8, "fps": 8, "size_hw": [4, 6], "unreadable": []}
    value = {"value": 1.0, "interval": None, "count": 4}
    return {
        "schema": 1,
        "kind": "hierasurg-report",
        "protocol": {"name": "own", "digest": "00"},
        "sides": {"generated": side, "real": side},
        "models": {},
        "metrics": {
            "m": {"title": "M", "unit": "", "better": "lower", "mini": False, "values": {"model": value}}
        },
        "left_out": [],
        "plots": {},
        "samples": [],
        "timing": {},
        "notes": [],
        "something newer": 1,
    }


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        inner: Any = values
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        inner: Any = values
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


WRONG = [
    (put("kind", value="hierasurg-dataset"), "its kind is not 'hierasurg-report'"),
    (put("schema", value=2), "has schema 2, but this program reads 1"),
    (drop("protocol", "digest"), "protocol.digest is missing"),
    (put("metrics", "psnr", "better", value="more"), "metrics.psnr.better must be 'lower' or 'higher'"),
    (put("metrics", "psnr", "mini", value=1), "metrics.psnr.mini must be true or false, not 1"),
    (put("metrics", "psnr", "values", "model", "value", value=float("nan")), "must be a finite number"),
    (put("metrics", "psnr", "values", "model", "value", value=True), "must be a number, not True"),
    (put("metrics", "psnr", "values", "model", "interval", value=[2, 1]), "its lower end, then its upper"),
    (put("metrics", "psnr", "values", "model", "interval", value=[1]), "interval must be two numbers"),
    (put("metrics", "psnr", "values", "model", "count", value=-1), "count must be 0 or more"),
    (drop("metrics", "psnr", "values", "model"), "metrics.psnr.values.model is missing"),
    (put("sides", "real", "size_hw", value=[4]), "sides.real.size_hw must be height and width"),
    (put("samples", 1, "values", value={"psmr": 1}), "samples[1].values names 'psmr', which is none of"),
    (put("samples", 0, "generated", value=None), "samples[0].generated must be text, not None"),
    (put("plots", "per_second", value={"psnr": [[0]]}), "plots.per_second.psnr[0] must be two numbers"),
    (put("notes", value="one"), "notes must be a list, not 'one'"),
    (put("timing", value={"look": "long"}), "timing.look must be a number, not 'long'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_report_is_refused_by_file_and_place(example: Path, change, message: str):
    with pytest.raises(DataError) as refused:
        parse_report(changed(example, change), "runs/report.json")
    assert message in str(refused.value)
    assert str(refused.value).startswith("runs/report.json")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("values", [None, [], "report", {"kind": "hierasurg-report"}])
def test_what_is_no_report_at_all_is_refused(values: object):
    with pytest.raises(DataError, match="here"):
        parse_report(values, "here")


def test_a_missing_report_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot read .*report\.json"):
        read_report(tmp_path)
