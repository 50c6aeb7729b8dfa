"""Vision models of transformers that are used for their patch features alone.

Owns the loading of such a model and the pixels that its family was trained on. It refuses text towers, and
code from a repository unless the caller says so.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModel

from hierasurg_core.artifacts import read_json
from hierasurg_core.errors import DataError, WeightsError

_PREPROCESSING = "preprocessor_config.json"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_vision_model(name: str, *, revision: str | None, trust_remote_code: bool) -> torch.nn.Module:
    """Loads a vision model; of a model with two towers the one that sees.

    Args:
        name: A folder, or a Hub id together with `revision`.
        revision: Commit of the Hub's repository.
        trust_remote_code: Run the code that it brings.

    Raises:
        WeightsError: It is not to be had, is damaged, or is no model that transformers knows.
    """
    try:
        model = AutoModel.from_pretrained(
            name,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"cannot load the vision model {name}: {reason}") from error
    return getattr(model, "vision_model", model)


def pixel_mean_std(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns what a model's folder says is taken off pixels in [0, 1] and divided by; ImageNet's without.

    Raises:
        WeightsError: The file that says so is damaged.
    """
    path = Path(name) / _PREPROCESSING
    if not path.is_file():
        return _IMAGENET
    try:
        content = read_json(path)
        mean, std = content.get("image_mean", _IMAGENET[0]), content.get("image_std", _IMAGENET[1])
        if content.get("do_normalize", True) is False:
            mean, std = (0, 0, 0), (1, 1, 1)
        return tuple(float(value) for value in mean), tuple(float(value) for value in std)
    except (DataError, AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
