"""A whole set of tiny real models and scenes on disk, as the package has them in its assets."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from maps.moving_shapes import moving_ids

from hierasurg_core.artifacts import read_json, write_json
from hierasurg_core.generation import HieraSurgPipeline
from hierasurg_core.maps import save_map_png
from hierasurg_core.models import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    M2VTransformer3DModel,
    S2MTransformer3DModel,
)
from hierasurg_core.models.ids import ids_arguments
from hierasurg_core.pictures import write_png
from hierasurg_core.taxonomy import TRIPLETS, parse_triplet

SIZE_HW = (64, 96)
NUM_ENTITIES = 4
NUM_NUMBERS = 8
TWO_STEPS: dict[str, dict[str, Any]] = {stage: {"steps": 2} for stage in ("s2m", "m2v")}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
}


def tiny_pipeline(
    seed: int = 0, *, hierarchical: bool = True, vector_dim: int | None = None, on_ids: bool = False
) -> HieraSurgPipeline:
    """Random weights that no condition leaves cold: nothing is initialised with zeros.

    With `on_ids` S2M takes maps as categories, M2V as patches, and the VAE codes each frame alone.
    """
    torch.manual_seed(seed)
    blocks: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "time_embed_dim": 16,
        "text_embed_dim": 16,
        "condition_embed_dim": 16,
        "condense_dim": 8,
        "sample_height": SIZE_HW[0] // 8,
        "sample_width": SIZE_HW[1] // 8,
        "sample_frames": 17,
        "spatial_interpolation_scale": 1.0,
    }
    if vector_dim is not None:
        blocks |= {"text_cond": "vectors", "text_vector_dim": vector_dim}
    s2m: S2MTransformer3DModel
    m2v: M2VTransformer3DModel
    if on_ids:
        s2m = S2MTransformer3DModel(**blocks, frame_labels=True, **ids_arguments(NUM_NUMBERS))
        m2v = M2VTransformer3DModel(
            **blocks,
            in_channels=32,
            maps="patches",
            num_numbers=NUM_NUMBERS,
            hierarchical=True,
            frame_labels=True,
        )
    else:
        s2m = S2MTransformer3DModel(**blocks, in_channels=48)
        m2v = M2VTransformer3DModel(
            **blocks, in_channels=32, map_widths=(4, 8, 16), hierarchical=hierarchical
        )
    depth = 4
    widths: dict[str, Any] = {
        "block_out_channels": (8,) * depth,
        "down_block_types": ("CogVideoXDownBlock3D",) * depth,
        "up_block_types": ("CogVideoXUpBlock3D",) * depth,
    }
    vae = AutoencoderKLCogVideoX(
        **widths,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        temporal_compression_ratio=1 if on_ids else 4,
        sample_height=SIZE_HW[0],
        sample_width=SIZE_HW[1],
    )
    for model in (s2m, m2v):  # random norm layers, so that what steers them shows in one step
        for name, parameter in model.named_parameters():
            if "norm" in name and "linear" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return HieraSurgPipeline(s2m, m2v, vae, CogVideoXDPMScheduler(**SCHEDULER), TWO_STEPS)


def write_assets(folder: Path, *, vector_dim: int | None = None) -> Path:
    """Writes `mini/` and `scenes/`, with two scenes for phase 1 and one for phase 4."""
    tiny_pipeline(vector_dim=vector_dim).save_pretrained(folder / "mini")
    scenes = folder / "scenes"
    scenes.mkdir(parents=True)
    entries = [
        write_scene(scenes, "000", 1, "grasper,retract,gallbladder", seed=1),
        write_scene(scenes, "001", 1, "hook,dissect,cystic_duct", seed=2),
        write_scene(scenes, "002", 4, "grasper,pack,gallbladder", seed=3),
    ]
    write_json(scenes / "scenes.json", {"schema": 1, "size_hw": list(SIZE_HW), "scenes": entries})
    return folder


def write_scene(folder: Path, name: str, phase: int, triplet: str, seed: int) -> dict[str, Any]:
    map_HW = moving_ids(NUM_ENTITIES, 1, SIZE_HW, seed)[0]
    save_map_png(folder / f"{name}_map.png", map_HW, NUM_ENTITIES)
    write_png(folder / f"{name}_frame.png", photograph(map_HW, seed))
    found = parse_triplet(triplet)
    assert TRIPLETS[found.id] == found
    return {
        "name": name,
        "phase": phase,
        "frame": f"{name}_frame.png",
        "map": f"{name}_map.png",
        "num_entities": NUM_ENTITIES,
        "entities": {"0": found.instrument, "1": found.target},
        "instruments": [found.instrument],
        "targets": [found.target],
        "triplet": found.id,
    }


def photograph(map_HW: np.ndarray, seed: int) -> np.ndarray:
    """Returns a picture whose colours follow a map."""
    colours = np.random.default_rng(seed).integers(20, 235, (256, 3), dtype=np.uint8)
    return colours[map_HW]


def scaled(**scales: float) -> dict[str, dict[str, Any]]:
    """Returns how the tiny pipeline's stages are sampled, with scales of guidance."""
    return {stage: {**TWO_STEPS[stage], "guidance": scale} for stage, scale in scales.items()}


def edit_json(path: Path, **changes: object) -> None:
    write_json(path, {**read_json(path), **changes})
