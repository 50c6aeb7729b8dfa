"""Clips a second of the phantom, 16 frames of 128x192; run ``python -m tests.benchmarks.bench_phantom``.

On a CPU with one thread; on a GPU, where there is one, with batches of 16 to 128 clips. Medians of five.
"""

import statistics
import time

import torch

from hierasurg_core.phantom.draw import draw_clips
from hierasurg_core.phantom.vae import random_labels


def clips_per_second(device: str, batch: int) -> float:
    generator = torch.Generator().manual_seed(0)
    phases, triplets = random_labels(batch, generator)
    seconds = []
    for seed in range(6):
        began = time.perf_counter()
        draw_clips(phases, triplets, seed, device=device)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return batch / statistics.median(seconds[1:])


def main() -> None:
    torch.set_num_threads(1)
    print(f"cpu, one thread: {clips_per_second('cpu', 4):.2f} clips/s")
    if torch.cuda.is_available():
        for batch in (16, 32, 64, 128):
            name = torch.cuda.get_device_name()
            print(f"{name}, batch {batch}: {clips_per_second('cuda', batch):.0f} clips/s")


if __name__ == "__main__":
    main()
