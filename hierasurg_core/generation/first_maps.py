"""Maps of photographs that came without one, made by SAM 2 before any sample is.

Owns that SAM 2 is loaded once a process and looks at each photograph once: processes of one group share the
photographs and tell each other the maps. It refuses what only these maps can show: too many ids, and edits of
entities that they do not have.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from hierasurg_core import runtime
from hierasurg_core.config import GenerateConfig
from hierasurg_core.generation.limits import expect_levels
from hierasurg_core.generation.request import Start, with_newcomers
from hierasurg_core.generation.requests import Job, expect_edits
from hierasurg_core.generation.storyboard import Story, with_starts
from hierasurg_core.labeling.segmenter import Segmenter, load_segmenter
from hierasurg_core.labeling.single import map_by
from hierasurg_core.maps import PanopticClip
from hierasurg_core.progress import Progress


def with_first_maps(
    work: Sequence[Job | Story],
    config: GenerateConfig,
    seconds: int,
    device: torch.device,
    progress: Progress,
) -> list[Job | Story]:
    """Give every photograph its map.

    Args:
        work: Samples and stories, of which some may start from a photograph alone.
        config: Its `sam` makes the maps; its `edit` and `newcomers` must go with them.
        seconds: Maps of a clip.
        device: Where SAM 2 computes.
        progress: Told of each photograph.

    Returns:
        The same samples and stories with maps; the very same ones where none was missing.

    Raises:
        UsageError: An edit names an entity that a map does not have, or there are too many newcomers.
        DataError: A photograph is too small, or has more entities than S2M tells apart.
        WeightsError: SAM 2 is not to be had.
    """
    lacking = [start for unit in work for start in _starts(unit) if start.unmapped]
    if not lacking:
        return list(work)
    maps = _Maps(config.sam, device)
    progress.start("maps of photographs", len(lacking), "photographs")
    for start in lacking:
        maps.make(start)
        progress.advance()
    maps.hear()

    def completed(start: Start) -> Start:
        return maps.complete(start, config.newcomers) if start.unmapped else start

    done: list[Job | Story] = []
    for unit in work:
        if isinstance(unit, Story):
            done.append(with_starts(unit, completed))
        elif unit.unmapped:
            job = dataclasses.replace(unit, read=_Completed(unit.read, completed), unmapped=False)
            expect_edits(job.read(), config, seconds)
            done.append(job)
        else:
            done.append(unit)
    return done


def _starts(unit: Job | Story) -> Iterator[Start]:
    if isinstance(unit, Story):
        yield from (segment.start for segment in unit.segments if segment.start is not None)
    elif unit.unmapped:
        yield unit.read()


@dataclasses.dataclass(frozen=True)
class _Completed:
    """Reads a start and gives it its map."""

    read: Callable[[], Start]
    complete: Callable[[Start], Start]

    def __call__(self) -> Start:
        return self.complete(self.read())


class _Maps:
    """Maps by the digest of their photograph, compressed: a few kilobytes each."""

    def __init__(self, sam: str, device: torch.device) -> None:
        self._sam, self._device = sam, device
        self._segmenter: Segmenter | None = None
        self._packed: dict[str, bytes | None] = {}

    def make(self, start: Start) -> None:
        """Make a photograph's map, unless it is there or another process makes it."""
        key = _key(start)
        if key in self._packed:
            return
        if not runtime.claim(f"map of {key}"):
            self._packed[key] = None
            return
        if self._segmenter is None:
            self._segmenter = load_segmenter(self._sam, device=self._device, dtype=torch.float32)
        packed = _pack(map_by(self._segmenter, start.photo_HWC))
        self._packed[key] = packed
        runtime.tell(f"map of {key}", base64.b64encode(packed).decode())

    def hear(self) -> None:
        """Let go of SAM 2, and wait for the maps that other processes make."""
        self._segmenter = None
        for key, packed in self._packed.items():
            if packed is None:
                self._packed[key] = base64.b64decode(runtime.hear(f"map of {key}"))

    def complete(self, start: Start, newcomers: int) -> Start:
        """Return a start with its map."""
        packed = self._packed[_key(start)]
        assert packed is not None
        first_map = _unpack(packed, start.photo_HWC.shape[:2])
        expect_levels(first_map)
        note = f"map: made of the frame by SAM 2 {self._sam}, {first_map.num_entities} entities"
        mapped = dataclasses.replace(
            start,
            first_map=first_map,
            unmapped=False,
            source={**start.source, "map": {"made_by": f"SAM 2 {self._sam}"}},
            notes=(*start.notes, note),
        )
        return with_newcomers(mapped, newcomers)


def _key(start: Start) -> str:
    photo_HWC = np.ascontiguousarray(start.photo_HWC)
    return hashlib.sha256(f"{photo_HWC.shape}".encode() + photo_HWC.tobytes()).hexdigest()


def _pack(clip: PanopticClip) -> bytes:
    return bytes([clip.num_entities]) + zlib.compress(clip.map_FHW.tobytes())


def _unpack(packed: bytes, size_hw: Sequence[int]) -> PanopticClip:
    ids = np.frombuffer(zlib.decompress(packed[1:]), np.uint8)
    return PanopticClip(ids.reshape(1, *size_hw), packed[0])
