"""Masks of single frames become entities: matched by what they look like, prompted where they come in.

Owns who is who, inside a window and from window to window. In a window an entity is prompted once, at its
first occurrence; once more only where it comes back after frames without it, as another object of the same
entity. Between windows entities are the same whose maps agree in the frames that both windows hold; the
others are compared with all that the video has shown before. It knows no pixels but masks and maps.

Legend: F frames, N masks of a frame, E entities, C channels.

Source: HieraSurg (arXiv 2506.21287); its public code prompts again from every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.labeling.refine import BACKGROUND, Piece
from hierasurg_core.maps.clip import MAX_ENTITIES

_STAYED = 0.7  # IoU with the mask one frame before, above which the tracker would follow it anyway
_AWAY = 4  # frames without an entity after which it has left and is prompted again
_SAME_BODY = 0.5  # IoU over shared frames, above which two entities can have no other partner


@dataclass(frozen=True, eq=False)
class Sighting:
    """What is seen in one frame.

    Attributes:
        pieces: The masks.
        described_NC: Their descriptors.
    """

    pieces: tuple[Piece, ...]
    described_NC: NDArray[np.float32]


@dataclass(eq=False)
class Entity:
    """Something that is followed through a window.

    Attributes:
        look_C: Its descriptor; each new sighting's counts as much as all before.
        seen: Frame and index of each sighting's mask.
        prompts: Those of them that are prompts.
    """

    look_C: NDArray[np.float32]
    seen: list[tuple[int, int]] = field(default_factory=list)
    prompts: list[tuple[int, int]] = field(default_factory=list)


def find_entities(
    sightings: Sequence[Sighting], same_below: float, max_objects: int, least_seen: int = 1
) -> list[Entity]:
    """Goes through the frames of a window and says which masks are of one entity.

    A mask that covers what one frame before an entity's covered is that entity's. Of the others each takes
    the nearest entity by mean squared error that no other mask of its frame is nearer to, if that is near
    enough, and is a new one otherwise.

    Args:
        sightings: Frame by frame.
        same_below: Mean squared error below which two descriptors are of one entity.
        max_objects: Prompts there may be; the entities seen least go first.
        least_seen: Frames an entity has to be seen in. What shows once in a window is the mask generator's
            slip far more often than an object, and would be carried through all its frames.

    Returns:
        The entities by their first occurrence.
    """
    entities: list[Entity] = []
    for frame, sighting in enumerate(sightings):
        partner_N = _partners(entities, sighting, sightings, frame, same_below)
        for index, partner in enumerate(partner_N):
            look_C = sighting.described_NC[index]
            if partner is None:
                entity = Entity(look_C, [(frame, index)], [(frame, index)])
                entities.append(entity)
                continue
            entity = entities[partner]
            if frame - entity.seen[-1][0] > _AWAY:
                entity.prompts.append((frame, index))
            entity.look_C = _mean_of(entity.look_C, look_C)
            entity.seen.append((frame, index))
    return _most_seen([entity for entity in entities if len(entity.seen) >= least_seen], max_objects)


def _partners(
    entities: Sequence[Entity],
    sighting: Sighting,
    sightings: Sequence[Sighting],
    frame: int,
    same_below: float,
) -> list[int | None]:
    """Each mask's entity among those known; no entity has two masks in a frame."""
    partner_N: list[int | None] = [None] * len(sighting.pieces)
    if not entities or not sighting.pieces:
        return partner_N
    score: list[tuple[float, int, int]] = []
    for number, entity in enumerate(entities):
        last_frame, last_index = entity.seen[-1]
        if last_frame == frame - 1:
            before = sightings[last_frame].pieces[last_index]
            for index, piece in enumerate(sighting.pieces):
                iou = before.iou(piece)
                if iou >= _STAYED:
                    score.append((-iou, number, index))  # these come first
    look_EC = np.stack([entity.look_C for entity in entities])
    error_EN = mean_squared_error(look_EC, sighting.described_NC)
    score.extend((float(error_EN[e, n]), int(e), int(n)) for e, n in np.argwhere(error_EN < same_below))
    taken: set[int] = set()
    for _, number, index in sorted(score):
        if number not in taken and partner_N[index] is None:
            partner_N[index] = number
            taken.add(number)
    return partner_N


def mean_squared_error(look_EC: NDArray[np.float32], other_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the mean squared errors of all pairs, (E, N)."""
    difference_ENC = look_EC[:, None] - other_NC[None]
    return np.square(difference_ENC).mean(axis=-1)


def _most_seen(entities: list[Entity], max_objects: int) -> list[Entity]:
    """Leaves out the entities seen least, the later first, until there are few enough prompts."""
    total = sum(len(entity.prompts) for entity in entities)
    if total <= max_objects:
        return entities
    order = sorted(range(len(entities)), key=lambda number: (-len(entities[number].seen), number))
    kept: list[int] = []
    count = 0
    for number in order:
        count += len(entities[number].prompts)
        if count > max_objects:
            break
        kept.append(number)
    return [entities[number] for number in sorted(kept)]


@dataclass(frozen=True, eq=False)
class Known:
    """An entity of a video.

    Attributes:
        look_C: Its descriptor.
        last_frame: Where it was seen last.
    """

    look_C: NDArray[np.float32]
    last_frame: int


class Registry:
    """All entities of a video by their ids, which are given out in order.

    Ids are bytes. Where a video has more entities than these can tell apart, the id of the one that was
    seen longest ago goes to a new one.
    """

    def __init__(self, known: dict[int, Known] | None = None) -> None:
        """Begins empty, or where a run before left off."""
        self.known: dict[int, Known] = dict(known or {})

    def link(
        self,
        looks: Sequence[NDArray[np.float32]],
        overlap_FHW: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None,
        occurs: Sequence[tuple[int, int]],
        same_below: float,
    ) -> list[int]:
        """Gives the entities of a window their ids in the video, and remembers them.

        Args:
            looks: Their descriptors.
            overlap_FHW: Maps of the frames shared with the window before: with the video's ids, and with
                the window's (positions in `looks`).
            occurs: First and last frame of each in the video.
            same_below: As for `find_entities`.

        Returns:
            The ids, each once.
        """
        given: dict[int, int] = {} if overlap_FHW is None else _same_bodies(*overlap_FHW, len(looks))
        given = {own: identity for own, identity in given.items() if identity in self.known}
        free = [identity for identity in sorted(self.known) if identity not in given.values()]
        rest = [own for own in range(len(looks)) if own not in given]
        if free and rest:
            look_EC = np.stack([self.known[identity].look_C for identity in free])
            error_EN = mean_squared_error(look_EC, np.stack([looks[own] for own in rest]))
            pairs = sorted(
                (float(error_EN[e, n]), int(e), int(n)) for e, n in np.argwhere(error_EN < same_below)
            )
            for _, e, n in pairs:
                if rest[n] not in given and free[e] not in given.values():
                    given[rest[n]] = free[e]
        for own in rest:
            if own not in given:
                given[own] = self._new_id(set(given.values()), occurs[own][0])
        for own, identity in given.items():
            before = self.known.get(identity)
            look_C = looks[own] if before is None else _mean_of(before.look_C, looks[own])
            self.known[identity] = Known(look_C, occurs[own][1])
        return [given[own] for own in range(len(looks))]

    def _new_id(self, used: set[int], first_frame: int) -> int:
        for identity in range(MAX_ENTITIES):
            if identity not in self.known and identity not in used:
                return identity
        gone = [identity for identity in self.known if identity not in used]
        oldest = min(gone, key=lambda identity: (self.known[identity].last_frame, identity))
        del self.known[oldest]
        return oldest


def _mean_of(one_C: NDArray[np.float32], other_C: NDArray[np.float32]) -> NDArray[np.float32]:
    return ((one_C + other_C) / 2).astype(np.float32)


def _same_bodies(video_FHW: NDArray[np.uint8], window_FHW: NDArray[np.uint8], count: int) -> dict[int, int]:
    """Window's number -> video's id of entities whose IoU over the shared frames is above a half."""
    codes = window_FHW.astype(np.intp).ravel() * 256 + video_FHW.ravel()
    overlap = np.bincount(codes, minlength=256 * 256).reshape(256, 256)
    union = overlap.sum(axis=1)[:, None] + overlap.sum(axis=0) - overlap
    iou = np.divide(overlap, union, out=np.zeros(overlap.shape), where=union > 0)[:count, :BACKGROUND]
    return {int(own): int(identity) for own, identity in np.argwhere(iou > _SAME_BODY)}
