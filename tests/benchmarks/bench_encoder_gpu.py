"""build-dataset on one GPU with the full-size VAE (random weights), against the VAE alone on the same clips.

Run from the repository's root: `python -m tests.benchmarks.bench_encoder_gpu [--videos 2] [--frames 40]`.
Phantom frames of 854x480 with their maps are written as `extract` and `label` would; all clips are built at
480x720, and then the same pixels, read before, go through the encoder once more. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hierasurg_core.config import BuildDatasetConfig
from hierasurg_core.datasets.build import build_dataset, encode_clips
from hierasurg_core.datasets.plan import DatasetPlan, plan_dataset
from hierasurg_core.maps import save_map_png
from hierasurg_core.models import AutoencoderKLCogVideoX
from hierasurg_core.models.encoder import VaeEncoder, identify_vae
from hierasurg_core.phantom.draw import draw_clips
from hierasurg_core.progress import SilentProgress

_WIDTHS = (128, 256, 256, 512)


def write_operations(root: Path, videos: int, frames: int, size_hw: tuple[int, int], device: str) -> None:
    for number in range(1, videos + 1):
        drawn = draw_clips(
            torch.tensor([number % 7]),
            torch.tensor([17]),
            number,
            num_frames=frames,
            size_hw=size_hw,
            device=device,
        )
        name = f"video{number:02d}"
        pictures, maps = root / "videos" / name, root / "videos" / f"{name}_masks"
        pictures.mkdir(parents=True)
        maps.mkdir()
        (root / "labels").mkdir(exist_ok=True)
        video_FHWC = (drawn.video_BFCHW[0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
        map_FHW, entities = drawn.map_BFHW[0].cpu().numpy(), int(drawn.num_entities_B[0])
        for index in range(frames):
            Image.fromarray(video_FHWC[index]).save(pictures / f"{index:06d}.jpg", quality=92)
            save_map_png(maps / f"{index:06d}.png", map_FHW[index], entities)
        row = [17, 0, 1, -1, -1, -1, -1, 1, 0, -1, -1, -1, -1, -1, number % 7]
        labels = {"video": number, "fps": 1, "num_frames": frames, "categories": {}}
        annotations = {str(index): [row] for index in range(frames)}
        (root / "labels" / f"VID{number:02d}.json").write_text(
            json.dumps({**labels, "annotations": annotations})
        )


def bare_seconds(plan: DatasetPlan, encoder: VaeEncoder, batch: int) -> tuple[int, float]:
    """Clips, and seconds of encoding them and each coloured map once, with all pixels in memory."""
    starts = [
        (video.reader, start) for video in plan.videos for shard in video.shards for start in shard.starts
    ]
    clips = [reader.read(start) for reader, start in starts]
    pictures: dict[bytes, Any] = {}
    spent = 0.0
    for first in range(0, len(clips), batch):
        some = clips[first : first + batch]
        coloured = [
            picture
            for clip in some
            for picture in (clip.coloured_SHWC if clip.coloured_SHWC is not None else ())
        ]
        new = {picture.tobytes(): picture for picture in coloured if picture.tobytes() not in pictures}
        began = time.perf_counter()
        encode_clips(encoder, some)
        if new:
            encoder.encode_frames(torch.stack([torch.from_numpy(picture) for picture in new.values()]))
        spent += time.perf_counter() - began
        pictures |= dict.fromkeys(new)
    return len(clips), spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="small frames and VAE, to try the script")
    asked = parser.parse_args()
    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    size_hw = (64, 96) if asked.tiny else (480, 720)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        torch.manual_seed(0)
        settings: dict[str, Any] = {
            "block_out_channels": (8, 8, 8, 8) if asked.tiny else _WIDTHS,
            "norm_num_groups": 2 if asked.tiny else 32,
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            "sample_height": size_hw[0],
            "sample_width": size_hw[1],
        }
        vae: Any = AutoencoderKLCogVideoX(**settings)
        vae.to(dtype=dtype)
        vae.save_pretrained(root / "model" / "vae")
        write_operations(root, asked.videos, asked.frames, size_hw if asked.tiny else (480, 854), str(device))
        config = BuildDatasetConfig(
            videos=root / "videos",
            labels=root / "labels",
            out=root / "dataset",
            base=str(root / "model"),
            device=str(device),
            batch=asked.batch,
            map_size="64x96" if asked.tiny else "256x384",
        )
        identity = identify_vae(root / "model", "model")
        plan = plan_dataset(config, identity, str(dtype).removeprefix("torch."), SilentProgress())
        encoder = VaeEncoder(root / "model", identity, device, dtype)
        warm = bare_seconds(plan, encoder, asked.batch)  # kernels are chosen, and the files are in memory
        result = build_dataset(plan, encoder, SilentProgress())
        clips, seconds = bare_seconds(plan, encoder, asked.batch)
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name() if cuda else "cpu",
                "clips": clips,
                "pictures": result.pictures,
                "clips_per_second": round(result.clips_per_second, 3),
                "bare_clips_per_second": round(clips / seconds, 3),
                "bare_before": round(warm[0] / warm[1], 3),
                "share_of_bare": round(result.clips_per_second * seconds / clips, 3),
                "encoder_busy": round(result.encoder_busy, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
