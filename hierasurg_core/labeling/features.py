"""What a mask looks like: a descriptor from the patches of a vision backbone, so that masks can be matched.

Owns the backbones that `label` takes: RADIO, any other vision model of transformers, and the segmenter's own
image embedding, which costs nothing. Each says below which mean squared error two descriptors are of one
entity; the published 1e-4 belongs to RADIO's CLIP features. Any other backbone's descriptors are scaled to
length 1, so that the error is 2 (1 - cosine) / C and a threshold means an angle.

Legend: F frames, N masks, P sampled pixels of a mask, Q points of a mask, C channels, h w patches.

Source: HieraSurg (arXiv 2506.21287) and its public code: RADIO features, averaged over four points of a mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.labeling.checking import RADIO, WITHOUT_BACKBONE, backbone_near
from hierasurg_core.labeling.refine import Piece
from hierasurg_core.labeling.sam_network import FrameFeatures

RADIO_CLIP_MSE = 1e-4
"""Of RADIOv2.5-L's CLIP features, not scaled; published."""
SAME_COSINE = 0.95
"""Above which two descriptors of length 1 are one entity's, for backbones that were not calibrated: the angle
that the published threshold means for 1024 values of length 1."""
MINI_COSINE = 0.65
"""The same for the mini SAM 2's image embedding; `bench_label calibrate` tells what the phantom asks for."""

_POINTS = 4  # Q
_SAMPLES = 256  # P
_ROUNDS = 8  # of k-means
_WINDOW = 11 / 480  # side of the window in which a point is looked at, of the frame's height
_BLACK_MEAN = 32


class Backbone(Protocol):
    """What gives patches of frames.

    Attributes:
        name: What the user is told.
        digest: Of its weights.
        unit: Descriptors are scaled to length 1.
    """

    name: str
    digest: str
    unit: bool

    def same_below(self, channels: int) -> float:
        """Mean squared error below which two descriptors are of one entity."""
        ...

    def patches(self, frames_FHWC: torch.Tensor, features: FrameFeatures) -> torch.Tensor:
        """Patch features of whole frames, (F, C, h, w), on any device; `features` are the segmenter's."""
        ...


class SegmenterBackbone:
    """The image embedding of a segmenter, which may be the one that segments."""

    unit = True

    def __init__(
        self,
        name: str,
        digest: str,
        encode: Callable[[torch.Tensor], FrameFeatures] | None = None,
        cosine: float = SAME_COSINE,
    ) -> None:
        """Takes the features that are there, or encodes frames itself.

        Args:
            name: What the user is told.
            digest: The segmenter's.
            encode: Of another segmenter than the one that segments; None uses that one's features.
            cosine: Above which descriptors are one entity's.
        """
        self.name, self.digest, self._encode, self._cosine = name, digest, encode, cosine

    def same_below(self, channels: int) -> float:
        """As `Backbone`."""
        return mse_of_cosine(self._cosine, channels)

    def patches(self, frames_FHWC: torch.Tensor, features: FrameFeatures) -> torch.Tensor:
        """As `Backbone`."""
        own = features if self._encode is None else self._encode(frames_FHWC)
        return own.levels[-1]


class VisionBackbone:
    """A vision model of transformers, or one whose repository brings its own code."""

    def __init__(self, model: torch.nn.Module, name: str, digest: str, mean_std: torch.Tensor | None) -> None:
        """Wraps a loaded model.

        Args:
            model: On its device, in evaluation mode.
            name: What the user is told.
            digest: Of its weights.
            mean_std: (2, 3) of pixels in [0, 1] that the model wants taken off and divided by; None where it
                does that itself.
        """
        self._model, self.name, self.digest, self._mean_std = model, name, digest, mean_std
        config: Any = model.config
        self._patch = int(getattr(config, "patch_size", None) or 16)
        self._clip = "clip" in (getattr(config, "adaptor_names", None) or ())
        self.unit = not self._clip
        takes = inspect.signature(model.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}

    def same_below(self, channels: int) -> float:
        """As `Backbone`."""
        return RADIO_CLIP_MSE if self._clip else mse_of_cosine(SAME_COSINE, channels)

    @torch.inference_mode()
    def patches(self, frames_FHWC: torch.Tensor, features: FrameFeatures) -> torch.Tensor:
        """As `Backbone`.

        Raises:
            WeightsError: The model takes no frames of this size, or gives no patches of them.
        """
        weight = next(self._model.parameters())
        pixels = frames_FHWC.to(weight.device).permute(0, 3, 1, 2).float() / 255
        rows, columns = (max(1, round(side / self._patch)) for side in pixels.shape[-2:])
        size_hw = (rows * self._patch, columns * self._patch)
        if pixels.shape[-2:] != size_hw:
            pixels = torch.nn.functional.interpolate(
                pixels, size_hw, mode="bilinear", antialias=True, align_corners=False
            )
        if self._mean_std is not None:
            mean, std = self._mean_std.to(pixels)[:, :, None, None]
            pixels = (pixels - mean) / std
        try:
            given = self._model(pixels.to(weight.dtype), **self._options)
        except (ValueError, TypeError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"the backbone {self.name} does not take frames of {size_hw[0]}x{size_hw[1]}: {reason}"
            ) from error
        return _as_grid(given, rows, columns, self.name)


def load_vision_backbone(
    name: str,
    *,
    trust_remote_code: bool,
    weights_dir: Path | None,
    device: torch.device,
    dtype: torch.dtype,
) -> VisionBackbone:
    """Loads a vision model by name or path.

    Args:
        name: A folder, a Hub id, or `ID@COMMIT` of a repository that brings its own code.
        trust_remote_code: Run that code.
        weights_dir: Folder that may hold the model's folder.
        device: Where it computes.
        dtype: In which precision.

    Raises:
        UsageError: It brings code that was not allowed.
        WeightsError: It is not to be had, or no vision model.
    """
    from hierasurg_core.models.hub import expect_repository, local_folder
    from hierasurg_core.models.vision import load_vision_model

    plain, _, revision = name.partition("@")
    near = backbone_near(plain, weights_dir)
    if trust_remote_code and near is None and not Path(plain).is_dir():
        source, digest = plain, revision
        expect_repository(plain, revision, instead=WITHOUT_BACKBONE)
        model = load_vision_model(plain, revision=revision, trust_remote_code=True)
    else:
        folder = local_folder(plain, instead=WITHOUT_BACKBONE) if near is None else near
        _refuse_code(folder, plain, allowed=trust_remote_code)
        source, digest = str(folder), _digest(folder)
        model = load_vision_model(source, revision=None, trust_remote_code=trust_remote_code)
    return VisionBackbone(model.to(device, dtype).eval(), name, digest, _normalisation(model, source))


def describe(
    patches_Chw: torch.Tensor, frame_HWC: NDArray[np.uint8], pieces: list[Piece], *, unit: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Describes the masks of one frame by the patches under a few points of each.

    Args:
        patches_Chw: Of the whole frame.
        frame_HWC: The frame, uint8 RGB.
        pieces: N masks.
        unit: Scale descriptors to length 1.

    Returns:
        Descriptors float32 (N, C), and which of the masks have one: a mask all of whose points lie in the
        black border has none.
    """
    channels, patch_rows, patch_columns = patches_Chw.shape
    if not pieces:
        return np.zeros((0, channels), np.float32), np.zeros(0, np.bool_)
    point_NQ2 = spread_points(pieces)
    lit_NQ = _lit(frame_HWC)[point_NQ2[..., 0], point_NQ2[..., 1]]
    row_NQ = point_NQ2[..., 0] * patch_rows // frame_HWC.shape[0]
    column_NQ = point_NQ2[..., 1] * patch_columns // frame_HWC.shape[1]
    at_NQ = torch.from_numpy(row_NQ * patch_columns + column_NQ).to(patches_Chw.device)
    patch_CNQ = patches_Chw.flatten(1)[:, at_NQ].float().cpu().numpy()
    weight_NQ = lit_NQ / np.maximum(lit_NQ.sum(axis=1, keepdims=True), 1)
    described_NC = np.einsum("cnq,nq->nc", patch_CNQ, weight_NQ).astype(np.float32)
    if unit:
        described_NC /= np.maximum(np.linalg.norm(described_NC, axis=1, keepdims=True), 1e-12)
    return described_NC, np.asarray(lit_NQ.any(axis=1))


def spread_points(pieces: list[Piece]) -> NDArray[np.intp]:
    """Chooses points that spread over each mask: k-means centres, moved to the nearest pixel of the mask.

    Returns:
        Rows and columns in the frame, (N, Q, 2).
    """
    pixel_NP2 = np.stack([_sampled(piece) for piece in pieces])
    pixels = pixel_NP2.astype(np.float32)
    centre_NQ2 = _first_centres(pixels)
    for _ in range(_ROUNDS):
        nearest_NP = _apart(pixels, centre_NQ2).argmin(axis=2)
        member_NPQ = (nearest_NP[..., None] == np.arange(_POINTS)).astype(np.float32)
        share_NQ = member_NPQ.sum(axis=1)
        sum_NQ2 = np.einsum("npq,npd->nqd", member_NPQ, pixels)
        filled_NQ1 = share_NQ[..., None] > 0
        centre_NQ2 = np.where(filled_NQ1, sum_NQ2 / np.maximum(share_NQ[..., None], 1), centre_NQ2)
    chosen_NQ = _apart(pixels, centre_NQ2).argmin(axis=1)
    return np.take_along_axis(pixel_NP2, chosen_NQ[..., None], axis=1)


def mse_of_cosine(cosine: float, channels: int) -> float:
    """Returns the mean squared error of two vectors of length 1 at this cosine."""
    return 2 * (1 - cosine) / channels


def _sampled(piece: Piece) -> NDArray[np.intp]:
    """P of a mask's pixels, evenly taken in reading order, (P, 2)."""
    flat = np.flatnonzero(piece.mask_hw)
    flat = flat[np.linspace(0, len(flat) - 1, _SAMPLES).astype(np.intp)]
    rows, columns = np.divmod(flat, piece.mask_hw.shape[1])
    return np.stack([rows + piece.top, columns + piece.left], axis=1)


def _first_centres(pixel_NP2: NDArray[np.float32]) -> NDArray[np.float32]:
    """Begins at the pixel farthest from the middle; each next one is farthest from those before."""
    far_NP = _apart(pixel_NP2, pixel_NP2.mean(axis=1, keepdims=True))[..., 0]
    centres: list[NDArray[np.float32]] = []
    for index in range(_POINTS):
        chosen_N = far_NP.argmax(axis=1)
        centre_N12 = np.take_along_axis(pixel_NP2, chosen_N[:, None, None], axis=1)
        apart_NP = _apart(pixel_NP2, centre_N12)[..., 0]
        far_NP = apart_NP if index == 0 else np.minimum(far_NP, apart_NP)
        centres.append(centre_N12)
    return np.concatenate(centres, axis=1)


def _apart(pixel_NP2: NDArray[np.float32], centre_NQ2: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances (N, P, Q)."""
    return ((pixel_NP2[:, :, None] - centre_NQ2[:, None]) ** 2).sum(axis=-1)


def _lit(frame_HWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the frame around a pixel is not black."""
    side = max(1, round(_WINDOW * frame_HWC.shape[0]))
    grey_HW = cv2.cvtColor(np.ascontiguousarray(frame_HWC), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.blur(grey_HW, (side, side))) > _BLACK_MEAN


def _as_grid(given: Any, rows: int, columns: int, name: str) -> torch.Tensor:
    """Finds the patches in what a model gives, (F, C, h, w)."""
    if isinstance(given, dict) and "clip" in given:
        given = given["clip"]
    tokens = getattr(given, "features", None)
    if tokens is None and isinstance(given, tuple) and len(given) == 2:
        tokens = given[1]
    if tokens is None:
        tokens = getattr(given, "last_hidden_state", None)
    if isinstance(tokens, torch.Tensor) and tokens.dim() == 4:
        return tokens
    if not isinstance(tokens, torch.Tensor) or tokens.dim() != 3 or tokens.shape[1] < rows * columns:
        raise WeightsError(
            f"the backbone {name} gives no {rows}x{columns} patches: choose another vision model"
        )
    grid = tokens[:, tokens.shape[1] - rows * columns :]  # what comes before are summaries and registers
    return grid.transpose(1, 2).unflatten(2, (rows, columns))


def _refuse_code(folder: Path, name: str, *, allowed: bool) -> None:
    try:
        config = read_json(folder / "config.json")
    except DataError as error:
        raise WeightsError(f"the backbone {name} has no readable config: {error}") from error
    if not allowed and isinstance(config, dict) and "auto_map" in config and "model_type" not in config:
        raise UsageError(
            f"the backbone {name} brings code of its own: allow it with --trust-remote-code and a pinned "
            f"revision ({name}@COMMIT), or use --features {RADIO}"
        )


def _normalisation(model: torch.nn.Module, folder: str) -> torch.Tensor | None:
    """The mean and deviation of pixels that the model's family wants; None where it normalises by itself."""
    config: Any = model.config
    if getattr(config, "model_type", "") == "radio" or hasattr(model, "radio_model"):
        return None
    from hierasurg_core.models.vision import pixel_mean_std

    return torch.tensor(pixel_mean_std(folder))


def _digest(folder: Path) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise WeightsError(f"{folder} holds no .safetensors: give a vision model's folder")
    return "+".join(sha256_file(file) for file in weights)
