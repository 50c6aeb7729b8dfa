"""The wall of samples: which videos a page carries, and each sample's card.

Owns the choice (the worst and the best by each metric in turn), the limits of size, and where a video may be
read from: only inside the folder that it is given. Videos are embedded as they are where they are small,
else scaled down; whatever is not embedded is counted on the page, never dropped in silence.
"""

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.report import wording
from hierasurg_core.evaluation.report.markup import Markup, element, joined
from hierasurg_core.evaluation.report.schema import Metric
from hierasurg_core.pictures import fit_image
from hierasurg_core.video import iter_video, read_video, write_mp4

_SMALL_BYTES = 200_000
_MOST_FRAMES = 320
_POSTER_QUALITY = 80


@dataclass(frozen=True)
class Limits:
    """How much video one page may carry.

    Attributes:
        samples: At most so many samples.
        megabytes: At most so many million bytes of text for all videos together.
        px: Longer side of a video that is scaled down because its file is not small.
    """

    samples: int = 16
    megabytes: float = 24.0
    px: int = 320


@dataclass(frozen=True)
class Pane:
    """One of a card's videos.

    Attributes:
        label: What it shows.
        path: Relative to `root`; None where there is no such video.
        root: The folder beyond which nothing is read.
    """

    label: str
    path: str | None
    root: Path


@dataclass(frozen=True)
class Card:
    """A sample on the wall.

    Attributes:
        name: Its name.
        facts: What is known of it, each in a few words.
        panes: Its videos, from the left.
        values: By metric; they decide which samples are worst and best.
        beside: Values of the same sample in another report, shown behind these.
    """

    name: str
    facts: tuple[str, ...]
    panes: tuple[Pane, ...]
    values: Mapping[str, float]
    beside: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Embedded:
    """What became of the samples.

    Attributes:
        samples: Names of those on the page.
        left_out: Names of the others, each with the reason.
        bytes: Characters that their videos take.
    """

    samples: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    bytes: int

    def to_dict(self) -> dict[str, object]:
        """Returns plain values for JSON."""
        return {"samples": list(self.samples), "left_out": len(self.left_out), "bytes": self.bytes}


@dataclass(frozen=True)
class Wall:
    """The wall's HTML and what is on it."""

    html: Markup
    embedded: Embedded


@dataclass
class _Shelf:
    """Videos that are embedded so far."""

    limits: Limits
    used: int = 0
    reduced: bool = False
    cards: list[Markup] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def build_wall(cards: Sequence[Card], metrics: Mapping[str, Metric], limits: Limits, clips: int) -> Wall:
    """Embeds the worst and best samples by each metric, in turn, until a limit is reached.

    Args:
        cards: Samples that could be shown.
        metrics: Those that samples have values of; they decide what is worst and best.
        limits: How much one page may carry.
        clips: How many were measured, for the line above the wall.

    Raises:
        DataError: A path is absolute or leads out of its folder, also by a link.
    """
    for card in cards:
        for pane in card.panes:
            _inside(pane)
    shelf = _Shelf(limits)
    order = chosen_order(cards, metrics)
    with tempfile.TemporaryDirectory() as scratch:
        for index in order:
            _place(cards[index], index, metrics, shelf, Path(scratch))
    embedded = Embedded(tuple(shelf.names), tuple(shelf.left_out), shelf.used)
    return Wall(_html(shelf, metrics, max(clips, len(cards))), embedded)


def chosen_order(cards: Sequence[Card], metrics: Mapping[str, Metric]) -> list[int]:
    """Returns all indices of cards, most telling first: worst and best by each metric, in turn.

    Cards without any value come last, in their own order.
    """
    turns: list[list[int]] = []
    for name, metric in metrics.items():
        sign = -1 if metric.better == "lower" else 1
        having = [index for index, card in enumerate(cards) if name in card.values]
        having.sort(key=lambda index, name=name, sign=sign: (sign * cards[index].values[name], index))
        if having:
            turns += [having, having[::-1]]
    order = dict.fromkeys(turn[rank] for rank in range(len(cards)) for turn in turns if rank < len(turn))
    return [*order, *(index for index in range(len(cards)) if index not in order)]


def _place(card: Card, index: int, metrics: Mapping[str, Metric], shelf: _Shelf, scratch: Path) -> None:
    if len(shelf.names) >= shelf.limits.samples:
        shelf.left_out.append((card.name, f"more than {shelf.limits.samples} samples"))
        return
    sources = [_source(pane, shelf.limits, scratch) for pane in card.panes]
    size = sum(len(source.uri) + len(source.poster) for source in sources)
    if shelf.used + size > shelf.limits.megabytes * 1e6:
        shelf.left_out.append((card.name, f"more than {shelf.limits.megabytes:g} MB of video"))
        return
    shelf.used += size
    shelf.reduced |= any(source.reduced for source in sources)
    shelf.names.append(card.name)
    shelf.cards.append(_card_html(card, index, sources, metrics))


@dataclass(frozen=True)
class _Source:
    """A pane's video as a data URI, or why there is none."""

    label: str
    uri: str = ""
    poster: str = ""
    why: str = ""
    reduced: bool = False
    size_hw: tuple[int, int] | None = None


def _inside(pane: Pane) -> Path | None:
    """The pane's file, after a check that it lies in its folder."""
    if pane.path is None:
        return None
    pure = PurePosixPath(pane.path)
    climbs = ".." in pure.parts or ".." in PureWindowsPath(pane.path).parts
    if pure.is_absolute() or PureWindowsPath(pane.path).anchor or climbs or "\0" in pane.path:
        raise DataError(
            f"the report names the video {pane.path!r}, which is no relative path inside {pane.root}; "
            "put the videos into the report's folder"
        )
    file = (pane.root / pure).resolve()
    if not file.is_relative_to(pane.root.resolve()):
        raise DataError(
            f"the report's video {pane.path!r} is a link that leads out of {pane.root}; "
            "put the videos into the report's folder"
        )
    return file


def _source(pane: Pane, limits: Limits, scratch: Path) -> _Source:
    file = _inside(pane)
    if file is None:
        return _Source(pane.label, why="none")
    if not file.is_file():
        return _Source(pane.label, why="the file is missing")
    try:
        frames_FHWC, fps = read_video(file, num_frames=1)
    except DataError:
        return _Source(pane.label, why="no readable video")
    height, width = (int(length) for length in frames_FHWC.shape[1:3])
    shrink = limits.px / max(height, width)
    if _plays_as_it_is(file):
        return _Source(pane.label, _data_uri(file), _poster(frames_FHWC[0]), size_hw=(height, width))
    size_hw = (height, width) if shrink >= 1 else (_even(height * shrink), _even(width * shrink))
    small = scratch / "small.mp4"
    try:
        write_mp4(small, (fit_image(frame, size_hw) for frame in islice(iter_video(file), _MOST_FRAMES)), fps)
    except DataError:
        return _Source(pane.label, why="the video is damaged")
    poster = _poster(fit_image(frames_FHWC[0], size_hw))
    return _Source(pane.label, _data_uri(small), poster, reduced=True, size_hw=size_hw)


def _plays_as_it_is(file: Path) -> bool:
    """Whether it is a small mp4 with H.264, by the names of its boxes (ISO/IEC 14496-12 and 14496-15)."""
    if file.stat().st_size > _SMALL_BYTES:
        return False
    content = file.read_bytes()
    return content[4:8] == b"ftyp" and b"avc1" in content


def _even(length: float) -> int:
    return max(2, 2 * round(length / 2))


def _data_uri(file: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode("ascii")


def _poster(frame_HWC: NDArray[np.uint8]) -> str:
    """The first frame, for paper and for browsers that do not play the codec."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, _POSTER_QUALITY]
    _, code = cv2.imencode(".jpg", cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR), quality)
    return "data:image/jpeg;base64," + base64.b64encode(code.tobytes()).decode("ascii")


def _card_html(card: Card, index: int, sources: Sequence[_Source], metrics: Mapping[str, Metric]) -> Markup:
    values = [
        element(
            "div",
            element("dt", metrics[name].title),
            element("dd", _values(name, value, card.beside), _unit(metrics[name])),
            data_metric=name,
        )
        for name, value in card.values.items()
    ]
    facts = [element("span", fact) for fact in card.facts]
    return element(
        "article",
        element("header", element("h3", card.name), element("p", facts, class_="facts")),
        element("div", [_pane_html(card, source) for source in sources], class_="panes"),
        element("dl", values, class_="values") if values else None,
        class_="card",
        data_index=index,
        data_name=card.name,
        data_values=json.dumps(dict(card.values)),
    )


def _pane_html(card: Card, source: _Source) -> Markup:
    note = element("small", " reduced") if source.reduced else None
    caption = element("figcaption", source.label, note)
    if not source.uri:
        return element("figure", element("div", source.why, class_="absent"), caption)
    height, width = source.size_hw or (2, 3)
    video = element(
        "video",
        src=source.uri,
        poster=source.poster,
        width=width,
        height=height,
        muted=True,
        playsinline=True,
        controls=True,
        preload="metadata",
        aria_label=f"{source.label}, sample {card.name}",
    )
    return element("figure", video, caption)


def _html(shelf: _Shelf, metrics: Mapping[str, Metric], total: int) -> Markup:
    limits = shelf.limits
    said = (
        f"{len(shelf.names):,} of {total:,} clips are on this page: the worst and the best by each metric "
        f"in turn, at most {limits.samples} samples and {limits.megabytes:g} MB of video "
        f"(here {shelf.used / 1e6:.1f} MB)."
    )
    if shelf.reduced:
        said += f" Larger files are shown reduced to {limits.px} px and their first {_MOST_FRAMES} frames."
    return joined(
        element("p", said, class_="lead"),
        _tools(metrics) if shelf.cards else None,
        element("div", shelf.cards, class_="wall", id="wall"),
        _left_out(shelf.left_out),
    )


def _tools(metrics: Mapping[str, Metric]) -> Markup:
    options = [
        element("option", metric.title, value=name, data_better=metric.better)
        for name, metric in metrics.items()
    ]
    return element(
        "div",
        element("label", "Sort by ", element("select", options, id="sort-metric")),
        element(
            "label",
            "Show ",
            element(
                "select",
                element("option", "worst first", value="worst"),
                element("option", "best first", value="best"),
                id="sort-order",
            ),
        ),
        element("button", "Pause all", type="button", id="play-all", aria_pressed="true"),
        element("p", "", id="wall-status", role="status", class_="quiet"),
        class_="tools",
        hidden=True,
    )


def _left_out(left_out: Sequence[tuple[str, str]]) -> Markup | None:
    if not left_out:
        return None
    by_reason: dict[str, list[str]] = {}
    for name, why in left_out:
        by_reason.setdefault(why, []).append(name)
    items = [
        element("li", f"{why}: {len(names):,} ({', '.join(_few(names))})") for why, names in by_reason.items()
    ]
    return element(
        "details",
        element("summary", f"{len(left_out):,} more samples of the report are not on this page"),
        element("ul", items),
    )


def _few(names: Sequence[str], most: int = 200) -> Iterator[str]:
    yield from names[:most]
    if len(names) > most:
        yield f"and {len(names) - most:,} more"


def _values(name: str, value: float, beside: Mapping[str, float]) -> str:
    return " / ".join(wording.number(one) for one in (value, *([beside[name]] if name in beside else [])))


def _unit(metric: Metric) -> Markup | None:
    return element("small", f" {metric.unit}") if metric.unit else None
