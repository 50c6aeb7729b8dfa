"""Each metric moves the right way as phantom clips get worse, step by step."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hierasurg_core.evaluation.agreement import Boxes, MapAgreement, compare_maps, detector_agreement
from hierasurg_core.evaluation.frechet import frechet_distance
from hierasurg_core.evaluation.kernel import kernel_distance
from hierasurg_core.evaluation.moments import Moments
from hierasurg_core.evaluation.pairs import first_frame_fidelity, psnr_F, ssim_F, warp_error
from hierasurg_core.maps import PanopticClip
from hierasurg_core.phantom import draw
from hierasurg_core.phantom.held_out import uint8_video

CLIPS, FRAMES, SIZE_HW = 24, 8, (64, 96)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Phantom clips: videos (B, F, H, W, 3) and their maps."""

    video: NDArray[np.uint8]
    maps: list[PanopticClip]


@cache
def clips() -> Drawn:
    phases, triplets = torch.arange(CLIPS) % 7, torch.arange(CLIPS) * 3 % 94
    drawn = draw.draw_clips(phases, triplets, 5, num_frames=FRAMES, fps=8, size_hw=SIZE_HW)
    maps = [
        PanopticClip(m.numpy(), int(k)) for m, k in zip(drawn.map_BFHW, drawn.num_entities_B, strict=True)
    ]
    return Drawn(uint8_video(drawn), maps)


# How a clip gets worse. The first level changes nothing.


def blur(drawn: Drawn, sigma_px: float) -> Drawn:
    if not sigma_px:
        return drawn
    flat = [cv2.GaussianBlur(frame, (0, 0), sigma_px) for frame in drawn.video.reshape(-1, *SIZE_HW, 3)]
    return Drawn(np.array(flat, np.uint8).reshape(drawn.video.shape), drawn.maps)


def colour(drawn: Drawn, red: float) -> Drawn:
    shifted = drawn.video + np.array([red, 0, -red])
    return Drawn(np.clip(shifted, 0, 255).astype(np.uint8), drawn.maps)


def shuffle(drawn: Drawn, frames: float) -> Drawn:
    """The last frames in another order, the same in all clips."""
    order = np.arange(FRAMES)
    count = int(frames)
    order[FRAMES - count :] = np.random.default_rng(3).permutation(order[FRAMES - count :])
    maps = [PanopticClip(clip.map_FHW[order], clip.num_entities) for clip in drawn.maps]
    return Drawn(drawn.video[:, order], maps)


def shift(drawn: Drawn, px: float) -> Drawn:
    maps = [PanopticClip(np.roll(c.map_FHW, int(px), axis=2), c.num_entities) for c in drawn.maps]
    return Drawn(np.roll(drawn.video, int(px), axis=3), maps)


def rename(drawn: Drawn, frames: float) -> Drawn:
    """Entities get the next one's id in so many of the frames, every other one first."""
    maps = []
    for clip in drawn.maps:
        map_FHW = clip.map_FHW.copy()
        names = np.arange(256, dtype=np.uint8)
        names[: clip.num_entities] = np.roll(names[: clip.num_entities], 1)
        chosen = np.arange(1, FRAMES, 2)[: int(frames)]
        map_FHW[chosen] = names[map_FHW[chosen]]
        maps.append(PanopticClip(map_FHW, clip.num_entities))
    return Drawn(drawn.video, maps)


# What is measured: the mean over clips.


@cache
def features(drawn: Drawn) -> NDArray[np.float64]:
    """Colours, contrast, gradients and change of each clip."""
    video = drawn.video / 255
    axes = (1, 2, 3)
    parts = [video.mean(axis=axes), video.std(axis=axes)]
    parts += [np.abs(np.diff(video, axis=axis)).mean(axis=axes) for axis in axes]
    return np.concatenate(parts, axis=1)


def moments(drawn: Drawn) -> Moments:
    result = Moments(15)
    result.update(features(drawn))
    return result


def tool_boxes(clip: PanopticClip, frame: int) -> Boxes:
    """The boxes of a frame's entities, as a perfect detector would give them."""
    found = []
    for entity in range(clip.num_entities):
        rows, columns = np.nonzero(clip.map_FHW[frame] == entity)
        if len(rows):
            found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return Boxes(np.array(found, float).reshape(-1, 4), np.ones(len(found)))


@cache
def agreements(worse: Drawn) -> list[MapAgreement]:
    return [compare_maps(want, have) for want, have in zip(clips().maps, worse.maps, strict=True)]


def of_maps(name: str, worse: Drawn) -> float:
    return float(np.mean([float(getattr(result, name) or 0) for result in agreements(worse)]))


def of_boxes(name: str, worse: Drawn) -> float:
    pairs = (
        (tool_boxes(want, frame), tool_boxes(have, frame))
        for want, have in zip(clips().maps[:8], worse.maps[:8], strict=True)
        for frame in range(FRAMES)
    )
    return float(getattr(detector_agreement(pairs), name))


METRICS = {
    "fd": lambda worse: frechet_distance(moments(clips()), moments(worse)).value,
    "kd-cubic": lambda worse: kernel_distance(features(clips()), features(worse), subsets=1).mean,
    "kd-gaussian": lambda worse: (
        kernel_distance(features(clips()), features(worse), subsets=1, kernel="gaussian").mean
    ),
    "psnr": lambda worse: np.mean([psnr_F(a, b) for a, b in zip(clips().video, worse.video, strict=True)]),
    "ssim": lambda worse: np.mean([ssim_F(a, b) for a, b in zip(clips().video, worse.video, strict=True)]),
    "first-frame-ssim": lambda worse: np.mean(
        [first_frame_fidelity(b, a[0]).ssim for a, b in zip(clips().video, worse.video, strict=True)]
    ),
    "warp-error": lambda worse: np.mean([warp_error(video).error for video in worse.video[:8]]),
    "map-iou": lambda worse: of_maps("mean_iou", worse),
    "boundary-f": lambda worse: of_maps("boundary_f", worse),
    "frame-pq": lambda worse: of_maps("frame_pq", worse),
    "clip-pq": lambda worse: of_maps("clip_pq", worse),
    "id-switches": lambda worse: of_maps("id_switches", worse),
    "id-consistency": lambda worse: of_maps("id_consistency", worse),
    "box-iou": lambda worse: of_boxes("mean_iou", worse),
    "box-hits": lambda worse: of_boxes("real_hit", worse),
}
LEVELS = {
    blur: (0, 0.7, 1.5, 3),
    colour: (0, 8, 16, 32),
    shuffle: (0, 3, 5, 8),
    shift: (0, 3, 5, 8),
    rename: (0, 1, 2, 4),
}
UP, DOWN, STILL = 1, -1, 0
TABLE = [
    # metric              blur  colour  shuffle  shift  rename
    ("fd", (UP, UP, UP, None, STILL)),
    ("kd-cubic", (UP, UP, UP, None, STILL)),
    ("kd-gaussian", (UP, UP, UP, None, STILL)),
    ("psnr", (DOWN, DOWN, DOWN, DOWN, STILL)),
    ("ssim", (DOWN, DOWN, DOWN, DOWN, STILL)),
    ("first-frame-ssim", (DOWN, DOWN, None, DOWN, STILL)),
    ("warp-error", (None, None, UP, None, STILL)),
    ("map-iou", (STILL, STILL, DOWN, DOWN, DOWN)),
    ("boundary-f", (STILL, STILL, DOWN, DOWN, STILL)),
    ("frame-pq", (STILL, STILL, DOWN, DOWN, STILL)),
    ("clip-pq", (STILL, STILL, DOWN, DOWN, DOWN)),
    ("id-switches", (STILL, STILL, None, None, UP)),
    ("id-consistency", (STILL, STILL, None, None, DOWN)),
    ("box-iou", (STILL, STILL, DOWN, DOWN, None)),
    ("box-hits", (STILL, STILL, None, DOWN, None)),
]
CASES = [
    pytest.param(metric, worsen, way, id=f"{metric}-{worsen.__name__}")
    for metric, ways in TABLE
    for worsen, way in zip(LEVELS, ways, strict=True)
    if way is not None
]


@cache
def worse(worsen, level: float) -> Drawn:
    return worsen(clips(), level)


@pytest.mark.parametrize(("metric", "worsen", "way"), CASES)
def test_each_metric_moves_the_right_way(metric: str, worsen, way: int):
    if way == STILL:
        levels = LEVELS[worsen][:: len(LEVELS[worsen]) - 1]
        first, last = (METRICS[metric](worse(worsen, level)) for level in levels)
        assert last == pytest.approx(first, abs=1e-9)
        return
    values = [METRICS[metric](worse(worsen, level)) for level in LEVELS[worsen]]
    steps = np.diff(values) * way
    assert (steps > 0).all(), values


def test_wrong_maps_are_worse_than_maps_that_are_off_by_little():
    wrong = Drawn(clips().video, [*clips().maps[1:], clips().maps[0]])
    for name in ("mean_iou", "boundary_f", "frame_pq", "clip_pq"):
        assert of_maps(name, wrong) < of_maps(name, worse(shift, 2))
