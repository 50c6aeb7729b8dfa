"""Figures as inline SVG: curves, rows of dots, and the small bars in the tables.

Owns axes, ticks and scales; colours belong to the style sheet, which knows the classes used here. Every mark
carries its numbers as a <title>, which a browser shows under the pointer. Lengths are in the SVG's own
units, about one CSS pixel each.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hierasurg_core.evaluation.report import wording
from hierasurg_core.evaluation.report.markup import Markup, element, joined
from hierasurg_core.evaluation.report.schema import Metric, Part

_WIDTH = 480
_HEIGHT = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 16, 26, 42
_ROW = 22
_LETTER = 6.2  # mean width of a letter at 11 px
_LONGEST_NAME = 30  # letters
_BAR_WIDTH, _BAR_HEIGHT = 168, 22
_BEYOND = 0.18  # how far the place's bar goes on at both ends
_MOST_TICKS = 6
_SMALLEST_STEP, _LARGEST_STEP = 1e-4, 1e6  # beyond, ticks are written with an exponent
_GROWTH = 1.5  # a reference may make the range so many times as long


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        label: Said in the legend and under the pointer.
        look: Its class in the style sheet.
        points: (x, y) in rising x.
        interval: Of the last point's y.
    """

    label: str
    look: str
    points: Sequence[tuple[float, float]]
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dots:
    """A value a row.

    Attributes:
        label: Said in the legend and under the pointer.
        look: Its class in the style sheet.
        parts: By row.
    """

    label: str
    look: str
    parts: Mapping[str, Part]


@dataclass(frozen=True)
class Reference:
    """A value to compare with, drawn as a dashed line; its look is a class of the style sheet."""

    label: str
    look: str
    value: float


@dataclass(frozen=True)
class Scale:
    """From values to lengths, with round ticks inside."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def apart(self, at_most: int = _MOST_TICKS) -> list[tuple[float, str]]:
        """Ticks of an axis that lies: as many as fit beside each other, but two."""
        for count in range(at_most, 2, -1):
            found = self.ticks(count)
            wide = max((len(text) for _, text in found), default=0) * _LETTER + 10
            if len(found) < 2 or wide <= abs(self(found[1][0]) - self(found[0][0])):
                return found
        return self.ticks(2)

    def ticks(self, at_most: int = _MOST_TICKS) -> list[tuple[float, str]]:
        """Round values inside the scale, and how they are written, alike in digits."""
        step = _round_step(self.high - self.low, at_most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(index * step, _tick(index * step, step)) for index in range(first, last + 1)]


def line_plot(
    name: str, x_label: str, y_label: str, lines: Sequence[Line], references: Sequence[Reference] = ()
) -> Markup:
    """Draws curves over a common x.

    Args:
        name: What the figure shows, for readers who do not see it.
        x_label: Below the axis.
        y_label: Above the axis, so that it is read without turning the head.
        lines: At least one, each with at least one point.
        references: Left out where they would squeeze the curves; the caption then lacks nothing, for the
            table has them.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    ys += [end for line in lines for end in line.interval or ()]
    shown = _within_reach(references, min(ys), max(ys))
    ys += [reference.value for reference in shown]
    up = _scale(ys, _HEIGHT - _BOTTOM, _TOP + 4)
    left = max(_LEFT, 14 + _LETTER * max(len(text) for _, text in up.ticks(5)))
    across = _scale(xs, left + 6, _WIDTH - _RIGHT - 6, margin=0)
    floor = _HEIGHT - _BOTTOM
    parts = [_text(0, 13, y_label, "label")]
    for value, text in up.ticks(5):
        parts.append(_segment("grid", left, up(value), _WIDTH - _RIGHT, up(value)))
        parts.append(_text(left - 8, up(value) + 4, text, "tick", "end"))
    whole = all(x == int(x) for x in xs)
    for value, text in across.apart():
        if not whole or value == int(value):
            parts.append(_segment("axis", across(value), floor, across(value), floor + 4))
            parts.append(_text(across(value), floor + 17, text, "tick", "middle"))
    parts.append(_segment("axis", left, floor, _WIDTH - _RIGHT, floor))
    parts.append(_text((left + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "label", "middle"))
    for reference in shown:
        y = up(reference.value)
        parts.append(_segment(f"reference {reference.look}", left, y, _WIDTH - _RIGHT, y))
        parts.append(_text(_WIDTH - _RIGHT - 14, y - 4, reference.label, f"tick {reference.look}-ink", "end"))
    parts += [_curve(line, across, up, x_label) for line in lines]
    return _svg(name, _WIDTH, _HEIGHT, parts)


def dot_plot(
    name: str, x_label: str, rows: Sequence[str], series: Sequence[Dots], references: Sequence[Reference] = ()
) -> Markup:
    """Draws a row a name, with a dot for each series on a common axis, and the counts at the right.

    Args:
        name: What the figure shows, for readers who do not see it.
        x_label: Below the axis.
        rows: Names, from the top.
        series: At least one; a row may be missing in it.
        references: As `line_plot`.
    """
    values = [dots.parts[row].value for dots in series for row in rows if row in dots.parts]
    shown = _within_reach(references, min(values), max(values))
    values += [reference.value for reference in shown]
    left = min(_LONGEST_NAME, max(len(row) for row in rows)) * _LETTER + 12
    right = 44
    height = 8 + _ROW * len(rows) + _BOTTOM
    floor = height - _BOTTOM
    across = _scale(values, left + 8, _WIDTH - right - 8)
    parts = []
    for value, text in across.apart(5):
        parts.append(_segment("grid", across(value), 4, across(value), floor))
        parts.append(_text(across(value), floor + 15, text, "tick", "middle"))
    parts.append(_segment("axis", left, floor, _WIDTH - right, floor))
    parts.append(_text((left + _WIDTH - right) / 2, height - 6, x_label, "label", "middle"))
    for reference in shown:
        x = across(reference.value)
        line = _segment(f"reference {reference.look}", x, 4, x, floor)
        parts.append(element("g", _title(f"{reference.label}: {wording.number(reference.value)}"), line))
    for index, row in enumerate(rows):
        y = 8 + _ROW * (index + 0.5)
        found = [(dots, dots.parts[row]) for dots in series if row in dots.parts]
        parts.append(_row_name(row, left - 10, y + 4))
        places = [across(part.value) for _, part in found]
        if len(places) > 1:
            parts.append(_segment("between", min(places), y, max(places), y))
        for dots, part in found:
            said = f"{row}, {dots.label}: {wording.number(part.value)} over {part.count:,} clips"
            parts.append(_dot(across(part.value), y, dots.look, said))
        count = " / ".join(f"{part.count:,}" for _, part in found)
        parts.append(_text(_WIDTH, y + 4, count, "tick", "end"))
    parts.append(_text(_WIDTH, floor + 15, "clips", "tick", "end"))
    return _svg(name, _WIDTH, height, parts)


def place_bar(metric: Metric) -> Markup | None:
    """Draws where the model stands between real against real (left end) and the frozen frame (right end).

    The ring is the VAE's reconstruction, the line the model's interval around its place; what lies beyond is
    held at the edge, as an arrow. None where there is no place.
    """
    if metric.place is None:
        return None
    across = Scale(-_BEYOND, 1 + _BEYOND, 2, _BAR_WIDTH - 2)
    middle = _BAR_HEIGHT / 2
    parts = [
        element("rect", x=across(0), y=middle - 3, width=across(1) - across(0), height=6, rx=3, class_="way"),
        _segment("end", across(0), middle - 7, across(0), middle + 7),
        _segment("end", across(1), middle - 7, across(1), middle + 7),
    ]
    model, way = metric.values["model"], wording.way(metric)
    if model.interval is not None and way is not None:
        ends = sorted(metric.place + (end - model.value) / way for end in model.interval)
        low, high = (_held(end, across) for end in ends)
        parts.append(_segment("whisker model", low, middle, high, middle))
    if metric.vae_place is not None and "vae" in metric.values:
        said = f"VAE reconstruction: {wording.number(metric.values['vae'].value)}"
        ring = element(
            "circle", _title(said), cx=_held(metric.vae_place, across), cy=middle, r=4, class_="ring vae"
        )
        parts.append(ring)
    said = f"Model: {wording.number(model.value)}, {wording.place(metric)}"
    if -_BEYOND <= metric.place <= 1 + _BEYOND:
        parts.append(_dot(across(metric.place), middle, "model", said, radius=5))
    else:
        tip, back = (_BAR_WIDTH - 1, -9) if metric.place > 1 else (1, 9)
        corners = f"{tip},{middle} {tip + back},{middle - 6} {tip + back},{middle + 6}"
        parts.append(element("polygon", _title(said), points=corners, class_="dot model"))
    return _svg(wording.place(metric), _BAR_WIDTH, _BAR_HEIGHT, parts, look="place")


def interval_bars(name: str, bars: Sequence[tuple[str, str, float, tuple[float, float] | None]]) -> Markup:
    """Draws values with their intervals below each other on one scale without ticks.

    Args:
        name: What it shows, for readers who do not see it.
        bars: (label, look, value, interval) from the top.
    """
    ends = [end for _, _, value, interval in bars for end in (value, *(interval or ()))]
    across = _scale(ends, 8, _BAR_WIDTH - 8, margin=0)
    height = 16 * len(bars) + 2
    parts = []
    for index, (label, look, value, interval) in enumerate(bars):
        y = 16 * index + 9
        parts.append(_segment("grid", 2, y, _BAR_WIDTH - 2, y))
        if interval is not None:
            parts.append(_segment(f"whisker {look}", across(interval[0]), y, across(interval[1]), y))
        parts.append(_dot(across(value), y, look, f"{label}: {wording.number(value)}", radius=5))
    return _svg(name, _BAR_WIDTH, height, parts, look="place")


def share_bar(name: str, share: float) -> Markup:
    """Draws a part of a whole, 0 to 1."""
    width = max(1.0, share * _BAR_WIDTH)
    whole = element("rect", x=0, y=0, width=_BAR_WIDTH, height=8, rx=4, class_="way")
    part = element("rect", x=0, y=0, width=width, height=8, rx=min(4.0, width / 2), class_="part model")
    return _svg(name, _BAR_WIDTH, 8, [whole, part], look="share")


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Returns the (label, look) pairs of a figure as a line of swatches."""
    items = [element("span", element("i", class_=f"swatch {look}"), label) for label, look in entries]
    return element("p", items, class_="legend")


def _curve(line: Line, across: Scale, up: Scale, x_label: str) -> Markup:
    places = [(across(x), up(y)) for x, y in line.points]
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    parts = [element("polyline", points=path, class_=f"curve {line.look}")]
    if line.interval is not None:
        x = places[-1][0]
        low, high = (up(end) for end in line.interval)
        parts.append(_segment(f"whisker {line.look}", x, low, x, high))
    for (x, y), place in zip(line.points, places, strict=True):
        said = f"{line.label}: {wording.number(y)} at {wording.number(x)} ({x_label})"
        parts.append(_dot(*place, line.look, said, radius=3.5))
    return element("g", parts)


def _scale(values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """A scale over all values, a little longer; around a single value it is one unit of that size long."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        spread = abs(low) * 0.1 or 1.0
        return Scale(low - spread, high + spread, start, end)
    extra = (high - low) * margin
    return Scale(low - extra if low - extra >= 0 or low < 0 else min(low, 0.0), high + extra, start, end)


def _within_reach(references: Sequence[Reference], low: float, high: float) -> list[Reference]:
    reach = _GROWTH * (high - low)
    return [one for one in references if low - reach <= one.value <= high + reach]


def _round_step(length: float, at_most: int) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that gives no more steps than asked for."""
    power = 10.0 ** math.floor(math.log10(length / at_most))
    return next(power * part for part in (1, 2, 5, 10) if length / (power * part) <= at_most)


def _tick(value: float, step: float) -> str:
    if step < _SMALLEST_STEP or step >= _LARGEST_STEP:
        return f"{value:.1e}".replace("-", wording.MINUS) if abs(value) > step / 2 else "0"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value + 0.0:,.{digits}f}".replace("-", wording.MINUS)


def _held(place: float, across: Scale) -> float:
    return across(min(max(place, across.low), across.high))


def _row_name(row: str, x: float, y: float) -> Markup:
    if len(row) <= _LONGEST_NAME:
        return _text(x, y, row, "name", "end")
    short = _text(x, y, f"{row[: _LONGEST_NAME - 1]}…", "name", "end")
    return element("g", _title(row), short)


def _dot(x: float, y: float, look: str, said: str, radius: float = 4.5) -> Markup:
    return element("circle", _title(said), cx=float(x), cy=float(y), r=radius, class_=f"dot {look}")


def _segment(look: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=look)


def _text(x: float, y: float, text: str, look: str, anchor: str | None = None) -> Markup:
    return element("text", text, x=float(x), y=float(y), class_=look, text_anchor=anchor)


def _title(text: str) -> Markup:
    return element("title", text)


def _svg(name: str, width: float, height: float, parts: Sequence[Markup], look: str = "plot") -> Markup:
    return element(
        "svg",
        joined(parts),
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=name,
        class_=look,
    )


def ranked(parts: Mapping[str, Part], worse_first: Callable[[float], float]) -> list[str]:
    """Returns the names of parts in the order of a key of their values, equal ones by name."""
    return sorted(parts, key=lambda name: (worse_first(parts[name].value), name))
