"""Two reports side by side.

Owns what may be compared: reports of one protocol, whose measuring networks are the same. Others are refused,
and the message names what differs. It says nothing about significance beyond what the intervals show, and
points out where the real clips cannot have been the same.

Imports no torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierasurg_core.errors import UsageError
from hierasurg_core.evaluation import protocol as protocols
from hierasurg_core.evaluation.report import figures, html, wording
from hierasurg_core.evaluation.report.markup import Markup, element, joined
from hierasurg_core.evaluation.report.plots import Dots, Line, dot_plot, interval_bars, legend, line_plot
from hierasurg_core.evaluation.report.schema import FEWEST_CLIPS, Curve, Metric, Part, Report, SampleRow
from hierasurg_core.evaluation.report.wall import Card, Embedded, Limits, Pane, build_wall

_LOOKS = ("model", "other")
_JUDGED = {"vae"}  # networks of the model that is judged: of them only a baseline depends
_SAME = 1e-9
_OPTIONS = {
    **{role: role for role in ("i3d", "videomae", "inception", "lpips", "classifier", "detector")},
    "maps": "sam",
}


@dataclass(frozen=True)
class Difference:
    """What one metric says of two reports.

    Attributes:
        a: The metric in the first.
        b: The metric in the second.
        change: Second minus first, of the models.
        better: Name of the better one, None where both are equal.
        overlap: Whether the intervals overlap, None where one has none.
    """

    a: Metric
    b: Metric
    change: float
    better: str | None
    overlap: bool | None


@dataclass(frozen=True)
class Comparison:
    """Two reports of one protocol.

    Attributes:
        names: What to call them.
        a: The first.
        b: The second.
        differences: By metric, those that both have.
        only: Metrics that one of them lacks, with the name of the report that has it.
        warnings: What a reader has to know, one line each.
    """

    names: tuple[str, str]
    a: Report
    b: Report
    differences: Mapping[str, Difference]
    only: Mapping[str, str]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "names": list(self.names),
            "protocol": self.a.digest,
            "metrics": {
                name: {
                    "values": [dataclasses.asdict(one.values["model"]) for one in (found.a, found.b)],
                    "change": found.change,
                    "better": found.better,
                    "overlap": found.overlap,
                }
                for name, found in self.differences.items()
            },
            "only": dict(self.only),
            "warnings": list(self.warnings),
        }


def compare(a: Report, b: Report, names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Puts two reports side by side.

    Args:
        a: The first.
        b: The second.
        names: What to call them; two that are alike get a number.

    Raises:
        UsageError: Their protocols or measuring networks differ; all differences are named.
    """
    if names[0] == names[1]:
        names = (f"{names[0]} (1)", f"{names[1]} (2)")
    _check(a, b, names)
    differences = {
        name: _difference(a.metrics[name], b.metrics[name], names) for name in a.metrics if name in b.metrics
    }
    only = {name: names[0] for name in a.metrics if name not in b.metrics}
    only |= {name: names[1] for name in b.metrics if name not in a.metrics}
    return Comparison(names, a, b, differences, only, tuple(_warnings(a, b, names)))


def write_comparison_html(
    comparison: Comparison, out: Path, roots: tuple[Path, Path], limits: Limits | None = None
) -> Embedded:
    """Writes the page of a comparison, atomically.

    Args:
        comparison: What `compare` gave.
        out: The file.
        roots: For each report the folder that its videos are relative to, beyond which nothing is read.
        limits: How much video the page may carry.

    Raises:
        DataError: A video's path leads out of its folder.
        ResourceError: The file cannot be written.
    """
    names, (a, b) = comparison.names, (comparison.a, comparison.b)
    cards = _cards(comparison, roots)
    measured = html.measured_by_sample(a.metrics, a.samples)
    wall = build_wall(cards, measured, limits or Limits(), len(cards))
    leads = [
        (name, report.generated.path, wording.side(report.generated))
        for name, report in zip(names, (a, b), strict=True)
    ]
    mini = any(one.mini for report in (a, b) for one in report.metrics.values())
    lead = joined(
        html.lead_list(leads, a.digest), html.warning_list(comparison.warnings), html.mini_notice(mini)
    )
    swatches = legend(list(zip(names, _LOOKS, strict=True)))
    sections = [
        html.section("metrics", "Metrics", swatches, _table(comparison), _only(comparison)),
        html.section("wall-section", "Samples of both", wall.html) if cards else None,
        *_figures(comparison, swatches),
        html.section("protocol", "Protocol of both", html.protocol_list(a)),
    ]
    html.write_page(out, html.page(f"{names[0]} and {names[1]}", "Comparison of two reports", lead, sections))
    return wall.embedded


def verdict(found: Difference) -> str:
    """Says in words what a difference amounts to."""
    if found.better is None:
        return "equal"
    if found.overlap is None:
        return f"{found.better} is better; no intervals"
    return f"{found.better} is better; intervals {'overlap' if found.overlap else 'lie apart'}"


def relative(found: Difference) -> str:
    """Returns the change in per cent of the first, nothing where that is 0."""
    before = found.a.values["model"].value
    return (
        f"{found.change / abs(before):+.1%}".replace("-", wording.MINUS).replace("%", " %") if before else ""
    )


def _check(a: Report, b: Report, names: tuple[str, str]) -> None:
    known = {field.name for field in dataclasses.fields(protocols.Protocol)}
    facts = [wording.flat(report.protocol) for report in (a, b)]
    own = [{key: value for key, value in one.items() if key in known} for one in facts]
    first, second = (protocols.protocol_from_dict(one) for one in own)
    protocols.compare(first, second, names)
    apart = [
        f"{key} ({wording.fact(facts[0].get(key))} against {wording.fact(facts[1].get(key))})"
        for key in dict.fromkeys((*facts[0], *facts[1]))
        if key not in known | {"digest"} and facts[0].get(key) != facts[1].get(key)
    ]
    roles = [
        role
        for role, network in a.models.items()
        if role not in _JUDGED and role in b.models and b.models[role].digest != network.digest
    ]
    apart += [
        f"the {role} ({a.models[role].name} {a.models[role].digest[:12]} against "
        f"{b.models[role].name} {b.models[role].digest[:12]})"
        for role in roles
    ]
    apart += [
        f"the extractor of {name} ({metric.extractor} against {b.metrics[name].extractor})"
        for name, metric in a.metrics.items()
        if name in b.metrics and b.metrics[name].extractor != metric.extractor
    ]
    if not apart and a.digest != b.digest:
        apart = [f"their digest ({a.digest[:12]} against {b.digest[:12]})"]
    if apart:
        raise UsageError(
            f"the reports '{names[0]}' and '{names[1]}' differ in {', '.join(apart)}; "
            f"measure both again {_same(roles)}"
        )


def _same(roles: Sequence[str]) -> str:
    """Names the options of `evaluate` that choose the networks of some roles."""
    options = [f"--{_OPTIONS[role]}" for role in roles if role in _OPTIONS]
    return f"with the same {' and '.join(options)}" if options else "with one version of hierasurg"


def _difference(a: Metric, b: Metric, names: tuple[str, str]) -> Difference:
    of_a, of_b = a.values["model"], b.values["model"]
    change = of_b.value - of_a.value
    same = abs(change) <= _SAME * max(abs(of_a.value), abs(of_b.value))
    second = (change < 0) == (a.better == "lower")
    better = None if same else names[int(second)]
    overlap = None
    if of_a.interval is not None and of_b.interval is not None:
        overlap = of_a.interval[0] <= of_b.interval[1] and of_b.interval[0] <= of_a.interval[1]
    return Difference(a, b, change, better, overlap)


def _warnings(a: Report, b: Report, names: tuple[str, str]) -> list[str]:
    few = [
        f"'{name}' has {clips:,} clip{'' if clips == 1 else 's'}"
        for name, report in zip(names, (a, b), strict=True)
        if (clips := min(report.generated.clips, report.real.clips)) < FEWEST_CLIPS
    ]
    warnings: list[str] = []
    moved = []
    for name, metric in a.metrics.items():
        floors = [one.values.get("real") for one in (metric, b.metrics.get(name, metric))]
        values = [floor.value for floor in floors if floor is not None]
        if len(values) == 2 and abs(values[0] - values[1]) > 1e-6 * max(map(abs, values)):
            moved.append(f"{metric.title} ({wording.number(values[0])} against {wording.number(values[1])})")
    if moved:
        warnings.append(
            f"Real against real differs in {', '.join(moved)}: the real clips of '{names[0]}' and "
            f"'{names[1]}' are not the same."
        )
    unreadable = {
        name: len(report.generated.unreadable) + len(report.real.unreadable)
        for name, report in zip(names, (a, b), strict=True)
    }
    warnings += [
        f"'{name}' left out {count:,} unreadable file{'' if count == 1 else 's'}."
        for name, count in unreadable.items()
        if count
    ]
    if few:
        warnings.append(f"{' and '.join(few)}: fewer than {FEWEST_CLIPS} are too few to rank models by.")
    return warnings


def _table(comparison: Comparison) -> Markup:
    heads = ["Metric", *comparison.names, "Change", "Values and intervals", "Verdict"]
    looks = [None, "number", "number", "number", "place-column", None]
    head = element(
        "tr",
        [element("th", name, scope="col", class_=look) for name, look in zip(heads, looks, strict=True)],
    )
    rows = [_row(comparison.names, found) for found in comparison.differences.values()]
    if not rows:
        return element("p", "The reports have no metric in common.", class_="notice")
    said = f"The change is '{comparison.names[1]}' minus '{comparison.names[0]}'; 95 % intervals stand below."
    table = element(
        "table", element("caption", said), element("thead", head), element("tbody", rows), class_="metrics"
    )
    return element(
        "div", table, class_="scroll", role="region", aria_label="Table of differences", tabindex="0"
    )


def _row(names: tuple[str, str], found: Difference) -> Markup:
    both = (found.a.values["model"], found.b.values["model"])
    cells: list[Markup] = []
    for value in both:
        ends = wording.interval(value)
        text = element("span", wording.number(value.value), class_="value")
        below = element("small", ends) if ends else None
        cells.append(
            element("td", text, below, class_="number", title=f"{value.value!r}, over {value.count:,}")
        )
    change = (wording.signed(found.change), element("small", relative(found)))
    bars = [
        (name, look, value.value, value.interval)
        for name, look, value in zip(names, _LOOKS, both, strict=True)
    ]
    look = f" {_LOOKS[names.index(found.better)]}" if found.better and found.overlap is False else ""
    return element(
        "tr",
        html.metric_name(found.a),
        cells,
        element("td", *change, class_="number"),
        element("td", interval_bars(f"{found.a.title}: {verdict(found)}", bars)),
        element("td", verdict(found), class_=f"verdict{look}"),
    )


def _only(comparison: Comparison) -> Markup | None:
    if not comparison.only:
        return None
    items = [
        element("div", element("dt", name), element("dd", f"only in '{report}'"))
        for name, report in comparison.only.items()
    ]
    return joined(element("h3", "Not in both"), element("dl", items, class_="left-out"))


def _cards(comparison: Comparison, roots: tuple[Path, Path]) -> list[Card]:
    """Samples that both have, by name."""
    others = {sample.name: sample for sample in comparison.b.samples}
    found = [(sample, others[sample.name]) for sample in comparison.a.samples if sample.name in others]
    return [_card(a, b, comparison.names, roots) for a, b in found]


def _card(a: SampleRow, b: SampleRow, names: tuple[str, str], roots: tuple[Path, Path]) -> Card:
    real = Pane("Real", a.real, roots[0])
    panes = (real, Pane(names[0], a.generated, roots[0]), Pane(names[1], b.generated, roots[1]))
    facts = html.sample_facts(a)
    if html.sample_facts(b) != facts:
        facts = (*facts, f"{names[1]}: {', '.join(html.sample_facts(b))}")
    return Card(a.name, facts, panes, a.values, b.values)


def _figures(comparison: Comparison, swatches: Markup) -> list[Markup | None]:
    a, b = comparison.a.plots, comparison.b.plots
    curves = [
        ("samples-plots", "Against the number of samples", "samples", a.against_samples, b.against_samples),
        ("second-plots", "Along the clip", "seconds from the clip's start", a.per_second, b.per_second),
    ]
    parts = [
        ("phase-plots", "By phase", a.per_phase, b.per_phase),
        ("triplet-plots", "By triplet", a.per_triplet, b.per_triplet),
    ]
    sections: list[Markup | None] = []
    for anchor, heading, x_label, of_a, of_b in curves:
        found = [
            _curves(comparison, name, x_label, (of_a[name], of_b[name]), swatches)
            for name in comparison.differences
            if of_a.get(name) and of_b.get(name)
        ]
        sections.append(html.section(anchor, heading, html.charts(found)) if found else None)
    for anchor, heading, of_a, of_b in parts:
        found = [
            _parts(comparison, name, (of_a[name], of_b[name]), swatches)
            for name in comparison.differences
            if of_a.get(name) and of_b.get(name)
        ]
        sections.append(html.section(anchor, heading, html.charts(found)) if found else None)
    return sections


def _curves(
    comparison: Comparison, metric: str, x_label: str, curves: tuple[Curve, Curve], swatches: Markup
) -> Markup:
    reports = (comparison.a, comparison.b)
    titled = comparison.differences[metric].a
    ends = [report.metrics[metric].values["model"].interval for report in reports]
    lines = [
        Line(name, look, curve, end if x_label == "samples" else None)
        for name, look, curve, end in zip(comparison.names, _LOOKS, curves, ends, strict=True)
    ]
    body = line_plot(f"{titled.title} of both against {x_label}", x_label, figures.axis_label(titled), lines)
    by_x = [dict(curve) for curve in curves]
    rows = [
        [f"{x:,g}", *(wording.number(one[x]) if x in one else wording.MISSING for one in by_x)]
        for x in sorted({x for one in by_x for x in one})
    ]
    table = figures.numbers_table([x_label, *comparison.names], rows)
    return figures.figure(titled.title, body, table, extra=swatches)


def _parts(
    comparison: Comparison,
    metric: str,
    parts: tuple[Mapping[str, Part], Mapping[str, Part]],
    swatches: Markup,
) -> Markup:
    titled = comparison.differences[metric].a
    joint = {**parts[1], **parts[0]}
    names: Sequence[str] = figures.worst_first(titled, joint)
    dots = [Dots(name, look, one) for name, look, one in zip(comparison.names, _LOOKS, parts, strict=True)]
    body = dot_plot(f"{titled.title} of both", figures.axis_label(titled), names[: figures.MOST_ROWS], dots)
    rows = [
        [row, *(wording.number(one[row].value) if row in one else wording.MISSING for one in parts)]
        for row in names
    ]
    return figures.figure(
        titled.title, body, figures.numbers_table(["", *comparison.names], rows), extra=swatches
    )
