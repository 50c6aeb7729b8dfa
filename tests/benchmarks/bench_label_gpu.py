"""Speed and memory of labelling on one GPU, with SAM 2.1 Large and random weights, at 854x480.

Run from the repository's root: `python -m tests.benchmarks.bench_label_gpu [--size large] [--seconds 150]`.
Prints one JSON object. Random weights find nothing, so eight rectangles a frame are put in the place of the
automatic masks after these have been computed, a ViT-L/16 with random weights is run in the place of RADIO,
and the rectangles' features are made to match over time. The masks that are propagated mean nothing; what is
compared is time, memory, and agreement with sam2's own predictor, which takes the objects in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hierasurg_core.labeling import segmenter as seg
from hierasurg_core.phantom.draw import draw_clips
from hierasurg_core.progress import SilentProgress

SCALE = int(os.environ.get("BENCH_SCALE", "1"))  # smaller frames, to try the script on a CPU
SIZE_HW = (480 // SCALE, 848 // SCALE if SCALE > 1 else 854)
RECTANGLES = [  # x, y, width, height
    tuple(side // SCALE for side in (40 + 210 * (n % 4), 60 + 220 * (n // 4), 110, 130)) for n in range(8)
]
ALL_CANDIDATES = seg.AutomaticThresholds(
    predicted_iou=0.0,
    stability=0.0,
    refine_above=0.0,
    refine_area_px=(0.0, float("inf")),
    refine_duplicates=True,
)
ALL_REFINED = seg.AutomaticThresholds(
    refine_above=0.0, refine_area_px=(0.0, float("inf")), refine_duplicates=True
)


def synchronised(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    """Median seconds, after one run that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        start = synchronised(device)
        work()
        seconds.append(synchronised(device) - start)
    return sorted(seconds)[len(seconds) // 2]


def rectangle_masks(count: int = 8) -> Tensor:
    masks = torch.zeros(count, *SIZE_HW, dtype=torch.bool)
    for n in range(count):
        x, y, width, height = RECTANGLES[n % 8]
        shift = 9 * (n // 8)
        shift = min(shift, SIZE_HW[0] - y - height)
        masks[n, y + shift : y + shift + height, x + shift : x + shift + width] = True
    return masks


def shown(frame: int) -> list[int]:
    """The rectangles of a frame; two of them come and go, so that both directions have work."""
    return [n for n in range(8) if n < 6 or (n == 6 and frame % 20 >= 4) or (n == 7 and frame % 30 >= 10)]


class Injected(seg.Segmenter):
    """Computes automatic masks, then, once it is told to, gives rectangles in their place."""

    injecting = False
    seen = 0
    used = seg.AutomaticThresholds()

    def automatic(self, features: Any, frames_FHWC: Any = None, thresholds: Any = None) -> Any:
        if not self.injecting:
            return super().automatic(features, frames_FHWC, thresholds)
        super().automatic(features, frames_FHWC, self.used)
        masks = rectangle_masks()
        found = []
        for _ in range(len(features)):
            rows = shown(self.seen)
            self.seen += 1
            found.append(seg.FrameMasks(masks[rows], torch.ones(len(rows)), torch.ones(len(rows))))
        return found


class MatchingFeatures:
    """Runs a ViT-L/16, then gives features that tell the rectangles apart."""

    name, digest, unit = "ViT-L/16 with random weights", "random", True

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        from transformers import ViTConfig, ViTModel

        config = ViTConfig(
            hidden_size=1024,
            num_hidden_layers=24 if SCALE == 1 else 1,
            num_attention_heads=16,
            intermediate_size=4096,
            image_size=(SIZE_HW[0], SIZE_HW[1] // 16 * 16),
        )
        self._model: Any = ViTModel(config, add_pooling_layer=False).eval()
        self._model.to(device, dtype)
        rows, columns = SIZE_HW[0] // 16, SIZE_HW[1] // 16
        self._patches = torch.zeros(1, 1024, rows, columns, device=device)
        self._patches[0, -1] = 1
        for n, (x, y, width, height) in enumerate(RECTANGLES):
            across, down = columns / SIZE_HW[1], rows / SIZE_HW[0]
            part = (
                slice(int(y * down) - 1, int((y + height) * down) + 2),
                slice(int(x * across) - 1, int((x + width) * across) + 2),
            )
            self._patches[0, :, part[0], part[1]] = 0
            self._patches[0, n, part[0], part[1]] = 1
        self._device, self._dtype = device, dtype

    def same_below(self, channels: int) -> float:
        return 0.1 / channels

    @torch.inference_mode()
    def patches(self, frames_FHWC: Tensor, features: Any) -> Tensor:
        width = self._patches.shape[-1] * 16
        pixels = frames_FHWC.to(self._device).permute(0, 3, 1, 2)[..., :width].to(self._dtype) / 255
        self._model(pixels)
        return self._patches.expand(len(frames_FHWC), -1, -1, -1)


def phantom_frames(count: int, device: torch.device) -> np.ndarray:
    clips = draw_clips(
        torch.tensor([1]), torch.tensor([17]), 5, num_frames=count, size_hw=SIZE_HW, device=device
    )
    frames = (clips.video_BFCHW[0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    return frames.cpu().numpy()


def bench_automatic(segmenter: seg.Segmenter, frames: np.ndarray, device: torch.device) -> dict[str, Any]:
    some = torch.from_numpy(frames[:8])
    features = segmenter.encode(some)
    result: dict[str, Any] = {"frames": len(some)}
    encode = timed(lambda: segmenter.encode(some), device)
    result["encode_ms_a_frame"] = 1000 * encode / len(some)
    for name, thresholds in (
        ("as_published_all_candidates_refined", ALL_REFINED),
        ("all_candidates_refined_and_kept", ALL_CANDIDATES),
        ("default", seg.AutomaticThresholds()),
    ):
        seconds = timed(lambda t=thresholds: segmenter.automatic(features, some, t), device, 2)
        result[name] = {
            "masks_ms_a_frame": 1000 * seconds / len(some),
            "frames_per_second_with_encoding": len(some) / (seconds + encode),
        }
    return result


def one_by_one(segmenter: seg.Segmenter, frames: np.ndarray, masks: Tensor, size: str) -> Iterator[Tensor]:
    """sam2's own video predictor on the same network."""
    import sam2.sam2_video_predictor as package

    from hierasurg_core.labeling.mini_sam import mini_config
    from hierasurg_core.labeling.sam_network import normalised_input

    module: Any = segmenter._network
    tree = mini_config() if size == "mini" else seg.published_config(size)
    built = {name: getattr(module, name) for name in ("image_encoder", "memory_attention", "memory_encoder")}
    scalars = {name: value for name, value in tree.items() if name not in built and name != "_target_"}
    predictor: Any = package.SAM2VideoPredictor(**built, **scalars).to(segmenter.device).eval()
    for part, own in predictor.named_modules():
        if isinstance(own, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            own.to(module.get_submodule(part).weight.dtype)
    predictor.load_state_dict(module.state_dict())
    pixels = torch.from_numpy(frames).to(segmenter.device).permute(0, 3, 1, 2).float() / 255
    images = normalised_input(pixels, predictor.image_size)
    package.load_video_frames = lambda **_: (images, *SIZE_HW)
    with segmenter._autocast():
        state = predictor.init_state("ours")
        for number, mask in enumerate(masks):
            predictor.add_new_mask(state, 0, number, mask)
        for _, _, logits in predictor.propagate_in_video(state):
            yield logits.squeeze(1)


def batched(segmenter: seg.Segmenter, features: Any, masks: Tensor) -> Iterator[Tensor]:
    prompts = [seg.MaskPrompt(0, n, mask) for n, mask in enumerate(masks)]
    for _, logits in segmenter.propagate(features, prompts, reverse=False, max_frames=None):
        yield logits


def agreement(segmenter: seg.Segmenter, frames: np.ndarray, masks: Tensor, size: str) -> dict[str, float]:
    ours = [(logits > 0).cpu() for logits in batched(segmenter, segmenter.encode(frames), masks)]
    theirs = [(logits > 0).cpu() for logits in one_by_one(segmenter, frames, masks, size)]
    different = sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
    area = sum(int(b.sum()) for b in theirs)
    return {"pixels_different_of_mask_pixels": different / max(1, area), "mask_pixels": area}


def bench_propagation(
    segmenter: seg.Segmenter, frames: np.ndarray, size: str, counts: list[int], device: torch.device
) -> list[dict[str, Any]]:
    some = frames[:16]
    features = segmenter.encode(some)
    list(one_by_one(segmenter, some[:3], rectangle_masks(1), size))
    rows = []
    for count in counts:
        masks = rectangle_masks(count).to(device)
        ours = timed(lambda m=masks: list(batched(segmenter, features, m)), device, 2)
        whole = timed(lambda m=masks: list(batched(segmenter, segmenter.encode(some), m)), device, 2)
        start = synchronised(device)
        list(one_by_one(segmenter, some, masks, size))
        theirs = synchronised(device) - start
        rows.append(
            {
                "objects": count,
                "frames": len(some),
                "batched_seconds": ours,
                "batched_frames_per_second": len(some) / ours,
                "batched_seconds_with_encoding": whole,
                "one_by_one_seconds_with_encoding": theirs,
                "speed_up": theirs / whole,
                **agreement(segmenter, some, masks, size),
            }
        )
    return rows


def bench_end_to_end(
    segmenter: Injected, frames: np.ndarray, counts: list[int], device: torch.device, deadline: float
) -> list[dict[str, Any]]:
    import hierasurg_core.labeling.label as label_module
    from hierasurg_core.config import LabelConfig

    backbone = MatchingFeatures(device, segmenter._dtype)
    label_module.load_segmenter = lambda *_, **__: segmenter
    label_module.load_vision_backbone = lambda *_, **__: backbone
    rows: list[dict[str, Any]] = []
    for turn, count in enumerate([min(counts), *counts]):
        # Once with each candidate refined, as random weights' low scores never ask for.
        segmenter.used = seg.AutomaticThresholds() if turn else ALL_REFINED
        if rows:
            expected = count / rows[-1]["frames_per_second"]
            if time.monotonic() + expected > deadline:
                count = int((deadline - time.monotonic()) * 0.9 * rows[-1]["frames_per_second"])
            if count < 32:
                rows.append({"left_out": "no time"})
                break
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "videos" / "video01"
            folder.mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(frames[index % len(frames)])
                image.save(folder / f"{index:06d}.jpg", quality=92)
            segmenter.seen = 0
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            config = LabelConfig(videos=folder.parent, sam="large", features="stand-in", batch=8)
            start = synchronised(device)
            result = label_module.label(config, device, SilentProgress())
            seconds = synchronised(device) - start
            files = list(folder.parent.rglob("*.pkl"))
            rows.append(
                {
                    "frames": count,
                    "candidates": "default thresholds" if turn else "all refined",
                    "seconds": seconds,
                    "frames_per_second": count / seconds,
                    "peak_gpu_gb": torch.cuda.max_memory_allocated(device) / 1e9
                    if device.type == "cuda"
                    else None,
                    "entities": result.videos[0].entities,
                    "bytes_a_clip": sum(path.stat().st_size for path in files) / max(1, len(files)),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="large", help="tiny, small, base-plus, large or mini")
    parser.add_argument("--seconds", type=float, default=150.0, help="time for everything")
    parser.add_argument("--objects", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--skip", nargs="*", default=[], help="automatic, propagation, end-to-end")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds - 5
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    if options.size == "mini":
        module = seg.build_mini_network()
    else:
        module = seg.build_network(seg.published_config(options.size))
    with torch.no_grad():  # random weights would say that nothing is there
        last: Any = module.get_submodule("sam_mask_decoder.pred_obj_score_head.layers.2")
        last.bias.fill_(10.0)
    segmenter = Injected(
        module, name=options.size, digest="random", device=device, dtype=dtype, compile=options.compile
    )
    frames = phantom_frames(100 if max(options.frames) >= 100 else max(16, *options.frames), device)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "size": options.size,
        "dtype": str(dtype),
        "compile": options.compile,
        "size_hw": SIZE_HW,
    }
    if "automatic" not in options.skip:
        report["automatic"] = bench_automatic(segmenter, frames, device)
    if "propagation" not in options.skip:
        report["propagation"] = bench_propagation(segmenter, frames, options.size, options.objects, device)
    if "end-to-end" not in options.skip:
        segmenter.injecting = True
        report["end_to_end"] = bench_end_to_end(segmenter, frames, options.frames, device, deadline)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
