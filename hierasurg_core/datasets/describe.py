"""What is found of operations against what should be there: is it complete, and at which rate?

Owns the comparison of frame folders with labels. It refuses nothing that it can name instead: a folder that
cannot be read becomes a problem of its operation. Loads no torch.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierasurg_core.datasets.annotations import (
    ABSENT,
    LabelsFound,
    OperationLabels,
    find_labels,
    with_rate_of,
)
from hierasurg_core.datasets.frames import FrameFolder, read_manifest
from hierasurg_core.datasets.numbering import Skipped
from hierasurg_core.datasets.operations import find_videos, skipped_as_json, skipped_in_words
from hierasurg_core.errors import DataError
from hierasurg_core.taxonomy import INSTRUMENTS, PHASES, TRIPLETS

_RATES = (1, 8, 25, 5, 10, 30)  # at which frames of these data sets are kept, likeliest first
_APART = 0.02  # share by which a rate may be off and still be meant
_SECONDS_APART = 1.5


@dataclass(frozen=True)
class OperationFinding:
    """One operation.

    Attributes:
        name: "videoNN".
        frames: How many frames its folder holds; None without a folder.
        expected: How many there should be, by the labels' length; None without labels or rate.
        fps: The rate of the frames' numbers; None where nothing tells it.
        fps_from: "manifest", "labels" (their seconds against the count of frames), or None.
        black: How many frames are all black.
        labels: How many labels it has; None without labels.
        labels_fps: Their rate.
        labels_fps_from: How that is known, see `OperationLabels.fps_from`.
        labels_missing: How many of them the file leaves out.
        labels_unlabelled: How many of them name no phase (-1).
        problems: What is wrong, a sentence each.
    """

    name: str
    frames: int | None
    expected: int | None
    fps: float | None
    fps_from: str | None
    black: int
    labels: int | None
    labels_fps: float | None
    labels_fps_from: str | None
    labels_missing: int
    labels_unlabelled: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class DescribeResult:
    """All operations, and how many labels each class has.

    Attributes:
        operations: By name.
        phases: Labels (seconds, in CholecT50) of each phase.
        instruments: Instances of each instrument; where files of tools say it, seconds in which it is seen.
        triplets: Instances of each triplet that occurs.
        skipped: What lies beside frame folders and labels and is neither.
        passed_over: How many hidden files and outputs of ours there were.
    """

    operations: tuple[OperationFinding, ...]
    phases: Mapping[str, int]
    instruments: Mapping[str, int]
    triplets: Mapping[str, int]
    skipped: tuple[Skipped, ...] = ()
    passed_over: int = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, of all operations."""
        return tuple(f"{one.name}: {problem}" for one in self.operations for problem in one.problems)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for JSON."""
        return {
            "operations": [
                {**dataclasses.asdict(one), "problems": list(one.problems)} for one in self.operations
            ],
            "phases": dict(self.phases),
            "instruments": dict(self.instruments),
            "triplets": dict(self.triplets),
            "problems": list(self.problems),
            "skipped": skipped_as_json(self.skipped),
            "passed_over": self.passed_over,
        }

    def lines(self) -> list[str]:
        """The result as text: a line an operation, its problems below it, then the classes."""
        lines: list[str] = []
        for one in self.operations:
            lines.append(f"{one.name}: {_frames_in_words(one)}; {_labels_in_words(one)}")
            lines.extend(f"  ! {problem}" for problem in one.problems)
        seen = f"{len(self.triplets)} of {len(TRIPLETS)} triplets"
        lines.append(f"phases (labels each): {_counts_in_words(self.phases, PHASES)}")
        lines.append(f"instruments (instances each): {_counts_in_words(self.instruments, INSTRUMENTS)}")
        lines.append(f"triplets: {seen} occur")
        lines.extend(skipped_in_words(self.skipped))
        return lines


def describe(videos: Path, labels: Path | None) -> DescribeResult:
    """Compares frame folders with labels.

    Args:
        videos: Folder of frame folders, as `extract` or others made them.
        labels: Folder of labels, see `find_labels`; None: the frames alone.

    Raises:
        DataError: `videos` is missing or holds no operation, or `labels` is missing or holds none.
    """
    if not videos.is_dir():
        raise DataError(f"{videos} is no folder of frame folders: it does not exist")
    found = find_videos(videos)
    faults = {fault.name: fault.message for fault in found.faults}
    names = {*found.sources, *faults}
    known = find_labels(labels, names) if labels is not None else LabelsFound({}, {}, ())
    operations: list[OperationFinding] = []
    said: dict[str, OperationLabels] = {}
    for name in sorted({*names, *known.labels, *known.faults}):
        given = [fault for fault in (faults.get(name), known.faults.get(name)) if fault is not None]
        finding, settled = _compare(name, found.paths.get(name), known.labels.get(name), given)
        operations.append(finding)
        if settled is not None:
            said[name] = settled
    instances = [one.instrument for of in said.values() for frame in of.instances_F for one in frame]
    without = [of for of in said.values() if not any(of.instances_F)]
    tools = [tool for of in without for seen in of.tools.values() for tool in seen]
    return DescribeResult(
        operations=tuple(operations),
        phases=_count((int(phase) for of in said.values() for phase in of.phase_F), PHASES),
        instruments=_count([*instances, *tools], INSTRUMENTS),
        triplets={
            name: count
            for name, count in _count(
                (one.triplet for of in said.values() for frame in of.instances_F for one in frame),
                [triplet.name for triplet in TRIPLETS],
            ).items()
            if count
        },
        skipped=(*found.skipped, *known.skipped),
        passed_over=found.passed_over,
    )


def _compare(
    name: str, path: Path | None, labels: OperationLabels | None, faults: Sequence[str]
) -> tuple[OperationFinding, OperationLabels | None]:
    """Looks at one operation; returns its labels at the rate that its frames tell."""
    problems = [*faults]
    folder: FrameFolder | None = None
    if path is not None:
        try:
            folder = read_manifest(path)
        except DataError as error:
            problems.append(str(error))
    elif not faults:
        problems.append("has labels but no frames")
    labels = _settled(folder, labels)
    fps, fps_from = _rate(folder, labels)
    expected: int | None = None
    if folder is not None and labels is None and not faults:
        problems.append("has frames but no labels")
    if folder is not None and labels is not None:
        seconds = labels.num_frames / labels.fps - folder.start
        if fps is None:
            problems.append(
                f"{folder.num_frames} frames for {seconds:.0f} s of labels fit no rate: "
                "frames are missing, or the labels are of another recording"
            )
        else:
            expected = round(seconds * fps)
            apart = folder.num_frames - expected
            if abs(apart) > _SECONDS_APART * fps:
                more = "more" if apart > 0 else "fewer"
                problems.append(f"{abs(apart)} frames {more} than the labels' {seconds:.0f} s at {fps:g} fps")
    if labels is not None and labels.missing:
        problems.append(
            f"{labels.source.name} leaves out {len(labels.missing)} of its {labels.num_frames} frames, "
            f"first {labels.missing[0]}"
        )
    if labels is not None and folder is not None and labels.fps_from == "assumed":
        problems.append(
            f"{labels.source.name} may be at 25 or 1 labels a second: neither fits the number of frames, "
            f"{labels.fps:g} is assumed"
        )
    finding = OperationFinding(
        name=name,
        frames=folder.num_frames if folder else None,
        expected=expected,
        fps=fps,
        fps_from=fps_from,
        black=len(folder.black) if folder else 0,
        labels=labels.num_frames if labels else None,
        labels_fps=labels.fps if labels else None,
        labels_fps_from=labels.fps_from if labels else None,
        labels_missing=len(labels.missing) if labels else 0,
        labels_unlabelled=labels.num_unlabelled if labels else 0,
        problems=tuple(problems),
    )
    return finding, labels


def _settled(folder: FrameFolder | None, labels: OperationLabels | None) -> OperationLabels | None:
    """Labels at the rate that the frames tell; of frames without a rate, the likeliest that fits."""
    if folder is None or labels is None:
        return labels
    if folder.fps is not None:
        return with_rate_of(labels, folder.start + folder.num_frames / folder.fps)
    for rate in _RATES:
        settled = with_rate_of(labels, folder.num_frames / rate)
        if settled.fps_from != "assumed":
            return settled
    return labels


def _rate(folder: FrameFolder | None, labels: OperationLabels | None) -> tuple[float | None, str | None]:
    """Which rate the numbers of frames are in, and how that is known."""
    if folder is None:
        return None, None
    if folder.fps is not None:
        return folder.fps, "manifest"
    if labels is None:
        return None, None
    ratio = folder.num_frames * labels.fps / labels.num_frames
    near = [rate for rate in _RATES if abs(ratio - rate) <= _APART * rate]
    return (float(near[0]), "labels") if near else (None, None)


def _count(ids: Iterable[int], names: Iterable[str]) -> dict[str, int]:
    counts = Counter(number for number in ids if number != ABSENT)
    return {name: counts[number] for number, name in enumerate(names)}


def _frames_in_words(one: OperationFinding) -> str:
    if one.frames is None:
        return "no frames"
    of = f" of {one.expected}" if one.expected is not None else ""
    rate = f"{one.fps:g} fps (from the {one.fps_from})" if one.fps is not None else "an unknown rate"
    return f"{one.frames}{of} frames at {rate}, {one.black} black"


def _labels_in_words(one: OperationFinding) -> str:
    if one.labels is None or one.labels_fps is None:
        return "no labels"
    how = {"numbers": " (every 25th frame)", "frames": " (by the number of frames)", "assumed": " (assumed)"}
    rate = f"{one.labels_fps:g} fps{how.get(one.labels_fps_from or '', '')}"
    unlabelled = f", {one.labels_unlabelled} without a phase (-1)" if one.labels_unlabelled else ""
    return f"{one.labels} labels at {rate}, {one.labels_missing} missing{unlabelled}"


def _counts_in_words(counts: Mapping[str, int], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {counts.get(name, 0)}" for name in names)
