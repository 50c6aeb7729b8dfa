"""What only a clip beside what was asked for can tell: its first frame, its real clip, its maps.

Owns the measurers of single clips whose means become metrics, and the definition of map adherence. The
functions of `pairs` and `agreement` do the counting.

Legend: B clips, F frames, H rows, W columns, C the three channels, N objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.errors import WeightsError
from hierasurg_core.evaluation.agreement import compare_maps
from hierasurg_core.evaluation.extractors import load_script
from hierasurg_core.evaluation.measuring import Measured, Rows
from hierasurg_core.evaluation.pairs import Each, WarpError, first_frame_fidelity, psnr_F, ssim_F, warp_error
from hierasurg_core.maps import PanopticClip

_NAN = float("nan")


class PairMeasurer:
    """Comparisons of pixels: with the real clip, with the given frame, with the frame before."""

    role, name, digest = "pairs", "pairs", ""
    key = "pairs 2"

    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns "psnr" and "ssim" (B, F), "first_psnr", "first_ssim", "warp", "motion_px" and "spread" (B).

        "spread" is the standard deviation of all pixels, by which a clip of one colour is told.
        """
        threads = torch.get_num_threads()
        if threads == 1:
            return self._rows(batch, map)
        with ThreadPoolExecutor(threads) as pool:
            return self._rows(batch, pool.map)

    def _rows(self, batch: Sequence[Measured], each: Each) -> Rows:
        frames = len(batch[0].video_FHWC)
        psnr_BF, ssim_BF = np.full((2, len(batch), frames), _NAN)
        rows: dict[str, list[float]] = {name: [] for name in _SINGLE}
        for index, clip in enumerate(batch):
            if clip.real_FHWC is not None:
                psnr_BF[index] = psnr_F(clip.video_FHWC, clip.real_FHWC)
                ssim_BF[index] = ssim_F(clip.video_FHWC, clip.real_FHWC, each=each)
            given = clip.given_HWC
            first = None if given is None else first_frame_fidelity(clip.first_HWC[None], given)
            rows["first_psnr"].append(_NAN if first is None else first.psnr_db)
            rows["first_ssim"].append(_NAN if first is None else first.ssim)
            still = bool((clip.video_FHWC == clip.video_FHWC[:1]).all())
            warp = WarpError(0.0, 1.0, 0.0) if still else warp_error(clip.video_FHWC, each=each)
            rows["warp"].append(warp.error)
            rows["motion_px"].append(warp.motion_px)
            rows["spread"].append(float(clip.video_FHWC.std()))
        return {"psnr": psnr_BF, "ssim": ssim_BF, **{name: np.array(values) for name, values in rows.items()}}


_SINGLE = ("first_psnr", "first_ssim", "warp", "motion_px", "spread")


class LpipsMeasurer:
    """LPIPS with VGG16, by the TorchScript that StyleGAN2-ADA published.

    Its features are scaled so that their squared distance is LPIPS (Zhang et al., "The unreasonable
    effectiveness of deep features as a perceptual metric", 2018).
    """

    role, name = "lpips", "lpips-vgg16"

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads the file, which is a program.

        Raises:
            WeightsError: It is no TorchScript.
        """
        self.digest = sha256_file(path)
        self._module, self._device = load_script(path, device), device
        self.key = f"lpips 1 {self.digest}"

    @torch.inference_mode()
    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns "first_lpips" (B).

        Raises:
            WeightsError: The module takes no pictures.
        """
        values = [
            _NAN if clip.given_HWC is None else self._distance(clip.first_HWC, clip.given_HWC)
            for clip in batch
        ]
        return {"first_lpips": np.array(values)}

    def _distance(self, a_HWC: NDArray[np.uint8], b_HWC: NDArray[np.uint8]) -> float:
        pair = torch.from_numpy(np.stack([a_HWC, b_HWC])).to(self._device).permute(0, 3, 1, 2).float()
        try:
            a_D, b_D = self._module(pair, resize_images=False, return_lpips=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise WeightsError(f"the TorchScript of LPIPS does not take pictures: {reason}") from error
        return float((a_D - b_D).square().sum())


class Propagator(Protocol):
    """What map adherence needs of `labeling.segmenter.Segmenter`."""

    @property
    def name(self) -> str:
        """Returns which SAM 2 it is."""
        ...

    @property
    def digest(self) -> str:
        """Returns the digest of its weights."""
        ...

    def encode(self, frames_FHWC: Any) -> Any:
        """Returns features of frames."""
        ...

    def propagate(
        self, features: Any, prompts: Sequence[Any], *, reverse: bool = False, max_frames: int | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields frame numbers and logits (N, H, W) of the objects that masks prompt."""
        ...


class MapMeasurer:
    """Map adherence: the entities of the first asked map, followed through the video, against the asked maps.

    SAM 2 gets the entities' masks of the first map as prompts on the first frame, which the model was given,
    and propagates them. A pixel belongs to the object with the highest logit above 0; the black border is the
    first map's; all else is background. The first frame does not count: it was given.
    """

    role = "maps"

    def __init__(self, segmenter: Propagator, prompt: Any, dtype: torch.dtype = torch.float32) -> None:
        """Takes a loaded segmenter.

        Args:
            segmenter: SAM 2.
            prompt: `labeling.segmenter.MaskPrompt`.
            dtype: In which it computes.
        """
        self._segmenter, self._prompt = segmenter, prompt
        self.name, self.digest = segmenter.name, segmenter.digest
        self.key = f"maps 1 {segmenter.name} {segmenter.digest} {dtype}"

    def measure(self, batch: Sequence[Measured]) -> Rows:
        """Returns "map_iou" and "boundary_f" (B)."""
        rows = [_NO_MAPS if clip.maps is None else self._one(clip.video_FHWC, clip.maps) for clip in batch]
        return {
            name: np.array([row[index] for row in rows])
            for index, name in enumerate(("map_iou", "boundary_f"))
        }

    def _one(self, video_FHWC: NDArray[np.uint8], wanted: PanopticClip) -> tuple[float, float]:
        first_HW = wanted.map_FHW[0]
        entities = [entity for entity in wanted.levels if entity < wanted.num_entities]
        prompted = [entity for entity in entities if (first_HW == entity).any()]
        if not prompted:
            return _NO_MAPS
        prompts = [
            self._prompt(frame=0, object=index, mask_HW=torch.from_numpy(first_HW == entity))
            for index, entity in enumerate(prompted)
        ]
        found_FHW = np.full(wanted.map_FHW.shape, wanted.num_entities, np.uint8)
        names_N = np.array(prompted, np.uint8)
        features = self._segmenter.encode(video_FHWC)
        for frame, logits_NHW in self._segmenter.propagate(features, prompts, reverse=False, max_frames=None):
            highest_HW, object_HW = logits_NHW.float().max(0)
            seen_HW = (highest_HW > 0).cpu().numpy()
            found_FHW[frame][seen_HW] = names_N[object_HW.cpu().numpy()][seen_HW]
        found_FHW[:, first_HW == wanted.max_id] = wanted.max_id
        agreement = compare_maps(
            PanopticClip(wanted.map_FHW[1:], wanted.num_entities),
            PanopticClip(found_FHW[1:], wanted.num_entities),
        )
        return _NAN if agreement.mean_iou is None else agreement.mean_iou, agreement.boundary_f


_NO_MAPS = (_NAN, _NAN)
