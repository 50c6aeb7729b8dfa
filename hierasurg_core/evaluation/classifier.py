"""Classifiers of phase and triplet: whether a clip shows what was asked for.

Owns the forms that a user's classifier may have, and how its classes become the vocabulary's. A TorchScript
is a program; only the file that `--classifier` names is loaded. It takes float pixels (B, 3, F, 224, 224) in
[0, 1] and returns logits: {"phase": (B, 7), "triplet": (B, 100)} or one of the two, or a tuple of such
tensors, or one of them. A folder of transformers holds a video classifier whose labels are the names of
phases or triplets.

Legend: B clips, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierasurg_core import taxonomy
from hierasurg_core.artifacts import sha256_file
from hierasurg_core.config.paths import as_path
from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.evaluation.extractors import load_script, network_input
from hierasurg_core.evaluation.measuring import Measured, Rows
from hierasurg_core.evaluation.preparing import Preparation, prepared_BFCHW

KINDS = {"phase": len(taxonomy.PHASES), "triplet": len(taxonomy.TRIPLETS)}
_SCRIPT_PX = 224


class ScriptClassifier:
    """A TorchScript."""

    role = "classifier"

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads it.

        Raises:
            WeightsError: It is no TorchScript.
        """
        self.name, self.digest = path.name, sha256_file(path)
        self._module, self._device = load_script(path, device), device
        self._how = Preparation("stretch", (_SCRIPT_PX, _SCRIPT_PX))
        self.key = f"classifier 1 {self.digest} {self._how.key}"

    @torch.inference_mode()
    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns logits "phase" (B, 7), "triplet" (B, 100), or one of them.

        Raises:
            WeightsError: It takes no clips, or returns no such logits.
        """
        pixels = prepared_BFCHW([clip.video_FHWC for clip in batch], self._how, self._device).transpose(1, 2)
        try:
            said = self._module(pixels.contiguous())
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise WeightsError(f"the classifier {self.name} does not take a clip: {reason}") from error
        found = _logits_of(said, len(batch))
        if not found:
            raise WeightsError(
                f"the classifier {self.name} returns neither 7 logits of phases nor 100 of triplets a clip"
            )
        return {kind: logits.float().cpu().numpy() for kind, logits in found.items()}


class NetworkClassifier:
    """A video classifier of transformers."""

    role = "classifier"

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Reads the folder.

        Raises:
            WeightsError: It is damaged, or its labels are not all of the phases or all of the triplets.
        """
        from hierasurg_core.models.video_networks import load_video_network

        self._network = load_video_network(folder, device)
        self._kind, self._order = _vocabulary(self._network.labels, folder)
        self.name, self.digest, self._device = self._network.name, self._network.digest, device
        self._how = Preparation("stretch", (self._network.size_px, self._network.size_px))
        self.key = f"classifier 1 {self.digest} {self._how.key}"

    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns logits "phase" (B, 7) or "triplet" (B, 100)."""
        pixels = prepared_BFCHW([clip.video_FHWC for clip in batch], self._how, self._device)
        _, logits = self._network(network_input(pixels, self._network))
        assert logits is not None  # a network with labels has them
        return {self._kind: logits.float().cpu().numpy()[:, self._order]}


def load_classifier(name: str, device: torch.device) -> ScriptClassifier | NetworkClassifier:
    """Loads a classifier's file or folder.

    Raises:
        WeightsError: Nothing is there, or it is none.
    """
    path = as_path("classifier", name)
    if path.is_dir():
        return NetworkClassifier(path, device)
    if not path.is_file():
        raise WeightsError(f"there is no classifier {name}: give mini, none, a TorchScript file, or a folder")
    return ScriptClassifier(path, device)


def _logits_of(said: Any, count: int) -> dict[str, torch.Tensor]:
    parts = (
        list(said.values()) if isinstance(said, dict) else said if isinstance(said, (list, tuple)) else [said]
    )
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        for kind, classes in KINDS.items():
            if isinstance(part, torch.Tensor) and tuple(part.shape) == (count, classes):
                found[kind] = part
    return found


def _vocabulary(labels: Sequence[str], folder: Path) -> tuple[str, list[int]]:
    """Which vocabulary a model's labels are, and which of them each id is."""
    for kind, parse in (
        ("phase", taxonomy.parse_phase),
        ("triplet", lambda text: taxonomy.parse_triplet(text).id),
    ):
        ids: list[int] = []
        for label in labels:
            try:
                ids.append(parse(label))
            except UsageError:
                break
        if sorted(ids) == list(range(KINDS[kind])):
            return kind, np.argsort(ids).tolist()
    raise WeightsError(
        f"the labels of {folder} are neither the 7 phases nor the 100 triplets: id2label in its config.json "
        f"says {', '.join(labels[:3])}, ..."
    )
