"""What the models make of held-out clips: videos through the VAE, videos from true maps, maps from starts.

Owns how they are asked: in batches, each clip with a seed of its own, and what room S2M has for newcomers.
Refuses: to judge what was made, see `scoring`. Legend: B clips, F frames, H W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core import runtime
from hierasurg_core.generation.pipelines import HieraSurgPipeline, Sampling
from hierasurg_core.generation.solvers import Solver
from hierasurg_core.maps import MAX_LEVELS, PanopticClip, with_room
from hierasurg_core.models import AutoencoderKLCogVideoX, decode_video, encode_video
from hierasurg_core.phantom.held_out import comparable, held_out_clips, held_out_courses, requests_of
from hierasurg_core.progress import Progress, SilentProgress

_ROOM = 2  # ids that an S2M of colours is given for newcomers, as `generate --newcomers 2` does

Videos = list[NDArray[np.uint8]]
Maps = list[NDArray[np.uint8]]


@dataclasses.dataclass(frozen=True)
class Making:
    """How the measurements make maps and videos.

    Attributes:
        steps: Sampling steps; None takes the pipeline's own.
        solver: None takes the pipeline's own.
        guidance: Scale of classifier-free guidance; None takes the pipeline's own.
        batch: Clips at once.
        progress: Is told of each batch.
    """

    steps: int | None = None
    solver: Solver | None = None
    guidance: float | None = None
    batch: int = 8
    progress: Progress = dataclasses.field(default_factory=SilentProgress)

    def batches(self, stage: str, count: int, unit: str) -> Iterator[range]:
        """Yields the numbers of the clips of each batch, and says when it is done."""
        self.progress.start(stage, count, unit)
        for first in range(0, count, self.batch):
            some = range(first, min(count, first + self.batch))
            yield some
            self.progress.advance(len(some))
            self.progress.note(f"{stage}: {some.stop} of {count} {unit}")

    def sampling(self, phase: int | Sequence[int], triplet: int | Sequence[int], seed: int) -> Sampling:
        """The pipeline's defaults, a student's own steps, one seed a clip."""
        return Sampling(
            solver=self.solver,
            steps=self.steps,
            guidance=self.guidance,
            phase=phase,
            triplet=triplet,
            generator=runtime.make_generator(seed),
        )


def code_videos(vae: AutoencoderKLCogVideoX, clips: int, making: Making) -> Videos:
    """Held-out clips through the VAE and back: what no M2V can beat."""
    truth = held_out_clips(clips)
    made: Videos = []
    for some in making.batches("vae", clips, "clips"):
        made += list(_round_trip(vae, np.stack([truth[i].video_FHWC for i in some])))
    return made


@torch.inference_mode()
def _round_trip(vae: AutoencoderKLCogVideoX, video_BFHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = torch.from_numpy(video_BFHWC).permute(0, 4, 1, 2, 3).to(vae.device, vae.dtype) / 127.5 - 1
    pixels = torch.cat([pixels, torch.full_like(pixels[:, :, :1], -1.0)], dim=2)  # 4k + 1 frames
    decoded = decode_video(vae, encode_video(vae, pixels))[:, :, :-1]
    bytes_BCFHW = ((decoded.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return bytes_BCFHW.permute(0, 2, 3, 4, 1).cpu().numpy()


def make_videos(pipeline: HieraSurgPipeline, clips: int, making: Making) -> Videos:
    """M2V's videos from the true maps of held-out clips."""
    truth = held_out_clips(clips)
    made: Videos = []
    for some in making.batches("m2v", clips, "clips"):
        made += pipeline.begin_videos(
            [truth[i].video_FHWC[0] for i in some],
            [truth[i].maps for i in some],
            1,
            [making.sampling(truth[i].phase, truth[i].triplet, i) for i in some],
        )()
    return made


@dataclasses.dataclass(frozen=True)
class _Ask:
    photo_HWC: NDArray[np.uint8]
    first_map: PanopticClip
    phase: int | Sequence[int]
    triplet: int | Sequence[int]


def make_request_maps(pipeline: HieraSurgPipeline, starts: int, making: Making) -> Maps:
    """S2M's answers to the requests of held-out starts, in comparable ids."""
    asks = [
        _Ask(start.photo_HWC, PanopticClip(start.map_HW[None], start.num_entities), start.phase, triplet)
        for start, triplet in requests_of(starts)
    ]
    return _make_maps(pipeline, asks, making, "s2m")


def make_course_maps(pipeline: HieraSurgPipeline, courses: int, making: Making) -> Maps:
    """S2M's maps for held-out courses, in comparable ids; an S2M of colours is given room for newcomers."""
    coloured = pipeline.s2m is not None and pipeline.s2m.config.get("maps", "colours") == "colours"
    asks: list[_Ask] = []
    for course in held_out_courses(courses):
        first_map = course.first_map()
        if coloured:
            first_map = with_room(first_map, min(first_map.num_entities + _ROOM, MAX_LEVELS - 2))
        asks.append(_Ask(course.photo_HWC, first_map, course.phase, course.triplet))
    return _make_maps(pipeline, asks, making, "courses")


def _make_maps(pipeline: HieraSurgPipeline, asks: Sequence[_Ask], making: Making, stage: str) -> Maps:
    made: Maps = []
    for some in making.batches(stage, len(asks), "requests" if stage == "s2m" else "courses"):
        clips = pipeline.make_maps_batch(
            [asks[i].photo_HWC for i in some],
            [asks[i].first_map.map_FHW[0] for i in some],
            [asks[i].first_map.num_entities for i in some],
            [making.sampling(asks[i].phase, asks[i].triplet, i) for i in some],
        )
        made += [comparable(clip) for clip in clips]
    return made
