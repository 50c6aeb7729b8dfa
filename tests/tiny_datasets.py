"""Small operations on disk, a tiny real VAE, and what builds a data set until it is killed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forked import Aloud, Tell
from numpy.typing import NDArray

from hierasurg_core.config import BuildDatasetConfig
from hierasurg_core.datasets.build import BuildDatasetResult, build_dataset
from hierasurg_core.datasets.plan import plan_dataset
from hierasurg_core.maps import PanopticClip, save_clip, save_map_png
from hierasurg_core.models import AutoencoderKLCogVideoX
from hierasurg_core.models.encoder import VaeEncoder, identify_vae
from hierasurg_core.pictures import write_png
from hierasurg_core.progress import Progress, SilentProgress

SIZE_HW = (32, 48)
NUM_ENTITIES = 3


def frame(number: int, index: int) -> NDArray[np.uint8]:
    """Frame of a video: its number and index in colour, over a gradient; never black."""
    image_HWC = np.empty((*SIZE_HW, 3), np.uint8)
    image_HWC[..., 0] = 40 + index
    image_HWC[..., 1] = 40 + 10 * number
    image_HWC[..., 2] = np.linspace(0, 200, SIZE_HW[1], dtype=np.uint8)
    return image_HWC


def map_of(second: int) -> NDArray[np.uint8]:
    """Border, background, and two of three entities, which move."""
    map_HW = np.full(SIZE_HW, NUM_ENTITIES, np.uint8)
    map_HW[:2] = NUM_ENTITIES + 1
    map_HW[8:20, second % 30 : second % 30 + 12] = 0
    map_HW[22:30, 4:20] = 1 + second % 2
    return map_HW


def label_file(seconds: int) -> dict[str, Any]:
    """Labels in CholecT50's form: phase second // 8, two instances in odd seconds, none in each fifth."""

    def row(triplet: int, second: int) -> list[float]:
        return [triplet, 0, 1, -1, -1, -1, -1, 1, 0, -1, -1, -1, -1, -1, min(6, second // 8)]

    frames: dict[str, Any] = {}
    for second in range(seconds):
        rows = [row(17, second), row(19, second)] if second % 2 else [row(17, second)]
        frames[str(second)] = [row(-1, second)] if second % 5 == 0 else rows
    return {"video": 1, "fps": 1, "num_frames": seconds, "categories": {}, "annotations": frames}


def write_operation(
    root: Path,
    number: int,
    seconds: int,
    *,
    fps: int = 1,
    black: tuple[int, ...] = (),
    pickles: bool = False,
) -> None:
    """Writes `videos/videoNN`, its maps and its labels."""
    name = f"video{number:02d}"
    frames, masks, labels = root / "videos" / name, root / "videos" / f"{name}_masks", root / "labels"
    for folder in (frames, masks, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for index in range(seconds * fps):
        picture = np.zeros((*SIZE_HW, 3), np.uint8) if index in black else frame(number, index)
        write_png(frames / f"{index:06d}.png", picture)
    for second in range(seconds):
        if not pickles:
            save_map_png(masks / f"{second:06d}.png", map_of(second), NUM_ENTITIES)
        elif second + 16 <= seconds:
            ids = np.stack([map_of(index) for index in range(second, second + 16)])
            save_clip(masks / f"{second:06d}.pkl", PanopticClip(ids, NUM_ENTITIES))
    (labels / f"VID{number:02d}.json").write_text(json.dumps(label_file(seconds)))


def write_vae(folder: Path, seed: int = 0) -> Path:
    """Writes a model folder with a tiny VAE."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "block_out_channels": (4, 4, 4, 4),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "latent_channels": 4,
        "sample_height": SIZE_HW[0],
        "sample_width": SIZE_HW[1],
        "scaling_factor": 0.7,
    }
    AutoencoderKLCogVideoX(**settings).save_pretrained(folder / "vae")
    return folder


def config(root: Path, **changes: Any) -> BuildDatasetConfig:
    values: dict[str, Any] = {
        "videos": root / "videos",
        "labels": root / "labels",
        "out": root / "dataset",
        "base": str(root / "model"),
        "device": "cpu",
    }
    return BuildDatasetConfig(**{**values, **changes})


def encoder(folder: Path) -> VaeEncoder:
    return VaeEncoder(folder, identify_vae(folder, str(folder)), torch.device("cpu"), torch.float32)


def build(
    wanted: BuildDatasetConfig, progress: Progress | None = None, *, precision: str = "float32"
) -> BuildDatasetResult:
    """What the command does."""
    assert wanted.base is not None
    folder, listener = Path(wanted.base), progress or SilentProgress()
    plan = plan_dataset(wanted, identify_vae(folder, wanted.base), precision, listener)
    return build_dataset(plan, None if wanted.on_the_fly else encoder(folder), listener)


def build_aloud(tell: Tell, root: Path) -> None:
    """Builds as a process that tells its parent of each clip."""
    torch.set_num_threads(1)
    build(config(root, shard_mb=0.006), Aloud(tell))
