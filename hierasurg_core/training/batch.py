"""What a training step is given: a batch of latents with their conditions.

B clips, F latent frames, C latent channels, H W latent rows and columns; N clips of a cache, K variants.
It owns the batch's form and how conditions are dropped from it. It reads no files and encodes nothing: the
latents are those of a frozen VAE, already multiplied by its scaling factor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hierasurg_core.errors import DataError

NO_LABEL = -1  # a phase or triplet id that says "unknown" to the model


@dataclass(frozen=True)
class Batch:
    """Clean latents and what the model may know about them; checked when made.

    The condition latents cover the first frame alone; a stage pads them with zeros to the clip's length.

    Attributes:
        latents_BFCHW: Clean, scaled latents of the maps (S2M) or the video (M2V); any float type.
        first_frame_B1CHW: Latents of the first photo. For M2V the photo gets noise of strength
            exp(N(-3, 0.5)) before it is encoded, as in HieraSurg's public code; whoever makes the batch does
            that, since only pixels can take it. `LatentCacheSource` takes several such variants a clip.
        ids: The source of each clip ("video01/000480"), which an error names.
        first_map_B1CHW: Latents of the first coloured map; S2M needs it.
        phase_BF: Integer phase ids, one a labelled frame; -1 where unknown.
        triplet_BF: Integer triplet ids, likewise; -1 where there is none.
        maps_BFHW: Panoptic maps in pixels: uint8 ids with `max_id_B`, or float levels in [0, 1].
        max_id_B: The largest id of each clip (its black border), for uint8 maps.
    """

    latents_BFCHW: Tensor
    first_frame_B1CHW: Tensor
    ids: tuple[str, ...]
    first_map_B1CHW: Tensor | None = None
    phase_BF: Tensor | None = None
    triplet_BF: Tensor | None = None
    maps_BFHW: Tensor | None = None
    max_id_B: Tensor | None = None

    def __post_init__(self) -> None:
        """Compares shapes and types; looks at no value, so that nothing waits for a GPU.

        Raises:
            DataError: A tensor's shape or type does not fit the others; the message names it.
        """
        latents = self.latents_BFCHW
        if latents.ndim != 5 or not latents.is_floating_point() or latents.shape[0] == 0:
            raise DataError(
                f"latents_BFCHW of a batch is {latents.dtype} {tuple(latents.shape)}, not 5 float dimensions"
            )
        clips = latents.shape[0]
        if len(self.ids) != clips:
            raise DataError(f"a batch of {clips} clips has {len(self.ids)} ids")
        one_frame = (clips, 1, *latents.shape[2:])
        for name in ("first_frame_B1CHW", "first_map_B1CHW"):
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != one_frame:
                raise DataError(f"{name} of a batch is {tuple(tensor.shape)}, expected {one_frame}")
        for name in ("phase_BF", "triplet_BF"):
            _check_labels(name, getattr(self, name), clips)
        self._check_maps(clips)

    def _check_maps(self, clips: int) -> None:
        maps, max_id = self.maps_BFHW, self.max_id_B
        if maps is None:
            return
        if maps.ndim != 4 or maps.shape[0] != clips:
            raise DataError(f"maps_BFHW of a batch is {tuple(maps.shape)}, expected ({clips}, F, H, W)")
        if maps.is_floating_point():
            return
        if maps.dtype != torch.uint8 or max_id is None or tuple(max_id.shape) != (clips,):
            raise DataError(
                f"maps_BFHW of a batch is {maps.dtype}: give float levels in [0, 1], or uint8 ids with "
                f"max_id_B of shape ({clips},)"
            )

    def __len__(self) -> int:
        """Returns the number of clips, B."""
        return self.latents_BFCHW.shape[0]

    def to(self, device: torch.device) -> Batch:
        """Returns the batch with all tensors on `device`."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True), self.ids)

    def select(self, index_B: Tensor) -> Batch:
        """Returns the clips that an integer index names; it lies on the CPU, the tensors lie anywhere."""
        rows = {device: index_B.to(device, non_blocking=True) for device in self._devices()}
        ids = tuple(self.ids[row] for row in index_B.tolist())
        return self._with_tensors(lambda tensor: tensor.index_select(0, rows[tensor.device]), ids)

    def levels_BFHW(self) -> Tensor | None:
        """Returns the maps as the model takes them: float32, id / largest id of the clip, in [0, 1]."""
        maps = self.maps_BFHW
        if maps is None or maps.is_floating_point():
            return None if maps is None else maps.float()
        assert self.max_id_B is not None
        return maps.float() / self.max_id_B.to(maps.device).float()[:, None, None, None]

    def without_conditions(self, dropped_B: Tensor) -> Batch:
        """Takes labels and maps from the clips that `dropped_B` (bool) marks, with all shapes unchanged.

        A dropped clip has phase and triplet -1 in every frame and maps of level 0 everywhere, which no
        real clip has; its first frame and first map stay. Guidance at sampling uses the same values.
        """

        def blank(tensor: Tensor | None, value: int) -> Tensor | None:
            if tensor is None:
                return None
            return tensor.masked_fill(dropped_B.view(-1, *(1,) * (tensor.ndim - 1)), value)

        return dataclasses.replace(
            self,
            phase_BF=blank(self.phase_BF, NO_LABEL),
            triplet_BF=blank(self.triplet_BF, NO_LABEL),
            maps_BFHW=blank(self.maps_BFHW, 0),
        )

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _devices(self) -> set[torch.device]:
        return {tensor.device for tensor in self._tensors().values()}

    def _with_tensors(self, change: Callable[[Tensor], Tensor], ids: tuple[str, ...]) -> Batch:
        changed = {name: change(tensor) for name, tensor in self._tensors().items()}
        return dataclasses.replace(self, ids=ids, **changed)


def _check_labels(name: str, labels: Tensor | None, clips: int) -> None:
    if labels is None:
        return
    if labels.ndim != 2 or labels.shape[0] != clips or labels.is_floating_point():
        raise DataError(
            f"{name} of a batch is {labels.dtype} {tuple(labels.shape)}, expected integers ({clips}, F)"
        )
