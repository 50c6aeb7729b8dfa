"""Stories: segments of an operation, and the overlapping clips that together show them as one video.

Owns the script's form and the plan of clips. A script is YAML:

    segments:
      - {phase: calot, triplet: "hook,dissect,cystic_duct", seconds: 20}
      - {phase: clipping, triplet: [79, 79, 79, 68, 68], seconds: 5}
      - {phase: packaging, triplet: "grasper,pack,gallbladder", seconds: 30, cut: true}
      - {phase: extraction, seconds: 10, cut: true, frame: umbilicus.png, map: umbilicus_map.png}

A triplet is one for the whole segment, spans ("17@0-7; 60@8-"), or a list with one a second. A segment goes
on from the last frames and maps of the one before, so entities keep their ids and colours; `cut: true`
starts it from a scene of the gallery instead, as an operation is cut together, or from the user's own
`frame`, whose `map` SAM 2 makes unless it is given. These paths are relative to the script. A story lasts at
most 12 hours. Of the models nothing is known here but the length of a clip.

Each clip begins with frames that exist already: its overlap with what is told so far. Frames and seconds of
the plan are counted from the story's start.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierasurg_core.config import GenerateConfig
from hierasurg_core.config.generate import MAX_STORY_HOURS
from hierasurg_core.config.paths import as_path
from hierasurg_core.errors import DataError, UsageError, WeightsError, shown
from hierasurg_core.generation.entries import Entry, read_entries
from hierasurg_core.generation.request import Start, read_starts
from hierasurg_core.generation.timeline import UNKNOWN, parse_triplets
from hierasurg_core.taxonomy import PHASES, parse_phase

KEYS = ("phase", "triplet", "seconds", "cut", "frame", "map")
OVERLAP = 5  # frames that a clip begins with and that exist: 4k + 1, for whole latents
MAX_SEGMENTS = 5_000  # of all stories of a run; each may keep a photograph in memory
MAX_CLIPS = 100_000  # likewise
_MAX_SECONDS = MAX_STORY_HOURS * 3600
_CLIP_SEEDS_APART = 1_000_003


@dataclass(frozen=True)
class Segment:
    """A stretch of a story with one phase.

    Attributes:
        phase: Id, -1 for unknown.
        triplet_S: Id of each of its seconds, -1 for none.
        cut: It starts from a scene or frame of its own.
        start: Where it starts from, for the first segment and those after a cut.
    """

    phase: int
    triplet_S: tuple[int, ...]
    cut: bool
    start: Start | None

    @property
    def seconds(self) -> int:
        """Its length."""
        return len(self.triplet_S)


@dataclass(frozen=True)
class PlannedClip:
    """One clip of a story.

    Attributes:
        begin: Second at which the clip begins, overlap included.
        known: Frames of the story that it begins with; 0 for one that starts from a scene.
        first: The story's frame that is the first new one.
        end: The frame behind its last one that is shown.
        first_second: The second that has its first new map.
        end_second: The second behind its last one.
        phase: Id.
        triplet_S: Ids from `begin` on; those of the overlap are that of the first new second.
        start: What it starts from, where it has no overlap.
    """

    begin: int
    known: int
    first: int
    end: int
    first_second: int
    end_second: int
    phase: int
    triplet_S: tuple[int, ...]
    start: Start | None


@dataclass(frozen=True)
class Story:
    """A story that is to be told.

    Attributes:
        name: Of its files.
        seed: Of its first clip.
        segments: In order of time.
        clips: Which show them.
        fps: Frames a second.
    """

    name: str
    seed: int
    segments: tuple[Segment, ...]
    clips: tuple[PlannedClip, ...]
    fps: int

    @property
    def seconds(self) -> int:
        """Its length."""
        return sum(segment.seconds for segment in self.segments)

    @property
    def num_frames(self) -> int:
        """How many frames it has."""
        return self.seconds * self.fps

    @property
    def num_entities(self) -> int:
        """K of the story's maps: the most that a segment's start has."""
        return max(s.start.first_map.num_entities for s in self.segments if s.start is not None)

    @property
    def joints(self) -> tuple[int, ...]:
        """First new frames of the clips that go on from another."""
        return tuple(clip.first for clip in self.clips if clip.known)

    def clip_seed(self, index: int) -> int:
        """Returns the seed of a clip; the first clip's is the story's own."""
        return (self.seed + index * _CLIP_SEEDS_APART) % 2**63


def plan_stories(config: GenerateConfig, clip_seconds: int, fps: int, gallery: Path) -> tuple[Story, ...]:
    """Reads the script, or makes one segment of the options, and plans `num` stories that differ by seed.

    Args:
        config: What was asked for.
        clip_seconds: Length of a clip.
        fps: Frames a second.
        gallery: Folder of the scenes.

    Raises:
        UsageError: The script is missing or says what does not exist, and the message names the line; or a
            story is longer than 12 hours, or all together have more than 5,000 segments or 100,000 clips.
        DataError: The start frame or its map is damaged.
    """
    _expect_few(config.num, 1, 1)
    stories: list[Story] = []
    for number in range(config.num):
        own = dataclasses.replace(config, seed=config.seed + number, num=1, seconds=None)
        if config.script is None:
            assert config.seconds is not None
            segments = (_segment_of_options(own, config.seconds, gallery),)
        else:
            segments = _segments_of_script(own, config.script, gallery)
            segments = _cut_to(segments, config.seconds)
        clips = plan_clips(segments, clip_seconds, fps)
        _expect_few(config.num, len(segments), len(clips))
        stories.append(Story(f"{number:04d}", own.seed, segments, clips, fps))
    return tuple(stories)


def with_starts(story: Story, change: Callable[[Start], Start]) -> Story:
    """Return a story whose segments and clips start from changed starts."""
    changed: dict[int, Start] = {}

    def of(start: Start | None) -> Start | None:
        if start is None:
            return None
        if id(start) not in changed:
            changed[id(start)] = change(start)
        return changed[id(start)]

    segments = tuple(dataclasses.replace(part, start=of(part.start)) for part in story.segments)
    clips = tuple(dataclasses.replace(clip, start=of(clip.start)) for clip in story.clips)
    return dataclasses.replace(story, segments=segments, clips=clips)


def plan_clips(segments: Sequence[Segment], clip_seconds: int, fps: int) -> tuple[PlannedClip, ...]:
    """Covers segments with clips that overlap.

    A clip shows seconds of one segment only, so that it is told one thing; what it makes beyond the
    segment's end is not shown. At 1 fps 16 s are one clip and every further 11 s another.
    """
    clips: list[PlannedClip] = []
    second = scene_begins = 0
    for segment in segments:
        ends = second + segment.seconds
        begins = second
        fresh = segment.start is not None
        while second < ends:
            scene_begins = second if fresh else scene_begins
            known = 0 if fresh else _overlap((second - scene_begins) * fps)
            begin = second - -(-known // fps)
            end = min(ends, begin + clip_seconds)
            ids = segment.triplet_S[second - begins :]
            clips.append(
                PlannedClip(
                    begin=begin,
                    known=known,
                    first=begin * fps + known,
                    end=end * fps,
                    first_second=second,
                    end_second=end,
                    phase=segment.phase,
                    triplet_S=(ids[:1] * (second - begin) + ids)[:clip_seconds],
                    start=segment.start if fresh else None,
                )
            )
            second, fresh = end, False
    # A clip's last frames are left to the next one, where that does not begin on a whole second.
    following = [*clips[1:], None]
    return tuple(
        clip if after is None or not after.known else dataclasses.replace(clip, end=after.first)
        for clip, after in zip(clips, following, strict=True)
    )


def _overlap(frames: int) -> int:
    """Returns how many of the frames since the last cut the next clip begins with, 4k + 1."""
    return min(OVERLAP, (frames - 1) // 4 * 4 + 1)


def _expect_few(stories: int, segments: int, clips: int) -> None:
    """Refuses a run whose plan would not fit into memory."""
    for what, count, most in (("segments", segments, MAX_SEGMENTS), ("clips", clips, MAX_CLIPS)):
        if stories * count > most:
            raise UsageError(
                f"{stories:,} stories of {count:,} {what} are {stories * count:,} {what}; a run takes at "
                f"most {most:,}: give fewer, or a smaller num and another seed for the next run"
            )


def _segment_of_options(config: GenerateConfig, seconds: int, gallery: Path) -> Segment:
    start = read_starts(config, seconds, gallery)[0]
    phase = start.phase if isinstance(start.phase, int) else start.phase[0]
    return Segment(phase, _as_seconds(start.triplet, seconds), True, start)


def _segments_of_script(config: GenerateConfig, script: Path, gallery: Path) -> tuple[Segment, ...]:
    _, entries = read_entries(script, section="segments", keys=KEYS)
    _expect_few(config.num, len(entries), 0)
    segments: list[Segment] = []
    for entry in entries:
        phase = segments[-1].phase if segments else UNKNOWN
        try:
            said = entry.text("phase")
            phase = phase if said is None else parse_phase(said)
            triplet_S = _triplets(entry, _MAX_SECONDS - sum(segment.seconds for segment in segments))
            begins = _flag(entry, "cut") or not segments
            own = _own_frame(entry, config, cut=begins, first=not segments)
            start = None
            if begins:
                start = _scene(own, phase, triplet_S, gallery, len(segments), entry)
        except UsageError as error:
            known = str(error).startswith(str(entry.file))
            raise (error if known else entry.error(str(error))) from error
        except (DataError, WeightsError) as error:
            raise type(error)(f"{entry.file}, line {entry.line}: {error}") from error
        segments.append(Segment(phase, triplet_S, start is not None, start))
    return tuple(segments)


def _scene(
    config: GenerateConfig,
    phase: int,
    triplet_S: Sequence[int],
    gallery: Path,
    number: int,
    entry: Entry,
) -> Start:
    """Return what a segment starts from: the frame that the config has, else a scene."""
    triplet = next((id_ for id_ in triplet_S if id_ != UNKNOWN), None)
    if phase == UNKNOWN:
        raise entry.error(f"phase is missing; {PHASES[0]} is the first")
    wanted = dataclasses.replace(
        config,
        script=None,
        phase=str(phase),
        triplet=None if triplet is None else str(triplet),
        seed=config.seed + number,
    )
    return read_starts(wanted, len(triplet_S), gallery)[0]


def _own_frame(entry: Entry, config: GenerateConfig, *, cut: bool, first: bool) -> GenerateConfig:
    """Return the config with the frame and map that a segment starts from: its own, or the run's if first."""
    frame, map_ = (_path(entry, key) for key in ("frame", "map"))
    if frame is None:
        if map_ is not None:
            raise entry.error("map needs frame: give the image that the map belongs to as well")
        return config if first else dataclasses.replace(config, frame=None, map=None)
    if not cut:
        raise entry.error("frame needs 'cut: true': without a cut a segment goes on from the one before")
    if first and config.frame is not None:
        raise entry.error(f"frame and --frame {config.frame} exclude each other: give the first frame once")
    return dataclasses.replace(config, frame=frame, map=map_)


def _path(entry: Entry, key: str) -> Path | None:
    """Return a path of the script, which is relative to the script's folder."""
    text = entry.text(key)
    return None if text is None else entry.file.parent / as_path(key, text)


def _triplets(entry: Entry, seconds_left: int) -> tuple[int, ...]:
    """Returns the triplet of each second of a segment, which may have so many."""
    said, text = entry.values.get("triplet"), entry.text("seconds")
    if text is None and not isinstance(said, tuple):
        raise entry.error("seconds are missing: say how long the segment is")
    if text is not None and not re.fullmatch(r"[1-9]\d*", text):
        raise entry.error(f"seconds must be a whole number of 1 or more, not {shown(text)}")
    if text is None:
        seconds = None
    else:
        seconds = int(text) if len(text) <= len(str(_MAX_SECONDS)) else None
        if seconds is None or seconds > seconds_left:
            raise entry.error(
                f"seconds {shown(text)} make the story longer than {MAX_STORY_HOURS} hours, "
                "the most it may be"
            )
    if isinstance(said, tuple):
        if not said or (seconds is not None and seconds != len(said)):
            raise entry.error(f"the list has {len(said)} triplets for {text or 0} seconds: give one a second")
        if len(said) > seconds_left:
            raise entry.error(
                f"{len(said)} triplets, one a second, make the story longer than {MAX_STORY_HOURS} hours, "
                "the most it may be"
            )
        ids = [parse_triplets(part, 1) for part in said]
        return tuple(id_ for id_ in ids if isinstance(id_, int))
    assert seconds is not None
    return _as_seconds(UNKNOWN if said is None else parse_triplets(said, seconds), seconds)


def _as_seconds(triplet: int | tuple[int, ...], seconds: int) -> tuple[int, ...]:
    return (triplet,) * seconds if isinstance(triplet, int) else triplet


def _flag(entry: Entry, key: str) -> bool:
    text = (entry.text(key) or "false").lower()
    if text not in ("true", "false", "yes", "no"):
        raise entry.error(f"{key} must be true or false, not {text!r}")
    return text in ("true", "yes")


def _cut_to(segments: Sequence[Segment], seconds: int | None) -> tuple[Segment, ...]:
    """Keeps the first seconds of a story."""
    if seconds is None:
        return tuple(segments)
    kept: list[Segment] = []
    for segment in segments:
        left = seconds - sum(before.seconds for before in kept)
        if left > 0:
            kept.append(dataclasses.replace(segment, triplet_S=segment.triplet_S[:left]))
    return tuple(kept)
