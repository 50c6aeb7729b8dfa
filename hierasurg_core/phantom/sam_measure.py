"""How well the mini SAM 2 does on phantom clips that it never saw: following objects, and finding them.

Owns two measures. Both are mini: they say that training worked, nothing about real surgery. Legend: F frames,
N objects, H W pixels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from hierasurg_core.labeling.automatic import MINI_THRESHOLDS, AutomaticThresholds
from hierasurg_core.labeling.propagation import MaskPrompt
from hierasurg_core.labeling.segmenter import load_segmenter
from hierasurg_core.phantom.draw import NATIVE_SIZE_HW, PhantomClips, draw_clips
from hierasurg_core.phantom.vae import HELD_OUT_SEED, random_labels
from hierasurg_core.runtime import resolve_dtype

SAM_SEED = HELD_OUT_SEED + 5
_MATCH = 0.5


@dataclasses.dataclass(frozen=True)
class SamScore:
    """How well objects are followed.

    Attributes:
        clips: How many clips.
        objects: How many objects in them, prompted with their true masks in the first frame.
        mean_j: Overlap of masks and truth over the other frames, mean over frames, then objects.
        worst_tenth_j: The same mean over the worst tenth of the objects.
    """

    clips: int
    objects: int
    mean_j: float
    worst_tenth_j: float


@dataclasses.dataclass(frozen=True)
class AutomaticScore:
    """How well objects are found in single frames, before any rule of `label` tidies up.

    Attributes:
        frames: How many frames.
        thresholds: Under which.
        panoptic_quality: Overlaps of matched masks over matches plus half of what is missed or too much.
        recall: Share of the objects that a mask overlaps by more than a half.
        masks: Mean number of masks a frame.
    """

    frames: int
    thresholds: AutomaticThresholds
    panoptic_quality: float
    recall: float
    masks: float


def measure(
    folder: Path,
    *,
    device: torch.device,
    clips: int = 20,
    num_frames: int = 16,
    size_hw: tuple[int, int] = NATIVE_SIZE_HW,
) -> SamScore:
    """Follows all objects of held-out clips from their true first masks.

    Args:
        folder: A mini SAM 2, as `train_sam` writes it.
        device: Where to compute.
        clips: How many clips.
        num_frames: Their length at one frame a second.
        size_hw: Their size.
    """
    segmenter = load_segmenter(str(folder), device=device, dtype=resolve_dtype("auto", device))
    drawn = _held_out(clips, num_frames, size_hw, device)
    means: list[Tensor] = []
    for clip in range(clips):
        truth_FHW = drawn.map_BFHW[clip]
        wanted = _entities(truth_FHW[0], int(drawn.num_entities_B[clip]))
        prompts = [MaskPrompt(0, entity, truth_FHW[0] == entity) for entity in wanted]
        ids_N11 = torch.tensor(wanted, device=device).view(-1, 1, 1)
        per_frame = [
            overlaps(logits_NHW > 0, truth_FHW[index] == ids_N11)
            for index, logits_NHW in segmenter.propagate(segmenter.encode(_frames(drawn, clip)), prompts)
        ]
        means.append(torch.stack(per_frame[1:]).mean(0))
    mean_N = torch.cat(means).sort().values
    worst = mean_N[: max(1, len(mean_N) // 10)]
    return SamScore(clips, len(mean_N), float(mean_N.mean()), float(worst.mean()))


def measure_automatic(
    folder: Path,
    *,
    device: torch.device,
    clips: int = 20,
    size_hw: tuple[int, int] = NATIVE_SIZE_HW,
    grid: tuple[tuple[float, float], ...] = tuple((p, s) for p in (0.5, 0.6, 0.7, 0.8) for s in (0.7, 0.85)),
) -> list[AutomaticScore]:
    """Finds what is in the first frame of held-out clips, under several thresholds.

    Args:
        folder: A mini SAM 2.
        device: Where to compute.
        clips: How many clips.
        size_hw: Their size.
        grid: Pairs of predicted overlap and stability.
    """
    segmenter = load_segmenter(str(folder), device=device, dtype=resolve_dtype("auto", device))
    drawn = _held_out(clips, 1, size_hw, device)
    frames_FHWC = torch.cat([_frames(drawn, clip) for clip in range(clips)])
    features = segmenter.encode(frames_FHWC)
    scores: list[AutomaticScore] = []
    for predicted, stability in grid:
        thresholds = dataclasses.replace(MINI_THRESHOLDS, predicted_iou=predicted, stability=stability)
        found = segmenter.automatic(features, frames_FHWC, thresholds)
        matched, missed, extra, quality, count = 0, 0, 0, 0.0, 0
        for clip, frame in enumerate(found):
            map_HW = drawn.map_BFHW[clip, 0].cpu()
            wanted = _entities(map_HW, int(drawn.num_entities_B[clip]))
            truth_NHW = torch.stack([map_HW == entity for entity in wanted])
            best_N = torch.zeros(len(wanted))
            if len(frame):
                pairs = overlaps(
                    frame.mask_NHW.repeat_interleave(len(wanted), 0), truth_NHW.repeat(len(frame), 1, 1)
                )
                best_N = pairs.view(len(frame), -1).amax(0)
            hits = int((best_N > _MATCH).sum())
            matched, missed, extra = (
                matched + hits,
                missed + len(wanted) - hits,
                extra + max(0, len(frame) - hits),
            )
            quality += float(best_N[best_N > _MATCH].sum())
            count += len(frame)
        scores.append(
            AutomaticScore(
                clips,
                thresholds,
                quality / max(1.0, matched + missed / 2 + extra / 2),
                matched / max(1, matched + missed),
                count / clips,
            )
        )
    return scores


def overlaps(mask_NHW: Tensor, truth_NHW: Tensor) -> Tensor:
    """J, intersection over union, of each pair, (N,); 1 where both are empty."""
    union = (mask_NHW | truth_NHW).flatten(1).sum(1)
    both = (mask_NHW & truth_NHW).flatten(1).sum(1)
    return torch.where(union > 0, both / union.clamp_min(1), 1.0)


def _held_out(clips: int, num_frames: int, size_hw: tuple[int, int], device: torch.device) -> PhantomClips:
    labels = random_labels(clips, torch.Generator().manual_seed(SAM_SEED))
    return draw_clips(*labels, SAM_SEED, num_frames=num_frames, size_hw=size_hw, device=device)


def _frames(drawn: PhantomClips, clip: int) -> Tensor:
    """One clip as frames on disk are: uint8 (F, H, W, 3)."""
    return (drawn.video_BFCHW[clip].permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


def _entities(map_HW: Tensor, count: int) -> list[int]:
    return [entity for entity in range(count) if bool((map_HW == entity).any())]
