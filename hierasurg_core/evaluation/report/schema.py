"""report.json: its form, and its reading into dataclasses that have been checked.

Owns what may stand in a report. Keys that are not listed are ignored, so that a newer program may add some;
a number that is not finite, a wrong type, an unknown metric or a missing key is refused with one line that
names the file and the place.

    schema      1
    kind        "hierasurg-report"
    protocol    the facts of `evaluation.protocol.Protocol`, perhaps more, and "digest"
    sides       {"generated" and "real": {path, clips, frames, fps, size_hw: [h, w],
                unreadable: [{file, why}]}}
    models      {role: {name, digest}}: the networks that measured
    metrics     {metric: {title, unit, better: "lower" or "higher", mini, extractor or null,
                values: {"real", "vae", "frozen", "model": {value, interval: [low, high] or null, count}},
                place or null, vae_place or null, note or null}}; each baseline may be missing, and
                vae_place
    left_out    [{metric, why}]
    plots       {against_samples: {metric: [[samples, value], ...]},
                per_phase and per_triplet: {metric: {name: {value, count}}},
                per_second: {metric: [[second, value], ...]}}; each may be missing
    samples     [{name, phase or null, triplet or null, seed or null, generated, real or null,
                maps or null: paths of videos relative to the report's folder, values: {metric: value}}]
    timing      {stage: seconds}
    notes       [line, ...]
    warnings    [line, ...]: the notes that no reader may overlook; may be missing

Imports no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from hierasurg_core.artifacts import read_json
from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.report.reading import Place, optional

SCHEMA = 1
KIND = "hierasurg-report"
ROLES = ("real", "vae", "frozen", "model")
"""Baselines in their order, then the model: real against real, VAE reconstruction, frozen first frame."""
FEWEST_CLIPS = 20
"""Clips below which no metric has a place: the order of so few is chance."""

Item = TypeVar("Item")
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be read, and why."""

    file: str
    why: str


@dataclass(frozen=True)
class Side:
    """One of the two sets of clips.

    Attributes:
        path: Where it lies, as it was given.
        clips: Clips that were measured.
        frames: Frames of a clip.
        fps: Frames a second.
        size_hw: Height and width in pixels.
        unreadable: Files that were left out.
    """

    path: str
    clips: int
    frames: int
    fps: float
    size_hw: tuple[int, int]
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True)
class Network:
    """A network that took part in the measuring: its name and the digest of its weights."""

    name: str
    digest: str


@dataclass(frozen=True)
class Value:
    """One number of a metric.

    Attributes:
        value: In the metric's unit.
        interval: Lower and upper end of its bootstrap interval, None where there is none.
        count: Clips or frames it rests on.
    """

    value: float
    interval: tuple[float, float] | None
    count: int


@dataclass(frozen=True)
class Metric:
    """A metric with its baselines.

    Attributes:
        title: What people call it.
        unit: "" where it has none.
        better: Which direction is better.
        mini: Whether a bundled mini network measures it.
        extractor: The network, None where none is needed.
        values: By role, in the order of `ROLES`; "model" is always there.
        place: 0 where the model is as good as real against real, 1 as the frozen first frame; None where a
            baseline is missing, where the frozen frame is no worse, or of fewer than `FEWEST_CLIPS`.
        note: What a reader has to know about it.
        vae_place: The place of the VAE's reconstruction.
    """

    title: str
    unit: str
    better: Literal["lower", "higher"]
    mini: bool
    extractor: str | None
    values: Mapping[str, Value]
    place: float | None
    note: str | None
    vae_place: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """A metric that was not measured, and why."""

    metric: str
    why: str


@dataclass(frozen=True)
class Part:
    """A metric's value over some of the clips, and how many they are."""

    value: float
    count: int


@dataclass(frozen=True)
class Plots:
    """What a metric depends on; each by metric.

    Attributes:
        against_samples: (samples, value), in rising order.
        per_phase: By phase.
        per_triplet: By triplet.
        per_second: (second of the clip, value), in rising order.
    """

    against_samples: Mapping[str, Curve]
    per_phase: Mapping[str, Mapping[str, Part]]
    per_triplet: Mapping[str, Mapping[str, Part]]
    per_second: Mapping[str, Curve]


@dataclass(frozen=True)
class SampleRow:
    """One generated clip.

    Attributes:
        name: As its files are called.
        phase: None where it is not known.
        triplet: None where it is not known.
        seed: None where it is not known.
        generated: Its video, relative to the report's folder.
        real: The real clip, None where there is none.
        maps: The maps it was made of, None where there are none.
        values: By metric.
    """

    name: str
    phase: str | None
    triplet: str | None
    seed: int | None
    generated: str
    real: str | None
    maps: str | None
    values: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """A whole report; see the module's docstring."""

    protocol: Mapping[str, Any]
    generated: Side
    real: Side
    models: Mapping[str, Network]
    metrics: Mapping[str, Metric]
    left_out: tuple[LeftOut, ...]
    plots: Plots
    samples: tuple[SampleRow, ...]
    timing: Mapping[str, float]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The protocol's digest."""
        return str(self.protocol["digest"])


def read_report(path: Path) -> Report:
    """Reads a report.json, or the one in a folder.

    Raises:
        DataError: It is missing, no JSON, or no report of this schema; the message names the place.
    """
    file = path / "report.json" if path.is_dir() else path
    return parse_report(read_json(file), str(file))


def parse_report(values: object, source: str) -> Report:
    """Checks a report that is in memory, as `json.loads` gives it.

    Args:
        values: The report.
        source: What to call it in an error.

    Raises:
        DataError: As `read_report`.
    """
    top = Place(values, source, "")
    if top.get("kind").value != KIND:
        raise DataError(f"{source} is no report of an evaluation: its kind is not '{KIND}'")
    if top.get("schema").integer() != SCHEMA:
        raise DataError(
            f"{source} has schema {top.get('schema').value}, but this program reads {SCHEMA}; "
            "evaluate again, or use the program that wrote it"
        )
    protocol = top.get("protocol")
    protocol.get("digest").text()
    metrics = top.get("metrics").by_name(_metric)
    sides = top.get("sides")
    return Report(
        protocol=protocol.mapping(),
        generated=_side(sides.get("generated")),
        real=_side(sides.get("real")),
        models=top.get("models").by_name(lambda at: Network(at.get("name").text(), at.get("digest").text())),
        metrics=metrics,
        left_out=top.get("left_out").each(lambda at: LeftOut(at.get("metric").text(), at.get("why").text())),
        plots=_plots(top.get("plots"), metrics),
        samples=top.get("samples").each(lambda at: _sample(at, metrics)),
        timing=top.get("timing").by_name(Place.number),
        notes=top.get("notes").each(Place.text),
        warnings=optional(top.find("warnings"), lambda at: at.each(Place.text)) or (),
    )


def _side(at: Place) -> Side:
    size = at.get("size_hw").each(Place.count)
    if len(size) != 2:
        raise at.get("size_hw").refuse("height and width")
    return Side(
        path=at.get("path").text(),
        clips=at.get("clips").count(),
        frames=at.get("frames").count(),
        fps=at.get("fps").number(),
        size_hw=(size[0], size[1]),
        unreadable=at.get("unreadable").each(
            lambda one: Unreadable(one.get("file").text(), one.get("why").text())
        ),
    )


def _metric(at: Place) -> Metric:
    better = at.get("better").text()
    if better not in ("lower", "higher"):
        raise at.get("better").refuse("'lower' or 'higher'")
    values = at.get("values")
    values.get("model")
    return Metric(
        title=at.get("title").text(),
        unit=optional(at.find("unit"), Place.text) or "",
        better=better,
        mini=at.get("mini").boolean(),
        extractor=optional(at.find("extractor"), Place.text),
        values={role: _value(values.get(role)) for role in ROLES if values.find(role) is not None},
        place=optional(at.find("place"), Place.number),
        note=optional(at.find("note"), Place.text),
        vae_place=optional(at.find("vae_place"), Place.number),
    )


def _value(at: Place) -> Value:
    interval = optional(at.find("interval"), Place.pair)
    if interval is not None and interval[0] > interval[1]:
        raise at.get("interval").refuse("its lower end, then its upper")
    return Value(at.get("value").number(), interval, at.get("count").count())


def _plots(at: Place, metrics: Mapping[str, Metric]) -> Plots:
    def of(key: str, read: Callable[[Place], Item]) -> dict[str, Item]:
        found = at.find(key)
        return {} if found is None else _by_metric(found, metrics, read)

    def curve(place: Place) -> Curve:
        return tuple(sorted(place.each(Place.pair)))

    def parts(place: Place) -> dict[str, Part]:
        return place.by_name(lambda one: Part(one.get("value").number(), one.get("count").count()))

    return Plots(
        against_samples=of("against_samples", curve),
        per_phase=of("per_phase", parts),
        per_triplet=of("per_triplet", parts),
        per_second=of("per_second", curve),
    )


def _sample(at: Place, metrics: Mapping[str, Metric]) -> SampleRow:
    return SampleRow(
        name=at.get("name").text(),
        phase=optional(at.find("phase"), Place.text),
        triplet=optional(at.find("triplet"), Place.text),
        seed=optional(at.find("seed"), Place.integer),
        generated=at.get("generated").text(),
        real=optional(at.find("real"), Place.text),
        maps=optional(at.find("maps"), Place.text),
        values=_by_metric(at.get("values"), metrics, Place.number),
    )


def _by_metric(at: Place, metrics: Mapping[str, Metric], read: Callable[[Place], Item]) -> dict[str, Item]:
    for name in at.mapping():
        if name not in metrics:
            raise DataError(f"{at.source}: {at.path} names '{name}', which is none of its metrics")
    return at.by_name(read)
