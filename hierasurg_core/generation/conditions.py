"""What a clip is told, and how it is sampled: phase and triplet of each second, steps, noise.

Owns the way from ids to what a model takes for them: ids, or text vectors where it learned from such.
Refuses: how pixels become latents (`pictures`), and a model of text vectors that has none.

Legend: B clips, F seconds, C channels, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hierasurg_core.errors import UsageError
from hierasurg_core.generation.solvers import Solver
from hierasurg_core.generation.timeline import UNKNOWN
from hierasurg_core.models import CogVideoXStack
from hierasurg_core.models.conditioning import expect_ids
from hierasurg_core.models.text_vectors import TextVectors, takes_text_vectors
from hierasurg_core.taxonomy import PHASES, TRIPLETS


@dataclass(frozen=True)
class Sampling:
    """How a stage is sampled.

    Attributes:
        steps: Denoising steps; None: the stage's own, see `HieraSurgPipeline.sampling_of`.
        guidance: Scale of classifier-free guidance, 1 is off; None: the stage's own.
        phase: Id 0..6, or -1 for unknown; or one a second, of which the last goes on.
        triplet: Id 0..99, or -1 for none; or one a second likewise.
        generator: Of all noise; on the CPU, so that devices agree.
        on_step: Called after each denoising step.
        on_stage: Called with "encode", "denoise", "decode" or "colours" when that part of S2M or M2V was
            handed to the device.
        solver: One of `solvers.SOLVERS`; None: the stage's own.
        maps_guidance: The scale of S2M alone; None: as `guidance`.

    Raises:
        UsageError: A phase or triplet does not exist, or there is no second that one is said of.
    """

    steps: int | None
    guidance: float | None
    phase: int | Sequence[int]
    triplet: int | Sequence[int]
    generator: torch.Generator
    on_step: Callable[[], None] = lambda: None
    on_stage: Callable[[str], None] = lambda stage: None
    solver: Solver | None = None
    maps_guidance: float | None = None

    def __post_init__(self) -> None:
        """Checks the ids."""
        for name, ids, count in (
            ("phase", self.phase, len(PHASES)),
            ("triplet", self.triplet, len(TRIPLETS)),
        ):
            given = ids if isinstance(ids, Sequence) else [ids]
            if not given:
                raise UsageError(f"{name} is empty: give an id, one for each second, or -1 for none")
            expect_ids(name, given, count)


def words_of(
    samplings: Sequence[Sampling],
    seconds: int,
    model: CogVideoXStack,
    vectors: TextVectors | None,
    device: torch.device,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns a model's inputs for phase and triplet of every second of every clip.

    Args:
        samplings: One a clip.
        seconds: How many there are.
        model: S2M or M2V.
        vectors: What it learned from, if these were text vectors.
        device: Where the inputs go.

    Returns:
        Inputs by name, and those that stand for "not given": ids (B, F), or vectors (B, F, width).

    Raises:
        UsageError: The model takes text vectors, and there are none.
    """
    phase_BF = torch.tensor([_by_second(sampling.phase, seconds) for sampling in samplings])
    triplet_BF = torch.tensor([_by_second(sampling.triplet, seconds) for sampling in samplings])
    unknown_BF = torch.full_like(phase_BF, UNKNOWN)
    given = {"phase_BF": phase_BF, "triplet_BF": triplet_BF}
    dropped = {"phase_BF": unknown_BF, "triplet_BF": unknown_BF}
    if takes_text_vectors(model):
        if vectors is None:
            raise UsageError(f"{type(model).__name__} learned from text vectors: give them to the pipeline")
        given, dropped = _looked_up(vectors, given), _looked_up(vectors, dropped)
    return _moved(given, device), _moved(dropped, device)


def first_frame_of(first_B1CHW: Tensor, frames: int) -> Tensor:
    """Extends a first frame's latents with zeros to so many latent frames."""
    return torch.nn.functional.pad(first_B1CHW, (0, 0) * 3 + (0, frames - 1))


def _looked_up(vectors: TextVectors, ids: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "phase_BF": vectors.phases(ids["phase_BF"]),
        "triplet_BF": vectors.triplets(ids["triplet_BF"]),
    }


def _moved(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: values.to(device) for name, values in inputs.items()}


def _by_second(ids: int | Sequence[int], seconds: int) -> list[int]:
    """Cuts ids to so many seconds; the last goes on."""
    given = [ids] if isinstance(ids, int) else list(ids)
    return (given + given[-1:] * seconds)[:seconds]
