"""What an eye sees in maps that S2M made: are instruments whole, do they come and go, is tissue kept.

Owns the definitions. Maps are `held_out.comparable` ones: an id is the same entity in truth and in what was
made, background is `BACKGROUND` and the black border `BORDER`. No network has a say. The shape
of tips is `tip_scores`. Legend: F frames, H W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hierasurg_core import taxonomy
from hierasurg_core.phantom import draw
from hierasurg_core.phantom.held_out import BACKGROUND, BORDER, Course, StartScene
from hierasurg_core.phantom.pieces import SEEN_PIXELS, WHOLE_SHARE, is_whole, largest_piece, pieces_of
from hierasurg_core.phantom.tip_scores import TipFigures, compare_tips

PLAUSIBLE_SIZE = (0.5, 3.0)
"""Area over the first map's, where an instrument has a plausible size."""
NEWCOMER_SIZE = (1 / 3, 3.0)
"""Area over the truth's in the same frame, where a newcomer is seen."""
GONE_SHARE = 0.1
"""At most so much of its first area is left of an instrument that is gone."""


def areas_of(map_FHW: NDArray[np.uint8], identity: int) -> NDArray[np.int64]:
    """Returns an id's pixels in each frame, (F,)."""
    return (map_FHW == identity).reshape(len(map_FHW), -1).sum(axis=1)


def iou_of(map_FHW: NDArray[np.uint8], truth_FHW: NDArray[np.uint8], ids: Iterable[int]) -> float | None:
    """Returns the mean, over the ids that occur in either, of their IoU over all frames together."""
    found: list[float] = []
    for identity in ids:
        made, true = map_FHW == identity, truth_FHW == identity
        union = int((made | true).sum())
        if union:
            found.append(float((made & true).sum()) / union)
    return float(np.mean(found)) if found else None


@dataclasses.dataclass(frozen=True)
class RequestFigures:
    """What S2M made of one request of a start.

    Attributes:
        share: 1 where the tip is nearest to the asked target, by mean distances over the last half.
        frame_share: Share of the last half's frames in which it is.
        whole: Share of the frames after the first in which the acting instrument is whole.
        sized: And of .5 to 3 times its first area.
        tip_thickness: Of the tip's parts over the true answer's, see `tip_scores`.
        tip_gap: Share of the true gap in the tip that is there.
    """

    share: float
    frame_share: float
    whole: float
    sized: float
    tip_thickness: float | None
    tip_gap: float | None


def score_request(
    start: StartScene, triplet: int, map_FHW: NDArray[np.uint8], answer_FHW: NDArray[np.uint8]
) -> RequestFigures:
    """Measures comparable maps that were made from a start, beside a true answer.

    Args:
        start: The start.
        triplet: What was asked for.
        map_FHW: What was made.
        answer_FHW: What the phantom does.
    """
    asked = taxonomy.TRIPLETS[triplet].target_id
    half_FHW = map_FHW[len(map_FHW) // 2 :]
    found = [distances_to_targets(frame, start.codes, start.entry_view_2) for frame in half_FHW]
    far = float(sum(half_FHW.shape[1:]))
    names = {code for one in found for code in one}
    mean = {code: float(np.mean([one.get(code, far) for one in found])) for code in names}
    acting = start.codes.index(draw.SLOT_CODE)
    first_area = int((start.map_HW == acting).sum())
    whole, sized = whole_and_sized(map_FHW[1:] == acting, first_area)
    tips = compare_tips(map_FHW, answer_FHW, acting)
    return RequestFigures(
        share=float(nearest(mean) == asked),
        frame_share=float(np.mean([nearest(one) == asked for one in found])),
        whole=whole,
        sized=sized,
        tip_thickness=tips.thickness,
        tip_gap=tips.gap,
    )


def whole_and_sized(mask_FHW: NDArray[np.bool_], first_area: int) -> tuple[float, float]:
    """Returns the shares of frames in which an instrument is whole, and whole and of plausible size."""
    low, high = PLAUSIBLE_SIZE
    pieces = [pieces_of(mask_HW) for mask_HW in mask_FHW]
    whole = [share >= WHOLE_SHARE for _, share in pieces]
    sized = [ok and low <= area / first_area <= high for ok, (area, _) in zip(whole, pieces, strict=True)]
    return float(np.mean(whole)), float(np.mean(sized))


def tip_of(mask_HW: NDArray[np.bool_], entry_view_2: NDArray[np.float64]) -> tuple[int, int] | None:
    """Row and column of an instrument's tip: its pixel farthest from the trocar, of its largest piece.

    Args:
        mask_HW: The instrument.
        entry_view_2: The trocar in view units (see `draw.view_grid`).

    Returns:
        None where there is no instrument.
    """
    rows, columns = np.nonzero(largest_piece(mask_HW))
    if not len(rows):
        return None
    height, width = mask_HW.shape
    x = (columns + 0.5) * 2 / height - width / height
    y = (rows + 0.5) * 2 / height - 1
    far = int(np.argmax((x - entry_view_2[0]) ** 2 + (y - entry_view_2[1]) ** 2))
    return int(rows[far]), int(columns[far])


def distances_to_targets(
    map_HW: NDArray[np.uint8], codes: tuple[int, ...], entry_view_2: NDArray[np.float64]
) -> dict[int, float]:
    """Pixels from the acting instrument's tip to each target of a map; empty without an instrument."""
    tip = tip_of(map_HW == codes.index(draw.SLOT_CODE), entry_view_2)
    if tip is None:
        return {}
    found: dict[int, float] = {}
    for identity, code in enumerate(codes):
        if code < draw.SLOT_CODE:
            rows, columns = np.nonzero(map_HW == identity)
            if len(rows):
                found[code] = float(np.sqrt(np.min((rows - tip[0]) ** 2 + (columns - tip[1]) ** 2)))
    return found


def nearest(distances: dict[int, float]) -> int | None:
    """Returns the code at the smallest distance; None without any."""
    return min(distances, key=lambda code: distances[code]) if distances else None


@dataclasses.dataclass(frozen=True)
class CourseFigures:
    """What S2M made of one course; None where the course does not ask for it.

    Attributes:
        new_seen: 1 where the acting instrument that comes into view has its own new id, and a third to three
            times its true area in at least half of the frames in which it is truly seen.
        new_whole: Share of these frames in which it has such an area and is whole.
        old_gone: 1 where at most a tenth is left, in the last frame, of an instrument that goes.
        unasked: 1 where an id of neither the first map nor the truth is seen though none comes.
        stays_whole: Share of the frames after the first in which an instrument that stays is whole.
        anatomy_miou: Mean IoU of what stays in view throughout: targets, background and border.
        tip_thickness: Of the last acting instrument's tip, see `tip_scores`.
        tip_gap: The same.
    """

    new_seen: float | None
    new_whole: float | None
    old_gone: float | None
    unasked: float | None
    stays_whole: float | None
    anatomy_miou: float | None
    tip_thickness: float | None
    tip_gap: float | None


def score_course(course: Course, map_FHW: NDArray[np.uint8]) -> CourseFigures:
    """Measures comparable maps that were made from a course's first map, beside its true maps."""
    truth_FHW = course.map_FHW
    area_KF = np.stack([areas_of(truth_FHW, identity) for identity in range(len(course.codes))])
    acting = [i for i, code in enumerate(course.codes) if draw.SLOT_CODE <= code < draw.ASSISTANT_CODE]
    new = [i for i in acting if area_KF[i, 0] == 0 and area_KF[i].max() >= 2 * SEEN_PIXELS]
    old = [i for i in acting if area_KF[i, 0] >= SEEN_PIXELS and not area_KF[i, -2:].any()]
    stays = [i for i in acting if area_KF[i].min() >= SEEN_PIXELS]
    new_seen, new_whole = _newcomer(map_FHW, new[0], area_KF[new[0]]) if new else (None, None)
    old_gone = None
    if old:
        left = int((map_FHW[-1] == old[0]).sum())
        old_gone = float(left <= GONE_SHARE * area_KF[old[0], 0])
    unasked = None
    if not new:
        known = [*range(len(course.codes)), BACKGROUND, BORDER]
        unasked = float(_any_other_seen(map_FHW[1:], known))
    stays_whole = float(np.mean([is_whole(frame == stays[0]) for frame in map_FHW[1:]])) if stays else None
    last = max(acting, key=lambda i: (area_KF[i, -1], -i), default=None)
    tips = TipFigures(None, None) if last is None else compare_tips(map_FHW, truth_FHW, last)
    return CourseFigures(
        new_seen=new_seen,
        new_whole=new_whole,
        old_gone=old_gone,
        unasked=unasked,
        stays_whole=stays_whole,
        anatomy_miou=iou_of(map_FHW[1:], truth_FHW[1:], still_anatomy(course)),
        tip_thickness=tips.thickness,
        tip_gap=tips.gap,
    )


def still_anatomy(course: Course) -> list[int]:
    """Returns the ids of the targets that are seen in every frame, and background and border."""
    targets = [
        identity
        for identity, code in enumerate(course.codes)
        if code < draw.SLOT_CODE and areas_of(course.map_FHW, identity).min() >= SEEN_PIXELS
    ]
    return [*targets, BACKGROUND, BORDER]


def _newcomer(map_FHW: NDArray[np.uint8], identity: int, area_F: NDArray[np.int64]) -> tuple[float, float]:
    """Returns whether a newcomer is seen, and the share of frames in which it is also whole."""
    low, high = NEWCOMER_SIZE
    seen: list[bool] = []
    whole: list[bool] = []
    for frame in np.flatnonzero(area_F >= SEEN_PIXELS):
        area, share = pieces_of(map_FHW[frame] == identity)
        seen.append(bool(low <= area / area_F[frame] <= high))
        whole.append(seen[-1] and share >= WHOLE_SHARE)
    return float(np.mean(seen) >= 0.5), float(np.mean(whole))


def _any_other_seen(map_FHW: NDArray[np.uint8], known: list[int]) -> bool:
    """Whether ids that are not among the known ones cover enough of a frame together to be seen."""
    other_FHW = ~np.isin(map_FHW, known)
    return bool(other_FHW.reshape(len(map_FHW), -1).sum(axis=1).max() >= SEEN_PIXELS)
