"""Small scripted modules with the signatures of the published TorchScript files, and a tiny VideoMAE."""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel

from hierasurg_core import taxonomy
from hierasurg_core.evaluation.mini import MiniConfig, MiniVideoNet, save_mini


class TinyI3D(torch.nn.Module):
    """Takes what I3D takes: bytes with rescale and resize, else [-1, 1] at 224 pixels."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(6, 400)

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert return_features
        assert rescale == resize
        if not resize:
            assert x.shape[-1] == 224
            assert x.shape[-2] == 224
        pixels = x / 127.5 - 1 if rescale else x
        assert pixels.abs().max() <= 1.001
        return self.head(torch.cat([pixels.mean((2, 3, 4)), pixels.std((2, 3, 4))], dim=1))


class TinyClassifier(torch.nn.Module):
    """Says the phase by the clip's red, and a triplet."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        red = x[:, 0].mean((1, 2, 3))
        phases = torch.arange(7, dtype=x.dtype)
        triplets = torch.arange(100, dtype=x.dtype)
        return -(red[:, None] * 6 - phases).abs(), -(red[:, None] * 99 - triplets).abs()


class NoClassifier(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3, 4))


class BrightBox(torch.nn.Module):
    """Finds one box around all bright pixels of a batch of one frame, as rows of six numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x[0].mean(0) > 0.5
        if not bool(bright.any()):
            return torch.zeros(1, 0, 6)
        rows = torch.nonzero(bright.any(1)).flatten().float()
        columns = torch.nonzero(bright.any(0)).flatten().float()
        one = torch.ones(1)
        ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return torch.cat([torch.stack(ends), one * 0.9, one * 0]).view(1, 1, 6)


class BrightBoxOfList(torch.nn.Module):
    """The same with the signature of torchvision's scripted detectors."""

    def __init__(self):
        super().__init__()
        self.inner = BrightBox()

    def forward(
        self, images: list[torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        losses: dict[str, torch.Tensor] = {}
        found: list[dict[str, torch.Tensor]] = []
        for image in images:
            rows = self.inner(image[None])[0]
            found.append({"boxes": rows[:, :4], "scores": rows[:, 4]})
        return losses, found


class TinyVgg(torch.nn.Module):
    """The signature of StyleGAN2-ADA's VGG16; features are means of quarters."""

    def forward(
        self, x: torch.Tensor, resize_images: bool = True, return_lpips: bool = False
    ) -> torch.Tensor:
        assert return_lpips
        assert not resize_images
        return torch.nn.functional.adaptive_avg_pool2d(x / 255, 2).flatten(1)


def script(module: torch.nn.Module, path: Path) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():  # torch 2.14 calls it deprecated; the published files are made with it
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(str(path))
    return path


def write_videomae(folder: Path, labels: list[str] | None = None, *, frames: int = 4) -> Path:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 16,
        "num_frames": frames,
        "tubelet_size": 2,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    if labels is None:
        VideoMAEModel(VideoMAEConfig(**settings)).save_pretrained(folder)
    else:
        names = dict(enumerate(labels))
        config = VideoMAEConfig(**settings, id2label=names, label2id={v: k for k, v in names.items()})
        VideoMAEForVideoClassification(config).save_pretrained(folder)
    return folder


def phase_labels() -> list[str]:
    """The phases, backwards and spelt as a person would."""
    return [name.replace("-", " ").replace("carlot", "calot").title() for name in taxonomy.PHASES[::-1]]


def write_tiny_mini(folder: Path) -> Path:
    torch.manual_seed(0)
    save_mini(MiniVideoNet(MiniConfig(4, (4, 8), (8, 8), 8, 8)), folder)
    return folder
