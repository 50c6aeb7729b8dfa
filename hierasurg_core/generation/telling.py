"""The telling of a story: clip after clip, each from the end of what is told, in the memory of one clip.

Every finished clip is saved under `NAME_parts/` (its new frames and maps, without loss), so a story that was
stopped goes on with the clip it stopped in and ends in the same bytes. When all is told the parts are read
one by one into the story's videos, and deleted. Parts of another story, model or setting are made anew.

Legend: F frames, S seconds (maps), H W pixels.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hierasurg_core.artifacts import atomic_file, remove_leftovers, write_json
from hierasurg_core.errors import DataError
from hierasurg_core.generation.conditions import Sampling
from hierasurg_core.generation.outputs import Footage, output_paths, write_outputs
from hierasurg_core.generation.overlap import Overlap
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.generation.records import (
    CLIP_SECONDS,
    STORY_STATE,
    Clock,
    Run,
    describe_sample,
    fingerprint_in,
    writing_sample,
)
from hierasurg_core.generation.request import describe_ids
from hierasurg_core.generation.storyboard import OVERLAP, Story
from hierasurg_core.maps import PanopticClip, fit_maps, with_room
from hierasurg_core.pictures import fit_image
from hierasurg_core.progress import Progress
from hierasurg_core.runtime import make_generator
from hierasurg_core.taxonomy import PHASES, TRIPLETS

_FADE = 6  # frames
_Told = tuple[NDArray[np.uint8], PanopticClip]  # a clip's new frames (F, H, W, 3) and maps


def story_identity(story: Story) -> dict[str, Any]:
    """Returns what of a story decides its bytes, as plain values."""
    return {
        "story": [
            {
                "phase": segment.phase,
                "triplets": list(segment.triplet_S),
                "start": None if segment.start is None else segment.start.digest(),
            }
            for segment in story.segments
        ],
        "seed": story.seed,
        "overlap": OVERLAP,
    }


def tell(
    run: Run,
    story: Story,
    pipeline: HieraSurgPipeline,
    fingerprint: str,
    overlap: Overlap,
    progress: Progress,
) -> dict[str, float]:
    """Makes a story's missing clips, then its files; the JSON comes last.

    Args:
        run: What it shares with others.
        story: The plan.
        pipeline: The models.
        fingerprint: Of what decides its bytes.
        overlap: Takes the end of clips; only the first clip of a scene can begin beside it, since every other
            one goes on from frames that exist.
        progress: Counts the steps of all clips.

    Returns:
        Seconds by stage.

    Raises:
        WeightsError: The models make NaN.
        ResourceError: The disk is full.
    """
    clock = Clock()
    parts = _Parts(run.config.out / f"{story.name}_parts", fingerprint)
    steps = run.s2m_steps + run.m2v_steps
    progress.start(f"{story.name} story of {story.seconds} s", steps * len(story.clips), "steps")
    progress.advance(steps * min(parts.count, len(story.clips)))
    for segment in story.segments:
        for note in segment.start.notes if segment.start is not None else ():
            progress.note(f"{story.name}: {note}")
    for index in range(parts.count, len(story.clips)):
        if story.clips[index].known:
            overlap.wait()
        arrive = _begin_clip(run, story, index, parts, pipeline, progress, clock)
        overlap.hand(functools.partial(_save, arrive, parts, clock))
    overlap.wait()
    progress.start(f"{story.name} write", None, "files")
    with writing_sample(run.config.out, story.name, fingerprint):
        with clock.stage("write"):
            write_outputs(output_paths(run.config, story.name), parts.footage(story))
        record = describe_sample(
            run,
            story.name,
            story.seed,
            told=_told(story),
            num_frames=story.num_frames,
            fingerprint=fingerprint,
            seconds=clock.seconds,
        )
        write_json(run.config.out / f"{story.name}.json", record)
    parts.delete()
    return clock.seconds


def _save(arrive: Callable[[], _Told], parts: _Parts, clock: Clock) -> None:
    with clock.stage("video"):
        frames_FHWC, maps = arrive()
    with clock.stage("save"):
        parts.add(frames_FHWC, maps)


def _begin_clip(
    run: Run,
    story: Story,
    index: int,
    parts: _Parts,
    pipeline: HieraSurgPipeline,
    progress: Progress,
    clock: Clock,
) -> Callable[[], _Told]:
    """Returns a function that waits for a clip's new frames and maps."""
    clip, plan = story.clips[index], run.plan
    assert plan.s2m is not None
    sampling = Sampling(
        steps=run.config.steps,
        guidance=run.config.guidance,
        maps_guidance=run.config.maps_guidance,
        phase=clip.phase,
        triplet=clip.triplet_S,
        generator=make_generator(story.clip_seed(index)),
        on_step=progress.advance,
        solver=run.config.solver,
    )
    known_FHWC = known_SHW = None
    if clip.start is not None:
        photo_HWC, first_map = clip.start.photo_HWC, clip.start.first_map
        first_map_HW, num_entities = fit_maps(first_map.map_FHW[0], plan.s2m.size_hw), first_map.num_entities
    else:
        known_FHWC = parts.last("frames", clip.known)
        known_SHW = parts.last("maps", clip.first_second - clip.begin)
        photo_HWC, first_map_HW, num_entities = known_FHWC[0], known_SHW[0], parts.num_entities()
    with clock.stage("maps"):
        maps = pipeline.make_maps(
            fit_image(photo_HWC, plan.s2m.size_hw), first_map_HW, num_entities, sampling, known_SHW
        )
    map_FHW = maps.map_FHW[: CLIP_SECONDS[story.fps]]
    with clock.stage("video"):
        arrive = pipeline.begin_videos(
            [fit_image(photo_HWC, plan.m2v.size_hw)],
            [PanopticClip(map_FHW, maps.num_entities)],
            story.fps,
            [sampling],
            None if known_FHWC is None else [known_FHWC],
        )

    def new() -> _Told:
        (frames_FHWC,) = arrive()
        begin = clip.begin * story.fps
        new_FHWC = frames_FHWC[clip.first - begin : clip.end - begin]
        if known_FHWC is not None:
            new_FHWC = _faded(new_FHWC, known_FHWC[-1], frames_FHWC[clip.known - 1])
        return new_FHWC, PanopticClip(
            map_FHW[clip.first_second - clip.begin : clip.end_second - clip.begin], maps.num_entities
        )

    return new


def _faded(
    new_FHWC: NDArray[np.uint8], told_HWC: NDArray[np.uint8], again_HWC: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Returns new frames to which the VAE's error at the joint is added back, fading out over six frames.

    Args:
        new_FHWC: Frames of a clip behind its overlap.
        told_HWC: The last frame of the overlap as it was told.
        again_HWC: The same frame as this clip decodes it.
    """
    lost_HWC = told_HWC.astype(np.float32) - again_HWC
    faded_FHWC = new_FHWC.copy()
    for index in range(min(_FADE, len(new_FHWC))):
        share = 1 - (index + 0.5) / _FADE
        faded_FHWC[index] = (new_FHWC[index] + share * lost_HWC).round().clip(0, 255).astype(np.uint8)
    return faded_FHWC


class _Parts:
    """The finished clips of a story on disk, in order and without a gap."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Finds those of this very story; what else the folder holds is deleted."""
        self._folder = folder
        state = folder / STORY_STATE
        remove_leftovers(folder)
        if fingerprint_in(state) != fingerprint:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            write_json(state, {"fingerprint": fingerprint})
        self.count = 0
        while self._file(self.count).is_file():
            self.count += 1

    def add(self, frames_FHWC: NDArray[np.uint8], maps: PanopticClip) -> None:
        """Saves the new frames and maps of the next clip."""
        tensors = {
            "frames": np.ascontiguousarray(frames_FHWC),
            "maps": np.ascontiguousarray(maps.map_FHW),
            "num_entities": np.array([maps.num_entities], np.int64),
        }
        with atomic_file(self._file(self.count)) as part:
            save_file(tensors, part)
        self.count += 1

    def last(self, name: str, length: int) -> NDArray[np.uint8]:
        """Returns the last frames (F, H, W, 3) or maps (S, H, W) that are told."""
        found: list[NDArray[np.uint8]] = []
        index = self.count
        while sum(map(len, found)) < length:
            index -= 1
            found.insert(0, self._read(index)[name])
        return np.concatenate(found)[-length:]

    def num_entities(self) -> int:
        """Returns K of the last clip."""
        return int(self._read(self.count - 1)["num_entities"][0])

    def footage(self, story: Story) -> Footage:
        """Returns the story, read part by part; all maps have as many entities as the part with most."""
        counts = [int(self._read(index)["num_entities"][0]) for index in range(len(story.clips))]
        num_entities = max(story.num_entities, *counts)

        def frames() -> Iterator[NDArray[np.uint8]]:
            for index in range(len(story.clips)):
                yield from self._read(index)["frames"]

        def maps() -> Iterator[PanopticClip]:
            for index in range(len(story.clips)):
                tensors = self._read(index)
                told = PanopticClip(tensors["maps"], int(tensors["num_entities"][0]))
                yield with_room(told, num_entities)

        return Footage(frames, maps, story.fps)

    def delete(self) -> None:
        """Takes the folder away, the state first: a rest of it is never taken for parts."""
        (self._folder / STORY_STATE).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, index: int) -> Path:
        return self._folder / f"{index:06d}.safetensors"

    def _read(self, index: int) -> dict[str, NDArray[Any]]:
        path = self._file(index)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} is damaged ({error}): delete {self._folder} and run it again") from error


def _told(story: Story) -> dict[str, Any]:
    """What a story's JSON says of it."""
    triplets = [triplet.name for triplet in TRIPLETS]
    phase_S = [segment.phase for segment in story.segments for _ in segment.triplet_S]
    triplet_S = [id_ for segment in story.segments for id_ in segment.triplet_S]
    starts = [segment.start for segment in story.segments if segment.start is not None]
    return {
        "phase": describe_ids(phase_S, PHASES),
        "triplet": describe_ids(triplet_S, triplets),
        "start": starts[0].source,
        "source": None,
        "edit": None,
        "notes": [note for start in starts for note in start.notes],
        "story": {
            "seconds": story.seconds,
            "overlap": OVERLAP,
            "joints": list(story.joints),
            "segments": [
                {
                    "phase": describe_ids(segment.phase, PHASES),
                    "triplet": describe_ids(segment.triplet_S, triplets),
                    "seconds": segment.seconds,
                    "start": None if segment.start is None else segment.start.source,
                }
                for segment in story.segments
            ],
        },
    }
