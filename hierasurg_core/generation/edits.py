"""What-ifs: entities of a clip's maps are moved, removed or kept alone before the maps become video.

Owns the small language of `--edit` and what it does to ids. What an entity leaves behind is filled from the
nearest pixels of others, in each map alone. The black border is where the endoscope sees nothing: it never
changes, and whatever moves onto it is hidden.

    move WHO by RIGHT,DOWN [over N] [from N]   N seconds; pixels of the video
    remove WHO [from N]
    keep WHO [from N]                          all others go

WHO is an id or, in a scene of the gallery, a name; several with commas between. Second 0 is the photograph,
which no edit of maps can change, so an edit begins at second 1 unless told otherwise, and a movement reaches
its end after N seconds and stays there.

Legend: F frames, one a second, H rows, W columns.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import UsageError
from hierasurg_core.generation.entities import list_entities
from hierasurg_core.maps import PanopticClip

VERBS = ("move", "remove", "keep")
_GRAMMAR = "write 'move WHO by RIGHT,DOWN [over N] [from N]', 'remove WHO [from N]' or 'keep WHO [from N]'"
_EDIT = re.compile(
    r"(?P<verb>[a-z]+)\s+(?P<who>.+?)"
    r"(?:\s+by\s+(?P<right>[+-]?\d+)\s*,\s*(?P<down>[+-]?\d+))?"
    r"(?:\s+over\s+(?P<over>\d+))?(?:\s+from\s+(?P<start>\d+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Edit:
    """One edit, read but not yet held to a clip.

    Attributes:
        text: As it was written.
        verb: One of `VERBS`.
        who: Ids or names.
        by: Pixels to the right and down, of a movement.
        over: Seconds that the movement takes; None: to the clip's end.
        start: First second that changes.
    """

    text: str
    verb: str
    who: tuple[str, ...]
    by: tuple[int, int] = (0, 0)
    over: int | None = None
    start: int = 1


def parse_edits(text: str) -> tuple[Edit, ...]:
    """Reads edits with ";" between them.

    Raises:
        UsageError: One of them is not of the language; the message says what is.

    Example:
        >>> parse_edits("move 3 by 40,0 over 16; remove 5")[0].by
        (40, 0)
    """
    edits = tuple(_parse(part.strip()) for part in text.split(";") if part.strip())
    if not edits:
        raise UsageError(f"an edit is empty: {_GRAMMAR}")
    return edits


def apply_edits(
    maps: PanopticClip, edits: Sequence[Edit], names: Mapping[int, str] | None = None
) -> PanopticClip:
    """Carries out edits in their order.

    Args:
        maps: One a second, at the video's size.
        edits: What `parse_edits` returned.
        names: What entities are called, where that is known.

    Raises:
        UsageError: An edit names an entity that the clip does not have, or a second after its end.
    """
    map_FHW = maps.map_FHW.copy()
    for edit in edits:
        chosen = _entities(edit, maps, names or {})
        if edit.start >= len(map_FHW):
            raise UsageError(
                f"edit {edit.text!r} begins at second {edit.start}, but the clip ends with {len(map_FHW) - 1}"
            )
        if edit.verb == "keep":
            chosen = tuple(id_ for id_ in range(maps.num_entities) if id_ not in chosen)
        for second in range(edit.start, len(map_FHW)):
            if edit.verb == "move":
                map_FHW[second] = _moved(map_FHW[second], chosen, _shift(edit, second, len(map_FHW)), maps)
            else:
                map_FHW[second] = _without(map_FHW[second], np.isin(map_FHW[second], chosen), maps)
    return PanopticClip(map_FHW, maps.num_entities)


def expect_possible(
    edits: Sequence[Edit], maps: PanopticClip, seconds: int, names: Mapping[int, str] | None
) -> None:
    """Refuses edits of a clip whose first maps are known, before its other maps exist.

    Raises:
        UsageError: As `apply_edits`.
    """
    for edit in edits:
        _entities(edit, maps, names or {})
        if edit.start >= seconds:
            raise UsageError(
                f"edit {edit.text!r} begins at second {edit.start}, but the clip ends with {seconds - 1}"
            )


def _parse(text: str) -> Edit:
    match = _EDIT.fullmatch(text)
    if match is None:
        raise UsageError(f"edit {text!r} is not understood: {_GRAMMAR}")
    verb = match["verb"].lower()
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"edit {text!r} is not understood: no '{verb}'; {hint}{_GRAMMAR}")
    if (match["right"] is None) == (verb == "move"):
        reason = "a movement needs 'by RIGHT,DOWN'" if verb == "move" else f"'{verb}' takes no 'by'"
        raise UsageError(f"edit {text!r} is not understood: {reason}; {_GRAMMAR}")
    over = None if match["over"] is None else int(match["over"])
    if over is not None and (verb != "move" or over < 1):
        reason = "a movement takes 1 second or more" if verb == "move" else f"'{verb}' takes no 'over'"
        raise UsageError(f"edit {text!r} is not understood: {reason}; {_GRAMMAR}")
    who = tuple(part.strip() for part in match["who"].split(","))
    if not all(re.fullmatch(r"\w[\w -]*", part) for part in who):
        raise UsageError(f"edit {text!r} is not understood: {match['who']!r} is no id or name; {_GRAMMAR}")
    by = (int(match["right"] or 0), int(match["down"] or 0))
    start = 1 if match["start"] is None else int(match["start"])
    return Edit(text, verb, who, by, over, start)


def _entities(edit: Edit, maps: PanopticClip, names: Mapping[int, str]) -> tuple[int, ...]:
    """Return the ids that an edit means; a name means all entities of that name."""
    chosen: list[int] = []
    by_name: dict[str, list[int]] = {}
    for id_, name in names.items():
        by_name.setdefault(name.replace("_", " ").lower(), []).append(id_)
    for who in edit.who:
        if who.isdecimal():
            if int(who) >= maps.num_entities:
                what = {maps.num_entities: " is the background", maps.max_id: " is the black border"}
                reason = what.get(int(who), " does not exist")
                raise UsageError(f"edit {edit.text!r}: entity {who}{reason}; {_known(maps, names)}")
            chosen.append(int(who))
            continue
        found = by_name.get(who.replace("_", " ").lower())
        if found is None:
            near = difflib.get_close_matches(who.lower(), by_name, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise UsageError(f"edit {edit.text!r}: no entity is called '{who}'; {hint}{_known(maps, names)}")
        chosen += found
    return tuple(chosen)


def _known(maps: PanopticClip, names: Mapping[int, str]) -> str:
    if not maps.num_entities:
        return "these maps have no entities"
    known = f"entities are {list_entities(maps, names)}"
    return known if names else f"these have no names; {known}"


def _shift(edit: Edit, second: int, seconds: int) -> tuple[int, int]:
    """Returns columns and rows of a movement at a second; linear."""
    before = max(0, edit.start - 1)
    over = edit.over or max(1, seconds - 1 - before)
    done = min(1.0, (second - before) / over)
    return round(edit.by[0] * done), round(edit.by[1] * done)


def _moved(
    map_HW: NDArray[np.uint8], chosen: Sequence[int], by: tuple[int, int], maps: PanopticClip
) -> NDArray[np.uint8]:
    taken_HW = np.isin(map_HW, chosen)
    if not taken_HW.any() or by == (0, 0):
        return map_HW
    filled_HW = _without(map_HW, taken_HW, maps)
    rows, columns = np.nonzero(taken_HW)
    to_rows, to_columns = rows + by[1], columns + by[0]
    height, width = map_HW.shape
    inside = (to_rows >= 0) & (to_rows < height) & (to_columns >= 0) & (to_columns < width)
    rows, columns, to_rows, to_columns = (at[inside] for at in (rows, columns, to_rows, to_columns))
    seen = filled_HW[to_rows, to_columns] != maps.max_id
    filled_HW[to_rows[seen], to_columns[seen]] = map_HW[rows[seen], columns[seen]]
    return filled_HW


def _without(map_HW: NDArray[np.uint8], taken_HW: NDArray[np.bool_], maps: PanopticClip) -> NDArray[np.uint8]:
    """Gives each taken pixel the id of the nearest one that stays, the border's apart."""
    if not taken_HW.any():
        return map_HW.copy()
    free_HW = ~taken_HW & (map_HW != maps.max_id)
    if not free_HW.any():
        return np.where(taken_HW, np.uint8(maps.num_entities), map_HW)
    _, nearest_HW = cv2.distanceTransformWithLabels(
        (~free_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label_of_id = np.zeros(int(nearest_HW.max()) + 1, np.uint8)
    label_of_id[nearest_HW[free_HW]] = map_HW[free_HW]
    return np.where(taken_HW, label_of_id[nearest_HW], map_HW)
