"""The clips that a report shows: the worst and the best by each metric, written beside it as small videos.

Owns which they are and their files. A clip that is there already is not written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hierasurg_core.artifacts import ensure_writable_folder
from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.collect import Task
from hierasurg_core.evaluation.recordings import Clip, phase_name, triplet_name
from hierasurg_core.maps import (
    MAX_LEVELS,
    PanopticClip,
    colour_map,
    describe_levels,
    palette_levels,
    palette_rgb_N3,
)
from hierasurg_core.progress import Progress
from hierasurg_core.video import write_mp4

FOLDER = "clips"


def choose(
    names: Sequence[str],
    of_clips: Mapping[str, Mapping[str, float]],
    better: Mapping[str, str],
    most: int,
) -> list[str]:
    """Returns at most so many clips: turn by turn the worst and the best by each metric, then the first ones.

    Example:
        >>> choose(["a", "b", "c"], {"a": {"m": 1}, "b": {"m": 3}, "c": {"m": 2}}, {"m": "higher"}, 2)
        ['a', 'b']
    """
    ranked: list[list[str]] = []
    for metric, way in better.items():
        known = [name for name in names if metric in of_clips.get(name, {})]
        order = sorted(known, key=lambda name, metric=metric: (of_clips[name][metric], name))
        worst_first = order if way == "higher" else order[::-1]
        ranked += [worst_first, worst_first[::-1]]
    chosen: dict[str, None] = {}
    for turn in range(max(map(len, ranked), default=0)):
        for order in ranked:
            if len(chosen) < most and turn < len(order):
                chosen[order[turn]] = None
    for name in names:
        if len(chosen) >= most:
            break
        chosen[name] = None
    return [name for name in names if name in chosen]


def write_clips(
    tasks: Sequence[Task],
    out: Path,
    fps: float,
    of_clips: Mapping[str, Mapping[str, float]],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Writes clips as `clips/NAME.mp4`, `NAME_real.mp4` and `NAME_maps.mp4`.

    Args:
        tasks: What to show; a clip that cannot be read is passed over.
        out: The report's folder.
        fps: Frames a second of the measured clips.
        of_clips: Values by clip and metric.
        progress: Told of each clip.

    Returns:
        The report's "samples".

    Raises:
        ResourceError: The folder cannot be written.
    """
    if not tasks:
        return []
    ensure_writable_folder(out / FOLDER)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        progress.advance()
        recording = task.clip.recording
        digest = hashlib.sha256(f"{task.digest} {fps}".encode()).hexdigest()
        stem = f"{FOLDER}/{task.clip.name.replace('/', '_')}-{digest[:8]}"
        try:
            generated = _video(task.clip, f"{stem}.mp4", out, fps)
            real = None if task.real is None else _video(task.real, f"{stem}_real.mp4", out, fps)
            maps = _maps(task.clip, f"{stem}_maps.mp4", out)
        except DataError:  # counted as unreadable by the measuring
            continue
        rows.append(
            {
                "name": task.clip.name,
                "phase": phase_name(recording.labels.phase),
                "triplet": triplet_name(recording.labels.triplet),
                "seed": recording.seed,
                "generated": generated,
                "real": real,
                "maps": maps,
                "values": dict(of_clips.get(task.clip.name, {})),
            }
        )
    return rows


def _video(clip: Clip, name: str, out: Path, fps: float) -> str:
    if not (out / name).is_file():
        write_mp4(out / name, clip.read(), fps)
    return name


def _maps(clip: Clip, name: str, out: Path) -> str | None:
    recording = clip.recording
    if recording.maps is None:
        return None
    if not (out / name).is_file():
        whole = recording.maps()
        seconds = sorted({frame // max(1, round(recording.fps or 1)) for frame in clip.frames})
        kept = [second for second in seconds if second < len(whole.map_FHW)]
        seen = PanopticClip(whole.map_FHW[kept], whole.num_entities)
        levels = palette_levels(seen)
        if levels is None:  # more ids than colours: for looking only
            write_mp4(out / name, palette_rgb_N3(MAX_LEVELS)[seen.map_FHW % MAX_LEVELS], 1)
        else:
            comment = describe_levels(levels, seen.num_entities)
            write_mp4(out / name, colour_map(seen.map_FHW, levels), 1, comment)
    return name
