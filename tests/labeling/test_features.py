"""Points that spread over a mask, descriptors from patches, and backbones by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, RadioConfig, RadioModel, ViTConfig, ViTModel

from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.labeling.features import (
    RADIO_CLIP_MSE,
    SegmenterBackbone,
    VisionBackbone,
    describe,
    load_vision_backbone,
    mse_of_cosine,
    spread_points,
)
from hierasurg_core.labeling.refine import Piece
from hierasurg_core.labeling.sam_network import FrameFeatures

CPU = torch.device("cpu")
FRAMES = torch.zeros(2, 40, 72, 3, dtype=torch.uint8)
NOTHING = FrameFeatures((torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4, 4), torch.zeros(2, 5, 2, 2)), (40, 72))


def block(top: int, left: int, height: int, width: int) -> Piece:
    return Piece(top, left, np.ones((height, width), bool), height * width)


def test_points_lie_in_the_mask_and_spread_over_it() -> None:
    corners = np.zeros((40, 60), bool)
    for row, column in ((0, 0), (0, 55), (35, 0), (35, 55)):
        corners[row : row + 5, column : column + 5] = True
    points = spread_points([Piece(3, 2, corners, 100), block(10, 10, 1, 1)])
    assert points.shape == (2, 4, 2)
    assert sorted((row // 20, column // 30) for row, column in (points[0] - [3, 2]).tolist()) == [
        *((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert all(corners[row - 3, column - 2] for row, column in points[0].tolist())
    assert (points[1] == [10, 10]).all()


def test_a_ring_has_no_point_in_its_hole() -> None:
    ring = np.ones((30, 30), bool)
    ring[5:25, 5:25] = False
    points = spread_points([Piece(0, 0, ring, int(ring.sum()))])
    assert ring[points[0, :, 0], points[0, :, 1]].all()


def test_descriptors_are_the_mean_of_the_patches_under_lit_points() -> None:
    frame_HWC = np.full((40, 80, 3), 120, np.uint8)
    frame_HWC[:, :40] = 0
    patches = torch.tensor([[[1.0, 3.0]], [[0.0, 4.0]]])  # (C, 1, 2): left and right half
    pieces = [block(5, 45, 10, 10), block(5, 5, 10, 10), block(5, 2, 10, 76)]
    described, has = describe(patches, frame_HWC, pieces, unit=False)
    assert has.tolist() == [True, False, True]
    assert described[0].tolist() == [3, 4]
    assert described[2].tolist() == [3, 4]  # the points in the dark do not count
    unit, _ = describe(patches, frame_HWC, pieces, unit=True)
    assert unit[0] == pytest.approx([0.6, 0.8])
    empty, none = describe(patches, frame_HWC, [], unit=True)
    assert empty.shape == (0, 2)
    assert none.shape == (0,)


def test_a_threshold_is_an_angle() -> None:
    assert mse_of_cosine(0.5, 1) == 1
    assert mse_of_cosine(0.9488, 1024) == pytest.approx(RADIO_CLIP_MSE)
    one, other = np.array([1.0, 0]), np.array([0.6, 0.8])
    assert ((one - other) ** 2).mean() == pytest.approx(mse_of_cosine(0.6, 2))


def test_the_segmenters_own_embedding_costs_nothing() -> None:
    assert SegmenterBackbone("own", "0").patches(FRAMES, NOTHING) is NOTHING.levels[-1]
    other = FrameFeatures((torch.ones(1), torch.ones(1), torch.ones(2, 3, 2, 2)), (40, 72))
    assert SegmenterBackbone("other", "0", lambda frames: other).patches(FRAMES, NOTHING).shape[1] == 3


def tiny_radio() -> RadioModel:
    config = RadioConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_img_size=128,
        image_size=64,
    )
    return RadioModel(config)


def saved(folder: Path, kind: str) -> Path:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
    }
    torch.manual_seed(0)
    if kind == "radio":
        tiny_radio().save_pretrained(folder)
    elif kind == "vit":
        ViTModel(ViTConfig(patch_size=16, **sizes)).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(patch_size=8, **sizes)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "grid"), [("radio", (2, 4)), ("vit", (2, 4)), ("dinov2", (5, 9))])
def test_backbones_by_path_give_patches_of_whole_frames(
    kind: str, grid: tuple[int, int], tmp_path: Path
) -> None:
    folder = saved(tmp_path / kind, kind)
    backbone = load_vision_backbone(
        str(folder), trust_remote_code=False, weights_dir=None, device=CPU, dtype=torch.float32
    )
    noise = torch.randint(
        0, 256, (2, 40, 72, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    patches = backbone.patches(noise, NOTHING)
    assert patches.shape == (2, 16, *grid)
    assert backbone.unit
    assert backbone.same_below(16) == mse_of_cosine(0.95, 16)
    assert len(backbone.digest) == 64
    assert not torch.equal(patches[0], patches[1])
    again = load_vision_backbone(
        kind, trust_remote_code=False, weights_dir=tmp_path, device=CPU, dtype=torch.float32
    )
    assert torch.equal(again.patches(noise, NOTHING), patches)
    assert again.digest == backbone.digest


def test_radio_patches_lie_where_the_frame_has_them() -> None:
    backbone = VisionBackbone(tiny_radio().eval(), "radio", "0", None)
    black = torch.zeros(1, 32, 64, 3, dtype=torch.uint8)
    changed = black.clone()
    changed[:, 16:, 48:] = 255
    apart = (backbone.patches(black, NOTHING) - backbone.patches(changed, NOTHING)).abs().sum(1)[0]
    assert divmod(int(apart.argmax()), 4) == (1, 3)


def test_clip_features_of_code_from_a_repository_have_the_published_threshold() -> None:
    class Remote(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.config = type("Config", (), {"adaptor_names": ["clip"], "patch_size": 16})()

        def forward(self, pixels: torch.Tensor) -> dict[str, Any]:
            tokens = torch.arange(8.0).view(1, 8, 1).expand(len(pixels), 8, 3)
            return {"backbone": None, "clip": (torch.zeros(len(pixels), 3), tokens)}

    backbone = VisionBackbone(Remote(), "remote", "0", None)
    patches = backbone.patches(torch.zeros(1, 32, 64, 3, dtype=torch.uint8), NOTHING)
    assert patches[0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert backbone.same_below(1024) == RADIO_CLIP_MSE
    assert not backbone.unit


def refused(folder: Path) -> VisionBackbone:
    return load_vision_backbone(
        str(folder), trust_remote_code=False, weights_dir=None, device=CPU, dtype=torch.float32
    )


def test_code_of_a_repository_runs_only_when_allowed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UsageError, match="allow it with --trust-remote-code and a pinned revision"):
        refused(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no readable config"):
        refused(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"holds no \.safetensors"):
        refused(tmp_path)
    folder = saved(tmp_path / "vit", "vit")
    (folder / "model.safetensors").write_bytes(b"none")
    with pytest.raises(WeightsError, match="cannot load the vision model"):
        refused(folder)
