"""The command `evaluate`: two folders of clips become a report that another lab can check.

Owns the order of things: look at both sides, settle one protocol, load what is at hand, measure every clip
once, compute every metric, write `report.json` and `report.html`. Everything measured is kept in a cache that
all reports share, so the same clips are measured once, and a run that was cut off goes on.

A run that is refused because of its words or its folders leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierasurg_core import runtime
from hierasurg_core.artifacts import ensure_writable_folder, write_json
from hierasurg_core.config import EvaluateConfig, load_config, write_config
from hierasurg_core.errors import ResourceError, UsageError
from hierasurg_core.evaluation import computing, showing
from hierasurg_core.evaluation.baselines import frozen_clip
from hierasurg_core.evaluation.cache import Store, user_cache_folder
from hierasurg_core.evaluation.collect import Role, Task, Work, collect
from hierasurg_core.evaluation.computing import DISTRIBUTIONS, Numbers
from hierasurg_core.evaluation.distances import FROZEN, MODEL, REAL, VAE
from hierasurg_core.evaluation.loading import Networks, load_networks
from hierasurg_core.evaluation.mini import MINI_CLASSIFIER
from hierasurg_core.evaluation.protocol import Protocol, load_protocol
from hierasurg_core.evaluation.recordings import Side, Unreadable
from hierasurg_core.evaluation.report.html import write_html
from hierasurg_core.evaluation.report.schema import FEWEST_CLIPS, KIND, SCHEMA, Report, parse_report
from hierasurg_core.evaluation.settling import Sampling, protocol_facts, settle_protocol, settle_sampling
from hierasurg_core.evaluation.sides import open_side
from hierasurg_core.evaluation.table import Table
from hierasurg_core.evaluation.taking import Taken, take
from hierasurg_core.progress import Progress

REPORT_FILE, PAGE_FILE, CONFIG_FILE = "report.json", "report.html", "evaluate.yaml"
_GIB = 2**30


@dataclass(frozen=True)
class EvaluateResult:
    """What an evaluation found.

    Attributes:
        report: As it stands in `report.json`; None in a process that only helped to measure.
        json: The file.
        html: The page.
        measured: Units of clips that were measured now; 0 where all was kept from before.
        seconds: From start to end.
    """

    report: Report | None
    json: Path
    html: Path
    measured: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        report = self.report
        assert report is not None  # only the process that has it prints
        return {
            "report": str(self.json),
            "html": str(self.html),
            "clips": {"generated": report.generated.clips, "real": report.real.clips},
            "protocol": dict(report.protocol),
            "metrics": {
                name: {
                    "value": metric.values[MODEL].value,
                    "interval": metric.values[MODEL].interval,
                    "better": metric.better,
                    "mini": metric.mini,
                    "place": metric.place,
                    "baselines": {role: v.value for role, v in metric.values.items() if role != MODEL},
                }
                for name, metric in report.metrics.items()
            },
            "left_out": [{"metric": left.metric, "why": left.why} for left in report.left_out],
            "notes": list(report.notes),
            "measured_units": self.measured,
            "seconds": round(self.seconds, 3),
        }


def evaluate(
    config: EvaluateConfig, progress: Progress, device: torch.device, *, mini: Path = MINI_CLASSIFIER
) -> EvaluateResult:
    """Measures the generated side against the real one and writes the report.

    Several processes of one group share the measuring; the first computes and writes.

    Args:
        config: What was asked for.
        progress: Is told the stages and what was chosen.
        device: Where networks run.
        mini: Folder of the mini network.

    Raises:
        UsageError: Unknown protocol, or rates that do not go together.
        DataError: A folder holds no clips, or none that is long enough.
        ResourceError: The folder of report or measured clips cannot be written, or memory is too small.
    """
    began = time.monotonic()
    clock = _Clock()
    progress.start("look at clips", 2, "sides")
    protocol = load_protocol(config.protocol)
    generated = open_side(config.generated)
    progress.advance()
    real = open_side(config.real, config.split)
    progress.advance()
    sampling = settle_sampling(config, protocol, generated, real)
    taken = take(config, protocol, sampling, generated, real)
    for note in taken.notes:
        progress.note(note)
    clock.lap("look")
    ensure_writable_folder(config.out)
    files = config.out / REPORT_FILE, config.out / PAGE_FILE
    table = Table(replicates=config.replicates, seed=config.seed)
    with _store(config) as store:
        networks = load_networks(config, protocol, (generated, real), device, mini, table, progress)
        clock.lap("load")
        works = _works(config, taken, networks)
        measurers = list(networks.measurers.values())
        collected = collect(works, measurers, store, batch=config.batch, progress=progress)
        clock.lap("measure")
        if runtime.rank():
            return EvaluateResult(None, *files, collected.measured, time.monotonic() - began)
        if VAE in collected.failed:
            table.leave_out("vae baseline", collected.failed[VAE])
        numbers = Numbers(works, store, collected.failed)
        unread = {role: _unread(numbers, networks, role) for role in (MODEL, REAL)}
        report = _compute(config, protocol, sampling, taken, networks, numbers, unread, table, progress)
        clock.lap("compute")
    report["sides"] = {
        "generated": _side(generated, taken.generated, sampling, taken.generated_unreadable, unread[MODEL]),
        "real": _side(real, taken.real, sampling, taken.real_unreadable, unread[REAL]),
    }
    better = {name: metric["better"] for name, metric in table.metrics.items()}
    names = showing.choose([t.clip.name for t in taken.generated], table.of_clips, better, config.wall)
    progress.start("write the report", len(names), "clips")
    shown = [task for task in taken.generated if task.clip.name in set(names)]
    report["samples"] = showing.write_clips(shown, config.out, sampling.fps, table.of_clips, progress)
    clock.lap("write")
    report["timing"] = clock.seconds
    parsed = parse_report(report, str(files[0]))
    if _is_of_others(config):
        progress.note(f"{files[0]}: the report of other samples or settings that was there is replaced")
    write_config(config.out / CONFIG_FILE, "evaluate", config)
    write_html(parsed, files[1], config.out)
    write_json(files[0], report)
    return EvaluateResult(parsed, *files, collected.measured, time.monotonic() - began)


def _store(config: EvaluateConfig) -> Store:
    """Opens the folder of measured clips: the user's own, or the one that was asked for."""
    limit_bytes = int(config.cache_gib * _GIB)
    if config.cache is not None:
        return Store(config.cache, limit_bytes=limit_bytes)
    folder = user_cache_folder()
    try:
        return Store(folder, limit_bytes=limit_bytes)
    except ResourceError as error:
        raise ResourceError(f"{error}: give --cache FOLDER for the measured clips") from error


def _is_of_others(config: EvaluateConfig) -> bool:
    """Tells whether the report that is there answers another question, or says nothing of it."""
    written = config.out / CONFIG_FILE
    if not (config.out / REPORT_FILE).exists():
        return False
    try:
        before = load_config(EvaluateConfig, "evaluate", files=[written], overrides={}, sets=[])
    except UsageError:
        return True
    how = {"device": config.device, "batch": config.batch, "gpus": config.gpus}
    return dataclasses.replace(before, **how) != config


def _works(config: EvaluateConfig, taken: Taken, networks: Networks) -> tuple[Work, ...]:
    """The real clips with the frozen ones, some of them through the VAE, and the generated ones."""
    works = [Work(taken.real, (Role(REAL), Role(FROZEN, "1", frozen_clip)))]
    vae = networks.vae
    if vae is not None:
        count = min(len(taken.real), config.vae_clips or len(taken.real))
        some = tuple(taken.real[index * len(taken.real) // count] for index in range(count))
        works.append(Work(some, (Role(VAE, vae.key, vae),)))
    return (*works, Work(taken.generated, (Role(MODEL),)))


def _compute(
    config: EvaluateConfig,
    protocol: Protocol,
    sampling: Sampling,
    taken: Taken,
    networks: Networks,
    numbers: Numbers,
    unread: Mapping[str, Mapping[str, str]],
    table: Table,
    progress: Progress,
) -> dict[str, Any]:
    """All metrics; returns the report but for sides, samples and timing."""
    measurers = networks.measurers
    progress.start("compute metrics", len(measurers), "measurers")
    settled, deviations = settle_protocol(
        protocol,
        sampling,
        counts=(len(taken.real) - len(unread[REAL]), len(taken.generated) - len(unread[MODEL])),
        extractor=_main_extractor(protocol, networks),
        seed=config.seed,
    )
    warnings = [*_few(taken, unread), *_left_behind(taken, unread), *deviations]
    notes = [*taken.notes]
    for role, measurer in measurers.items():
        if role in DISTRIBUTIONS:
            computing.distributions(
                numbers, measurer, settled, table, replicates=config.replicates, fps=sampling.fps
            )
        if role == "classifier" or (role == "mini" and config.classifier == "mini"):
            computing.agreements(numbers, measurer, table, fps=sampling.fps)
        if role == "pairs":
            notes += computing.comparisons(numbers, measurer, taken, table, fps=sampling.fps)
        if role == "maps":
            computing.adherence(numbers, measurer, table, mini=networks.mini_maps)
        if role == "detector":
            computing.detections(
                numbers, measurer, taken, table, replicates=config.replicates, seed=config.seed
            )
        if role == "lpips":
            computing.perceptual(numbers, measurer, taken, table)
        progress.advance()
    warnings += table.warnings
    models = {role: {"name": m.name, "digest": m.digest} for role, m in measurers.items() if m.digest}
    if networks.vae is not None and VAE not in numbers.failed:
        models["vae"] = {"name": networks.vae.name, "digest": networks.vae.digest}
    if any(metric["mini"] for metric in table.metrics.values()):
        notes.append("metrics called mini come from a network that knows the phantom only")
    notes += sorted(_makers(taken.generated))
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "protocol": protocol_facts(settled),
        "models": models,
        "metrics": table.metrics,
        "left_out": table.left_out,
        "plots": table.plots,
        "notes": list(dict.fromkeys([*warnings, *notes])),
        "warnings": list(dict.fromkeys(warnings)),
    }


def _main_extractor(protocol: Protocol, networks: Networks) -> tuple[str, str, str]:
    """Name, digest and input of the protocol's own network; else of I3D, VideoMAE or the mini one."""
    wanted = "videomae" if (protocol.extractor or "").startswith("videomae") else "i3d"
    for role in (wanted, "i3d", "videomae"):
        if role in networks.measurers:
            measurer = networks.measurers[role]
            return measurer.name, measurer.digest, "224"
    mini = networks.measurers.get("mini")
    return (mini.name, mini.digest, "mini") if mini else ("none", "0" * 64, "mini")


def _side(
    side: Side,
    tasks: Iterable[Task],
    sampling: Sampling,
    unreadable: Iterable[Unreadable],
    unread: Mapping[str, str],
) -> dict[str, Any]:
    clips = [task.clip for task in tasks]
    left = [*unreadable, *(Unreadable(name, why) for name, why in unread.items())]
    return {
        "path": str(side.path),
        "clips": len(clips) - len(unread),
        "frames": sampling.frames,
        "fps": sampling.fps,
        "size_hw": list(clips[0].recording.size_hw),
        "unreadable": [dataclasses.asdict(entry) for entry in left],
    }


def _unread(numbers: Numbers, networks: Networks, role: str) -> dict[str, str]:
    """Clips of a side that could not be read, or of which a network gives NaN, and why."""
    unread: dict[str, str] = {}
    for measurer in networks.measurers.values():
        unread |= numbers.unreadable(measurer, role)
    return unread


def _few(taken: Taken, unread: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Says that the clips are too few for places, where they are."""
    generated, real = len(taken.generated) - len(unread[MODEL]), len(taken.real) - len(unread[REAL])
    if min(generated, real) >= FEWEST_CLIPS:
        return []
    return [f"{generated} generated and {real} real clips: no metric has a place, which takes {FEWEST_CLIPS}"]


def _left_behind(taken: Taken, unread: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Says how many files of each side are not part of any figure."""
    counts = {
        "generated": len(taken.generated_unreadable) + len(unread[MODEL]),
        "real": len(taken.real_unreadable) + len(unread[REAL]),
    }
    return [
        f"{count} {side} file{'' if count == 1 else 's'} could not be read or used: see the list by side"
        for side, count in counts.items()
        if count
    ]


def _makers(tasks: Iterable[Task]) -> set[str]:
    """What the samples say of the models that made them."""
    said = {task.clip.recording.made_by.get("name") for task in tasks}
    return {f"made by {name}" for name in said if isinstance(name, str)}


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now
