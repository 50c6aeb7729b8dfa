"""Figures: scales, ticks and marks stand where they should."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from hierasurg_core.evaluation.report import wording
from hierasurg_core.evaluation.report.markup import Markup, element, joined
from hierasurg_core.evaluation.report.plots import (
    Dots,
    Line,
    Reference,
    Scale,
    dot_plot,
    interval_bars,
    line_plot,
    place_bar,
)
from hierasurg_core.evaluation.report.schema import Metric, Part, Value
from hierasurg_core.evaluation.report.wording import MINUS


def metric(place: float | None, model: float = 4.0, better: str = "lower") -> Metric:
    values = {
        "real": Value(2.0, None, 20),
        "vae": Value(3.0, None, 20),
        "frozen": Value(12.0, None, 20),
        "model": Value(model, (model - 1, model + 1), 20),
    }
    return Metric(
        "FVD", "", "lower" if better == "lower" else "higher", False, None, values, place, None, 0.1
    )


def marks(svg: Markup, look: str) -> list[ET.Element]:
    return [one for one in ET.fromstring(svg).iter() if look in one.get("class", "").split()]


def texts(svg: Markup) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter() if one.tag == "text"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, ["0", "2", "4", "6", "8", "10"]),
        (0.12, 0.27, ["0.15", "0.20", "0.25"]),
        (-1, 1, [f"{MINUS}1.0", f"{MINUS}0.5", "0.0", "0.5", "1.0"]),
        (900, 5100, ["1,000", "2,000", "3,000", "4,000", "5,000"]),
        (3e-7, 9e-7, [f"{digit}.0e{MINUS}07" for digit in (4, 6, 8)]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[str]):
    assert [text for _, text in Scale(low, high, 0, 100).ticks(5)] == ticks


def test_ticks_that_would_touch_are_thinned():
    short = Scale(0.00031, 0.00079, 0, 120)
    assert len(short.ticks(5)) > len(short.apart(5)) >= 2


def test_a_line_plot_maps_values_to_places():
    line = Line("FVD", "model", [(10, 4.0), (20, 2.0), (40, 1.0)], (0.5, 1.5))
    svg = line_plot("FVD", "samples", "FVD, lower is better", [line])
    x = [float(dot.get("cx", "")) for dot in marks(svg, "dot")]
    y = [float(dot.get("cy", "")) for dot in marks(svg, "dot")]
    assert (x[2] - x[1]) == pytest.approx(2 * (x[1] - x[0]), abs=0.02)
    assert (y[1] - y[0]) == pytest.approx(2 * (y[2] - y[1]), abs=0.02)
    assert {"samples", "FVD, lower is better", "10", "20", "40"} <= set(texts(svg))
    titles = [one.text for one in ET.fromstring(svg).iter("title")]
    assert titles[0] == "FVD: 4.000 at 10.00 (samples)"
    assert len(marks(svg, "whisker")) == 1


def test_a_reference_that_would_squeeze_the_curve_is_not_drawn():
    line = Line("FVD", "model", [(1, 4.0), (2, 5.0)])
    near, far = Reference("floor", "real", 3.0), Reference("frozen", "frozen", 90.0)
    svg = line_plot("FVD", "samples", "FVD", [line], [near, far])
    assert [one.get("class") for one in marks(svg, "reference")] == ["reference real"]


@pytest.mark.parametrize("points", [[(3, 0.0)], [(1, 7.0), (2, 7.0)], [(1, -2.0), (2, -2.0)]])
def test_a_single_point_or_a_level_curve_is_drawn(points: list[tuple[float, float]]):
    svg = line_plot("x", "samples", "y", [Line("y", "model", points)])
    for dot in marks(svg, "dot"):
        assert 0 < float(dot.get("cx", "")) < 480
        assert 0 < float(dot.get("cy", "")) < 240


def test_a_dot_plot_has_a_row_a_name_and_its_count():
    parts = {"calot": Part(0.5, 12), "packing": Part(0.25, 3)}
    svg = dot_plot("x", "SSIM", ["packing", "calot"], [Dots("model", "model", parts)])
    dots = marks(svg, "dot")
    assert float(dots[0].get("cx", "")) < float(dots[1].get("cx", ""))
    assert float(dots[0].get("cy", "")) < float(dots[1].get("cy", ""))
    assert [text for text in texts(svg) if text in ("12", "3")] == ["3", "12"]


def test_a_long_name_is_cut_and_said_in_full():
    name = "irrigator,irrigate,abdominal_wall_cavity"
    svg = dot_plot("x", "SSIM", [name], [Dots("model", "model", {name: Part(1.0, 1)})])
    assert any(text.endswith("…") for text in texts(svg))
    assert name in [one.text for one in ET.fromstring(svg).iter("title")]


def test_the_place_bar_goes_from_real_to_frozen():
    bar = place_bar(metric(0.2))
    assert bar is not None
    ends = [float(end.get("x1", "")) for end in marks(bar, "end")]
    (model,), (vae,) = marks(bar, "dot"), marks(bar, "ring")
    share = [(float(one.get("cx", "")) - ends[0]) / (ends[1] - ends[0]) for one in (model, vae)]
    assert share == pytest.approx([0.2, 0.1], abs=1e-3)


@pytest.mark.parametrize(("place", "side"), [(3.0, "right"), (-2.0, "left")])
def test_a_place_far_beyond_is_an_arrow_at_the_edge(place: float, side: str):
    bar = place_bar(metric(place, model=2 + 10 * place))
    assert bar is not None
    (arrow,) = marks(bar, "dot")
    tip = float(arrow.get("points", "").split(",")[0])
    assert arrow.tag == "polygon"
    assert (tip > 160) == (side == "right")


def test_there_is_no_bar_without_a_place():
    assert place_bar(metric(None)) is None
    assert wording.place(metric(None)) == "no place was given"
    few = metric(None)
    few = replace(few, values={**few.values, "model": replace(few.values["model"], count=19)})
    assert wording.place(few) == "no place: fewer than 20 clips"
    alone = metric(None)
    alone = replace(alone, values={"model": alone.values["model"]})
    assert wording.place(alone) == "no place: it needs both baselines"


def test_there_is_no_place_where_real_is_no_better_than_frozen():
    assert place_bar(metric(None, better="higher")) is None
    assert wording.place(metric(None, better="higher")) == "no place: real is no better than frozen"


def test_the_whisker_is_laid_around_the_dot():
    """The place of equal counts is not the table's, but one unit of the metric is as long."""
    bar = place_bar(metric(0.5))
    assert bar is not None
    ends = [float(end.get("x1", "")) for end in marks(bar, "end")]
    (whisker,) = marks(bar, "whisker")
    share = [(float(whisker.get(end, "")) - ends[0]) / (ends[1] - ends[0]) for end in ("x1", "x2")]
    assert share == pytest.approx([0.4, 0.6], abs=1e-3)


def test_long_ticks_stay_inside():
    svg = line_plot("x", "samples", "y", [Line("y", "model", [(1, 0.0), (2, 6e-5)])])
    ticks = [one for one in marks(svg, "tick") if one.get("text-anchor") == "end"]
    assert [one.text for one in ticks] == ["0", *(f"{digit}.0e{MINUS}05" for digit in (2, 4, 6))]
    assert all(float(one.get("x", "")) > 6 * len(one.text or "") for one in ticks)


def test_intervals_share_a_scale():
    svg = interval_bars("x", [("a", "model", 1.0, (0.0, 2.0)), ("b", "other", 3.0, (2.0, 4.0))])
    a, b = marks(svg, "whisker")
    assert float(a.get("x2", "")) == float(b.get("x1", ""))


def test_places_in_words():
    assert wording.place(metric(0.34)) == "34 % of the way from real to frozen"
    assert wording.place(metric(1.5)) == "50 % worse than a frozen first frame"
    assert wording.place(metric(-0.1)) == "10 % beyond real against real"
    assert wording.better(replace(metric(0.1), better="higher")) == "↑ higher is better"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.98765, "0.9877"),
        (35.371, "35.37"),
        (12345.6, "12,346"),
        (-0.5, f"{MINUS}0.5000"),
        (3e-9, f"3.0e{MINUS}09"),
    ],
)
def test_numbers_have_four_digits(value: float, text: str):
    assert wording.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.214, "0.21 s"), (61, "1 min 1 s"), (7500, "2 h 5 min")])
def test_seconds_in_words(value: float, text: str):
    assert wording.seconds(value) == text


def test_markup_escapes_whatever_is_not_markup():
    hostile = '<script>alert("x")</script>'
    made = element("p", hostile, element("b", "&"), None, title=hostile, hidden=True, lang=None)
    assert made == (
        '<p title="&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" hidden>'
        "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;<b>&amp;</b></p>"
    )
    assert joined(joined("<"), "<") == "&lt;&lt;"
