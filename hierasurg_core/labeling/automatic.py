"""Masks of everything in a frame: a grid of points, SAM 2's mask decoder, its own scores, no duplicates.

Owns the procedure of sam2's automatic mask generator as reference-model section 2 sets it, on features that
are there already: the crops' denser points are put to the whole frame's features instead of encoding four
crops again. A candidate that covers the box of a better one is not refined, since that would give the same
mask twice. Letters: see `sam_network`; P points, M masks of a point.
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
from torchvision.ops import nms

from hierasurg_core.labeling.propagation import bucket, frame_logits
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
    refine_duplicates: bool = False


MINI_THRESHOLDS = AutomaticThresholds(
    crop_layers=0,
    predicted_iou=0.4,
    stability=0.5,
    box_nms=0.8,
    min_region_px=150.0,
    refine_above=0.0,
)
"""For the mini SAM 2, which judges a mask well only when it sees it again: every candidate is refined."""


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
    for holes in (True, False):
        plane_HW = (mask_HW ^ holes).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(plane_HW, connectivity=8)
        label_HW, area_L = np.asarray(labels, np.int32), np.asarray(stats)[1:, cv2.CC_STAT_AREA]
        if count < 2 or area_L.min() >= area_px:
            continue
        small_L = np.concatenate([[False], area_L < area_px])
        if not holes:
            small_L[1 + int(area_L.argmax())] = False
        mask_HW = mask_HW ^ small_L[label_HW]
    return mask_HW


def _stacked(masks: Sequence[NDArray[np.bool_]], size_hw: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *size_hw, dtype=torch.bool)


def _masks_of_frame(
    network: SamNetwork,
    frame: FrameFeatures,
    points_P2: Tensor,
    thresholds: AutomaticThresholds,
    prompts_at_once: int,
) -> tuple[Tensor, Tensor, Tensor]:
    logits, scores = _decoded(network, frame, points_P2, None, prompts_at_once)
    points_P2 = points_P2.repeat_interleave(logits.shape[1], 0)
    logits, scores = logits.flatten(0, 1), scores.flatten()
    if thresholds.refine:
        keep = (scores >= thresholds.refine_above).nonzero().squeeze(1)
        if not thresholds.refine_duplicates:
            keep = keep[nms(boxes_of(logits[keep] > 0), scores[keep], thresholds.box_nms)]
        if len(keep) == 0:
            return _nothing(frame)
        logits, scores = _decoded(
            network,
            frame,
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
        inner = (large > thresholds.stability_offset).flatten(1).sum(1)
        outer = (large > -thresholds.stability_offset).flatten(1).sum(1)
        stabilities.append(inner / outer.clamp_min(1))
        masks.append(large > 0)
    mask_NHW, stability_N = torch.cat(masks), torch.cat(stabilities)
    keep = ((stability_N >= thresholds.stability) & mask_NHW.flatten(1).any(1)).nonzero().squeeze(1)
    keep = keep[nms(boxes_of(mask_NHW[keep]), scores[keep], thresholds.box_nms)]
    return mask_NHW[keep], scores[keep], stability_N[keep]


def _nothing(frame: FrameFeatures) -> tuple[Tensor, Tensor, Tensor]:
    none = torch.zeros(0)
    return torch.zeros(0, *frame.size_hw, dtype=torch.bool), none, none


def _decoded(
    network: SamNetwork,
    frame: FrameFeatures,
    points_P2: Tensor,
    mask_P1hw: Tensor | None,
    prompts_at_once: int,
) -> tuple[Tensor, Tensor]:
    """Logits (P, M, h, w) and predicted overlaps (P, M): three masks of a point, one where one is given."""
    fine, middle, coarse = frame.levels
    embedding = coarse + network.no_mem_embed.view(1, -1, 1, 1).to(coarse.dtype)
    position_code = network.sam_prompt_encoder.get_dense_pe()
    logits: list[Tensor] = []
    scores: list[Tensor] = []
    for start in range(0, len(points_P2), prompts_at_once):
        xy = points_P2[start : start + prompts_at_once].unsqueeze(1)
        masks = None if mask_P1hw is None else mask_P1hw[start : start + prompts_at_once]
        count = len(xy)
        missing = min(prompts_at_once, bucket(count)) - count
        if missing > 0:
            xy = torch.cat([xy, xy[:1].expand(missing, -1, -1)])
            masks = None if masks is None else torch.cat([masks, masks[:1].expand(missing, -1, -1, -1)])
        labels = torch.ones(len(xy), 1, dtype=torch.int32, device=xy.device)
        sparse, dense = network.sam_prompt_encoder(points=(xy, labels), boxes=None, masks=masks)
        low, iou, _, _ = network.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=position_code,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=mask_P1hw is None,
            repeat_image=True,
            high_res_features=[fine, middle],
        )
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
