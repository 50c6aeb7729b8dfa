"""Networks that turn clips into features: the bundled mini one, I3D, VideoMAE, Inception-v3.

Owns where their weights are looked for, which file is the published one, and how each is called. It downloads
nothing: what is missing is named with the place where it is published, and the metrics that do not need it
still run.

TorchScript files are programs: `torch.jit.load` runs what is in them. Only a file that the user named, or
that has the published digest, is loaded.

Legend: B clips, F frames, C channels, D features.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.errors import WeightsError
from hierasurg_core.evaluation.measuring import Measured, Rows
from hierasurg_core.evaluation.mini import MINI_CLASSIFIER, SIZE_HW, WEIGHTS_FILE, MiniVideoNet, load_mini
from hierasurg_core.evaluation.preparing import Preparation, preparation_of, prepared_BFCHW
from hierasurg_core.evaluation.protocol import Protocol

_VERSION = 2  # of the definitions here; part of every key
_LEAST_FRAMES = 4  # below which no network here sees a video


@dataclass(frozen=True)
class Published:
    """A file that others publish.

    Attributes:
        file: What it is called.
        url: Where it is.
        sha256: Its digest, or the beginning of it that is known.
        option: The option that takes it.
    """

    file: str
    url: str
    sha256: str
    option: str

    @property
    def missing(self) -> str:
        """What to do without it."""
        return (
            f"no {self.file}: give {self.option}, or put it into --weights-dir; it is published at {self.url}"
        )


# The digests: of I3D, as its copy at huggingface.co/flateon/FVD-I3D-torchscript states it; of Inception, the
# beginning that torch-fidelity puts into the file's name.
I3D = Published(
    "i3d_torchscript.pt",
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    "--i3d FILE",
)
INCEPTION = Published(
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
    "--inception FILE",
)
VIDEOMAE = Published(
    "videomae",
    "https://huggingface.co/MCG-NJU/videomae-base-finetuned-ssv2",
    "",
    "--videomae FOLDER",
)
LPIPS = Published(
    "vgg16.pt",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/vgg16.pt",
    "",
    "--lpips FILE",
)


def find_weights(published: Published, given: Path | None, weights_dir: Path | None) -> Path | None:
    """Returns a file or folder that the user gave, or the published one in `weights_dir`; None without.

    Raises:
        WeightsError: What was given is not there.
    """
    if given is not None:
        if not given.exists():
            raise WeightsError(f"there is no {given}; {published.file} is published at {published.url}")
        return given
    if weights_dir is None:
        return None
    if not weights_dir.is_dir():
        raise WeightsError(f"there is no folder {weights_dir}, which --weights-dir names")
    found = weights_dir / published.file
    return found if found.exists() else None


def checked_digest(path: Path, published: Published, wanted: str | None = None) -> str:
    """Returns a file's SHA-256.

    Args:
        path: The file.
        published: What it should be.
        wanted: Another digest that a protocol asks for.

    Raises:
        WeightsError: It is another one.
    """
    digest = sha256_file(path)
    expected = wanted or published.sha256
    if not digest.startswith(expected):
        raise WeightsError(
            f"{path} has the SHA-256 {digest}, not {expected}{'' if len(expected) == 64 else '...'} of "
            f"{published.file}: download it again from {published.url}, or name its digest as "
            "extractor_sha256 in a --protocol file"
        )
    return digest


def load_script(path: Path, device: torch.device) -> Any:
    """Loads a TorchScript file, which is a program that the user has chosen to run.

    Raises:
        WeightsError: It is none.
    """
    try:
        with warnings.catch_warnings():  # torch calls it deprecated; the published files have no other form
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} is no TorchScript file: {reason}") from error


class MiniExtractor:
    """The bundled network: features of clips and of frames, phases and triplets, all mini."""

    role = "mini"

    def __init__(self, device: torch.device, folder: Path = MINI_CLASSIFIER) -> None:
        """Reads its weights.

        Raises:
            WeightsError: They are missing or damaged.
        """
        self.name = "mini"
        self._net: MiniVideoNet = load_mini(folder, device)
        for part in (self._net.stem, self._net.trunk, self._net.frame_block):
            part.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
        self.digest = sha256_file(folder / WEIGHTS_FILE)
        self._device = device
        self._how = Preparation("stretch", SIZE_HW)
        self.key = f"mini {_VERSION} {self.digest} {self._how.key}"

    @torch.inference_mode()
    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns "clip" (B, D), "frame" (B, F, D), and logits "phase", "triplet" and "frame_phase"."""
        clips = [clip.video_FHWC for clip in batch]
        is_still = all(bool((clip_FHWC == clip_FHWC[:1]).all()) for clip_FHWC in clips)
        still = len(clips[0]) if is_still else 1  # as all clips of a frozen first frame are
        seen = [clip_FHWC[:1] for clip_FHWC in clips] if is_still else clips
        output = self._net(prepared_BFCHW(seen, self._how, self._device), still=still)
        return {
            "clip": output.clip_BD.cpu().numpy(),
            "frame": output.frame_BFD.cpu().numpy(),
            "phase": output.phase_BN.cpu().numpy(),
            "triplet": output.triplet_BN.cpu().numpy(),
            "frame_phase": output.frame_phase_BFN.cpu().numpy(),
        }


class I3DExtractor:
    """I3D trained on Kinetics-400, the TorchScript that StyleGAN-V published: 400 logits a clip."""

    role = "i3d"

    def __init__(self, path: Path, protocol: Protocol, device: torch.device) -> None:
        """Checks the digest and loads the file.

        Raises:
            WeightsError: The file is another one, or no TorchScript.
        """
        self.name = "i3d-kinetics400-logits"
        wanted = protocol.extractor_sha256 if protocol.extractor in (None, self.name) else None
        self.digest = checked_digest(path, I3D, wanted)
        self._module, self._device = load_script(path, device), device
        self._inside = protocol.resize == "extractor"
        self._how = preparation_of(protocol, 224)
        self.key = f"i3d {_VERSION} {self.digest} {self._inside} {self._how.key}"

    @torch.inference_mode()
    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns "clip" (B, 400).

        Raises:
            WeightsError: The module does not take what I3D takes.
        """
        pixels = prepared_BFCHW([clip.video_FHWC for clip in batch], self._how, self._device).transpose(1, 2)
        pixels = pixels * 255 if self._inside else pixels * 2 - 1
        try:
            features_BD = self._module(
                pixels.contiguous(), rescale=self._inside, resize=self._inside, return_features=True
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise WeightsError(f"I3D cannot take clips of {pixels.shape[2]} frames: {reason}") from error
        return {"clip": features_BD.float().cpu().numpy()}


class VideoMAEExtractor:
    """A VideoMAE of transformers: what its head reads, or the mean over its tokens."""

    role = "videomae"

    def __init__(self, folder: Path, protocol: Protocol, device: torch.device) -> None:
        """Reads the folder.

        Raises:
            WeightsError: It is missing, damaged, or no network over videos.
        """
        from hierasurg_core.models.video_networks import load_video_network

        self._network = load_video_network(folder, device)
        self.name, self.digest, self._device = self._network.name, self._network.digest, device
        size_px = self._network.size_px  # which a protocol cannot change
        how = preparation_of(dataclasses.replace(protocol, input_px=size_px), size_px)
        self._how = Preparation("stretch", how.size_hw) if how.resize == "none" else how
        self.key = f"videomae {_VERSION} {self.digest} {self._how.key}"

    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns "clip" (B, D)."""
        pixels = prepared_BFCHW([clip.video_FHWC for clip in batch], self._how, self._device)
        features_BD, _ = self._network(network_input(pixels, self._network))
        return {"clip": features_BD.float().cpu().numpy()}


def network_input(pixels_BFCHW: torch.Tensor, network: Any) -> torch.Tensor:
    """Takes as many frames as a `VideoNetwork` wants, evenly spread, and normalises them."""
    places = torch.linspace(0, pixels_BFCHW.shape[1] - 1, network.num_frames).round().long()
    mean, std = (pixels_BFCHW.new_tensor(value).view(3, 1, 1) for value in (network.mean, network.std))
    return (pixels_BFCHW[:, places.to(pixels_BFCHW.device)] - mean) / std


class InceptionExtractor:
    """Inception-v3 as FID, KID and IS use it, with torch-fidelity's weights and its own resize to 299 px."""

    role = "inception"

    def __init__(self, path: Path, device: torch.device) -> None:
        """Checks the file and loads it.

        Raises:
            WeightsError: torch-fidelity is not installed, or the file is another one or damaged.
        """
        if importlib.util.find_spec("torch_fidelity") is None:
            raise WeightsError(INCEPTION_PACKAGE)
        package: Any = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        self.name = "inception-v3-2015-12-05"
        self.digest = checked_digest(path, INCEPTION)
        _expect_plain_tensors(path)  # torch-fidelity itself reads it without any such care
        self._module = package.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
        self._module.to(device)
        self._device = device
        self.key = f"inception {_VERSION} {self.digest}"

    @torch.inference_mode()
    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns "frame" (B, F, 2048) and "logits" (B, F, 1008)."""
        parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        for clip in batch:
            frames = torch.from_numpy(clip.video_FHWC.copy()).permute(0, 3, 1, 2).to(self._device)
            parts.append(self._module(frames))
        features, logits = (torch.stack(rows).float().cpu().numpy() for rows in zip(*parts, strict=True))
        return {"frame": features, "logits": logits}


INCEPTION_PACKAGE = "torch-fidelity is not installed: pip install 'hierasurg[evaluate]'"


def _expect_plain_tensors(path: Path) -> None:
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} holds no plain table of tensors: {' '.join(str(error).split())[:160]}"
        ) from error
