"""Maps for the tests: shapes that move smoothly, some of them thin, in a round view."""

import cv2
import numpy as np
from numpy.typing import NDArray


def moving_ids(
    num_entities: int = 10, num_frames: int = 16, size_hw: tuple[int, int] = (256, 384), seed: int = 0
) -> NDArray[np.uint8]:
    """Returns ids (F, H, W); the last three entities are tubes of 3, 4.5 and 6 px."""
    random = np.random.default_rng(seed)
    height, width = size_hw
    y_HW, x_HW = np.mgrid[0:height, 0:width].astype(np.float32)
    map_FHW = np.full((num_frames, height, width), num_entities, np.uint8)
    for entity in range(num_entities):
        centre = random.uniform((0.2 * height, 0.2 * width), (0.8 * height, 0.8 * width))
        speed = random.uniform(-0.25, 0.25, 2) * (height, width)
        long, short = random.uniform(0.1, 0.27) * height, random.uniform(0.06, 0.18) * height
        angle, spin, phase = random.uniform(0, np.pi), random.uniform(-1, 1), random.uniform(0, 6)
        lobes = int(random.integers(2, 6))
        tube = entity - (num_entities - 3)
        for frame in range(num_frames):
            time = frame / max(num_frames - 1, 1)
            cy, cx = centre + speed * (time - 0.5)
            turn = angle + spin * time
            u_HW = (x_HW - cx) * np.cos(turn) + (y_HW - cy) * np.sin(turn)
            v_HW = (y_HW - cy) * np.cos(turn) - (x_HW - cx) * np.sin(turn)
            if tube >= 0:
                bend_HW = v_HW - 0.055 * height * np.sin(u_HW / (0.1 * height) + phase)
                inside_HW = (np.abs(bend_HW) < (1.5, 2.25, 3.0)[tube]) & (np.abs(u_HW) < 0.35 * height)
            else:
                radius_HW = 1 + 0.2 * np.sin(lobes * np.arctan2(v_HW, u_HW) + phase)
                inside_HW = (u_HW / long) ** 2 + (v_HW / short) ** 2 < radius_HW**2
            map_FHW[frame][inside_HW] = entity
    border_HW = ((x_HW / width - 0.5) / 0.49) ** 4 + ((y_HW / height - 0.5) / 0.49) ** 4 > 1
    map_FHW[:, border_HW] = num_entities + 1
    return map_FHW


def blur_and_noise(
    video_FHWC: NDArray[np.uint8], blur_px: float, noise: float, seed: int = 0
) -> NDArray[np.uint8]:
    """Returns what a generator might make of a coloured clip; noise is a deviation in 0..1."""
    blurred = np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), blur_px) for frame in video_FHWC])
    noisy = blurred + np.random.default_rng(seed).normal(0, 255 * noise, blurred.shape)
    return (np.clip(noisy, 0, 255) + 0.5).astype(np.uint8)


def border_distance_px(map_FHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns how far each pixel is from the nearest pixel that touches another id."""
    distances = []
    for map_HW in map_FHW:
        inner_HW = np.ones(map_HW.shape, np.uint8)
        across = map_HW[:, 1:] == map_HW[:, :-1]
        inner_HW[:, 1:] &= across
        inner_HW[:, :-1] &= across
        down = map_HW[1:] == map_HW[:-1]
        inner_HW[1:] &= down
        inner_HW[:-1] &= down
        distances.append(cv2.distanceTransform(inner_HW, cv2.DIST_L2, 5))
    return np.stack(distances)
