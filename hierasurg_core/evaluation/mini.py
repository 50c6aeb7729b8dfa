"""The bundled mini network: features of phantom clips and frames, and what is done in them.

Owns one small video network and its folder (`config.json` and fp16 safetensors). It was trained on the
phantom alone (`hierasurg_core.phantom.classifier`), so whatever is computed from it is called mini and says
nothing about real surgery.

A 2D trunk sees each frame alone; a frame branch on it gives frame features, a clip branch with convolutions
over time gives clip features. All heads read those features. Legend: B clips, F frames, C channels, H rows,
W columns, D features; pixels are in [0, 1].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import hierasurg_core
from hierasurg_core import artifacts, taxonomy
from hierasurg_core.errors import WeightsError

MINI_CLASSIFIER = Path(hierasurg_core.__file__).parent / "assets" / "classifier-mini"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CLASS_NAME = "MiniVideoNet"
SIZE_HW = (128, 192)
NUM_FRAMES = 16
DAMAGES = ("blur", "noise", "colour", "shuffle")
"""What the features are trained to notice, each as a strength in [0, 1]."""
_PARTS = (len(taxonomy.INSTRUMENTS), len(taxonomy.VERBS), len(taxonomy.TARGETS))


@dataclass(frozen=True)
class MiniConfig:
    """Widths of the network.

    Attributes:
        stem: Channels at half the frame's size.
        trunk: Channels at a quarter and at an eighth of it.
        clip: Channels of the clip branch's two stages.
        frame_features: D of the frame features.
        clip_features: D of the clip features.
    """

    stem: int = 16
    trunk: tuple[int, int] = (40, 80)
    clip: tuple[int, int] = (128, 192)
    frame_features: int = 128
    clip_features: int = 128


@dataclass(frozen=True)
class MiniOutput:
    """What the network says of B clips.

    Attributes:
        clip_BD: Features of the clips.
        frame_BFD: Features of each frame, which no other frame changes.
        phase_BN: Logits of the 7 phases.
        triplet_BN: Logits of the 100 triplets.
        frame_phase_BFN: Logits of the phases from each frame alone.
        frame_instrument_BFN: Logits of the acting instrument from each frame alone.
        damage_BN: Logits of the strengths of `DAMAGES`.
        frame_damage_BFN: The same from each frame alone, without the last.
    """

    clip_BD: Tensor
    frame_BFD: Tensor
    phase_BN: Tensor
    triplet_BN: Tensor
    frame_phase_BFN: Tensor
    frame_instrument_BFN: Tensor
    damage_BN: Tensor
    frame_damage_BFN: Tensor


class _FrameBlock(nn.Module):
    """Two 3x3 convolutions of single frames, the first halving rows and columns, with a shortcut."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(given, made, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(made)
        self.second = nn.Conv2d(made, made, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(made)
        self.shortcut = nn.Conv2d(given, made, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x_NCHW)))
        y = self.second_norm(self.second(y))
        return torch.relu(y + self.shortcut(nn.functional.avg_pool2d(x_NCHW, 2, ceil_mode=True)))


class _TimeBlock(nn.Module):
    """A convolution over three frames, then one over 3x3 pixels that halves rows, columns and frames."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.time = nn.Conv3d(given, given, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.time_norm = nn.BatchNorm3d(given)
        self.space = nn.Conv3d(given, made, (1, 3, 3), stride=(2, 2, 2), padding=(0, 1, 1), bias=False)
        self.space_norm = nn.BatchNorm3d(made)

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        x = torch.relu(x_BCFHW + self.time_norm(self.time(x_BCFHW)))
        return torch.relu(self.space_norm(self.space(x)))


class MiniVideoNet(nn.Module):
    """The network.

    Args:
        config: Its widths.
    """

    def __init__(self, config: MiniConfig | None = None) -> None:
        super().__init__()
        self.config = config or MiniConfig()
        first, second = self.config.trunk
        self.stem = nn.Conv2d(3, self.config.stem, 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(self.config.stem)
        self.trunk = nn.Sequential(_FrameBlock(self.config.stem, first), _FrameBlock(first, second))
        frame_D, clip_D = self.config.frame_features, self.config.clip_features
        self.frame_block = _FrameBlock(second, frame_D)
        self.frame_out = nn.Linear(frame_D, frame_D)
        self.clip_blocks = nn.Sequential(
            _TimeBlock(second, self.config.clip[0]), _TimeBlock(self.config.clip[0], self.config.clip[1])
        )
        self.clip_out = nn.Linear(2 * self.config.clip[1] + 2 * second, clip_D)
        phases, instruments = len(taxonomy.PHASES), len(taxonomy.INSTRUMENTS)
        self.phase = nn.Linear(clip_D, phases)
        self.triplet = nn.Linear(clip_D, len(taxonomy.TRIPLETS))
        self.parts = nn.Linear(clip_D, sum(_PARTS))
        self.damage = nn.Linear(clip_D, len(DAMAGES))
        self.frame_phase = nn.Linear(frame_D, phases)
        self.frame_instrument = nn.Linear(frame_D, instruments)
        self.frame_damage = nn.Linear(frame_D, len(DAMAGES) - 1)
        parts = torch.tensor([(t.instrument_id, t.verb_id, t.target_id) for t in taxonomy.TRIPLETS])
        self.register_buffer("parts_of_triplet", parts, persistent=False)

    def forward(self, video_BFCHW: Tensor, *, still: int = 1) -> MiniOutput:
        """Looks at clips of any length of at least four frames, pixels in [0, 1].

        Args:
            video_BFCHW: The clips.
            still: Each frame stands for so many that are alike; costs hardly more than one.
        """
        batch, frames = len(video_BFCHW), video_BFCHW.shape[1] * still
        x = (video_BFCHW.flatten(0, 1) - 0.35) / 0.25
        x = torch.relu(self.stem_norm(self.stem(x)))
        trunk_NCHW = self.trunk(x)
        frame_ND = self.frame_out(self.frame_block(trunk_NCHW).mean((-2, -1)))
        if still > 1:
            trunk_NCHW, frame_ND = (rows.repeat_interleave(still, 0) for rows in (trunk_NCHW, frame_ND))
        trunk_BCFHW = trunk_NCHW.unflatten(0, (batch, frames)).transpose(1, 2)
        clip_BCFHW = self.clip_blocks(trunk_BCFHW)
        # How much each channel changes from frame to frame: an order that is wrong shows at once.
        steps = trunk_BCFHW.diff(dim=2)
        jumps = [steps.abs().mean((2, 3, 4)), steps.mean((3, 4)).abs().mean(2)]
        levels = [clip_BCFHW.mean((-3, -2, -1)), clip_BCFHW.amax((-3, -2, -1))]
        clip_BD = self.clip_out(torch.cat([*levels, *jumps], dim=1))
        seen = torch.relu(clip_BD)
        frame_BFD = frame_ND.unflatten(0, (batch, frames))
        frame_seen = torch.relu(frame_BFD)
        return MiniOutput(
            clip_BD=clip_BD,
            frame_BFD=frame_BFD,
            phase_BN=self.phase(seen),
            triplet_BN=self._triplets(seen),
            frame_phase_BFN=self.frame_phase(frame_seen),
            frame_instrument_BFN=self.frame_instrument(frame_seen),
            damage_BN=self.damage(seen),
            frame_damage_BFN=self.frame_damage(frame_seen),
        )

    def _triplets(self, seen_BD: Tensor) -> Tensor:
        """A triplet's logit: its instrument's, verb's and target's, and one of its own."""
        parts = self.parts(seen_BD).split(_PARTS, dim=1)
        table = self.get_buffer("parts_of_triplet")
        return self.triplet(seen_BD) + sum(
            part.index_select(1, table[:, column]) for column, part in enumerate(parts)
        )


def save_mini(net: MiniVideoNet, folder: Path) -> None:
    """Writes the folder, atomically, with fp16 weights.

    Raises:
        ResourceError: The folder cannot be written.
    """
    with artifacts.atomic_folder(folder) as part:
        tensors = {
            name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for name, value in net.state_dict().items()
        }
        save_file(tensors, part / WEIGHTS_FILE)
        config = {"_class_name": CLASS_NAME, **dataclasses.asdict(net.config)}
        artifacts.write_json(part / CONFIG_FILE, config)
        for path in part.iterdir():
            path.chmod(0o644)
        part.chmod(0o755)


def load_mini(folder: Path, device: torch.device | str = "cpu") -> MiniVideoNet:
    """Reads the folder that `save_mini` wrote, in float32 and ready to use.

    Raises:
        WeightsError: It is missing, damaged, of another class, or its tensors have other shapes.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise WeightsError(f"{folder} holds no mini network: there is no {CONFIG_FILE}; give its folder")
    said = artifacts.read_json(folder / CONFIG_FILE)
    if not isinstance(said, dict) or said.pop("_class_name", None) != CLASS_NAME:
        raise WeightsError(f"{folder / CONFIG_FILE} does not describe a {CLASS_NAME}; give its folder")
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
        net = MiniVideoNet(MiniConfig(**values))
        net.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{folder} is no whole {CLASS_NAME}: {reason}; train or install it again"
        ) from error
    return net.to(device).eval()
