"""Speed and accuracy of decoding coloured maps: ten objects, blur 1 px, noise 0.02, 16 frames of 256x384.

Run from the repository's root: `python -m tests.benchmarks.bench_map_decoding`.
"""

import statistics
import time

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.maps import colour_map, decode_colours, palette_rgb_N3
from tests.maps.moving_shapes import blur_and_noise, border_distance_px, moving_ids


def nearest_colour(video_FHWC: NDArray[np.uint8], levels: list[int]) -> NDArray[np.uint8]:
    palette_N3 = palette_rgb_N3(len(levels)).astype(np.float32)
    distance = video_FHWC.astype(np.float32) @ (-2 * palette_N3.T) + (palette_N3**2).sum(axis=1)
    return np.asarray(levels, np.uint8)[distance.argmin(axis=-1)]


def main() -> None:
    for seed in range(3):
        map_FHW = moving_ids(num_entities=10, num_frames=16, size_hw=(256, 384), seed=seed)
        levels = np.unique(map_FHW).tolist()
        video_FHWC = blur_and_noise(colour_map(map_FHW, levels), blur_px=1, noise=0.02, seed=seed)
        inner_FHW = border_distance_px(map_FHW) > 2
        for name, decode in (("plain nearest", nearest_colour), ("decode_colours", decode_colours)):
            decoded_FHW, seconds = decode(video_FHWC, levels), []
            for _ in range(7):
                start = time.perf_counter()
                decoded_FHW = decode(video_FHWC, levels)
                seconds.append(time.perf_counter() - start)
            right_FHW = decoded_FHW == map_FHW
            overlap = [
                (right_FHW & (map_FHW == level)).sum() / ((decoded_FHW == level) | (map_FHW == level)).sum()
                for level in levels
            ]
            print(
                f"seed {seed}  {name:14}  {1000 * statistics.median(seconds):5.0f} ms"
                f"  all {100 * right_FHW.mean():6.2f} %  inside {100 * right_FHW[inner_FHW].mean():7.3f} %"
                f"  worst object's IoU {min(overlap):.2f}"
            )


if __name__ == "__main__":
    main()
