"""Each mini metric of `evaluate` moves the right way as phantom clips get worse, step by step.

With the bundled network, through the extractors and the numbers that reports are made of. What is wrong grows
from left to right; the first level is what the phantom drew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from evaluation.phantom_sides import drawn
from numpy.typing import NDArray

from hierasurg_core.evaluation.distances import FeatureSet, frechet_of_roles, kernel_of_roles
from hierasurg_core.evaluation.extractors import MiniExtractor
from hierasurg_core.evaluation.measuring import Measured, Rows
from hierasurg_core.evaluation.recordings import Labels
from hierasurg_core.evaluation.scalars import phase_hits, triplet_hits
from hierasurg_core.phantom.held_out import uint8_video
from hierasurg_core.phantom.vae import HELD_OUT_SEED

CLIPS, SIZE_HW = 28, (128, 192)
Videos = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Asked:
    """Clips and what they are asked to show."""

    videos: Videos
    labels: tuple[Labels, ...]


@cache
def clips() -> Asked:
    made = drawn(CLIPS, HELD_OUT_SEED + 11, size_hw=SIZE_HW)
    labels = [
        Labels(int(phase), int(triplet), frozenset((int(triplet),)))
        for phase, triplet in zip(made.phase_BF[:, 0], made.triplet_BF[:, 0], strict=True)
    ]
    return Asked(uint8_video(made), tuple(labels))


def each_frame(asked: Asked, change: Callable[[Videos], Any]) -> Asked:
    flat = asked.videos.reshape(-1, *SIZE_HW, 3)
    changed = np.stack([np.clip(change(frame), 0, 255).astype(np.uint8) for frame in flat])
    return Asked(changed.reshape(asked.videos.shape), asked.labels)


def blur(asked: Asked, sigma_px: float) -> Asked:
    return each_frame(asked, lambda frame: cv2.GaussianBlur(frame, (0, 0), sigma_px))


def noise(asked: Asked, sigma: float) -> Asked:
    random = np.random.default_rng(0)
    return each_frame(asked, lambda frame: frame + random.normal(0, sigma, frame.shape))


def colour(asked: Asked, gain: float) -> Asked:
    return each_frame(asked, lambda frame: frame * np.array([1 + gain, 1, 1 - gain]))


def shuffle(asked: Asked, frames: float) -> Asked:
    random = np.random.default_rng(1)
    order = np.arange(asked.videos.shape[1])
    places = random.permutation(len(order))[: int(frames)]
    order[places] = np.roll(places, 1)
    return Asked(asked.videos[:, order], asked.labels)


def phase(asked: Asked, share: float) -> Asked:
    """So many of the clips are asked for the next phase."""
    wrong = round(share * len(asked.labels))
    labels = [
        Labels(
            (said.phase + 1) % 7 if index < wrong and said.phase is not None else said.phase,
            said.triplet,
            said.triplets,
        )
        for index, said in enumerate(asked.labels)
    ]
    return Asked(asked.videos, tuple(labels))


def triplet(asked: Asked, share: float) -> Asked:
    """So many of the clips are asked for another triplet."""
    wrong = round(share * len(asked.labels))
    labels = [
        Labels(
            said.phase, said.triplet, frozenset({(said.triplet or 0) + 1}) if index < wrong else said.triplets
        )
        for index, said in enumerate(asked.labels)
    ]
    return Asked(asked.videos, tuple(labels))


LEVELS = {
    blur: (0.8, 1.6, 3.2),
    noise: (6, 14, 30),
    colour: (0.08, 0.18, 0.35),
    shuffle: (5, 10),  # of 16 frames; all of them are hardly worse than ten
    phase: (0.25, 0.5, 1),
    triplet: (0.25, 0.5, 1),
}


@cache
def network() -> MiniExtractor:
    return MiniExtractor(torch.device("cpu"))


@cache
def worse(worsen: Callable[[Asked, float], Asked] | None, level: float) -> tuple[Asked, Rows]:
    asked = clips() if worsen is None else worsen(clips(), level)
    if worsen is not None and asked.videos is clips().videos:  # other words about the same pictures
        return asked, worse(None, 0)[1]
    parts = [
        network().measure([Measured(video) for video in asked.videos[i : i + 4]]) for i in range(0, CLIPS, 4)
    ]
    return asked, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def sets(rows: Rows, kind: str) -> dict[str, FeatureSet]:
    names = [str(index) for index in range(CLIPS)]
    _, real = worse(None, 0)
    return {
        role: FeatureSet(
            found[kind].reshape(-1, found[kind].shape[-1]),
            names,
            found[kind].size // found[kind].shape[-1] // CLIPS,
        )
        for role, found in (("real", real), ("model", rows))
    }


METRICS = {
    "fvd-mini": lambda asked, rows: (
        frechet_of_roles(sets(rows, "clip"), ddof=1, replicates=0, seed=0).values["model"].value
    ),
    "kvd-mini": lambda asked, rows: (
        kernel_of_roles(sets(rows, "clip"), kernel="cubic", subsets=1, subset_size=CLIPS, seed=0)
        .values["model"]
        .value
    ),
    "fid-mini": lambda asked, rows: (
        frechet_of_roles(sets(rows, "frame"), ddof=1, replicates=0, seed=0).values["model"].value
    ),
    "phase-agreement-mini": lambda asked, rows: phase_hits(rows["phase"], asked.labels).mean(),
    "triplet-agreement-mini": lambda asked, rows: triplet_hits(rows["triplet"], asked.labels).mean(),
}
UP, DOWN, STILL = 1, -1, 0
TABLE = [
    # metric                   blur  noise colour shuffle phase triplet
    ("fvd-mini", (UP, UP, UP, UP, STILL, STILL)),
    ("kvd-mini", (UP, UP, UP, UP, STILL, STILL)),
    ("fid-mini", (UP, UP, UP, STILL, STILL, STILL)),
    ("phase-agreement-mini", (None, None, None, None, DOWN, STILL)),
    ("triplet-agreement-mini", (None, None, None, None, STILL, DOWN)),
]
CASES = [
    pytest.param(metric, worsen, way, id=f"{metric}-{worsen.__name__}")
    for metric, ways in TABLE
    for worsen, way in zip(LEVELS, ways, strict=True)
    if way is not None
]


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "worsen", "way"), CASES)
def test_each_mini_metric_moves_the_right_way(metric: str, worsen: Callable[[Asked, float], Asked], way: int):
    values = [float(METRICS[metric](*worse(None, 0)))]
    values += [float(METRICS[metric](*worse(worsen, level))) for level in LEVELS[worsen]]
    if way == STILL:
        assert values[-1] == pytest.approx(values[0], abs=1e-6)
        return
    assert (np.diff(values) * way > 0).all(), values


@pytest.mark.slow
def test_the_bundled_network_knows_what_the_phantom_shows():
    asked, rows = worse(None, 0)
    assert phase_hits(rows["phase"], asked.labels).mean() > 0.9
    assert triplet_hits(rows["triplet"], asked.labels).mean() > 0.5
