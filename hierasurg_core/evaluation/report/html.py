"""report.html: one file with everything in it, which opens without a network.

Owns the page's order and its frame, which the page of a comparison shares. Style sheet and script lie in
assets/report and are pasted in; the page's own policy admits nothing else, by their digests. Without scripts
the tables, figures and videos are all there; the script adds sorting, playing in view and the choice of
light or dark.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import hierasurg_core
from hierasurg_core.artifacts import atomic_file
from hierasurg_core.evaluation.report import wording
from hierasurg_core.evaluation.report.figures import figures_of
from hierasurg_core.evaluation.report.markup import Child, Markup, element, joined
from hierasurg_core.evaluation.report.plots import place_bar, share_bar
from hierasurg_core.evaluation.report.schema import ROLES, Metric, Report, SampleRow, Side
from hierasurg_core.evaluation.report.wall import Card, Embedded, Limits, Pane, build_wall

_ASSETS = Path(hierasurg_core.__file__).parent / "assets" / "report"


def write_html(report: Report, out: Path, root: Path, limits: Limits | None = None) -> Embedded:
    """Writes a report's page, atomically.

    Args:
        report: What `read_report` gave.
        out: The file.
        root: The folder that the samples' videos are relative to, and beyond which nothing is read.
        limits: How much video the page may carry.

    Raises:
        DataError: A video's path leads out of `root`.
        ResourceError: The file cannot be written.
    """
    measured = measured_by_sample(report.metrics, report.samples)
    cards = [_card(sample, root) for sample in report.samples]
    wall = build_wall(cards, measured, limits or Limits(), report.generated.clips)
    title = f"{folder_name(report.generated.path)} against {folder_name(report.real.path)}"
    sections = [
        section(
            "metrics", "Metrics", metrics_table(report), _reading_help(), _left_out(report), _notes(report)
        ),
        section("wall-section", "Samples", wall.html) if report.samples else None,
        *(section(anchor, heading, charts(found)) for anchor, heading, found in figures_of(report)),
        section("protocol", "Protocol", protocol_list(report)),
        section("sources", "What was measured, and by what", _sides(report), _models(report)),
        section("timing", "Time", _timing(report)) if report.timing else None,
    ]
    lead = [
        ("Generated", report.generated.path, wording.side(report.generated)),
        ("Real", report.real.path, wording.side(report.real)),
    ]
    mini = any(metric.mini for metric in report.metrics.values())
    above = joined(lead_list(lead, report.digest), warning_list(report.warnings), mini_notice(mini))
    html = page(title, "Evaluation report", above, sections)
    write_page(out, html)
    return wall.embedded


def page(title: str, kind: str, lead: Markup, sections: Sequence[Markup | None]) -> Markup:
    """Puts sections into a whole page, with a table of contents of those that have an id and a heading."""
    style, script = (_ASSETS / name for name in ("report.css", "report.js"))
    style_text, script_text = style.read_text(encoding="utf-8"), script.read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; media-src data:; img-src data:; style-src '{_hash(style_text)}'; "
        f"script-src '{_hash(script_text)}'; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", f"{title} - hierasurg"),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(style_text)),
    )
    toggle = element("button", "Theme: auto", type="button", id="theme", hidden=True)
    top = element(
        "header",
        element("div", element("p", f"hierasurg · {kind}", class_="over"), toggle, class_="bar"),
        element("h1", title),
        lead,
        class_="top",
    )
    foot = element("footer", f"Made by hierasurg {hierasurg_core.__version__}. This file needs no network.")
    body = element(
        "body",
        top,
        element("main", [one for one in sections if one]),
        foot,
        element("script", Markup(script_text)),
    )
    return joined(Markup("<!doctype html>\n"), element("html", head, body, lang="en"), Markup("\n"))


def write_page(out: Path, html: Markup) -> None:
    """Writes a page, atomically.

    Raises:
        ResourceError: It cannot be written.
    """
    with atomic_file(out) as part:
        part.write_text(html, encoding="utf-8", errors="replace")


def section(anchor: str, heading: str, *children: Child) -> Markup:
    """Returns a part of the page with its heading."""
    return element("section", element("h2", heading), *children, id=anchor, aria_label=heading)


def charts(found: Sequence[Markup]) -> Markup:
    """Returns figures in columns."""
    return element("div", found, class_="charts")


def lead_list(entries: Sequence[tuple[str, str, str]], digest: str) -> Markup:
    """Returns (label, path, words) lines below the title, and the protocol's digest."""
    rows = [
        element("div", element("dt", label), element("dd", element("code", path), element("span", words)))
        for label, path, words in entries
    ]
    last = element(
        "div", element("dt", "Protocol"), element("dd", element("code", digest[:16]), title=digest)
    )
    return element("dl", rows, last, class_="lead-list")


def warning_list(warnings: Sequence[str]) -> Markup | None:
    """Returns what no reader may overlook, for the top of a page."""
    if not warnings:
        return None
    lines = element("ul", [element("li", line) for line in warnings])
    return element("div", element("b", "Read first"), lines, class_="notice warnings", role="note")


def mini_notice(mini: bool) -> Markup | None:
    """Returns what everybody has to know about mini metrics, where there are some."""
    if not mini:
        return None
    badge = element("span", "mini", class_="badge")
    return element(
        "p",
        badge,
        " Metrics with this mark are measured by a small network that was trained on the synthetic phantom. "
        "They tell samples of this program apart and may not be compared with published numbers.",
        class_="notice",
    )


def metrics_table(report: Report) -> Markup:
    """Returns the table of metrics with their baselines."""
    roles = [role for role in ROLES if any(role in metric.values for metric in report.metrics.values())]
    head = element(
        "tr",
        element("th", "Metric", scope="col"),
        [element("th", wording.ROLE_TITLES[role], scope="col", class_=f"number {role}") for role in roles],
        element("th", "Place", element("small", "real to frozen"), scope="col", class_="place-column"),
    )
    rows = [_metric_row(metric, roles) for metric in report.metrics.values()]
    caption = element("caption", "Each metric of the model beside its baselines, with 95 % intervals below.")
    if not rows:
        return element("p", "No metric was measured; the reasons are below.", class_="notice")
    table = element("table", caption, element("thead", head), element("tbody", rows), class_="metrics")
    return element("div", table, class_="scroll", role="region", aria_label="Table of metrics", tabindex="0")


def metric_name(metric: Metric) -> Markup:
    """Returns a metric's name with its mark, direction and extractor, as a row's heading."""
    badge = element("span", "mini", class_="badge") if metric.mini else None
    below = [wording.better(metric), metric.unit, metric.extractor or ""]
    return element(
        "th",
        element("span", metric.title, class_="metric-title"),
        badge,
        element("small", " · ".join(text for text in below if text)),
        element("small", metric.note, class_="note") if metric.note else None,
        scope="row",
    )


def protocol_list(report: Report) -> Markup:
    """Returns all facts of a protocol."""
    facts = wording.flat(report.protocol)
    return element("dl", [_fact(key, value) for key, value in facts.items()], class_="facts-list")


def measured_by_sample(metrics: Mapping[str, Metric], samples: Sequence[SampleRow]) -> dict[str, Metric]:
    """Returns the metrics that some sample has a value of."""
    return {name: metric for name, metric in metrics.items() if any(name in one.values for one in samples)}


def folder_name(path: str) -> str:
    """Returns the last part of a path, or all of it where that says nothing."""
    return Path(path).name or path


def _metric_row(metric: Metric, roles: Sequence[str]) -> Markup:
    cells: list[Markup] = []
    for role in roles:
        value = metric.values.get(role)
        if value is None:
            cells.append(element("td", wording.MISSING, class_="number quiet", aria_label="not measured"))
            continue
        ends = wording.interval(value)
        cells.append(
            element(
                "td",
                element("span", wording.number(value.value), class_="value"),
                element("small", ends) if ends else None,
                class_=f"number {role}",
                title=f"{value.value!r}, over {value.count:,}",
            )
        )
    words = element("small", wording.place(metric))
    cells.append(element("td", place_bar(metric), words, class_="place-column"))
    return element("tr", metric_name(metric), cells)


def _reading_help() -> Markup:
    return element(
        "p",
        element("i", class_="swatch model"),
        "model with its interval, ",
        element("i", class_="swatch ring vae"),
        "VAE reconstruction. The left end of a bar is real against real, the floor that no model can be "
        "expected to pass; the right end is the first frame held still, which takes no model at all.",
        class_="quiet help",
    )


def _left_out(report: Report) -> Markup | None:
    if not report.left_out:
        return None
    items = [element("div", element("dt", one.metric), element("dd", one.why)) for one in report.left_out]
    return joined(element("h3", "Left out"), element("dl", items, class_="left-out"))


def _notes(report: Report) -> Markup | None:
    """The notes that do not stand above as warnings."""
    notes = [note for note in report.notes if note not in report.warnings]
    if not notes:
        return None
    return joined(element("h3", "Notes"), element("ul", [element("li", note) for note in notes]))


def _card(sample: SampleRow, root: Path) -> Card:
    panes = (
        Pane("Real", sample.real, root),
        Pane("Maps", sample.maps, root),
        Pane("Generated", sample.generated, root),
    )
    return Card(sample.name, sample_facts(sample), panes, sample.values)


def sample_facts(sample: SampleRow) -> tuple[str, ...]:
    """Returns what is known of a sample, in words."""
    seed = None if sample.seed is None else f"seed {sample.seed}"
    return tuple(fact for fact in (sample.phase, sample.triplet, seed) if fact is not None)


def _fact(key: str, value: object) -> Markup:
    said = (
        element("code", str(value)) if value and key.endswith(("digest", "sha256")) else wording.fact(value)
    )
    return element("div", element("dt", key.replace("_", " ")), element("dd", said))


def _sides(report: Report) -> Markup:
    return joined(_side("Generated", report.generated), _side("Real", report.real))


def _side(label: str, side: Side) -> Markup:
    said = element("p", element("b", label), " ", element("code", side.path), f" {wording.side(side)}")
    if not side.unreadable:
        return said
    rows = [[one.file, one.why] for one in side.unreadable]
    items = [element("li", element("code", file), f": {why}") for file, why in rows]
    count = len(items)
    summary = f"{count:,} unreadable file{'' if count == 1 else 's'}, left out"
    return joined(
        said, element("details", element("summary", summary), element("ul", items), open=count <= 5)
    )


def _models(report: Report) -> Markup | None:
    if not report.models:
        return None
    rows = [
        element(
            "tr",
            element("th", role, scope="row"),
            element("td", one.name),
            element("td", element("code", one.digest)),
        )
        for role, one in report.models.items()
    ]
    head = element("tr", [element("th", name, scope="col") for name in ("Role", "Network", "Digest")])
    table = element("table", element("thead", head), element("tbody", rows), class_="small models")
    return element("div", table, class_="scroll")


def _timing(report: Report) -> Markup:
    longest = max(report.timing.values()) or 1.0
    rows = [
        element(
            "tr",
            element("th", stage, scope="row"),
            element("td", share_bar(f"{stage}: {wording.seconds(seconds)}", seconds / longest)),
            element("td", wording.seconds(seconds), class_="number"),
        )
        for stage, seconds in report.timing.items()
    ]
    total = element(
        "tr",
        element("th", "All", scope="row"),
        element("td"),
        element("td", wording.seconds(sum(report.timing.values())), class_="number"),
    )
    return element("table", element("tbody", rows, total), class_="small timing")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
