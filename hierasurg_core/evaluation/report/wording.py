"""How numbers, roles and distances are put in words, alike on the page and in the terminal.

Owns rounding for people; files keep every digit.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

from hierasurg_core.evaluation.report.schema import FEWEST_CLIPS, Metric, Side, Value

ROLE_TITLES: Mapping[str, str] = {
    "real": "Real against real",
    "vae": "VAE reconstruction",
    "frozen": "Frozen first frame",
    "model": "Model",
}
MISSING = "–"  # noqa: RUF001 - an en dash in a table's empty cell
MINUS = "−"  # noqa: RUF001 - a minus sign


def number(value: float) -> str:
    """Returns a number with four digits that count: "1,234", "12.35", "0.001235", "1.2e-07".

    Example:
        >>> number(0.98765)
        '0.9877'
    """
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e7 or size < 1e-4:
        text = f"{value:.1e}"
    elif size >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{3 - math.floor(math.log10(size))}f}"
    return text.replace("-", MINUS)


def signed(value: float) -> str:
    """Returns a difference with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


def interval(value: Value) -> str | None:
    """Returns "low to high"; None where there is no interval."""
    if value.interval is None:
        return None
    low, high = value.interval
    return f"{number(low)} to {number(high)}"


def better(metric: Metric) -> str:
    """Returns an arrow and the words for the direction that is better."""
    return "↓ lower is better" if metric.better == "lower" else "↑ higher is better"


def place(metric: Metric) -> str:
    """Says where the model stands between the floor and what is trivial.

    Example: "34 % of the way from real to frozen".
    """
    if "real" not in metric.values or "frozen" not in metric.values:
        return "no place: it needs both baselines"
    if metric.place is None and way(metric) is None:
        return "no place: real is no better than frozen"
    if metric.place is None:
        few = min(metric.values[role].count for role in ("model", "frozen")) < FEWEST_CLIPS
        return f"no place: fewer than {FEWEST_CLIPS} clips" if few else "no place was given"
    if metric.place < 0:
        return f"{-metric.place:.0%} beyond real against real".replace("%", " %")
    if metric.place > 1:
        return f"{metric.place - 1:.0%} worse than a frozen first frame".replace("%", " %")
    return f"{metric.place:.0%} of the way from real to frozen".replace("%", " %")


def way(metric: Metric) -> float | None:
    """Returns how far the frozen frame is from real against real; None where it is no worse.

    None, too, where one is missing. Places are of equal counts, so that a metric may have a place and no way.
    """
    if "real" not in metric.values or "frozen" not in metric.values:
        return None
    length = metric.values["frozen"].value - metric.values["real"].value
    return length if (length > 0 if metric.better == "lower" else length < 0) else None


def side(value: Side) -> str:
    """Returns "64 clips of 16 frames, 8 frames/s, 128 × 192 px"."""  # noqa: RUF002 - a times sign
    height, width = value.size_hw
    return (
        f"{value.clips:,} clips of {value.frames} frames, {value.fps:g} frames/s, "
        f"{height} × {width} px"  # noqa: RUF001 - a times sign
    )


def fact(value: object) -> str:
    """Returns a protocol's fact in words; None is one that is not known."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(fact(item) for item in cast("list[object]", value))
    return str(value)


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested facts as one level, with dotted names."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, dict):
            found.update(flat(cast("dict[str, Any]", value), f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def seconds(value: float) -> str:
    """Returns "0.42 s", "12 s", "3 min 20 s" or "2 h 5 min"."""
    if value < 10:
        return f"{value:.2f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
