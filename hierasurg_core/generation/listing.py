"""The entities that `--edit` can name, for `--list-entities` and for the notes of a run with edits.

Owns the list: one entry for each different scene, picture or clip of maps that samples start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hierasurg_core.config import GenerateConfig
from hierasurg_core.generation.entities import Entity, entities_of
from hierasurg_core.generation.planning import Planned
from hierasurg_core.generation.request import Start
from hierasurg_core.generation.requests import Job
from hierasurg_core.generation.storyboard import Story
from hierasurg_core.progress import Progress


@dataclass(frozen=True)
class Listed:
    """What one start of samples shows.

    Attributes:
        start: "scene 003", or the path of a frame or of maps.
        samples: Names of the samples that start from it; those of stories with the segment, from 1.
        entities: By rising id.
    """

    start: str
    samples: tuple[str, ...]
    entities: tuple[Entity, ...]

    def __str__(self) -> str:
        """All in one line, as a note beside the samples."""
        return f"{self.start}: {', '.join(map(str, self.entities)) or 'no entities'}"


@dataclass(frozen=True)
class EntityList:
    """What all starts of a call show.

    Attributes:
        starts: In the order of the samples.
    """

    starts: tuple[Listed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "starts": [
                {
                    "start": listed.start,
                    "samples": list(listed.samples),
                    "entities": [entity.to_dict() for entity in listed.entities],
                }
                for listed in self.starts
            ]
        }


def list_entities(config: GenerateConfig, planned: Planned, progress: Progress) -> EntityList:
    """List what a call's samples start from; torch is loaded only where a photograph needs a map.

    Args:
        config: What was asked for.
        planned: What `planning.plan` returned for it.
        progress: Told of maps that are made.

    Raises:
        UsageError: As `with_first_maps`.
        DataError: Likewise.
        WeightsError: Likewise.
    """
    work = planned.all_work(config, progress)
    if any(start.unmapped for unit in work for _, start in _starts(unit)):
        progress.start("import torch", 1, "module")
        from hierasurg_core.generation.first_maps import with_first_maps
        from hierasurg_core.runtime import resolve_device

        progress.advance()
        work = with_first_maps(work, config, planned.seconds, resolve_device(config.device), progress)
    return list_starts(work)


def list_starts(work: Sequence[Job | Story]) -> EntityList:
    """List the entities of everything that samples start from; equal starts are listed once.

    Args:
        work: Samples and stories whose photographs have maps.
    """
    names: dict[str, list[str]] = {}
    starts: dict[str, Start] = {}
    for unit in work:
        for name, start in _starts(unit):
            key = start.digest()
            starts.setdefault(key, start)
            names.setdefault(key, []).append(name)
    return EntityList(
        tuple(
            Listed(_called(start), tuple(names[key]), entities_of(start.maps or start.first_map, start.names))
            for key, start in starts.items()
        )
    )


def _starts(unit: Job | Story) -> list[tuple[str, Start]]:
    if isinstance(unit, Job):
        return [(unit.name, unit.read())]
    return [
        (f"{unit.name} segment {number}", segment.start)
        for number, segment in enumerate(unit.segments, 1)
        if segment.start is not None
    ]


def _called(start: Start) -> str:
    scene = start.source.get("scene")
    if scene is not None:
        return f"scene {scene}"
    said = start.source.get("maps") if start.maps is not None else start.source.get("frame")
    return str(said["path"]) if isinstance(said, dict) else "maps"
