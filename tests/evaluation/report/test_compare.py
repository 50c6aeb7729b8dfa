"""Two reports side by side: what is refused, and what is said of the rest."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hierasurg_core.errors import UsageError
from hierasurg_core.evaluation.report.compare import compare, relative, verdict, write_comparison_html
from hierasurg_core.evaluation.report.schema import Report, parse_report
from hierasurg_core.evaluation.report.wall import Limits
from hierasurg_core.evaluation.report.wording import MINUS


@pytest.fixture
def values(example: Path) -> dict[str, Any]:
    return json.loads((example / "report.json").read_text())


def report(values: dict[str, Any]) -> Report:
    return parse_report(values, "here")


def with_model(
    values: dict[str, Any], metric: str, value: float, interval: list[float] | None
) -> dict[str, Any]:
    other = copy.deepcopy(values)
    other["metrics"][metric]["values"]["model"] = {"value": value, "interval": interval, "count": 5}
    return other


@pytest.mark.parametrize(
    ("metric", "first", "second", "better", "overlap"),
    [
        ("warp-error", (4.0, [3.0, 5.0]), (2.0, [1.0, 2.9]), "B", False),
        ("warp-error", (4.0, [3.0, 5.0]), (6.0, [5.0, 7.0]), "A", True),
        ("psnr", (30.0, [29.0, 31.0]), (40.0, [39.0, 41.0]), "B", False),
        ("psnr", (30.0, [29.0, 31.0]), (20.0, None), "A", None),
        ("psnr", (30.0, None), (30.0, None), None, None),
    ],
)
def test_a_difference_names_the_better_and_whether_intervals_overlap(
    values: dict[str, Any], metric: str, first, second, better: str | None, overlap: bool | None
):
    a, b = with_model(values, metric, *first), with_model(values, metric, *second)
    found = compare(report(a), report(b)).differences[metric]
    assert found.change == second[0] - first[0]
    assert (found.better, found.overlap) == (better, overlap)


def test_a_difference_in_words(values: dict[str, Any]):
    a = with_model(values, "psnr", 30.0, [29.0, 31.0])
    b = with_model(values, "psnr", 27.0, [26.0, 28.0])
    found = compare(report(a), report(b), ("old", "new")).differences["psnr"]
    assert verdict(found) == "old is better; intervals lie apart"
    assert relative(found) == f"{MINUS}10.0 %"


@pytest.mark.parametrize(
    ("where", "key", "value", "said"),
    [
        ("protocol", "resize", "shorter-side", r"resize \(stretch against shorter-side\)"),
        ("protocol", "num_real", 9, r"num_real \(5 against 9\)"),
        ("protocol", "start", "random", r"start \(first against random\)"),
        ("protocol", "window", {"of": 3}, r"window\.of \(unknown against 3\)"),
        ("protocol", "digest", "ff" * 32, r"their digest \(4f8a1c000000 against ffffffffffff\)"),
        ("models", "mini", {"name": "other", "digest": "ee" * 32}, "the mini .classifier-mini abababababab"),
    ],
)
def test_reports_of_different_protocols_are_refused(values, where: str, key: str, value, said: str):
    other = copy.deepcopy(values)
    other[where][key] = value
    with pytest.raises(UsageError, match=said) as refused:
        compare(report(values), report(other))
    assert "measure both again" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_extractor_of_one_metric_is_refused(values: dict[str, Any]):
    other = copy.deepcopy(values)
    other["metrics"]["fvd-mini"]["extractor"] = "another"
    with pytest.raises(UsageError, match="the extractor of fvd-mini"):
        compare(report(values), report(other))


def test_a_name_and_a_machine_may_differ(values: dict[str, Any]):
    other = copy.deepcopy(values)
    other["protocol"]["name"] = "theirs"
    other["sides"]["real"]["path"] = "/elsewhere/real"
    comparison = compare(report(values), report(other), ("same", "same"))
    assert comparison.names == ("same (1)", "same (2)")
    assert not [line for line in comparison.warnings if "Real against real" in line]


def test_models_with_vaes_of_their_own_are_compared(values: dict[str, Any]):
    other = copy.deepcopy(values)
    other["models"]["vae"] = {"name": "theirs", "digest": "ee" * 32}
    assert compare(report(values), report(other)).differences
    del other["models"]["vae"]
    assert compare(report(values), report(other)).differences


def test_another_set_of_real_clips_is_noticed_by_its_floor(values: dict[str, Any]):
    other = copy.deepcopy(values)
    other["metrics"]["fvd-mini"]["values"]["real"]["value"] *= 1.5
    (warning, *_) = compare(report(values), report(other)).warnings
    assert warning.startswith("Real against real differs in FVD-mini")


def test_metrics_of_one_report_only_are_listed(values: dict[str, Any]):
    other = copy.deepcopy(values)
    del other["metrics"]["fvd-mini"]
    other["plots"].pop("against_samples")
    other["metrics"]["new"] = {**values["metrics"]["ssim"], "title": "New"}
    comparison = compare(report(values), report(other))
    assert comparison.only == {"fvd-mini": "A", "new": "B"}
    plain = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert set(plain) == {"names", "protocol", "metrics", "only", "warnings"}
    assert set(plain["metrics"]["psnr"]) == {"values", "change", "better", "overlap"}


def test_the_page_shows_both(values: dict[str, Any], example: Path, tmp_path: Path):
    other = with_model(values, "psnr", 50.0, [49.0, 51.0])
    other["samples"] = other["samples"][1:]
    other["samples"][0]["values"]["psnr"] = 12.5
    comparison = compare(report(values), report(other), ("old", "<new>"))
    out = tmp_path / "comparison.html"
    embedded = write_comparison_html(comparison, out, (example, example), Limits(samples=9))
    assert sorted(embedded.samples) == ["0001", "0002", "0003", "0004"]
    text = out.read_text(encoding="utf-8")
    assert "&lt;new&gt; is better; intervals lie apart" in text
    assert "<new>" not in text
    assert "/ 12.50" in text
    assert text.count("<video") == 12
    assert text.count('class="plot"') == 6
