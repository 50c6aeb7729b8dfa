"""Seconds of the numerical parts of evaluation at the sizes of real use.

Run from the repository's root: `python -m tests.benchmarks.bench_evaluation`.
"""

import time
from collections.abc import Callable

import numpy as np

from hierasurg_core.evaluation.agreement import compare_maps
from hierasurg_core.evaluation.frechet import frechet_distance, frechet_slopes
from hierasurg_core.evaluation.kernel import kernel_distance
from hierasurg_core.evaluation.moments import Moments
from hierasurg_core.evaluation.pairs import psnr_F, ssim_F, warp_error
from hierasurg_core.maps import PanopticClip
from tests.maps.moving_shapes import moving_ids


def timed(name: str, work: Callable[[], object]) -> None:
    start = time.perf_counter()
    work()
    print(f"{name:48} {time.perf_counter() - start:7.2f} s")


def main() -> None:
    random = np.random.default_rng(0)
    for dimensions, what in ((400, "I3D"), (2048, "Inception")):
        features_ND = random.normal(size=(4000, dimensions)).astype(np.float32)
        a, b = Moments(dimensions), Moments(dimensions)
        timed(f"moments of 4000 x {dimensions} ({what})", lambda a=a, x=features_ND: a.update(x))
        b.update(features_ND + random.normal(size=features_ND.shape))
        timed(f"Frechet distance in {dimensions} dimensions", lambda a=a, b=b: frechet_distance(a, b))
        slopes = frechet_slopes(a, b)[1:]
        timed("the same with slopes, for an interval", lambda a=a, b=b: frechet_slopes(a, b))
        timed("slopes of both sides' samples", lambda s=slopes, x=features_ND: [one.of(x) for one in s])
    features_ND = random.normal(size=(4000, 400)).astype(np.float32)
    timed(
        "kernel distance, 10 of 100 subsets of 1000 x 400",
        lambda: kernel_distance(features_ND, features_ND, subsets=10),
    )
    ids_FHW = moving_ids()
    video_FHWC = np.stack([ids_FHW * 20, 255 - ids_FHW * 9, ids_FHW * 11], axis=-1)
    clip = PanopticClip(ids_FHW, 10)
    timed("PSNR of 16 frames of 256x384", lambda: psnr_F(video_FHWC, video_FHWC[::-1]))
    timed("SSIM of 16 frames of 256x384", lambda: ssim_F(video_FHWC, video_FHWC[::-1]))
    timed("warp error of 16 frames of 256x384", lambda: warp_error(video_FHWC))
    timed("agreement of 16 maps of 256x384", lambda: compare_maps(clip, clip))


if __name__ == "__main__":
    main()
