"""The configs of model folders, read and held to what a model can be.

Owns the one table of plausible numbers: a config is believed only within it, before anything is built, so
that a damaged one is a line that names file, key and value, and no model of a million layers is begun.
Refuses nothing that CogVideoX, S2M, M2V or a part of them ten times their size would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hierasurg_core.errors import WeightsError, shown
from hierasurg_core.text_files import read_json

_WHOLE: Mapping[str, tuple[int, int]] = {
    "num_layers": (1, 512),
    "num_attention_heads": (1, 512),
    "attention_head_dim": (1, 1024),
    "in_channels": (1, 4096),
    "out_channels": (1, 4096),
    "latent_channels": (1, 4096),
    "time_embed_dim": (1, 1 << 16),
    "text_embed_dim": (1, 1 << 16),
    "text_vector_dim": (1, 1 << 16),
    "condition_embed_dim": (1, 1 << 16),
    "condense_dim": (1, 1 << 16),
    "num_phases": (1, 10_000),
    "num_triplets": (1, 10_000),
    "sample_height": (1, 1 << 14),
    "sample_width": (1, 1 << 14),
    "sample_frames": (1, 100_000),
    "sample_seconds": (1, 100_000),
    "patch_size": (1, 64),
    "map_downscale": (1, 64),
    "layers_per_block": (1, 64),
    "norm_num_groups": (1, 4096),
    "photo_channels": (1, 4096),
    "num_numbers": (3, 256),  # background, border and at least one entity; ids are bytes
    "maps_a_latent": (1, 16),
    "num_train_timesteps": (1, 100_000),
    "distilled_steps": (1, 10_000),
}
_REAL: Mapping[str, tuple[float, float]] = {
    "scaling_factor": (1e-4, 1e4),
    "shift_factor": (-1e4, 1e4),
    "id_scale": (0.0, 10.0),
    "norm_eps": (0.0, 1.0),
    "temporal_compression_ratio": (1.0, 64.0),
    "spatial_interpolation_scale": (1e-3, 1e3),
    "temporal_interpolation_scale": (1e-3, 1e3),
    "segmap_posenc_spatial_scale": (1e-3, 1e3),
    "segmap_posenc_temporal_scale": (1e-3, 1e3),
    "beta_start": (0.0, 1.0),
    "beta_end": (0.0, 1.0),
    "snr_shift_scale": (1e-3, 1e3),
}
_MOST_WIDTHS = 16
_LISTS: Mapping[str, tuple[int, int]] = {"map_widths": (1, 8192), "block_out_channels": (1, 8192)}


def read_model_config(path: Path) -> dict[str, Any]:
    """Return the JSON object of a part's config, with plausible numbers.

    Raises:
        WeightsError: it can't be read, is no object, or `check_numbers` refuses it.
    """
    config = read_json(path, error=WeightsError)
    if not isinstance(config, dict):
        raise WeightsError(f"{path} must hold a JSON object, not {type(config).__name__}")
    check_numbers(config, str(path))
    return config


def check_numbers(config: Mapping[str, Any], where: str) -> None:
    """Refuse a config with a number that no model has; a key that is null or absent keeps its default.

    Args:
        config: keys and values; keys that the table does not know are left to whoever reads them.
        where: named in errors.

    Raises:
        WeightsError: a value of the wrong type or out of range.
    """
    for key, value in config.items():
        if value is None:
            continue
        if key in _WHOLE and not _is_whole(value, *_WHOLE[key]):
            wanted = "a whole number from {} to {}".format(*_WHOLE[key])
        elif key in _REAL and not _is_real(value, *_REAL[key]):
            wanted = "a number from {:g} to {:g}".format(*_REAL[key])
        elif key in _LISTS and not _is_list(value, *_LISTS[key]):
            wanted = f"1 to {_MOST_WIDTHS} whole numbers from {{}} to {{}}".format(*_LISTS[key])
        else:
            continue
        name = config.get("_class_name")
        model = name if isinstance(name, str) and len(name) <= 100 else "model"
        raise WeightsError(f"{where} describes no {model}: {key} is {shown(value)}, not {wanted}")


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_real(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_list(value: object, low: int, high: int) -> bool:
    return (
        isinstance(value, (list, tuple))
        and 1 <= len(value) <= _MOST_WIDTHS
        and all(_is_whole(item, low, high) for item in value)
    )
