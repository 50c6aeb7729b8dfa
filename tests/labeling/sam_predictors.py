"""The sam2 package's own predictors on a network of ours, to compare with."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn

from hierasurg_core.labeling.sam_network import normalised_input
from hierasurg_core.phantom.draw import draw_clips
from hierasurg_core.phantom.vae import HELD_OUT_SEED, random_labels


def phantom_clip(num_frames: int, seed: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    """Frames (F, H, W, 3), ids (F, H, W) and the number of entities of a held-out phantom clip."""
    clips = draw_clips(
        *random_labels(1, torch.Generator().manual_seed(seed)), HELD_OUT_SEED + seed, num_frames=num_frames
    )
    frames_FHWC = (clips.video_BFCHW[0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    return frames_FHWC.numpy(), clips.map_BFHW[0].numpy(), int(clips.num_entities_B[0])


def one_by_one(
    module: nn.Module,
    tree: dict[str, Any],
    frames_FHWC: NDArray[np.uint8],
    prompts: list[tuple[int, NDArray[np.bool_]]],
    *,
    reverse: bool,
    monkeypatch,
) -> dict[int, Tensor]:
    """Logits (N, H, W) by frame of sam2's video predictor, which takes the objects in turn."""
    built = {name: getattr(module, name) for name in ("image_encoder", "memory_attention", "memory_encoder")}
    scalars = {name: value for name, value in tree.items() if name not in built and name != "_target_"}
    predictor: Any = SAM2VideoPredictor(**built, **scalars).eval()
    predictor.load_state_dict(module.state_dict())
    pixels = torch.from_numpy(frames_FHWC).permute(0, 3, 1, 2).float() / 255
    images = normalised_input(pixels, predictor.image_size)
    height, width = frames_FHWC.shape[1:3]
    monkeypatch.setattr("sam2.sam2_video_predictor.load_video_frames", lambda **_: (images, height, width))
    found: dict[int, list[Tensor]] = {}
    for number, (frame, mask_HW) in enumerate(prompts):
        state = predictor.init_state("ours")
        predictor.add_new_mask(state, frame, number, torch.from_numpy(mask_HW))
        walk = predictor.propagate_in_video(state, start_frame_idx=frame, reverse=reverse)
        for index, _, logits in walk:
            found.setdefault(index, [torch.full((height, width), -1024.0)] * len(prompts))
            found[index] = [*found[index][:number], logits[0, 0], *found[index][number + 1 :]]
    return {index: torch.stack(logits) for index, logits in found.items()}
