"""Detectors of instruments, and whether they find in generated frames what they find in the real ones.

Owns the forms that a user's detector may have. A TorchScript file and an ultralytics file are both programs:
loading one runs what is in it, so only the file that `--detector` names is loaded.

A TorchScript takes a float frame (3, H, W) in [0, 1], as a list of one or as a batch of one, whichever its
signature says. It returns, perhaps inside lists or tuples, {"boxes": (N, 4), "scores": (N,)}, or a pair of
such tensors, or one tensor (N, 5 or more) of left, top, right, bottom, score.

Legend: B clips, F frames, N boxes.
"""

from __future__ import annotations

import importlib
import importlib.util
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.errors import WeightsError
from hierasurg_core.evaluation.agreement import Boxes, detector_agreement
from hierasurg_core.evaluation.extractors import load_script
from hierasurg_core.evaluation.measuring import Measured, Rows

MIN_SCORE, HIT_IOU = 0.5, 0.5
COUNTS = ("iou_sum", "pairs", "hits", "real_boxes", "generated_boxes")


class Detector(Protocol):
    """Finds boxes."""

    def boxes(self, frames_FHWC: NDArray[np.uint8]) -> list[Boxes]:
        """Returns the boxes of each frame."""
        ...


class ScriptDetector:
    """A TorchScript."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads it.

        Raises:
            WeightsError: It is no TorchScript.
        """
        self._module, self._device, self._path = load_script(path, device), device, path
        arguments = self._module.forward.schema.arguments
        self._takes_list = len(arguments) > 1 and str(arguments[1].type).startswith("List")

    @torch.inference_mode()
    def boxes(self, frames_FHWC: NDArray[np.uint8]) -> list[Boxes]:
        """Returns the boxes of each frame.

        Raises:
            WeightsError: It takes no frames, or returns no boxes.
        """
        found: list[Boxes] = []
        for frame_HWC in frames_FHWC:
            pixels = torch.from_numpy(frame_HWC.copy()).to(self._device).permute(2, 0, 1).float() / 255
            try:
                said = self._module([pixels] if self._takes_list else pixels[None])
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = " ".join(str(error).split())[-200:]
                raise WeightsError(f"the detector {self._path} does not take a frame: {reason}") from error
            boxes = _boxes_of(said)
            if boxes is None:
                raise WeightsError(
                    f"the detector {self._path} returns no boxes: it must return boxes (N, 4) and scores (N,)"
                )
            found.append(boxes)
        return found


class UltralyticsDetector:
    """A model of the ultralytics package."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads it, which unpickles the file.

        Raises:
            WeightsError: The package is not installed, or cannot read the file.
        """
        if importlib.util.find_spec("ultralytics") is None:
            raise WeightsError(
                f"{path} is no TorchScript, and what may read it is not here: pip install ultralytics"
            )
        package: Any = importlib.import_module("ultralytics")
        try:
            self._model: Any = package.YOLO(str(path))
        except (RuntimeError, ValueError, OSError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"ultralytics cannot read {path}: {' '.join(str(error).split())[:160]}"
            ) from error
        self._device = str(device)

    def boxes(self, frames_FHWC: NDArray[np.uint8]) -> list[Boxes]:
        """Returns the boxes of each frame."""
        pictures = [np.ascontiguousarray(frame_HWC[..., ::-1]) for frame_HWC in frames_FHWC]  # blue first
        results = self._model.predict(pictures, verbose=False, device=self._device)
        return [Boxes(r.boxes.xyxy.cpu().numpy(), r.boxes.conf.cpu().numpy()) for r in results]


def load_detector(path: Path, device: torch.device) -> Detector:
    """Loads a detector's file: TorchScript where it is one, else by ultralytics.

    Raises:
        WeightsError: The file is missing, or nothing here can read it.
    """
    if not path.is_file():
        raise WeightsError(f"there is no detector {path}: give a TorchScript or an ultralytics file")
    return ScriptDetector(path, device) if _is_script(path) else UltralyticsDetector(path, device)


class DetectorMeasurer:
    """Detector agreement of each clip with its real one, as counts that add up over clips.

    As in HieraSurg (arXiv 2506.21287): boxes above 0.5, matched by IoU, hits at IoU 0.5 or more.
    """

    role = "detector"

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads the detector.

        Raises:
            WeightsError: As `load_detector`.
        """
        self._detector = load_detector(path, device)
        self.name, self.digest = path.name, sha256_file(path)
        self.key = f"detector 1 {self.digest}"

    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns "boxes" (B, 5): the `COUNTS` of a clip; NaN without a real clip."""
        return {"boxes": np.stack([self._counts(clip) for clip in batch])}

    def _counts(self, clip: Measured) -> NDArray[np.float64]:
        if clip.real_FHWC is None:
            return np.full(len(COUNTS), np.nan)
        total = np.zeros(len(COUNTS))
        both = zip(self._detector.boxes(clip.real_FHWC), self._detector.boxes(clip.video_FHWC), strict=True)
        for frame in both:
            agreed = detector_agreement([frame], min_score=MIN_SCORE, hit_iou=HIT_IOU)
            pairs = min(agreed.real_boxes, agreed.generated_boxes)
            total += (
                (agreed.mean_iou or 0.0) * pairs,
                pairs,
                round((agreed.real_hit or 0.0) * agreed.real_boxes),
                agreed.real_boxes,
                agreed.generated_boxes,
            )
        return total


def _is_script(path: Path) -> bool:
    """TorchScript is a zip file with a `constants.pkl` and a folder `code/`, which no other archive has."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _boxes_of(said: Any) -> Boxes | None:
    """Searches what a detector returned for boxes."""
    if isinstance(said, dict):
        if not {"boxes", "scores"} <= set(said):
            return None
        return Boxes(said["boxes"].float().cpu().numpy(), said["scores"].float().cpu().numpy())
    if isinstance(said, torch.Tensor):
        rows = said[0] if said.dim() == 3 else said
        if rows.dim() != 2 or rows.shape[1] < 5:
            return None
        return Boxes(rows[:, :4].float().cpu().numpy(), rows[:, 4].float().cpu().numpy())
    if not isinstance(said, (list, tuple)):
        return None
    if len(said) == 2 and all(isinstance(part, torch.Tensor) for part in said) and said[0].shape[-1:] == (4,):
        return _boxes_of({"boxes": said[0].reshape(-1, 4), "scores": said[1].reshape(-1)})
    return next((boxes for part in said if (boxes := _boxes_of(part)) is not None), None)
