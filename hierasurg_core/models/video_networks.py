"""Video networks of transformers (VideoMAE and its like), as evaluation uses them.

Owns: reading such a folder, what its pictures must look like, features before the head, logits.
Refuses: the Hub (a folder on disk only), and models that are no video encoder or classifier.

Letters: B batch, F frames, C channels, H W pixels, D features, N classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.errors import DataError, WeightsError

_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True, eq=False)
class VideoNetwork:
    """A loaded network.

    Attributes:
        name: Class and folder.
        digest: SHA-256 of its config and weights.
        num_frames: That it takes.
        size_px: Side of its square frames.
        mean: Of its pixels, by channel, of values in [0, 1].
        std: The same.
        labels: Names of its classes; empty for an encoder.
        module: The network.
    """

    name: str
    digest: str
    num_frames: int
    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    labels: tuple[str, ...]
    module: torch.nn.Module

    @torch.inference_mode()
    def __call__(self, video_BFCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns features (B, D) and, of a classifier, logits (B, N).

        Features are what the head reads; of an encoder without one, the mean over its tokens.

        Args:
            video_BFCHW: Normalised pixels, `num_frames` of `size_px` x `size_px`.
        """
        head = getattr(self.module, "classifier", None)
        if not isinstance(head, torch.nn.Module):
            return self.module(pixel_values=video_BFCHW).last_hidden_state.mean(1), None
        read: list[torch.Tensor] = []
        hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            logits_BN = self.module(pixel_values=video_BFCHW).logits
        finally:
            hook.remove()
        return read[0].flatten(1), logits_BN


def load_video_network(folder: Path, device: torch.device) -> VideoNetwork:
    """Reads a folder of transformers with `config.json` and weights.

    Raises:
        WeightsError: It is missing or damaged, or no network over videos.
    """
    if not (folder / _CONFIG).is_file():
        raise WeightsError(
            f"{folder} is no folder of a video network: there is no {_CONFIG}; download it whole"
        )
    try:
        said = read_json(folder / _CONFIG)
        processor = read_json(folder / _PROCESSOR) if (folder / _PROCESSOR).is_file() else {}
    except DataError as error:
        raise WeightsError(str(error)) from error
    classifies = any("Classification" in name for name in said.get("architectures") or ())
    kind = transformers.AutoModelForVideoClassification if classifies else transformers.AutoModel
    try:
        module, loading = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{folder} can't be read as a video network: {reason}") from error
    if loading["missing_keys"]:
        some = ", ".join(sorted(loading["missing_keys"])[:2])
        raise WeightsError(f"{folder} lacks weights that its {_CONFIG} asks for ({some}); download it whole")
    config: Any = module.config
    frames, size = getattr(config, "num_frames", None), getattr(config, "image_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    if not isinstance(frames, int) or not isinstance(size, int):
        raise WeightsError(f"{folder} is a {type(module).__name__}, no network over frames of a video")
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels)) if classifies else ()
    return VideoNetwork(
        name=f"{type(module).__name__} {folder.name}",
        digest=_digest(folder),
        num_frames=frames,
        size_px=size,
        mean=_channels(processor, "image_mean", _IMAGENET[0]),
        std=_channels(processor, "image_std", _IMAGENET[1]),
        labels=labels,
        module=module.to(device).float().eval(),
    )


def _channels(
    processor: dict[str, Any], key: str, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    red, green, blue = processor.get(key) or default
    return float(red), float(green), float(blue)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in _WEIGHTS or file.name in (_CONFIG, _PROCESSOR):
            digest.update(f"{file.name} {sha256_file(file)}".encode())
    return digest.hexdigest()
