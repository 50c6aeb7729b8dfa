"""The mini SAM 2: a small network of sam2's own classes, for 256-pixel input, learned from the phantom.

Owns its architecture, written in the grammar of sam2's own configuration files, and its folder:
`config.json` and `model.safetensors` (fp16). Three stages instead of four: at 256 pixels, stride 16 is
16 x 16 tokens, where attention may be global; the features of strides 4 and 8 that the mask decoder adds are
what draws ducts and tips. It tracks with one mask a frame and gives three for a point.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierasurg_core import artifacts
from hierasurg_core.errors import WeightsError

MINI_SIZE = 256
MINI_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "sam2-mini"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
KIND = "hierasurg-sam2"

_WIDTH = 128
_MEMORY_WIDTH = 64
_STAGE_WIDTHS = (32, 64, 128)


def _sine(width: int) -> dict[str, Any]:
    return {
        "_target_": "PositionEmbeddingSine",
        "num_pos_feats": width,
        "normalize": True,
        "scale": None,
        "temperature": 10000,
        "image_size": MINI_SIZE,
    }


def _attention(**extra: Any) -> dict[str, Any]:
    return {
        "_target_": "RoPEAttention",
        "rope_theta": 10000.0,
        "feat_sizes": [MINI_SIZE // 16, MINI_SIZE // 16],
        "embedding_dim": _WIDTH,
        "num_heads": 1,
        "downsample_rate": 1,
        "dropout": 0.0,
        **extra,
    }


def mini_config() -> dict[str, Any]:
    """The tree that `segmenter.build_network` makes the mini SAM 2 of."""
    return {
        "_target_": "SAM2Base",
        "image_encoder": {
            "_target_": "ImageEncoder",
            "scalp": 0,
            "trunk": {
                "_target_": "Hiera",
                "embed_dim": _STAGE_WIDTHS[0],
                "num_heads": 1,
                "q_pool": 2,
                "stages": [1, 2, 5],
                "global_att_blocks": [4, 5, 6, 7],
                "window_pos_embed_bkg_spatial_size": [8, 8],
                "window_spec": [8, 8, 16],
            },
            "neck": {
                "_target_": "FpnNeck",
                "position_encoding": _sine(_WIDTH),
                "d_model": _WIDTH,
                "backbone_channel_list": list(_STAGE_WIDTHS[::-1]),
                "fpn_top_down_levels": [1, 2],
                "fpn_interp_model": "nearest",
            },
        },
        "memory_attention": {
            "_target_": "MemoryAttention",
            "d_model": _WIDTH,
            "pos_enc_at_input": True,
            "num_layers": 2,
            "layer": {
                "_target_": "MemoryAttentionLayer",
                "activation": "relu",
                "dim_feedforward": 512,
                "dropout": 0.0,
                "pos_enc_at_attn": False,
                "self_attention": _attention(),
                "d_model": _WIDTH,
                "pos_enc_at_cross_attn_keys": True,
                "pos_enc_at_cross_attn_queries": False,
                "cross_attention": _attention(rope_k_repeat=True, kv_in_dim=_MEMORY_WIDTH),
            },
        },
        "memory_encoder": {
            "_target_": "MemoryEncoder",
            "in_dim": _WIDTH,
            "out_dim": _MEMORY_WIDTH,
            "position_encoding": _sine(_MEMORY_WIDTH),
            "mask_downsampler": {
                "_target_": "MaskDownSampler",
                "embed_dim": _WIDTH,
                "kernel_size": 3,
                "stride": 2,
                "padding": 1,
            },
            "fuser": {
                "_target_": "Fuser",
                "num_layers": 2,
                "layer": {
                    "_target_": "CXBlock",
                    "dim": _WIDTH,
                    "kernel_size": 7,
                    "padding": 3,
                    "layer_scale_init_value": 0.1,
                    "use_dwconv": True,
                },
            },
        },
        "num_maskmem": 7,
        "image_size": MINI_SIZE,
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "binarize_mask_from_pts_for_mem_enc": True,
        "use_mask_input_as_output_without_sam": True,
        "directly_add_no_mem_embed": True,
        "no_obj_embed_spatial": True,
        "use_high_res_features_in_sam": True,
        "multimask_output_in_sam": True,
        "multimask_output_for_tracking": False,
        "multimask_min_pt_num": 1,
        "multimask_max_pt_num": 1,
        "iou_prediction_use_sigmoid": True,
        "use_obj_ptrs_in_encoder": True,
        "max_obj_ptrs_in_encoder": 8,
        "add_tpos_enc_to_obj_ptrs": False,
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "fixed_no_obj_ptr": True,
        "use_multimask_token_for_obj_ptr": True,
        "use_mlp_for_obj_ptr_proj": True,
    }


def write_mini(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a mini SAM 2's folder whole, weights in fp16; an older folder is replaced.

    Args:
        folder: Where to.
        tensors: The network's state.
    """
    with artifacts.atomic_folder(folder) as part:
        halves = {name: tensor.detach().to("cpu", torch.float16) for name, tensor in tensors.items()}
        save_file({name: tensor.contiguous() for name, tensor in halves.items()}, part / WEIGHTS_FILE)
        artifacts.write_json(part / CONFIG_FILE, {"kind": KIND, "schema": 1, "model": mini_config()})
        for path in part.iterdir():
            path.chmod(0o644)
        part.chmod(0o755)


def read_mini(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a folder that `write_mini` wrote: the tree, and the weights as float32.

    Raises:
        WeightsError: A part is missing, damaged, or the folder is of another kind.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} is no SAM 2 of this project: it lacks {name}")
    config = artifacts.read_json(folder / CONFIG_FILE)
    tree = config.get("model") if isinstance(config, dict) and config.get("kind") == KIND else None
    if not isinstance(tree, dict):
        raise WeightsError(f"{folder / CONFIG_FILE} describes no SAM 2 of this project")
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{folder / WEIGHTS_FILE} can't be read, it may be damaged: {error}") from error
    return tree, {name: tensor.float() for name, tensor in tensors.items()}
