"""A report as a table in the terminal: the metrics with their baselines, or two reports side by side.

Owns the look. Titles and names out of files are text, never markup of Rich.
"""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from hierasurg_core.evaluation.report import wording
from hierasurg_core.evaluation.report.compare import Comparison, Difference, relative, verdict
from hierasurg_core.evaluation.report.schema import ROLES, Metric, Report

_MOST = 9.99  # a place beyond is not worth its digits
_LEAST = 11  # columns of a metric's name, which wraps
_WAY = 8  # columns of the bar between floor and trivial
_STYLES = {"real": "", "vae": "", "frozen": "", "model": "bold cyan"}
_COMPARISON_LEGEND = "↓ lower is better, ↑ higher is better; below a value its 95 % interval"
_SHORT = {"real": "real", "vae": "VAE", "frozen": "frozen", "model": "model"}


def table(report: Report) -> Table:
    """Returns the metrics with their baselines, the model's with its interval, and its place.

    The bar goes from real against real at the left to the frozen first frame at the right; a mark beyond
    an end is an arrow. Warnings stand above, the legend and other notes below; what was left out is not part
    of the table.
    """
    notes = [note for note in report.notes if note not in report.warnings]
    drawn = Table(
        box=box.SIMPLE_HEAD,
        title=Text("\n").join((*_warned(report.warnings), _title(report))),
        title_justify="left",
        caption=Text("\n".join((*_legend(report), *notes))),
        caption_justify="left",
    )
    drawn.add_column("metric", min_width=_LEAST)
    roles = [role for role in ROLES if any(role in metric.values for metric in report.metrics.values())]
    for role in roles:
        drawn.add_column(_SHORT[role], justify="right", no_wrap=role != "model", style=_STYLES[role])
    has_places = any(way(metric) for metric in report.metrics.values())
    if has_places:
        drawn.add_column("real to frozen", no_wrap=True)
    for metric in report.metrics.values():
        values = [_both(metric) if role == "model" else _value(metric, role) for role in roles]
        drawn.add_row(_name(metric), *values, *([Text(way(metric))] if has_places else []))
    return drawn


def comparison_table(comparison: Comparison) -> Table:
    """Returns both models' values, the change from the first to the second, and whether intervals overlap."""
    drawn = Table(
        box=box.SIMPLE_HEAD,
        title=Text("\n").join((*_warned(comparison.warnings), Text(f"protocol {comparison.a.digest[:12]}"))),
        title_justify="left",
        caption=Text("\n".join((_COMPARISON_LEGEND, *_only(comparison)))),
        caption_justify="left",
    )
    drawn.add_column("metric", min_width=_LEAST)
    for name in comparison.names:
        drawn.add_column(Text(name), justify="right", overflow="fold")  # long paths, to their end
    drawn.add_column("change", justify="right", no_wrap=True)
    drawn.add_column("verdict", overflow="fold")
    for found in comparison.differences.values():
        change = " ".join((wording.signed(found.change), relative(found))).strip()
        drawn.add_row(
            _name(found.a), _both(found.a), _both(found.b), Text(change), Text(verdict(found), _colour(found))
        )
    return drawn


def way(metric: Metric) -> str:
    """Returns the bar of a metric's place: "├──●─────┤ 34 %"; nothing where it has none."""
    if metric.place is None:
        return ""
    held = min(max(metric.place, -_MOST), _MOST)
    beyond = {_MOST: "> ", -_MOST: "< "}.get(held, "")
    percent = f"{beyond}{held:.0%}".replace("%", " %").replace("-", wording.MINUS)
    if metric.place < 0:
        return f"◀{'─' * _WAY}┤ {percent}"
    if metric.place > 1:
        return f"├{'─' * _WAY}▶ {percent}"
    at = min(_WAY - 1, int(metric.place * _WAY))
    return f"├{'─' * at}●{'─' * (_WAY - 1 - at)}┤ {percent}"


def _warned(warnings: Sequence[str]) -> list[Text]:
    return [Text(f"! {warning}", "bold yellow") for warning in warnings]


def _legend(report: Report) -> list[str]:
    """Returns what the marks of the table mean, those that are in it."""
    lines = ["↓ lower is better, ↑ higher is better; below a value its 95 % interval"]
    if any(way(metric) for metric in report.metrics.values()):
        lines.append("real to frozen: 0 % as real against real, 100 % as the first frame held still")
    return lines


def _name(metric: Metric) -> Text:
    arrow = "↓" if metric.better == "lower" else "↑"
    unit = f" {metric.unit}" if metric.unit else ""
    text = Text(f"{metric.title} {arrow}{unit}")
    return text.append(" mini", "yellow") if metric.mini else text


def _value(metric: Metric, role: str) -> Text:
    value = metric.values.get(role)
    return Text(wording.MISSING, "dim") if value is None else Text(wording.number(value.value))


def _both(metric: Metric) -> Text:
    value = metric.values["model"]
    ends = wording.interval(value)
    text = Text(wording.number(value.value))
    return text.append(f"\n{ends}", "dim") if ends else text


def _title(report: Report) -> Text:
    sides = f"{report.generated.clips:,} generated against {report.real.clips:,} real clips"
    return Text(f"{sides}, protocol {report.digest[:12]}")


def _only(comparison: Comparison) -> list[str]:
    return [f"{name}: only in {report}" for name, report in comparison.only.items()]


def _colour(found: Difference) -> str:
    return "bold" if found.better is not None and found.overlap is False else ""
