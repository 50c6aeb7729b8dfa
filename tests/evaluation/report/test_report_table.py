"""The tables of the terminal."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from hierasurg_cli.report_table import comparison_table, table, way
from hierasurg_core.evaluation.report import wording
from hierasurg_core.evaluation.report.compare import compare
from hierasurg_core.evaluation.report.schema import parse_report, read_report
from hierasurg_core.evaluation.report.wording import MINUS


def drawn(made: Table, width: int = 140) -> str:
    file = StringIO()
    Console(file=file, width=width).print(made)
    return file.getvalue()


def test_the_table_has_a_row_a_metric_with_its_baselines(example: Path):
    text = drawn(table(read_report(example)))
    for said in ("5 generated against 5 real clips", "protocol 4f8a1c", "FVD-mini ↓ mini", "PSNR ↑ dB"):
        assert said in text
    (row,) = [line for line in text.splitlines() if "PSNR" in line]
    assert row.split()[:4] == ["PSNR", "↑", "dB", wording.MISSING]


def test_a_title_is_never_markup(example: Path):
    values = json.loads((example / "report.json").read_text())
    values["metrics"]["psnr"]["title"] = "[red]x[/red]"
    values["notes"] = ["[bold]note"]
    text = drawn(table(parse_report(values, "here")))
    assert "[red]x[/red]" in text
    assert "[bold]note" in text


@pytest.mark.parametrize(
    ("place", "bar"),
    [
        (0.0, "├●───────┤ 0 %"),
        (0.5, "├────●───┤ 50 %"),
        (1.0, "├───────●┤ 100 %"),
        (1.4, "├────────▶ 140 %"),
        (-0.2, f"◀────────┤ {MINUS}20 %"),
        (40.0, "├────────▶ > 999 %"),
        (None, ""),
    ],
)
def test_the_way_from_real_to_frozen(example: Path, place: float | None, bar: str):
    metric = read_report(example).metrics["fvd-mini"]
    assert way(replace(metric, place=place)) == bar


def test_numbers_are_never_cut_on_a_narrow_terminal(example: Path):
    report = read_report(example)
    text = drawn(table(report), width=80)
    for metric in report.metrics.values():
        for value in metric.values.values():
            assert wording.number(value.value) in text
        assert way(metric) in text
        assert metric.title.split()[0] in text
    assert "…" not in text


def test_warnings_stand_above_the_table_and_the_legend_below(example: Path):
    values = json.loads((example / "report.json").read_text())
    values["warnings"] = ["five clips"]
    values["notes"] = ["five clips", "made by nobody"]
    text = drawn(table(parse_report(values, "here")), width=80)
    assert text.count("five clips") == 1
    places = [text.index(said) for said in ("! five clips", "FVD-mini", "lower is better", "made by nobody")]
    assert places == sorted(places)
    assert "real to frozen: 0 % as real against real" in text
    values["metrics"]["fvd-mini"]["place"] = values["metrics"]["warp-error"]["place"] = None
    assert "real to frozen: 0 %" not in drawn(table(parse_report(values, "here")))


def test_tables_fit_80_columns(example: Path):
    values = json.loads((example / "report.json").read_text())
    for metric in values["metrics"].values():
        for value in metric["values"].values():
            value.update(value=-445360.25, interval=[-545360.0, 945360.0])
        metric["place"] = 12.0
    values["metrics"]["psnr"]["title"] = "Triplet agreement"
    report = parse_report(values, "here")
    text = drawn(table(report), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("> 999 %") == len(report.metrics)
    folders = (
        "experiments/2026-11/report-of-the-first-model",
        "experiments/2026-11/report-of-the-second-model",
    )
    text = drawn(comparison_table(compare(report, report, folders)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("equal") == len(report.metrics)


def test_a_comparison_says_which_is_better(example: Path):
    values = json.loads((example / "report.json").read_text())
    values["metrics"]["psnr"]["values"]["model"] = {"value": 80.0, "interval": [79.0, 81.0], "count": 5}
    text = drawn(comparison_table(compare(read_report(example), parse_report(values, "b"), ("old", "new"))))
    assert "new is better; intervals lie apart" in text
    assert "equal" in text
    assert "'old' left out 1 unreadable file." in text
