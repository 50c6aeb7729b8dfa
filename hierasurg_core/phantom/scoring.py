"""How good it is what the models made of held-out clips: means over clips, with standard errors.

Owns the figures that `measure` prints. Definitions are in `map_scores`, `tip_scores` and `video_scores`; what
is measured comes from `making`. All of it is mini. Legend: F frames, H W pixels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from hierasurg_core import taxonomy
from hierasurg_core.phantom.figures import mean_of, means_of
from hierasurg_core.phantom.held_out import (
    REQUESTS_A_START,
    Course,
    held_out_clips,
    held_out_courses,
    requests_of,
    true_answers,
)
from hierasurg_core.phantom.making import Maps, Videos
from hierasurg_core.phantom.map_scores import (
    CourseFigures,
    RequestFigures,
    distances_to_targets,
    iou_of,
    nearest,
    score_course,
    score_request,
    still_anatomy,
)
from hierasurg_core.phantom.video_scores import VideoFigures, psnr, score_video, triplets_seen


@dataclasses.dataclass(frozen=True)
class VaeScore:
    """Clips through the VAE and back, mini; see `VideoFigures`. Means over clips.

    Attributes:
        clips: How many.
        vae_db: PSNR of all but the first frame.
        instruments_db: Of the instruments and what is around them.
        moved_db: Where the map moved.
        edges: Sharpness of the instruments' outlines over the truth's.
        edges_in_place: The same, as far as they are where the truth's are.
        triplet: Share of the clips in which the classifier sees the triplet, through the VAE.
        real_triplet: In the clips themselves.
        errors: Standard errors by figure.
    """

    clips: int
    vae_db: float
    instruments_db: float | None
    moved_db: float | None
    edges: float | None
    edges_in_place: float | None
    triplet: float
    real_triplet: float
    errors: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class VideoScore:
    """M2V from true maps, mini: means over clips, of all frames but the first, which is given.

    Attributes:
        clips: How many.
        model_db: PSNR.
        frozen_db: Of the first frame standing still.
        vae_db: Of the VAE alone.
        instruments_db: Of the instruments and what is around them.
        vae_instruments_db: Of the VAE alone.
        moved_db: Where the map moved.
        vae_moved_db: Of the VAE alone.
        edges: Sharpness of the instruments' outlines over the truth's.
        edges_to_vae: Over the VAE's.
        edges_in_place: Over the truth's, as far as they are where the truth's are.
        triplet: Share of the videos in which the classifier sees the triplet.
        vae_triplet: Through the VAE alone.
        real_triplet: In the clips themselves.
        errors: Standard errors by figure.
    """

    clips: int
    model_db: float
    frozen_db: float
    vae_db: float
    instruments_db: float | None
    vae_instruments_db: float | None
    moved_db: float | None
    vae_moved_db: float | None
    edges: float | None
    edges_to_vae: float | None
    edges_in_place: float | None
    triplet: float
    vae_triplet: float
    real_triplet: float
    errors: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class TargetScore:
    """What S2M makes of starts, mini: means over requests; see `RequestFigures`.

    Attributes:
        requests: Starts times triplets.
        share: Of requests whose tip is nearest to the asked target over the last half.
        frame_share: Of single frames.
        chance: Mean of one over the number of targets in view.
        standing_share: What an instrument that stays where it starts would reach.
        whole: Share of frames in which the acting instrument is whole.
        sized: And of plausible size.
        tip_thickness: Over the true answers'; 1 is right, more is blunt.
        tip_gap: Share of the true answers' gap in the tip; 1 is right, less is closed.
        true_share: `share` of the phantom's own answers, as the three that follow.
        true_frame_share: Their `frame_share`.
        true_whole: Their `whole`.
        true_sized: Their `sized`: an instrument may truly grow beyond it.
        errors: Standard errors by figure, as if the three requests of a start were independent.
        counts: Requests that a figure is the mean of.
    """

    requests: int
    share: float
    frame_share: float
    chance: float
    standing_share: float
    whole: float
    sized: float
    tip_thickness: float | None
    tip_gap: float | None
    true_share: float
    true_frame_share: float
    true_whole: float
    true_sized: float
    errors: dict[str, float | None]
    counts: dict[str, int]


@dataclasses.dataclass(frozen=True)
class CourseScore:
    """What S2M makes of courses, mini: means over those that ask for it; see `CourseFigures`.

    Attributes:
        courses: How many.
        new_seen: Share of the newcomers that are seen under their own new id.
        new_whole: Share of their frames in which they are also whole.
        old_gone: Share of the instruments that had to go and went.
        unasked: Share of the courses without a newcomer in which something new is seen.
        stays_whole: Share of frames in which an instrument that stays is whole.
        anatomy_miou: Mean IoU of what stays in view.
        frozen_anatomy_miou: Of the first map standing still.
        tip_thickness: Over the truth's; 1 is right, more is blunt.
        tip_gap: Share of the truth's gap in the tip; 1 is right, less is closed.
        errors: Standard errors by figure.
        counts: Courses that a figure is the mean of.
    """

    courses: int
    new_seen: float | None
    new_whole: float | None
    old_gone: float | None
    unasked: float | None
    stays_whole: float | None
    anatomy_miou: float | None
    frozen_anatomy_miou: float | None
    tip_thickness: float | None
    tip_gap: float | None
    errors: dict[str, float | None]
    counts: dict[str, int]


def measure_vae(coded: Videos, device: torch.device, batch: int = 8) -> VaeScore:
    """Measures held-out clips that went through a VAE, as `code_videos` returns them."""
    clips = held_out_clips(len(coded))
    figures = means_of(score_all_videos(coded))
    seen, real = agreement_of(coded, device, batch), _real_agreement(len(coded), device, batch)
    means = {**figures, "triplet": mean_of(seen), "real_triplet": mean_of(real)}
    return VaeScore(
        clips=len(clips),
        vae_db=_certain(figures["db"].value),
        instruments_db=figures["instruments_db"].value,
        moved_db=figures["moved_db"].value,
        edges=figures["edges"].value,
        edges_in_place=figures["edges_in_place"].value,
        triplet=_certain(means["triplet"].value),
        real_triplet=_certain(means["real_triplet"].value),
        errors={"vae_db" if name == "db" else name: mean.error for name, mean in means.items()},
    )


def measure_videos(made: Videos, coded: Videos, device: torch.device, batch: int = 8) -> VideoScore:
    """Measures videos made from true maps of held-out clips, beside the same clips through the VAE."""
    clips = held_out_clips(len(made))
    rows, vae_rows = score_all_videos(made), score_all_videos(coded)
    own, vae = means_of(rows), means_of(vae_rows)
    frozen = [
        psnr(np.broadcast_to(c.video_FHWC[:1], c.video_FHWC[1:].shape), c.video_FHWC[1:]) for c in clips
    ]
    pairs = zip(rows, vae_rows, strict=True)
    to_vae = mean_of(a.edges / b.edges if a.edges is not None and b.edges else None for a, b in pairs)
    triplet = mean_of(agreement_of(made, device, batch))
    means = {**own, "edges_to_vae": to_vae, "triplet": triplet}
    return VideoScore(
        clips=len(clips),
        model_db=_certain(own["db"].value),
        frozen_db=_certain(mean_of(frozen).value),
        vae_db=_certain(vae["db"].value),
        instruments_db=own["instruments_db"].value,
        vae_instruments_db=vae["instruments_db"].value,
        moved_db=own["moved_db"].value,
        vae_moved_db=vae["moved_db"].value,
        edges=own["edges"].value,
        edges_to_vae=to_vae.value,
        edges_in_place=own["edges_in_place"].value,
        triplet=_certain(triplet.value),
        vae_triplet=_certain(mean_of(agreement_of(coded, device, batch)).value),
        real_triplet=_certain(mean_of(_real_agreement(len(made), device, batch)).value),
        errors={"model_db" if name == "db" else name: mean.error for name, mean in means.items()},
    )


def score_all_videos(made: Videos) -> list[VideoFigures]:
    """Measures videos that stand for the first held-out clips, each alone."""
    return [score_video(video, clip) for video, clip in zip(made, held_out_clips(len(made)), strict=True)]


def agreement_of(videos: Videos, device: torch.device, batch: int) -> list[float]:
    """1 for each of the first held-out clips whose triplet the classifier sees in its video, else 0."""
    seen = triplets_seen(videos, device, batch)
    return [float(a == c.triplet) for a, c in zip(seen, held_out_clips(len(videos)), strict=True)]


def _real_agreement(clips: int, device: torch.device, batch: int) -> list[float]:
    return agreement_of([clip.video_FHWC for clip in held_out_clips(clips)], device, batch)


def score_requests(made: Maps) -> list[RequestFigures]:
    """Measures maps that answer the requests of held-out starts, each alone."""
    starts = len(made) // REQUESTS_A_START
    answers = true_answers(starts)
    return [
        score_request(start, triplet, map_FHW, answer)
        for (start, triplet), map_FHW, answer in zip(requests_of(starts), made, answers, strict=True)
    ]


def measure_requests(made: Maps) -> TargetScore:
    """Measures S2M's answers to the requests of held-out starts, as `make_request_maps` returns them.

    A target's distance is averaged over the last half of the maps; the nearest one is what the tip is at.
    """
    starts = len(made) // REQUESTS_A_START
    requests = requests_of(starts)
    figures = means_of(score_requests(made))
    true = means_of(score_requests(list(true_answers(starts))))
    chances: list[float] = []
    standing: list[float] = []
    for start, triplet in requests:
        at_start = distances_to_targets(start.map_HW, start.codes, start.entry_view_2)
        chances.append(1 / max(1, len(at_start)))
        standing.append(float(nearest(at_start) == taxonomy.TRIPLETS[triplet].target_id))
    return TargetScore(
        requests=len(requests),
        share=_certain(figures["share"].value),
        frame_share=_certain(figures["frame_share"].value),
        chance=float(np.mean(chances)),
        standing_share=float(np.mean(standing)),
        whole=_certain(figures["whole"].value),
        sized=_certain(figures["sized"].value),
        tip_thickness=figures["tip_thickness"].value,
        tip_gap=figures["tip_gap"].value,
        true_share=_certain(true["share"].value),
        true_frame_share=_certain(true["frame_share"].value),
        true_whole=_certain(true["whole"].value),
        true_sized=_certain(true["sized"].value),
        errors={name: mean.error for name, mean in figures.items()},
        counts={name: mean.count for name, mean in figures.items()},
    )


def score_courses(made: Maps) -> list[CourseFigures]:
    """Measures maps that stand for the first held-out courses, each alone."""
    return [score_course(c, map_FHW) for c, map_FHW in zip(held_out_courses(len(made)), made, strict=True)]


def measure_courses(made: Maps) -> CourseScore:
    """Measures S2M's maps for held-out courses, as `make_course_maps` returns them."""
    figures = means_of(score_courses(made))
    frozen = mean_of(_frozen_miou(course) for course in held_out_courses(len(made)))
    return CourseScore(
        courses=len(made),
        frozen_anatomy_miou=frozen.value,
        errors={name: mean.error for name, mean in figures.items()},
        counts={name: mean.count for name, mean in figures.items()},
        **{name: mean.value for name, mean in figures.items()},
    )


def _frozen_miou(course: Course) -> float | None:
    still_FHW = np.broadcast_to(course.map_FHW[:1], course.map_FHW[1:].shape)
    return iou_of(still_FHW, course.map_FHW[1:], still_anatomy(course))


def _certain(value: float | None) -> float:
    """A figure that every clip has."""
    assert value is not None
    return value
