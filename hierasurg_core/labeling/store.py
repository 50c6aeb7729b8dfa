"""What `label` leaves on disk for a video: maps, their manifest, and until it is done the state between.

`videoNN_masks/` holds `NNNNNN.pkl`, the clip of 16 frames from each frame on, or `NNNNNN.png`, one map a
frame; `label.json` says what they were made from. It is written first, as unfinished, and finished last.
After each window the state is saved: entities so far, and the maps of the frames that the next window
shares. So whatever ends the process, the same command line goes on at that window and the result is the
same. Folders of maps that `label` did not write are refused.

Ids in a `.pkl` are the clip's own and run without gaps; in PNGs they are the video's. The manifest says which
is which.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hierasurg_core import artifacts
from hierasurg_core.datasets.packing import unzip
from hierasurg_core.errors import DataError
from hierasurg_core.labeling.refine import BACKGROUND, BORDER
from hierasurg_core.labeling.tracker import Known, Registry
from hierasurg_core.labeling.windows import CLIP_FRAMES, WindowMaps, WindowPlan
from hierasurg_core.maps import PanopticClip, load_map_image, save_clip, save_map_png
from hierasurg_core.text_files import parse_json

MANIFEST = "label.json"
SCHEMA = 1
_KIND = "hierasurg-labels"
_WORK = ".label"
_STATE = "state.safetensors"
_OWN = re.compile(r"\d{6}\.(pkl|png)|\..*\.partial(\.\w+)?")
_WRITERS = 4  # threads


@dataclass
class State:
    """How far a video is.

    Attributes:
        windows: That are done.
        registry: The video's entities.
        shared_FHW: Maps, with the video's ids, of the frames that the next window shares; None at the start.
        clip_ids: For each clip the video's ids of its ids 0 to K - 1.
        frames_of: In how many frames each of the video's ids occurs, and the first and last of them.
        bad: Frames whose place others took, and why.
        seconds: Spent so far.
    """

    windows: int = 0
    registry: Registry = field(default_factory=Registry)
    shared_FHW: NDArray[np.uint8] | None = None
    clip_ids: dict[int, list[int]] = field(default_factory=dict)
    frames_of: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0


class VideoStore:
    """The maps of one video on disk."""

    def __init__(self, folder: Path, identity: dict[str, Any], map_format: str, num_frames: int) -> None:
        """Names things; touches nothing.

        Args:
            folder: `videoNN_masks`.
            identity: All that decides about the maps, as JSON can say it.
            map_format: "pkl" or "png".
            num_frames: That get maps.

        Raises:
            DataError: The video is too short for a clip.
        """
        if map_format == "pkl" and num_frames < CLIP_FRAMES:
            raise DataError(
                f"{folder.name.removesuffix('_masks')} has {num_frames} frames (one a second), and a clip "
                f"takes {CLIP_FRAMES}: use --format png for it, or leave it out with --only"
            )
        self.folder, self._identity, self._format = folder, identity, map_format
        self._plan = WindowPlan(num_frames)

    def finished(self) -> dict[str, Any] | None:
        """Returns the manifest if all is done and there, else None."""
        manifest = read_label_manifest(self.folder)
        if manifest.get("complete") is not True or not self._same(manifest):
            return None
        if not all(path.exists() for path in self._files()):
            return None
        shutil.rmtree(self.folder / _WORK, ignore_errors=True)  # of a run that was killed at its very end
        return manifest

    def begin(self) -> State:
        """Makes room, or takes up the work of a run before.

        Raises:
            DataError: The folder holds maps that `label` did not write.
            ResourceError: It cannot be written.
        """
        artifacts.ensure_writable_folder(self.folder)
        manifest = read_label_manifest(self.folder)
        if manifest.get("complete") is False and self._same(manifest):
            state = self._read_state()
            if state is not None:
                return state
        old = [path for path in self.folder.iterdir() if _OWN.fullmatch(path.name)]
        if old and not manifest:
            raise DataError(
                f"{self.folder} holds maps that label did not write ({MANIFEST} is missing): move them away, "
                "or give another --out"
            )
        artifacts.write_json(self.folder / MANIFEST, {**self._identity, "complete": False})
        shutil.rmtree(self.folder / _WORK, ignore_errors=True)
        for path in old:
            path.unlink(missing_ok=True)
        (self.folder / _WORK).mkdir()
        return State()

    def commit(self, window: int, maps: WindowMaps, same_below: float, state: State) -> None:
        """Gives a window's entities their ids, writes its maps, and then says that it is done.

        Args:
            window: Which.
            maps: From `VideoLabeller.label`.
            same_below: Mean squared error below which two descriptors are of one entity.
            state: After the windows before; changed.
        """
        shared = state.shared_FHW
        overlap = None if shared is None else (shared, maps.map_FHW[: len(shared)])
        ids = state.registry.link(maps.looks, overlap, maps.occurs, same_below)
        to_video = np.arange(256, dtype=np.uint8)
        to_video[: len(ids)] = ids
        owned = self._plan.owned(window)
        owned_FHW = to_video[maps.map_FHW[owned.start - maps.span.start :]]
        with ThreadPoolExecutor(_WRITERS) as pool:
            if self._format == "png":
                list(pool.map(self._write_work, owned, owned_FHW))
            else:
                starts = self._plan.clips(window)
                clips = pool.map(lambda start: self._write_clip(start, maps, ids), starts)
                state.clip_ids.update(zip(starts, clips, strict=True))
        for frame, map_HW in zip(owned, owned_FHW, strict=True):
            for identity in np.flatnonzero(np.bincount(map_HW.ravel(), minlength=256)[:BACKGROUND]).tolist():
                count, first, _ = state.frames_of.get(identity, (0, frame, frame))
                state.frames_of[identity] = (count + 1, first, frame)
        next_span = self._plan.span(window + 1) if window + 1 < self._plan.count else None
        if next_span is not None:
            state.shared_FHW = to_video[maps.map_FHW[next_span.start - maps.span.start :]]
        state.windows = window + 1
        self._write_state(state)

    def finish(self, state: State, rest: dict[str, Any]) -> dict[str, Any]:
        """Completes the maps and writes the finished manifest, which is returned.

        Args:
            state: After the last window.
            rest: What the manifest says besides.
        """
        if self._format == "png":
            highest = max(state.frames_of, default=-1)
            with ThreadPoolExecutor(_WRITERS) as pool:
                frames = range(self._plan.num_frames)
                list(pool.map(lambda frame: self._finish_png(frame, highest + 1), frames))
        keep = {path.name for path in self._files()}
        for path in self.folder.iterdir():
            if _OWN.fullmatch(path.name) and path.name not in keep:
                path.unlink(missing_ok=True)
        clips = len(state.clip_ids)
        mean = round(sum(map(len, state.clip_ids.values())) / clips, 2) if clips else None
        manifest = {
            **self._identity,
            **rest,
            "counts": {
                "frames": self._plan.num_frames,
                "clips": clips,
                "windows": state.windows,
                "entities": len(state.frames_of),
                "entities_a_clip": mean,
            },
            "entities": {
                str(identity): {"frames": count, "first": first, "last": last}
                for identity, (count, first, last) in sorted(state.frames_of.items())
            },
            "clip_ids": {
                f"{start:06d}": " ".join(map(str, ids)) for start, ids in sorted(state.clip_ids.items())
            },
            "bad_frames": {f"{frame:06d}": why for frame, why in sorted(state.bad.items())},
            "complete": True,
        }
        artifacts.write_json(self.folder / MANIFEST, manifest)
        shutil.rmtree(self.folder / _WORK, ignore_errors=True)
        return manifest

    def _same(self, manifest: dict[str, Any]) -> bool:
        return all(manifest.get(key) == value for key, value in self._identity.items())

    def _files(self) -> list[Path]:
        count = self._plan.num_frames - (CLIP_FRAMES - 1 if self._format == "pkl" else 0)
        return [self.folder / f"{index:06d}.{self._format}" for index in range(count)]

    def _write_clip(self, start: int, maps: WindowMaps, ids: Sequence[int]) -> list[int]:
        first = start - maps.span.start
        map_FHW = maps.map_FHW[first : first + CLIP_FRAMES]
        present = np.flatnonzero(np.bincount(map_FHW.ravel(), minlength=256)[:BACKGROUND])
        own = np.zeros(256, np.uint8)
        own[present] = np.arange(len(present))
        own[BACKGROUND], own[BORDER] = len(present), len(present) + 1
        save_clip(self.folder / f"{start:06d}.pkl", PanopticClip(own[map_FHW], len(present)))
        return [ids[entity] for entity in present.tolist()]

    def _write_work(self, frame: int, map_HW: NDArray[np.uint8]) -> None:
        save_map_png(self.folder / _WORK / f"{frame:06d}.png", map_HW)

    def _finish_png(self, frame: int, num_entities: int) -> None:
        map_HW = load_map_image(self.folder / _WORK / f"{frame:06d}.png")
        final = np.arange(256, dtype=np.uint8)
        final[BACKGROUND], final[BORDER] = num_entities, num_entities + 1
        save_map_png(self.folder / f"{frame:06d}.png", final[map_HW], num_entities)

    def _write_state(self, state: State) -> None:
        known = state.registry.known
        shared = state.shared_FHW
        said = {
            "identity": self._identity,
            "windows": state.windows,
            "known": [[identity, known[identity].last_frame] for identity in known],
            "clip_ids": [[start, ids] for start, ids in state.clip_ids.items()],
            "frames_of": [[identity, *numbers] for identity, numbers in state.frames_of.items()],
            "bad": [[frame, why] for frame, why in state.bad.items()],
            "seconds": state.seconds,
            "shared_shape": None if shared is None else list(shared.shape),
        }
        packed = b"" if shared is None else zlib.compress(shared.tobytes(), 1)
        looks = [entity.look_C for entity in known.values()]
        tensors = {
            "looks": np.stack(looks) if looks else np.zeros((0, 1), np.float32),
            "shared": np.frombuffer(packed or b"\0", np.uint8),
        }
        with artifacts.atomic_file(self.folder / _WORK / _STATE) as part:
            save_file(tensors, part, {"state": json.dumps(said)})

    def _read_state(self) -> State | None:
        """What the last whole window left; None where that is damaged or of other work."""
        path = self.folder / _WORK / _STATE
        if not path.exists():
            (self.folder / _WORK).mkdir(exist_ok=True)
            return State()
        try:
            with safe_open(path, framework="np") as file:
                said = parse_json((file.metadata() or {})["state"], str(path))
                looks, packed = file.get_tensor("looks"), file.get_tensor("shared")
            if said["identity"] != self._identity:
                return None
            shape = said["shared_shape"]
            shared = None
            if shape is not None:
                shared = np.frombuffer(unzip(packed.tobytes(), math.prod(shape)), np.uint8).reshape(shape)
            known = {
                identity: Known(look_C, last)
                for (identity, last), look_C in zip(said["known"], looks, strict=True)
            }
            return State(
                said["windows"],
                Registry(known),
                shared,
                {start: list(ids) for start, ids in said["clip_ids"]},
                {identity: (count, first, last) for identity, count, first, last in said["frames_of"]},
                dict(said["bad"]),
                said["seconds"],
            )
        except (SafetensorError, DataError, LookupError, ValueError, TypeError, AttributeError, OSError):
            return None


def read_label_manifest(folder: Path) -> dict[str, Any]:
    """Returns what `label` left in a folder, finished or not; empty where there is no manifest.

    Raises:
        DataError: It is unreadable, or of another program or version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    content = artifacts.read_json(path)
    if not isinstance(content, dict) or content.get("kind") != _KIND or content.get("schema") != SCHEMA:
        raise DataError(f"{path} is no manifest of labels of schema {SCHEMA}: move the folder away")
    return content


def identity_of(name: str, **settings: Any) -> dict[str, Any]:
    """Returns the part of a manifest that decides about the maps."""
    return {"kind": _KIND, "schema": SCHEMA, "name": name, **settings}
