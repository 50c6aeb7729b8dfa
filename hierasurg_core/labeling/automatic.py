"""Masks of everything in a frame: a grid of points, SAM 2's mask decoder, its own scores, no duplicates.

Owns the procedure of sam2's automatic mask generator with HieraSurg's settings (8 points a side, one layer of
crops, predicted IoU and stability of 0.9 or more, no duplicates above 0.9), on features that are there
already: the crops' denser points are put to the whole frame's features instead of encoding four crops again.
Candidates that could not stay are not refined: those far from any area that an object may have, and those
that a better one already covers. Letters: see `sam_network`; P points, M masks of a point.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hierasurg_core.labeling.decoding import FrameDecoder
from hierasurg_core.labeling.propagation import frame_logits, padding
from hierasurg_core.labeling.sam_network import FrameFeatures, SamNetwork

_REFERENCE_PX = 854 * 480
_OVERLAP = 512 / 1500
"""Overlap of neighbouring crops over the frame's shorter side, as in sam2."""
_LOGIT_LIMIT = 32.0
_UPSCALED_AT_ONCE = 64
_THREADS = 4


@dataclasses.dataclass(frozen=True)
class AutomaticThresholds:
    """What counts as a mask; the defaults are the reference's for SAM 2.1 Large.

    Attributes:
        points_per_side: Of the grid over the frame.
        crop_layers: 1: the points of four overlapping crops too; 0: none.
        crop_divisor: Points a side of a crop are so many times fewer.
        predicted_iou: Lowest overlap that the network predicts of its own mask.
        stability: Lowest overlap of the mask cut off higher and lower.
        stability_offset: How much higher and lower, in logits.
        box_nms: Of two masks whose boxes overlap more, the better one stays.
        min_region_px: Islands and holes smaller than this, at 854x480, go; at other sizes in proportion.
        refine: Whether each mask is put back in as a prompt, once.
        refine_above: Candidates that the network predicts a lower overlap of are not refined but dropped.
        refine_area_px: Candidates at most or at least so large, at 854x480, are not refined but dropped.
            Section 2's rules take masks of 1000 to 100,000 px; refining moves an outline, not by so much.
        refine_duplicates: Whether candidates are refined whose box a better candidate has, too.
    """

    points_per_side: int = 8
    crop_layers: int = 1
    crop_divisor: int = 2
    predicted_iou: float = 0.9
    stability: float = 0.9
    stability_offset: float = 0.9
    box_nms: float = 0.9
    min_region_px: float = 500.0
    refine: bool = True
    refine_above: float = 0.5
    refine_area_px: tuple[float, float] = (250.0, 200_000.0)
    refine_duplicates: bool = False


MINI_THRESHOLDS = AutomaticThresholds(
    crop_layers=0,
    predicted_iou=0.3,
    stability=0.7,
    box_nms=0.8,
    min_region_px=150.0,
    refine_above=0.0,
)
"""For the mini SAM 2, which judges a mask well only when it sees it again: what it predicts of a candidate
bars none from refinement. On 10 held-out phantom frames panoptic quality is 0.769 and recall 0.92, with
`refine_above` at 0.4 they are 0.68 and 0.68, with the stability at 0.85 and a predicted overlap of 0.6 0.75
and 0.79. An earlier training found fewer objects with a 6x6 grid, and followed worse where only the 32 or 48
candidates that it ranked best were refined."""


@dataclasses.dataclass(frozen=True, eq=False)
class FrameMasks:
    """Automatic masks of one frame, better ones first.

    Attributes:
        mask_NHW: Boolean, at the frame's size.
        score_N: Overlap with the truth as the network predicts it.
        stability_N: Overlap of the mask cut off higher and lower.
    """

    mask_NHW: Tensor
    score_N: Tensor
    stability_N: Tensor

    def __len__(self) -> int:
        return len(self.score_N)


def grid_points(thresholds: AutomaticThresholds, size_hw: tuple[int, int]) -> Tensor:
    """The points to ask at, (P, 2): x, y as fractions of width and height."""
    grids = [_grid(thresholds.points_per_side)]
    if thresholds.crop_layers:
        height, width = size_hw
        dense = _grid(max(1, thresholds.points_per_side // thresholds.crop_divisor))
        overlap = int(_OVERLAP * min(size_hw))
        side_xy = torch.tensor([-(-(width + overlap) // 2) / width, -(-(height + overlap) // 2) / height])
        for right in (0, 1):
            for low in (0, 1):
                grids.append(dense * side_xy + torch.tensor([right, low]) * (1 - side_xy))
    return torch.cat(grids)


def _grid(per_side: int) -> Tensor:
    middles = (torch.arange(per_side) + 0.5) / per_side
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return torch.stack([x, y], dim=-1).view(-1, 2)


def automatic_masks(
    network: SamNetwork,
    features: FrameFeatures,
    thresholds: AutomaticThresholds,
    *,
    device: torch.device,
    prompts_at_once: int = 128,
) -> list[FrameMasks]:
    """Masks of everything in each frame.

    Args:
        network: The network, on `device`.
        features: Of the frames.
        thresholds: What counts as a mask.
        device: Where to compute.
        prompts_at_once: Of the mask decoder; bounds the memory.

    Returns:
        One `FrameMasks` a frame, in host memory.
    """
    points_P2 = grid_points(thresholds, features.size_hw).to(device) * network.image_size
    share = features.size_hw[0] * features.size_hw[1] / _REFERENCE_PX
    with ThreadPoolExecutor(_THREADS) as pool:
        found = []
        for index in range(len(features)):
            mask_NHW, score_N, stability_N = _masks_of_frame(
                network, features[index].to(device), points_P2, thresholds, prompts_at_once
            )
            masks = mask_NHW.cpu().numpy()
            cleaned = [pool.submit(without_specks, mask, thresholds.min_region_px * share) for mask in masks]
            found.append((cleaned, features.size_hw, score_N.cpu(), stability_N.cpu()))
        return [
            FrameMasks(_stacked([future.result() for future in cleaned], size_hw), score_N, stability_N)
            for cleaned, size_hw, score_N, stability_N in found
        ]


def without_specks(mask_HW: NDArray[np.bool_], area_px: float) -> NDArray[np.bool_]:
    """Fills holes and takes off islands smaller than an area; the largest island stays in any case."""
    box = _surroundings(mask_HW, area_px)
    part_hw = mask_HW[box]
    for holes in (True, False):
        plane_hw = (part_hw ^ holes).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(plane_hw, connectivity=8)
        label_hw, area_L = np.asarray(labels, np.int32), np.asarray(stats)[1:, cv2.CC_STAT_AREA]
        small_L = np.concatenate([[False], area_L < area_px])
        if count < 2 or not small_L.any():
            continue
        if holes:
            small_L[_beyond(label_hw, box, mask_HW.shape)] = False
        else:
            small_L[1 + int(area_L.argmax())] = False
        part_hw = part_hw ^ small_L[label_hw]
    cleaned_HW = np.zeros_like(mask_HW)
    cleaned_HW[box] = part_hw
    return cleaned_HW


def _surroundings(mask_HW: NDArray[np.bool_], area_px: float) -> tuple[slice, slice]:
    """A mask's box and a pixel around it; a side beyond which there is less than the area is the frame's."""
    sides: list[slice] = []
    for axis in (0, 1):
        length, across = mask_HW.shape[axis], mask_HW.shape[1 - axis]
        along = np.flatnonzero(mask_HW.any(axis=1 - axis))
        low, high = (int(along[0]) - 1, int(along[-1]) + 2) if len(along) else (0, length)
        low = low if low * across >= area_px else 0
        sides.append(slice(max(0, low), high if (length - high) * across >= area_px else length))
    return sides[0], sides[1]


def _beyond(
    label_hw: NDArray[np.int32], box: tuple[slice, slice], size_hw: tuple[int, ...]
) -> NDArray[np.int32]:
    """Labels of the ground that goes on outside a box, where it is larger than any hole to be filled."""
    rows, columns = box
    edges = [label_hw[:0, 0]]
    if rows.start > 0:
        edges.append(label_hw[0])
    if rows.stop < size_hw[0]:
        edges.append(label_hw[-1])
    if columns.start > 0:
        edges.append(label_hw[:, 0])
    if columns.stop < size_hw[1]:
        edges.append(label_hw[:, -1])
    return np.unique(np.concatenate(edges))


def _stacked(masks: Sequence[NDArray[np.bool_]], size_hw: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *size_hw, dtype=torch.bool)


def _masks_of_frame(
    network: SamNetwork,
    frame: FrameFeatures,
    points_P2: Tensor,
    thresholds: AutomaticThresholds,
    prompts_at_once: int,
) -> tuple[Tensor, Tensor, Tensor]:
    decoder = FrameDecoder(network, frame)
    logits, scores = _decoded(decoder, points_P2, None, prompts_at_once)
    points_P2 = points_P2.repeat_interleave(logits.shape[1], 0)
    logits, scores = logits.flatten(0, 1), scores.flatten()
    if thresholds.refine:
        keep = _candidates(logits, scores, thresholds)
        if len(keep) == 0:
            return _nothing(frame)
        logits, scores = _decoded(
            decoder,
            points_P2[keep],
            logits[keep].clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT).unsqueeze(1),
            prompts_at_once,
        )
        logits, scores = logits.squeeze(1), scores.squeeze(1)
    keep = (scores > thresholds.predicted_iou).nonzero().squeeze(1)
    if len(keep) == 0:
        return _nothing(frame)
    logits, scores = logits[keep], scores[keep]
    masks: list[Tensor] = []
    stabilities: list[Tensor] = []
    for part in logits.split(_UPSCALED_AT_ONCE):
        large = frame_logits(part.unsqueeze(1), frame.size_hw)
        stabilities.append(_stability(large, thresholds.stability_offset))
        masks.append(large > 0)
    mask_NHW, stability_N = torch.cat(masks), torch.cat(stabilities)
    keep = ((stability_N >= thresholds.stability) & mask_NHW.flatten(1).any(1)).nonzero().squeeze(1)
    keep = keep[_apart(boxes_of(mask_NHW[keep]), scores[keep], thresholds.box_nms)]
    return mask_NHW[keep], scores[keep], stability_N[keep]


def _candidates(logits_Nhw: Tensor, score_N: Tensor, thresholds: AutomaticThresholds) -> Tensor:
    """Indices of the masks that are worth refining."""
    least, most = (px / _REFERENCE_PX * logits_Nhw[0].numel() for px in thresholds.refine_area_px)
    area_N = (logits_Nhw > 0).flatten(1).sum(1)
    keep = ((score_N >= thresholds.refine_above) & (area_N > least) & (area_N < most)).nonzero().squeeze(1)
    if not thresholds.refine_duplicates:
        keep = keep[_apart(boxes_of(logits_Nhw[keep] > 0), score_N[keep], thresholds.box_nms)]
    return keep


def _stability(logits_NHW: Tensor, offset: float) -> Tensor:
    """Overlap of masks cut off higher and lower."""
    inner = (logits_NHW > offset).flatten(1).sum(1)
    return inner / (logits_NHW > -offset).flatten(1).sum(1).clamp_min(1)


def _apart(box_N4: Tensor, rank_N: Tensor, overlap: float) -> Tensor:
    """Indices of boxes of which none overlaps a better one by more, the better ones first.

    As torchvision's, which takes longer to import than a frame takes.
    """
    low, high = box_N4[:, None, :2], box_N4[:, None, 2:]
    sides = torch.minimum(high, high.transpose(0, 1)) - torch.maximum(low, low.transpose(0, 1))
    shared_NN = sides.clamp_min(0).prod(-1)
    area_N = (box_N4[:, 2:] - box_N4[:, :2]).prod(-1)
    like_NN = (shared_NN > overlap * (area_N[:, None] + area_N - shared_NN)).cpu().numpy()
    kept: list[int] = []
    for index in rank_N.argsort(descending=True, stable=True).tolist():
        if not like_NN[index, kept].any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=rank_N.device)


def _nothing(frame: FrameFeatures) -> tuple[Tensor, Tensor, Tensor]:
    none = torch.zeros(0)
    return torch.zeros(0, *frame.size_hw, dtype=torch.bool), none, none


def _decoded(
    decoder: FrameDecoder, point_P2: Tensor, mask_P1hw: Tensor | None, prompts_at_once: int
) -> tuple[Tensor, Tensor]:
    """Logits (P, M, h, w) and predicted overlaps (P, M): three masks of a point, one where one is given."""
    logits: list[Tensor] = []
    scores: list[Tensor] = []
    for start in range(0, len(point_P2), prompts_at_once):
        xy = point_P2[start : start + prompts_at_once]
        masks = None if mask_P1hw is None else mask_P1hw[start : start + prompts_at_once]
        count = len(xy)
        missing = min(prompts_at_once - count, padding(count, xy.device))
        if missing > 0:
            xy = torch.cat([xy, xy[:1].expand(missing, -1)])
            masks = None if masks is None else torch.cat([masks, masks[:1].expand(missing, -1, -1, -1)])
        low, iou = decoder.decode(xy, masks)
        logits.append(low[:count].float())
        scores.append(iou[:count].float())
    return torch.cat(logits), torch.cat(scores)


def boxes_of(mask_NHW: Tensor) -> Tensor:
    """Boxes x0 y0 x1 y1 around masks in pixels, float (N, 4), the last pixel's far side; empty: all 0."""
    sides = []
    for axis in (-2, -1):
        along = mask_NHW.any(axis)
        length = along.shape[-1]
        index = torch.arange(length, device=mask_NHW.device)
        high = torch.where(along, index + 1, 0).amax(-1)
        sides.append((torch.minimum(torch.where(along, index, length).amin(-1), high), high))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=-1).float()
