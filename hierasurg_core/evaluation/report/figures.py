"""The figures of a report, each with its numbers folded below it.

Owns which figure shows what; how one is drawn belongs to `plots`.
"""

from collections.abc import Mapping, Sequence

from hierasurg_core.evaluation.report import wording
from hierasurg_core.evaluation.report.markup import Markup, element, joined
from hierasurg_core.evaluation.report.plots import Dots, Line, Reference, dot_plot, legend, line_plot, ranked
from hierasurg_core.evaluation.report.schema import Curve, Metric, Part, Report

MOST_ROWS = 24
"""Rows of one figure; its table has all."""


def figures_of(report: Report) -> list[tuple[str, str, list[Markup]]]:
    """Returns (anchor, heading, figures) of a report's plots, those kinds that it has."""
    plots, metrics = report.plots, report.metrics
    curves = [_curve_figure(metrics[name], curve) for name, curve in plots.against_samples.items() if curve]
    phases = [
        _parts_figure(metrics[name], parts, "phase") for name, parts in plots.per_phase.items() if parts
    ]
    triplets = [
        _parts_figure(metrics[name], parts, "triplet") for name, parts in plots.per_triplet.items() if parts
    ]
    seconds = [_seconds_figure(metrics[name], curve) for name, curve in plots.per_second.items() if curve]
    headings = (
        ("samples-plots", "Against the number of samples", curves),
        ("phase-plots", "By phase", phases),
        ("triplet-plots", "By triplet", triplets),
        ("second-plots", "Along the clip", seconds),
    )
    return [entry for entry in headings if entry[2]]


def figure(heading: str, body: Markup, table: Markup, *, extra: Markup | None = None) -> Markup:
    """Returns a figure with its heading and, folded, its numbers."""
    numbers = element("details", element("summary", "Numbers"), element("div", table, class_="scroll"))
    return element("figure", element("figcaption", heading), extra, body, numbers, class_="chart")


def numbers_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Returns a small table of text, its first column to the left."""
    cells = [
        element(
            "tr", [element("td", cell, class_="number" if index else None) for index, cell in enumerate(row)]
        )
        for row in rows
    ]
    heads = [
        element("th", name, scope="col", class_="number" if index else None)
        for index, name in enumerate(head)
    ]
    return element("table", element("thead", element("tr", heads)), element("tbody", cells), class_="small")


def axis_label(metric: Metric) -> str:
    """Returns what an axis of a metric is called."""
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{metric.title}{unit}, {metric.better} is better"


def worst_first(metric: Metric, parts: Mapping[str, Part]) -> list[str]:
    """Returns the names of a metric's parts, the worst first."""
    sign = -1 if metric.better == "lower" else 1
    return ranked(parts, lambda value: sign * value)


def _references(metric: Metric) -> list[Reference]:
    """Returns a metric's floor and what is trivial, for its figures."""
    titles = {"real": "real against real", "frozen": "frozen first frame"}
    return [
        Reference(title, role, metric.values[role].value)
        for role, title in titles.items()
        if role in metric.values
    ]


def _curve_figure(metric: Metric, curve: Curve) -> Markup:
    line = Line(metric.title, "model", curve, metric.values["model"].interval)
    heading = f"{metric.title} against the number of samples"
    body = line_plot(heading, "samples", axis_label(metric), [line], _references(metric))
    rows = [[f"{x:,g}", wording.number(y)] for x, y in curve]
    return figure(heading, body, numbers_table(["samples", metric.title], rows))


def _seconds_figure(metric: Metric, curve: Curve) -> Markup:
    heading = f"{metric.title} along the clip"
    line = Line(metric.title, "model", curve)
    body = line_plot(heading, "seconds from the clip's start", axis_label(metric), [line])
    rows = [[f"{x:g}", wording.number(y)] for x, y in curve]
    return figure(heading, body, numbers_table(["second", metric.title], rows))


def _parts_figure(metric: Metric, parts: Mapping[str, Part], of: str) -> Markup:
    names = worst_first(metric, parts)
    heading = f"{metric.title} by {of}"
    shown = names[:MOST_ROWS]
    overall = Reference("all clips", "model", metric.values["model"].value)
    body = dot_plot(heading, axis_label(metric), shown, [Dots("model", "model", parts)], [overall])
    rows = [[name, wording.number(parts[name].value), f"{parts[name].count:,}"] for name in names]
    left = len(names) - len(shown)
    more = element("p", f"The worst {len(shown)}; {left} more below.", class_="quiet") if left else None
    extra = joined(more, legend([(f"all clips: {wording.number(overall.value)}", "dash model")]))
    return figure(heading, body, numbers_table([of, metric.title, "clips"], rows), extra=extra)
