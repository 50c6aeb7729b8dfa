"""Tiny data sets, a tiny CogVideoX base, and configs of whole runs on them."""

from pathlib import Path
from typing import Any

import tiny_datasets
import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler

from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig
from hierasurg_core.progress import SilentProgress
from hierasurg_core.runtime import process_group, world_size
from hierasurg_core.training.plan import plan_training
from hierasurg_core.training.run import TrainRunResult, run_training

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
}
BASE: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": 20,
    "num_layers": 2,
    "sample_width": 6,
    "sample_height": 4,
    "sample_frames": 5,
    "max_text_seq_length": 3,
    "spatial_interpolation_scale": 1.0,
}


def write_base(folder: Path, **changes: Any) -> Path:
    """A CogVideoX-2b folder in small: transformer, VAE of 4 channels, scheduler."""
    tiny_datasets.write_vae(folder)
    torch.manual_seed(3)
    base_transformer(**changes).save_pretrained(folder / "transformer")
    CogVideoXDPMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    return folder


def base_transformer(**changes: Any) -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel(**{**BASE, **changes})


def write_dataset(root: Path, **changes: Any) -> Path:
    """Two videos of 18 s, one of them for validation; the base is made where it is missing."""
    if not (root / "model").is_dir():
        write_base(root / "model")
    for number in (1, 2):
        tiny_datasets.write_operation(root, number, 18)
    settings: dict[str, Any] = {"size": "32x48", "map_size": "32x48", "val_fraction": 0.5, **changes}
    tiny_datasets.build(tiny_datasets.config(root, **settings))
    return root / "dataset"


def settings(root: Path, out: str, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": root / "dataset",
        "base": str(root / "model"),
        "out": root / "runs" / out,
        "steps": 2,
        "batch": 1,
        "lr": 1e-3,
        "warmup": 0,
        "precision": "fp32",
        "device": "cpu",
        "log_every": 1,
        **changes,
    }


def s2m_config(root: Path, out: str = "s2m", **changes: Any) -> TrainS2MConfig:
    return TrainS2MConfig(**settings(root, out, **changes))


def m2v_config(root: Path, out: str = "m2v", **changes: Any) -> TrainM2VConfig:
    return TrainM2VConfig(**settings(root, out, **changes))


def train(config: TrainS2MConfig | TrainM2VConfig) -> TrainRunResult:
    """What the commands do, in this process, which may be a rank."""
    stage = "s2m" if isinstance(config, TrainS2MConfig) else "m2v"
    with process_group("cpu") as device:
        return run_training(plan_training(config, stage, device, world_size()), device, SilentProgress())
