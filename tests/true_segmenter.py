"""A segmenter that knows the truth, and operations of moving discs that it knows it of.

It is a stand-in for SAM 2 with SAM 2's own terms: automatic masks of a frame, and masks carried from a
prompt, both cut from maps that were drawn. Its image embedding tells entities apart by their colour.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core.datasets.frames import FrameFolder
from hierasurg_core.labeling.features import Backbone, SegmenterBackbone
from hierasurg_core.labeling.propagation import MaskPrompt
from hierasurg_core.labeling.sam_network import FrameFeatures
from hierasurg_core.labeling.windows import Segmenting
from hierasurg_core.pictures import write_png

SIZE_HW = (48, 64)
NUM_ENTITIES = 4
COLOURS = np.array(
    [(200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60), (110, 110, 110), (0, 0, 0)], np.uint8
)


def true_map(second: int) -> NDArray[np.uint8]:
    """Ids of one second: 0 always, 1 from 20 s on, 2 but for 24 to 33 s, 3 until 40 s; border and background.

    Discs of 6 px move a little; the border is two columns.
    """
    map_HW = np.full(SIZE_HW, NUM_ENTITIES, np.uint8)
    map_HW[:, :2] = NUM_ENTITIES + 1
    y_HW, x_HW = np.mgrid[0 : SIZE_HW[0], 0 : SIZE_HW[1]]
    present = (True, second >= 20, not 24 <= second < 34, second < 40)
    for entity in np.flatnonzero(present).tolist():
        row = 12 + 24 * (entity // 2)
        column = 18 + 28 * (entity % 2) + round(4 * np.sin(second / 3 + entity))
        map_HW[(y_HW - row) ** 2 + (x_HW - column) ** 2 < 36] = entity
    return map_HW


def write_frames(folder: Path, seconds: int) -> None:
    """A frame folder whose pictures are the maps' colours; PNG, so that no pixel changes."""
    folder.mkdir(parents=True)
    for second in range(seconds):
        write_png(folder / f"{second:06d}.png", COLOURS[true_map(second)])


@dataclass(frozen=True)
class TrueMasks:
    mask_NHW: torch.Tensor


class TrueSegmenter:
    """Cuts masks out of the maps that frames were painted from; counts what it was asked for."""

    name, digest = "true", "0"

    def __init__(self) -> None:
        self.encoded = 0
        self.propagated = 0

    def encode(self, frames_FHWC: torch.Tensor) -> FrameFeatures:
        self.encoded += len(frames_FHWC)
        frames = torch.as_tensor(frames_FHWC).long()
        apart = (frames[..., None, :] - torch.from_numpy(COLOURS).long()).abs().sum(-1)
        map_FHW = apart.argmin(-1)
        coarse = torch.nn.functional.one_hot(map_FHW, len(COLOURS)).permute(0, 3, 1, 2).float()
        return FrameFeatures((map_FHW[:, None], map_FHW[:, None], coarse[..., 1::2, 1::2]), SIZE_HW)

    def automatic(self, features: FrameFeatures, frames_FHWC: torch.Tensor) -> list[TrueMasks]:
        return [
            TrueMasks(torch.stack([map_1HW[0] == entity for entity in range(NUM_ENTITIES)]))
            for map_1HW in features.levels[0]
        ]

    def propagate(
        self,
        features: FrameFeatures,
        prompts: Sequence[MaskPrompt],
        *,
        reverse: bool,
        max_frames: int | None,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        map_FHW = features.levels[0][:, 0]
        ids = [int(map_FHW[prompt.frame][prompt.mask_HW].mode().values) for prompt in prompts]
        starts = [prompt.frame for prompt in prompts]
        order = range(max(starts), -1, -1) if reverse else range(min(starts), len(features))
        for frame in order:
            self.propagated += 1
            logits = torch.stack([(map_FHW[frame] == entity) * 20.0 - 10.0 for entity in ids])
            for row, start in enumerate(starts):
                if (frame > start) if reverse else (frame < start):
                    logits[row] = -10
            yield frame, logits


class TrueModels:
    """What `label` takes its models from."""

    precision = "float32"

    def __init__(self) -> None:
        self.true = TrueSegmenter()

    def segmenter(self, folder: FrameFolder) -> Segmenting:
        return self.true

    def backbone(self, segmenter: Segmenting) -> Backbone:
        return SegmenterBackbone("true", "0", cosine=0.9)
