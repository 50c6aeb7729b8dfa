"""Maps beside the maps that were asked for, and boxes beside the boxes of the real frames.

Owns the matching of ids and boxes, and what is counted afterwards; generated video and labelling are
measured by the same functions. A clip's background and border are matched with the other's background and
border, entities only with entities.

Legend: F frames, H rows, W columns, M and N entities or boxes, K entities of a clip.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.maps import PanopticClip

BOUNDARY_TOLERANCE = 0.008  # of the picture's diagonal, as DAVIS has it
_SAME = 0.5  # above this IoU two segments can have no other partner


@dataclass(frozen=True)
class MapAgreement:
    """How well found maps agree with wanted ones, over a clip.

    Attributes:
        mean_iou: Mean over the wanted entities of the IoU with their partner over all frames, 0 without
            one; None where no entity is wanted.
        background_iou: IoU of the backgrounds; None where neither has one.
        boundary_f: Mean over the frames of the F score of the borders between ids.
        frame_pq: Panoptic quality of the entities, each frame's segments alone, counted over all frames;
            None where there are none on either side.
        clip_pq: The same for entities as bodies in space and time: an id that changes hands breaks it.
        id_switches: How often a wanted entity's id in the found maps changed.
        id_consistency: Share of the chances to change at which it did not; None where there was none.
        entities_wanted: Entities that occur.
        entities_found: The same on the other side.
    """

    mean_iou: float | None
    background_iou: float | None
    boundary_f: float
    frame_pq: float | None
    clip_pq: float | None
    id_switches: int
    id_consistency: float | None
    entities_wanted: int
    entities_found: int


@dataclass(frozen=True)
class Boxes:
    """What a detector finds in one frame.

    Attributes:
        xyxy_N4: Left, top, right and bottom in any unit.
        score_N: Confidence in [0, 1].
    """

    xyxy_N4: NDArray[np.floating]
    score_N: NDArray[np.floating]

    def __post_init__(self) -> None:
        """Checks the shapes."""
        if self.xyxy_N4.ndim != 2 or self.xyxy_N4.shape != (len(self.score_N), 4):
            raise DataError(f"boxes are (N, 4) with N scores, not {self.xyxy_N4.shape}, {self.score_N.shape}")
        if not (np.isfinite(self.xyxy_N4).all() and np.isfinite(self.score_N).all()):
            raise DataError("the detector gave boxes or scores that are NaN or infinite")


@dataclass(frozen=True)
class DetectorAgreement:
    """Whether a detector finds in generated frames what it finds in the real ones.

    Attributes:
        mean_iou: Mean IoU of the matched pairs over all frames, pairs that do not touch counting 0; None
            where there is no pair.
        real_hit: Share of the real frames' boxes with a partner at the least IoU; None without such boxes.
        generated_hit: The same share of the generated frames' boxes.
        real_boxes: How many boxes counted.
        generated_boxes: The same on the other side.
    """

    mean_iou: float | None
    real_hit: float | None
    generated_hit: float | None
    real_boxes: int
    generated_boxes: int


def compare_maps(wanted: PanopticClip, found: PanopticClip) -> MapAgreement:
    """Compares the maps of a clip with those that were wanted.

    Raises:
        DataError: They have another number of frames or another size.

    Example:
        >>> wanted = PanopticClip(np.array([[[0, 0], [1, 1]]], np.uint8), num_entities=2)
        >>> swapped = PanopticClip(np.array([[[1, 1], [0, 0]]], np.uint8), num_entities=2)
        >>> compare_maps(wanted, swapped).mean_iou
        1.0
    """
    if wanted.map_FHW.shape != found.map_FHW.shape:
        raise DataError(
            f"cannot compare maps of {wanted.map_FHW.shape} with {found.map_FHW.shape} "
            "(frames, rows, columns); cut or resize one of them first"
        )
    ids = (wanted.max_id + 1, found.max_id + 1)
    frames = list(zip(wanted.map_FHW, found.map_FHW, strict=True))
    overlaps = [_overlap(*frame, ids) for frame in frames]
    whole = np.sum(overlaps, axis=0)
    iou_MN = _iou(whole)
    entity_iou_MN = iou_MN[: wanted.num_entities, : found.num_entities]
    occurs_M = whole.sum(axis=1)[: wanted.num_entities] > 0
    occurs_N = whole.sum(axis=0)[: found.num_entities] > 0
    matched = sum(entity_iou_MN[pair] for pair in assign(entity_iou_MN))
    ground = (wanted.num_entities, found.num_entities)
    has_ground = whole[ground[0]].sum() + whole[:, ground[1]].sum() > 0
    switches, chances = _id_switches([_partners(_entities(o, ground)) for o in overlaps])
    return MapAgreement(
        mean_iou=float(matched / occurs_M.sum()) if occurs_M.any() else None,
        background_iou=float(iou_MN[ground]) if has_ground else None,
        boundary_f=float(np.mean([boundary_f(*frame) for frame in frames])),
        frame_pq=_panoptic_quality(overlaps, ground),
        clip_pq=_panoptic_quality([whole], ground),
        id_switches=switches,
        id_consistency=1 - switches / chances if chances else None,
        entities_wanted=int(occurs_M.sum()),
        entities_found=int(occurs_N.sum()),
    )


def boundary_f(
    wanted_HW: NDArray[np.uint8], found_HW: NDArray[np.uint8], *, tolerance: float = BOUNDARY_TOLERANCE
) -> float:
    """Returns the F score of the borders between ids, whatever the ids are called.

    A pixel lies on a border if the pixel right of it or below it has another id. Precision is the share of
    found border pixels within the tolerance of a wanted one, recall the reverse.

    Args:
        wanted_HW: The map that was asked for.
        found_HW: The map to judge, of the same size.
        tolerance: Distance in diagonals of the picture; in pixels it is rounded up.

    Returns:
        2 P R / (P + R); 1 where neither map has a border, 0 where only one has.
    """
    reach_px = math.ceil(tolerance * math.hypot(*wanted_HW.shape))
    wanted_border_HW, found_border_HW = _border(wanted_HW), _border(found_HW)
    if not (wanted_border_HW.any() and found_border_HW.any()):
        return float(wanted_border_HW.any() == found_border_HW.any())
    precision = np.mean(_distance_px(wanted_border_HW)[found_border_HW] <= reach_px)
    recall = np.mean(_distance_px(found_border_HW)[wanted_border_HW] <= reach_px)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def detector_agreement(
    frames: Iterable[tuple[Boxes, Boxes]], *, min_score: float = 0.5, hit_iou: float = 0.5
) -> DetectorAgreement:
    """Compares the boxes of real and generated frames: boxes above a score, matched by IoU in each frame.

    Args:
        frames: (real, generated) of one frame after another; only one is held at a time.
        min_score: Boxes must be above it.
        hit_iou: A pair at this IoU or above is a hit.

    Source: HieraSurg (arXiv 2506.21287): boxes above 0.5, Hungarian matching by IoU, hits at IoU 0.5 or more.
    It leaves open whether boxes without a partner enter the mean IoU; here they do not, for the two shares
    count them.
    """
    pairs, iou_sum, hits, real_boxes, generated_boxes = 0, 0.0, 0, 0, 0
    for real, generated in frames:
        real_M4 = real.xyxy_N4[real.score_N > min_score]
        generated_N4 = generated.xyxy_N4[generated.score_N > min_score]
        iou_MN = box_iou(real_M4, generated_N4)
        matched = [float(iou_MN[pair]) for pair in assign(iou_MN)]
        pairs, iou_sum = pairs + len(matched), iou_sum + sum(matched)
        hits += sum(iou >= hit_iou for iou in matched)
        real_boxes, generated_boxes = real_boxes + len(real_M4), generated_boxes + len(generated_N4)
    return DetectorAgreement(
        iou_sum / pairs if pairs else None,
        hits / real_boxes if real_boxes else None,
        hits / generated_boxes if generated_boxes else None,
        real_boxes,
        generated_boxes,
    )


def box_iou(a_M4: NDArray[np.floating], b_N4: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the IoU of all pairs of boxes (left, top, right, bottom), (M, N); 0 for boxes without area."""
    a_M14, b_1N4 = a_M4.astype(np.float64)[:, None], b_N4.astype(np.float64)[None]
    sides_MN2 = np.minimum(a_M14[..., 2:], b_1N4[..., 2:]) - np.maximum(a_M14[..., :2], b_1N4[..., :2])
    both_MN = np.maximum(sides_MN2, 0).prod(axis=-1)
    areas = [np.maximum(box[..., 2:] - box[..., :2], 0).prod(axis=-1) for box in (a_M14, b_1N4)]
    union_MN = areas[0] + areas[1] - both_MN
    return np.divide(both_MN, union_MN, out=np.zeros_like(both_MN), where=union_MN > 0)


def assign(score_MN: NDArray[np.floating]) -> list[tuple[int, int]]:
    """Returns the one-to-one pairs (row, column) with the highest sum of scores, min(M, N) of them.

    The Hungarian method in its shortest-path form (Jonker and Volgenant, "A shortest augmenting path
    algorithm for dense and sparse linear assignment problems", 1987): exact, cubic in the smaller side.

    Raises:
        ValueError: A score is NaN or infinite.

    Example:
        >>> assign(np.array([[0.9, 0.8], [0.7, 0.1]]))
        [(0, 1), (1, 0)]
    """
    if not np.isfinite(score_MN).all():
        raise ValueError("scores must be finite")
    rows, columns = score_MN.shape
    if rows > columns:
        return sorted((row, column) for column, row in assign(score_MN.T))
    if not rows:
        return []
    cost_MN = float(score_MN.max()) - score_MN.astype(np.float64)
    row_price_M, column_price_N = np.zeros(rows), np.zeros(columns)
    column_of_M, row_of_N = np.full(rows, -1), np.full(columns, -1)
    for start in range(rows):
        # The cheapest path from this row to a free column, through columns taken before.
        length_N, from_N, settled_N = np.full(columns, np.inf), np.full(columns, -1), np.zeros(columns, bool)
        row, reached = start, 0.0
        while True:
            through_N = reached + cost_MN[row] - row_price_M[row] - column_price_N
            shorter_N = ~settled_N & (through_N < length_N)
            length_N[shorter_N], from_N[shorter_N] = through_N[shorter_N], row
            column = int(np.argmin(np.where(settled_N, np.inf, length_N)))
            reached = float(length_N[column])
            if row_of_N[column] < 0:
                break
            settled_N[column] = True
            row = int(row_of_N[column])
        # Prices move so that no path is cheaper than free, then the pairs along the path change over.
        spare_N = reached - length_N[settled_N]
        row_price_M[start] += reached
        row_price_M[row_of_N[settled_N]] += spare_N
        column_price_N[settled_N] -= spare_N
        while column >= 0:
            row = int(from_N[column])
            row_of_N[column] = row
            column, column_of_M[row] = int(column_of_M[row]), column
            if row == start:
                break
    return [(row, int(column)) for row, column in enumerate(column_of_M)]


def _overlap(
    wanted_HW: NDArray[np.uint8], found_HW: NDArray[np.uint8], ids: tuple[int, int]
) -> NDArray[np.int64]:
    """Pixels that have one id here and one id there, of so many ids on either side."""
    codes = wanted_HW.astype(np.intp).ravel() * ids[1] + found_HW.ravel()
    return np.bincount(codes, minlength=ids[0] * ids[1]).reshape(ids)


def _iou(overlap: NDArray[np.int64]) -> NDArray[np.float64]:
    union = overlap.sum(axis=1)[:, None] + overlap.sum(axis=0) - overlap
    return np.divide(overlap, union, out=np.zeros(overlap.shape), where=union > 0)


def _entities(overlap: NDArray[np.int64], counts: tuple[int, int]) -> NDArray[np.float64]:
    return _iou(overlap)[: counts[0], : counts[1]]


def _partners(iou_MN: NDArray[np.float64]) -> dict[int, int]:
    """Wanted id -> found id where the IoU is above a half, which admits one partner at most."""
    return {int(row): int(column) for row, column in np.argwhere(iou_MN > _SAME)}


def _id_switches(partners: list[dict[int, int]]) -> tuple[int, int]:
    """How often an entity's partner differs from its last one, and how often it could have."""
    last: dict[int, int] = {}
    switches = chances = 0
    for frame in partners:
        chances += sum(entity in last for entity in frame)
        switches += sum(last.get(entity, partner) != partner for entity, partner in frame.items())
        last |= frame
    return switches, chances


def _panoptic_quality(overlaps: list[NDArray[np.int64]], counts: tuple[int, int]) -> float | None:
    """Sum of the matches' IoU / (matches + half of what is unmatched on either side).

    Source: Kirillov et al., "Panoptic segmentation", 2019, equation 1, with one class of things.
    """
    iou_sum, segments = 0.0, 0
    for overlap in overlaps:
        iou_MN = _entities(overlap, counts)
        iou_sum += float(iou_MN[iou_MN > _SAME].sum())
        segments += int((overlap.sum(axis=1)[: counts[0]] > 0).sum())
        segments += int((overlap.sum(axis=0)[: counts[1]] > 0).sum())
    return 2 * iou_sum / segments if segments else None


def _border(map_HW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    border_HW = np.zeros(map_HW.shape, bool)
    border_HW[:, :-1] |= map_HW[:, :-1] != map_HW[:, 1:]
    border_HW[:-1] |= map_HW[:-1] != map_HW[1:]
    return border_HW


def _distance_px(border_HW: NDArray[np.bool_]) -> NDArray[np.float32]:
    apart_HW = cv2.distanceTransform((~border_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(apart_HW, np.float32)
