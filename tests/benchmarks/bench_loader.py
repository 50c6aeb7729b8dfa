"""Speed of the data set on two cores: cached latents of 16 frames at 480x720, with maps, as M2V trains on.

Run from the repository's root: `python -m tests.benchmarks.bench_loader`. The data are random latents and
maps of ten moving objects in 64 clips. "read" is what the data set gives, "batch" what the trainer gets:
maps unpacked, latents drawn (in training a GPU does that), all of it in one tensor each. It writes 150 MB
into a temporary folder.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from hierasurg_core.datasets.clips import ClipForm
from hierasurg_core.datasets.dataset import LatentDataset
from hierasurg_core.datasets.encoder import VaeIdentity
from hierasurg_core.datasets.manifest import Manifest, ShardEntry
from hierasurg_core.datasets.packing import pack_map
from hierasurg_core.datasets.shards import ShardWriter
from hierasurg_core.training.from_dataset import DatasetSource
from tests.maps.moving_shapes import moving_ids

CLIPS, SIZE_HW, MAP_SIZE_HW = 64, (480, 720), (256, 384)


def write_shard(path: Path) -> None:
    draws = np.random.default_rng(0)
    map_FHW = moving_ids(num_entities=10, num_frames=CLIPS + 15, size_hw=SIZE_HW, seed=0)
    packed = [pack_map(map_HW) for map_HW in map_FHW]
    window_NS = np.arange(CLIPS)[:, None] + np.arange(16)
    height, width = (side // 8 for side in SIZE_HW)
    rows, columns = (side // 8 for side in MAP_SIZE_HW)

    def latents(*shape: int) -> np.ndarray:
        return draws.standard_normal(shape, dtype=np.float32).astype(np.float16)

    with ShardWriter(path, {}) as shard:
        shard.append("start", np.arange(CLIPS, dtype=np.int32))
        shard.append("max_id", np.full(CLIPS, 11, np.int16))
        for name in ("phase", "triplet", "instance_count"):
            shard.append(name, np.ones((CLIPS, 16), np.int16))
        shard.append("instance", np.ones(CLIPS * 16, np.int16))
        for name in ("map_index", "picture_index"):
            shard.append(name, window_NS.astype(np.int32))
        shard.append("map_end", np.cumsum([len(data) for data in packed]).astype(np.int64))
        shard.append("map_bytes", np.frombuffer(b"".join(packed), np.uint8))
        for _ in range(CLIPS):
            for name in ("video_mean", "video_logvar"):
                shard.append(name, latents(1, 5, 16, height, width))
            shard.append("first_frame", latents(1, 2, 16, height, width))
            shard.append("photo", latents(1, 16, rows, columns))
        shard.append("picture", latents(len(map_FHW), 16, rows, columns))


def measure(what: str, work: Callable[[], int]) -> None:
    rates, costs = [], []
    for _ in range(5):
        began, spent = time.perf_counter(), time.process_time()
        count = work()
        rates.append(count / (time.perf_counter() - began))
        costs.append(1000 * (time.process_time() - spent) / count)
    rate, cost = statistics.median(rates), statistics.median(costs)
    print(f"{what:26}{rate:7.0f} clips/s  {cost:6.2f} ms of a core a clip")


def main() -> None:
    torch.set_num_threads(1)  # the reading threads are the other core's
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video01-00000.safetensors"
        write_shard(path)
        form = ClipForm(1, 1, SIZE_HW, MAP_SIZE_HW, 2, 0)
        entry = ShardEntry("video01", "train", path, CLIPS, {})
        vae = VaeIdentity("none", "", SIZE_HW, 16, 1.0)
        clips = LatentDataset(Manifest(Path(folder), "latents", form, vae, {}, 0, 0, (entry,)), [entry])
        print(f"bytes a clip: {path.stat().st_size / CLIPS / 1e6:.2f} MB")

        def read(with_maps: bool) -> int:
            def one(index: int) -> float:
                clip = clips.get(index % CLIPS, with_maps=with_maps)
                return float(
                    clip.video_mean_TChw.copy()[0, 0, 0, 0] + clip.video_logvar_TChw.copy()[0, 0, 0, 0]
                )

            with ThreadPoolExecutor(2) as pool:
                return len(list(pool.map(one, range(2 * CLIPS))))

        measure("read, latents alone", lambda: read(False))
        measure("read, with maps", lambda: read(True))
        for stage in ("s2m", "m2v"):
            source = iter(DatasetSource(clips, stage, 4))
            next(source)
            measure(f"batch, {stage}, drawn on CPU", lambda source=source: sum(map(len, islice(source, 24))))


if __name__ == "__main__":
    main()
