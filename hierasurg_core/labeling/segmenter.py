"""SAM 2 behind one seam: features once a frame, automatic masks, propagation. The only importer of sam2.

Owns how networks are built (the published sizes from the sam2 package's own configuration files, ours from a
tree in the same grammar) and in which precision they run. It refuses trees that name any class but the few
below, and weights that do not fit exactly.

Letters: see `sam_network`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from hierasurg_core import artifacts
from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.labeling.automatic import (
    MINI_THRESHOLDS,
    AutomaticThresholds,
    FrameMasks,
    automatic_masks,
)
from hierasurg_core.labeling.mini_sam import MINI_FOLDER, WEIGHTS_FILE, mini_config, read_mini
from hierasurg_core.labeling.propagation import MaskPrompt, propagate
from hierasurg_core.labeling.sam_network import FrameFeatures, SamNetwork, image_levels, normalised_input
from hierasurg_core.labeling.sam_weights import MINI, PUBLISHED, check_fit, find_checkpoint, read_checkpoint

__all__ = [
    "AutomaticThresholds",
    "FrameFeatures",
    "FrameMasks",
    "MaskPrompt",
    "Segmenter",
    "as_network",
    "build_mini_network",
    "build_mini_segmenter",
    "build_network",
    "build_segmenter",
    "load_segmenter",
    "published_config",
]

_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        CXBlock,
        FpnNeck,
        Fuser,
        Hiera,
        ImageEncoder,
        MaskDownSampler,
        MemoryAttention,
        MemoryAttentionLayer,
        MemoryEncoder,
        PositionEmbeddingSine,
        RoPEAttention,
        SAM2Base,
    )
}
_NUMBER = re.compile(r"-?\d+(\.\d*)?e-?\d+")
CONFIG_NAMES = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
"""The published sizes, and what the sam2 package calls their configuration."""
_PREDICTOR_SETTINGS: dict[str, Any] = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
}
"""What the sam2 package's own builder adds for videos, but for its filling of holes, which needs a CUDA
extension that its package on PyPI lacks."""


def build_network(tree: dict[str, Any]) -> nn.Module:
    """Builds a network with random weights, in evaluation mode.

    Args:
        tree: Class names (`_target_`) and arguments, as in the sam2 package's configuration files.

    Raises:
        WeightsError: The tree names a class that SAM 2 has not, or arguments that its class has not.
    """
    network = _built(tree)
    if not isinstance(network, SAM2Base):
        raise WeightsError(f"the configuration describes a {type(network).__name__}, no SAM 2")
    return network.eval()


def published_config(name: str) -> dict[str, Any]:
    """The tree of SAM 2.1 tiny, small, base-plus or large, with the settings for videos."""
    file = resources.files("sam2") / "configs" / "sam2.1" / f"sam2.1_hiera_{CONFIG_NAMES[name]}.yaml"
    return {**_with_numbers(yaml.safe_load(file.read_text(encoding="utf-8"))["model"]), **_PREDICTOR_SETTINGS}


def _with_numbers(node: Any) -> Any:
    """YAML 1.1 reads 1e-6 as text; these files mean a number."""
    if isinstance(node, dict):
        return {key: _with_numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_numbers(item) for item in node]
    return float(node) if isinstance(node, str) and _NUMBER.fullmatch(node) else node


def build_mini_network() -> nn.Module:
    """The mini SAM 2 with random weights."""
    return build_network(mini_config())


def as_network(module: nn.Module) -> SamNetwork:
    """The module, by the names that this package uses of it."""
    return cast(SamNetwork, module)


class Segmenter:
    """SAM 2 for frames of any size: encode once, then ask for masks and propagate as often as needed.

    Attributes:
        name: "large", "mini", ...
        digest: SHA-256 of its weights' file; "random" for random weights.
        size: Pixels a side of its square input.
        device: Where it computes.
        thresholds: For its automatic masks, unless others are asked for.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        digest: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,  # noqa: A002 - as the option is called
        frames_at_once: int = 8,
    ) -> None:
        """Wraps a network.

        Args:
            module: As `build_network` makes it.
            name: What to call it.
            digest: Of its weights.
            device: Where to compute.
            dtype: float32, or the half precision that matrix products are computed in; the rest stays
                float32 as in autocast.
            compile: Compile image encoder, memory encoder and the mask decoder that follows objects. Memory
                attention stays as it is: its rotary code is complex, which the compiler does not fuse; so
                does the decoder of automatic masks, which is one matrix product after another.
            frames_at_once: Of the image encoder.
        """
        module = module.to(device).eval().requires_grad_(False)
        if dtype != torch.float32:
            # Autocast would cast these at each call; once gives the same numbers.
            for part in module.modules():
                if isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                    part.to(dtype)
        self._network = as_network(module)
        if compile:
            for part in (self._network.image_encoder, self._network.memory_encoder):
                part.compile()
            self._network.sam_mask_decoder.transformer.compile()
        self.name, self.digest, self.device = name, digest, device
        self.size = self._network.image_size
        self.thresholds = MINI_THRESHOLDS if name == MINI else AutomaticThresholds()
        self._dtype, self._frames_at_once = dtype, frames_at_once

    def encode(self, frames_FHWC: NDArray[np.uint8] | Tensor) -> FrameFeatures:
        """Image features of frames, computed once and used by everything else.

        Args:
            frames_FHWC: uint8 RGB; stretched to the square input, as SAM 2 does.
        """
        frames = torch.as_tensor(frames_FHWC)
        if frames.dim() != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8 or not len(frames):
            raise UsageError(f"frames are uint8 (F, H, W, 3), not {frames.dtype} {tuple(frames.shape)}")
        size_hw = (frames.shape[1], frames.shape[2])
        parts: list[FrameFeatures] = []
        for some in frames.split(self._frames_at_once):
            with torch.no_grad(), self._autocast():
                pixels = some.to(self.device).permute(0, 3, 1, 2).float() / 255
                levels = image_levels(self._network, normalised_input(pixels, self.size))
                fine, middle, coarse = (level.to(self._dtype) for level in levels)
            parts.append(FrameFeatures((fine, middle, coarse), size_hw))
        return FrameFeatures.join(parts) if len(parts) > 1 else parts[0]

    def automatic(
        self,
        features: FrameFeatures,
        frames_FHWC: NDArray[np.uint8] | Tensor | None = None,
        thresholds: AutomaticThresholds | None = None,
    ) -> list[FrameMasks]:
        """Masks of everything in each frame.

        Args:
            features: Of the frames.
            frames_FHWC: Not looked at: features say all that SAM 2 knows of a frame.
            thresholds: What counts as a mask; None: this segmenter's own.
        """
        del frames_FHWC
        with torch.no_grad(), self._autocast():
            return automatic_masks(self._network, features, thresholds or self.thresholds, device=self.device)

    def propagate(
        self,
        features: FrameFeatures,
        prompts: Sequence[MaskPrompt],
        *,
        reverse: bool = False,
        max_frames: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Carries masks through the frames, all objects in one batch; see `propagation.propagate`."""
        walk = propagate(
            self._network, features, prompts, device=self.device, reverse=reverse, max_frames=max_frames
        )
        while True:
            # The contexts must not be open while the caller has the frame.
            with torch.no_grad(), self._autocast():
                step = next(walk, None)
            if step is None:
                return
            yield step

    def _autocast(self) -> torch.autocast:
        half = self._dtype != torch.float32
        return torch.autocast(self.device.type, self._dtype if half else torch.bfloat16, enabled=half)


def build_segmenter(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    compile: bool = False,  # noqa: A002
) -> Segmenter:
    """A segmenter with random weights, for speed tests and tests of form: its masks mean nothing.

    Raises:
        UsageError: No such size.
    """
    module = build_mini_network() if name == MINI else build_network(published_config(_known(name)))
    return Segmenter(module, name=name, digest="random", device=device, dtype=dtype, compile=compile)


def build_mini_segmenter(device: torch.device | None = None) -> Segmenter:
    """The mini architecture with random weights, for tests."""
    return build_segmenter(MINI, device=device or torch.device("cpu"))


def load_segmenter(
    name_or_path: str,
    *,
    checkpoint: Path | None = None,
    weights_dir: Path | None = None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    compile: bool = False,  # noqa: A002
) -> Segmenter:
    """Loads SAM 2.

    Args:
        name_or_path: "tiny", "small", "base-plus", "large", "mini", or the folder of a mini SAM 2.
        checkpoint: A published size's weights.
        weights_dir: A folder that holds them under their published name.
        device: Where to compute.
        dtype: As `Segmenter`.
        compile: As `Segmenter`.

    Raises:
        UsageError: No such name.
        WeightsError: The weights are missing, damaged, or of another size; nothing else takes their place.
    """
    if name_or_path == MINI or Path(name_or_path).is_dir():
        folder = MINI_FOLDER if name_or_path == MINI else Path(name_or_path)
        if checkpoint is not None:
            raise UsageError(
                f"--sam-checkpoint {checkpoint} is for a published size, but --sam is {name_or_path}"
            )
        tree, tensors = read_mini(folder)
        path, name = folder / WEIGHTS_FILE, MINI
    else:
        path = find_checkpoint(name_or_path, checkpoint, weights_dir)
        tree, tensors, name = published_config(name_or_path), read_checkpoint(path), name_or_path
    module = build_network(tree)
    check_fit(module.state_dict(), tensors, path, name)
    module.load_state_dict(tensors)
    digest = artifacts.sha256_file(path)
    return Segmenter(module, name=name, digest=digest, device=device, dtype=dtype, compile=compile)


def _known(name: str) -> str:
    if name not in PUBLISHED:
        raise UsageError(f"unknown SAM 2 {name!r}: use {', '.join((*PUBLISHED, MINI))}")
    return name


def _built(node: Any) -> Any:
    if isinstance(node, list):
        return [_built(item) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: _built(value) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return arguments
    name = str(node["_target_"]).rsplit(".", 1)[-1]
    if name not in _CLASSES:
        raise WeightsError(f"the configuration names the class {name}, which is no part of SAM 2")
    try:
        return _CLASSES[name](**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise WeightsError(f"the configuration's {name} can't be built: {error}") from error
