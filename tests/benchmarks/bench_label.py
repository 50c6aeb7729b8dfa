"""How well and how fast `label` works: on held-out phantom videos, and at full size with random weights.

    python -m tests.benchmarks.bench_label quality [VIDEOS] [SECONDS]   mini SAM 2, no hints (20 of 48 s)
    python -m tests.benchmarks.bench_label calibrate [VIDEOS]           cosines of masks of one entity, of two
    python -m tests.benchmarks.bench_label memory [FRAMES ...]          mini SAM 2 on the CPU, small (100 400)
    python -m tests.benchmarks.bench_label refine                       rules of masks on one core, 854x480
    python -m tests.benchmarks.bench_label speed [FRAMES ...]           SAM 2.1 Large's architecture (100 400)

`sam=FOLDER` at the end takes a mini SAM 2 that is not the bundled one.

`speed` injects 8 rectangular masks a frame after the real mask generator has run, because random weights find
none, and lets a ViT-L/16 of random weights stand in for RADIO. Held-out videos have seeds that the recipe of
the mini models never draws.
"""

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from hierasurg_core.config import LabelConfig
from hierasurg_core.datasets.frames import FrameFolder, encode_jpeg, read_manifest
from hierasurg_core.evaluation.label_check import check_labels
from hierasurg_core.labeling.features import Backbone, SegmenterBackbone, VisionBackbone, describe
from hierasurg_core.labeling.frames import SecondFrames
from hierasurg_core.labeling.label import label
from hierasurg_core.labeling.propagation import MaskPrompt
from hierasurg_core.labeling.refine import BACKGROUND, Rules, clean, merge_objects, paint
from hierasurg_core.labeling.sam_network import FrameFeatures
from hierasurg_core.labeling.segmenter import Segmenter, build_segmenter, load_segmenter
from hierasurg_core.labeling.windows import SeenMasks, Segmenting
from hierasurg_core.maps import load_map_image, save_map_png
from hierasurg_core.phantom.operation import draw_operation, plan_operation
from hierasurg_core.progress import SilentProgress
from hierasurg_core.runtime import resolve_device, resolve_dtype

HELD_OUT_SEED = 990_001
FULL_HW = (480, 854)
SMALL_HW = (128, 192)


def phantom(folder: Path, videos: int, seconds: int) -> None:
    """Frames and truth of held-out operations, a frame a second, as `extract` would have them."""
    device = resolve_device()
    for number in range(1, videos + 1):
        operation = plan_operation(number, seconds, HELD_OUT_SEED)
        frames, masks = folder / "videos" / operation.name, folder / "truth" / f"{operation.name}_masks"
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for second, (frame_HWC, map_HW) in enumerate(draw_operation(operation, FULL_HW, 1, device)):
            jpeg = encode_jpeg(np.ascontiguousarray(frame_HWC[..., ::-1]), 95)
            (frames / f"{second:06d}.jpg").write_bytes(jpeg)
            save_map_png(masks / f"{second:06d}.png", map_HW, len(operation.codes))


def quality(sam: str, videos: int, seconds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom(folder, videos, seconds)
        config = LabelConfig(videos=folder / "videos", sam=sam, device="cpu")
        began = time.perf_counter()
        label(config, torch.device("cpu"), SilentProgress())
        spent = time.perf_counter() - began
        checked = check_labels(
            LabelConfig(videos=folder / "videos", check=folder / "truth"), SilentProgress()
        )
    for video in checked.videos:
        pq, ids = video.scores.panoptic_quality, video.scores.id_consistency
        print(f"{video.name}: panoptic quality {pq or 0:.3f}, id consistency {ids or 0:.3f}")
    mean = checked.mean
    print(f"mean panoptic quality {mean.panoptic_quality or 0:.3f}")
    print(f"mean id consistency inside clips {mean.id_consistency or 0:.3f}")
    print(f"clip quality {mean.clip_quality or 0:.3f}, boundary F {mean.boundary_f or 0:.3f}")
    print(f"{videos * seconds / spent:.2f} frames/s on the CPU, {torch.get_num_threads()} threads")


def calibrate(sam: str, videos: int) -> None:
    """The cosine that tells best whether masks of frames up to 16 s apart are of one entity."""
    same: list[float] = []
    other: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom(folder, videos, 40)
        segmenter = load_segmenter(sam, device=torch.device("cpu"))
        for video in range(1, videos + 1):
            one, two = cosines(segmenter, folder, f"video{video:02d}")
            same += one
            other += two
    a, b = np.array(same), np.array(other)
    print(f"one entity: {len(a)} pairs, cosine {np.percentile(a, [1, 5, 25, 50])} (1, 5, 25, 50 %)")
    print(f"two entities: {len(b)} pairs, cosine {np.percentile(b, [50, 75, 95, 99])} (50, 75, 95, 99 %)")
    candidates = np.linspace(0, 1, 1001)
    rates = [(((a < x).mean() + (b >= x).mean()) / 2, x) for x in candidates]
    print(f"least mean error {min(rates)[0]:.3f} at cosine {min(rates)[1]:.3f}")
    for false in (0.001, 0.01, 0.05):
        at = float(np.quantile(b, 1 - false))
        print(
            f"{false:.1%} of two taken for one at cosine {at:.3f}, which keeps {(a >= at).mean():.1%} of one"
        )


def cosines(segmenter: Segmenter, folder: Path, name: str) -> tuple[list[float], list[float]]:
    frames = SecondFrames(read_manifest(folder / "videos" / name))
    pixels = frames.read(range(frames.num_frames))
    patches = SegmenterBackbone("mini", "0").patches(torch.from_numpy(pixels), segmenter.encode(pixels))
    looks: list[dict[int, np.ndarray]] = []
    rules = Rules.for_size(frames.size_hw)
    for second, frame_HWC in enumerate(pixels):
        map_HW = load_map_image(folder / "truth" / f"{name}_masks" / f"{second:06d}.png")
        entities = [int(entity) for entity in np.unique(map_HW)[:-2]]
        found = [(entity, clean(map_HW == entity, rules)) for entity in entities if entity < BACKGROUND]
        pieces = [(entity, piece) for entity, piece in found if piece is not None]
        described, has = describe(patches[second], frame_HWC, [piece for _, piece in pieces], unit=True)
        looks.append({entity: described[row] for row, (entity, _) in enumerate(pieces) if has[row]})
    same: list[float] = []
    other: list[float] = []
    for second in range(0, len(looks), 3):
        for later in range(second + 1, min(second + 16, len(looks)), 4):
            for entity, look in looks[second].items():
                for another, its in looks[later].items():
                    (same if entity == another else other).append(float(look @ its))
    return same, other


def memory(sam: str, counts: list[int]) -> None:
    """Peak memory and speed of labelling so many frames, each count in a process of its own."""
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "videos" / "video01"
            folder.mkdir(parents=True)
            operation = plan_operation(1, 20, HELD_OUT_SEED)
            drawn = draw_operation(operation, SMALL_HW, 1, torch.device("cpu"))
            jpegs = [encode_jpeg(np.ascontiguousarray(frame[..., ::-1]), 95) for frame, _ in drawn]
            for index in range(count):
                # There and back again, so that frames stay like the ones beside them.
                turn = index % (2 * len(jpegs) - 2)
                jpeg = jpegs[min(turn, 2 * len(jpegs) - 2 - turn)]
                (folder / f"{index:06d}.jpg").write_bytes(jpeg)
            program = "import sys; from hierasurg_cli.app import run; sys.exit(run(sys.argv[1:]))"
            line = [sys.executable, "-c", program, "label", str(folder.parent), "--sam", sam]
            began = time.perf_counter()
            subprocess.run([*line, "--device", "cpu", "--quiet"], check=True)
            spent = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
        print(f"{count} frames: peak {peak:.0f} MiB so far, {count / spent:.2f} frames/s with the start")


def refining() -> None:
    """Seconds a frame of cleaning, merging and painting 18 objects of the phantom at 854x480."""
    rules = Rules.for_size(FULL_HW)
    drawn = list(draw_operation(plan_operation(1, 8, HELD_OUT_SEED), FULL_HW, 1, torch.device("cpu")))
    masks = []
    for _, map_HW in drawn:
        own = [map_HW == entity for entity in np.unique(map_HW)[:-2]]
        masks.append([own[index % len(own)] for index in range(18)])  # some twice, which have to merge
    cv2.setNumThreads(1)
    began = time.thread_time()
    pieces = [[clean(mask_HW, rules) for mask_HW in frame] for frame in masks]
    staying, ids = merge_objects(pieces, range(18), rules)
    for (frame_HWC, _), frame in zip(drawn, staying, strict=True):
        paint(frame, ids, frame_HWC, rules)
    spent = time.thread_time() - began
    print(f"{spent / len(drawn) * 1e3:.1f} ms a frame on one core, 18 objects, {FULL_HW[1]}x{FULL_HW[0]}")


class Injecting:
    """A segmenter with random weights that is said to have found 8 drifting rectangles."""

    def __init__(self, real: Segmenter) -> None:
        self.real, self.name, self.digest = real, real.name, real.digest
        self.frame = 0
        self.automatic_s = 0.0

    def encode(self, frames_FHWC: torch.Tensor) -> FrameFeatures:
        return self.real.encode(frames_FHWC)

    def automatic(self, features: FrameFeatures, frames_FHWC: torch.Tensor) -> Sequence[SeenMasks]:
        torch.cuda.synchronize()
        began = time.perf_counter()
        found = self.real.automatic(features, frames_FHWC)
        torch.cuda.synchronize()
        self.automatic_s += time.perf_counter() - began
        return [type(masks)(self._masks(), torch.ones(8), torch.ones(8)) for masks in found]

    def propagate(
        self, features: FrameFeatures, prompts: Sequence[MaskPrompt], *, reverse: bool, max_frames: int | None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        return self.real.propagate(features, prompts, reverse=reverse, max_frames=max_frames)

    def _masks(self) -> torch.Tensor:
        mask_NHW = torch.zeros(8, *FULL_HW, dtype=torch.bool)
        for index in range(8):
            top, left = 60 + 190 * (index // 4), 80 + 180 * (index % 4) + self.frame % 16
            mask_NHW[index, top : top + 120, left : left + 130] = True
        self.frame += 1
        return mask_NHW


class InjectedModels:
    precision = "bfloat16"

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import ViTConfig, ViTModel

        self.injecting = Injecting(build_segmenter("large", device=device, dtype=dtype))
        vit = ViTModel(
            ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
        )
        moved = torch.nn.Module.to(vit, device, dtype).eval()
        self.vit = VisionBackbone(moved, "ViT-L/16", "random", torch.tensor([[0.5] * 3] * 2))

    def segmenter(self, folder: FrameFolder) -> Segmenting:
        return self.injecting

    def backbone(self, segmenter: Segmenting) -> Backbone:
        return self.vit


def speed(counts: list[int]) -> None:
    device = resolve_device("cuda")
    dtype = resolve_dtype("auto", device)
    models = InjectedModels(device, dtype)
    operation = plan_operation(1, 32, HELD_OUT_SEED)
    drawn = [frame for frame, _ in draw_operation(operation, FULL_HW, 1, device)]
    jpegs = [encode_jpeg(np.ascontiguousarray(frame[..., ::-1]), 95) for frame in drawn]
    print(
        f"{torch.cuda.get_device_name()}, SAM 2.1 Large's architecture in {dtype}, {FULL_HW[1]}x{FULL_HW[0]}"
    )
    for count in [48, *counts]:
        with tempfile.TemporaryDirectory() as name:
            video = Path(name) / "videos" / "video01"
            video.mkdir(parents=True)
            for index in range(count):
                (video / f"{index:06d}.jpg").write_bytes(jpegs[index % len(jpegs)])
            torch.cuda.reset_peak_memory_stats()
            models.injecting.automatic_s = 0.0
            began = time.perf_counter()
            label(LabelConfig(videos=video.parent), device, SilentProgress(), models)
            spent = time.perf_counter() - began
            size = [path.stat().st_size for path in (video.parent / "video01_masks").glob("*.pkl")]
            shutil.rmtree(video.parent)
        if count == 48 and count not in counts:
            continue  # warms up
        print(
            f"{count} frames: {count / spent:.2f} frames/s end to end, automatic masks "
            f"{count / models.injecting.automatic_s:.2f} frames/s, peak "
            f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB, {max(size) / 1e3:.0f} kB a clip"
        )


def main() -> None:
    arguments = sys.argv[1:] or ["quality"]
    sam = arguments.pop().removeprefix("sam=") if arguments[-1].startswith("sam=") else "mini"
    kind, *numbers = arguments
    values = [int(number) for number in numbers]
    if kind == "quality":
        quality(sam, *(values + [20, 48][len(values) :]))
    elif kind == "calibrate":
        calibrate(sam, *(values or [6]))
    elif kind == "memory":
        memory(sam, values or [100, 400])
    elif kind == "refine":
        refining()
    elif kind == "speed":
        speed(values or [100, 400])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
