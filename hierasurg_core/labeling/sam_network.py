"""What the labelling code asks of a SAM 2 network, and the image features that it keeps of each frame.

Owns no weights and imports no foreign class: `segmenter` builds the networks, propagation, automatic masks
and training are functions on them. Letters: N objects or prompts, F frames, C channels, S the network's
square input in pixels, H W a frame's pixels, h w = S / 16, the rows and columns of the coarsest features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, overload

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)
"""SAM 2's input normalisation, of pixels in [0, 1]."""
NO_OBJECT_LOGIT = -1024.0
"""SAM 2's logit of a pixel where an object is absent."""


class SamNetwork(Protocol):
    """The parts of the sam2 package's `SAM2Base` that are used here."""

    image_size: int
    hidden_dim: int
    mem_dim: int
    num_maskmem: int
    max_obj_ptrs_in_encoder: int
    memory_temporal_stride_for_eval: int
    use_obj_ptrs_in_encoder: bool
    add_tpos_enc_to_obj_ptrs: bool
    proj_tpos_enc_in_obj_ptrs: bool
    pred_obj_scores: bool
    binarize_mask_from_pts_for_mem_enc: bool
    sigmoid_scale_for_mem_enc: float
    sigmoid_bias_for_mem_enc: float
    maskmem_tpos_enc: Tensor
    no_mem_embed: Tensor
    no_obj_ptr: Tensor
    no_obj_embed_spatial: Tensor | None
    image_encoder: Any
    memory_attention: Any
    memory_encoder: Any
    sam_prompt_encoder: Any
    sam_mask_decoder: Any
    obj_ptr_proj: Callable[[Tensor], Tensor]
    obj_ptr_tpos_proj: Callable[[Tensor], Tensor]
    mask_downsample: Callable[[Tensor], Tensor]

    def forward_image(self, img_batch: Tensor) -> dict[str, Any]:
        """Features of normalised images (F, 3, S, S)."""
        ...

    def _use_multimask(self, is_init_cond_frame: bool, point_inputs: Any) -> bool: ...

    def _forward_sam_heads(self, backbone_features: Tensor, **kwargs: Any) -> tuple[Tensor, ...]: ...

    def _use_mask_as_output(
        self, backbone_features: Tensor, high_res_features: Any, mask_inputs: Tensor
    ) -> tuple[Tensor, ...]: ...


@dataclasses.dataclass(frozen=True)
class FrameFeatures:
    """Image features of F frames, all that prompts and propagation need of their pixels.

    Attributes:
        levels: Fine to coarse, strides 4, 8 and 16 of the square input: (F, C0, 4h, 4w), (F, C1, 2h, 2w),
            (F, C, h, w).
        size_hw: The frames' own size in pixels, which masks come back in.
    """

    levels: tuple[Tensor, Tensor, Tensor]
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.levels[-1])

    @overload
    def __getitem__(self, index: int) -> FrameFeatures: ...
    @overload
    def __getitem__(self, index: slice) -> FrameFeatures: ...
    def __getitem__(self, index: int | slice) -> FrameFeatures:
        """The features of one frame (still with F = 1) or of a range, sharing memory."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"frame {index} of {len(self)}")
            index = slice(index % len(self), index % len(self) + 1)
        fine, middle, coarse = self.levels
        return FrameFeatures((fine[index], middle[index], coarse[index]), self.size_hw)

    def to(self, device: torch.device | str) -> FrameFeatures:
        """The same features on another device."""
        fine, middle, coarse = self.levels
        return FrameFeatures((fine.to(device), middle.to(device), coarse.to(device)), self.size_hw)

    def cpu(self) -> FrameFeatures:
        """The same features in host memory."""
        return self.to("cpu")

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.levels[-1].device

    @staticmethod
    def join(parts: list[FrameFeatures]) -> FrameFeatures:
        """Puts features of consecutive frames together."""
        fine, middle, coarse = (
            torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)
        )
        return FrameFeatures((fine, middle, coarse), parts[0].size_hw)


def normalised_input(pixels_F3HW: Tensor, size: int) -> Tensor:
    """Makes pixels in [0, 1] a network's input (F, 3, S, S).

    The whole frame is stretched to the square, without keeping its aspect, as SAM 2 does; prompts and masks
    are stretched likewise, so coordinates are fractions of width and height.
    """
    square = F.interpolate(pixels_F3HW, (size, size), mode="bilinear", align_corners=False, antialias=True)
    mean = square.new_tensor(MEAN_RGB).view(3, 1, 1)
    std = square.new_tensor(STD_RGB).view(3, 1, 1)
    return (square - mean) / std


def image_levels(network: SamNetwork, input_F3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the image encoder; the levels of `FrameFeatures`."""
    fine, middle, coarse = network.forward_image(input_F3SS)["backbone_fpn"][-3:]
    return fine, middle, coarse


def resized_masks(mask_NHW: Tensor, size: int) -> Tensor:
    """Boolean masks stretched to the network's square as SAM 2 does it, (N, 1, S, S) of 0 and 1, float."""
    masks = mask_NHW.unsqueeze(1).float()
    if masks.shape[-2:] != (size, size):
        masks = F.interpolate(masks, (size, size), mode="bilinear", align_corners=False, antialias=True)
        masks = (masks >= 0.5).float()
    return masks
