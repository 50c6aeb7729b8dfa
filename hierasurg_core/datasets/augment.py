"""Changes of a clip that make more of the data: flips, object dropout, noise on the first frame.

What is drawn for a clip depends on the seed, the clip's name and the epoch alone, never on the order of work.
So a build that was cut off ends in the same bytes, and training that goes on sees what it would have seen.

A frozen VAE does not commute with a flip, so latents cannot be turned afterwards, and storing all four
orientations would cost four times the disk. A built data set therefore stores each clip of the training
split in one orientation, drawn here: clips overlap by all but a second, so every moment is still seen in
all of them. Training on the fly draws anew in every epoch.

Legend: F frames, H rows, W columns, K variants. Source: HieraSurg's public code.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hierasurg_core.maps import PanopticClip

FLIP = 0.3  # probability of either flip
_NOISE_MEAN, _NOISE_SPREAD = -3.0, 0.5  # of the logarithm of the first frame's noise
_RADIUS = 4  # pixels around a hole that inpainting looks at
_RIM = 2  # pixels by which a hole is wider than the object's mask, which never fits exactly


@dataclass(frozen=True)
class Augmentation:
    """What happens to a clip.

    Attributes:
        left_right: Mirror the columns.
        up_down: Mirror the rows.
        dropped: Entity that leaves map and frames; None: none.
    """

    left_right: bool = False
    up_down: bool = False
    dropped: int | None = None

    def flip(self, pixels_FHWx: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Flips rows and columns, axes 1 and 2, of frames or maps."""
        rows = slice(None, None, -1 if self.up_down else 1)
        columns = slice(None, None, -1 if self.left_right else 1)
        return np.ascontiguousarray(pixels_FHWx[:, rows, columns])


def clip_draws(seed: int, clip: str, epoch: int, what: str) -> np.random.Generator:
    """Returns the generator of one kind of draws for one clip in one epoch."""
    digest = hashlib.sha256(f"{seed}/{clip}/{epoch}/{what}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def draw_augmentation(
    draws: np.random.Generator, maps: PanopticClip, *, flip: float, dropout: float
) -> Augmentation:
    """Draws flips, each with probability `flip`, and with `dropout` an entity of the clip to take away.

    Background and black border always stay.
    """
    left_right, up_down, drops = (float(value) for value in draws.random(3))
    entities = [level for level in maps.levels if level < maps.num_entities]
    dropped = int(draws.choice(entities)) if drops < dropout and entities else None
    return Augmentation(left_right < flip, up_down < flip, dropped)


def without_entity(maps: PanopticClip, entity: int) -> PanopticClip:
    """Turns an entity into background in all maps; ids of the others and the highest id stay.

    Example:
        >>> without_entity(PanopticClip(np.array([[[0, 1, 2]]], np.uint8), 1), 0).map_FHW.tolist()
        [[[1, 1, 2]]]
    """
    map_FHW = maps.map_FHW.copy()
    map_FHW[map_FHW == entity] = maps.num_entities
    return PanopticClip(map_FHW, maps.num_entities)


def inpaint_entity(frame_HWC: NDArray[np.uint8], hole_HW: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Fills a hole from its surroundings (Telea's method); a frame without a hole comes back as it is."""
    if not hole_HW.any():
        return frame_HWC
    side = 2 * _RIM + 1
    wide_HW = cv2.dilate(hole_HW.astype(np.uint8), np.ones((side, side), np.uint8))
    filled = cv2.inpaint(np.ascontiguousarray(frame_HWC), wide_HW, _RADIUS, cv2.INPAINT_TELEA)
    return np.asarray(filled, np.uint8)


def first_frame_variants(
    draws: np.random.Generator, frame_HWC: NDArray[np.uint8], variants: int
) -> NDArray[np.float32]:
    """Returns the first frame in K variants, float32 (K, H, W, 3) in about [-1, 1]: as it is, then noisy.

    The noise of each has strength exp(N(-3, 0.5)). The clean one is kept among them because that is what
    sampling starts from.
    """
    clean_HWC = frame_HWC.astype(np.float32) / 127.5 - 1
    frames_KHWC = np.repeat(clean_HWC[None], variants, axis=0)
    for noisy_HWC in frames_KHWC[1:]:
        strength = np.exp(_NOISE_MEAN + _NOISE_SPREAD * draws.standard_normal())
        noisy_HWC += np.float32(strength) * draws.standard_normal(noisy_HWC.shape, dtype=np.float32)
    return frames_KHWC
