"""What `extract` does with frames that are in its way: whose they are, and what would be lost with them.

Frames that `extract` did not write are never touched, nor are maps that `label` did not write. Frames of
which maps were made are replaced only where the user said so, and the maps go with them.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from hierasurg_core import artifacts
from hierasurg_core.datasets import frames as fr
from hierasurg_core.datasets.frames import MANIFEST, SCHEMA
from hierasurg_core.datasets.operations import MASKS
from hierasurg_core.errors import DataError

_LEFT_OVER = re.compile(r"\d{6}\.jpg|\.\d{6}\..*\.partial\.jpg", re.ASCII)
_FRAME = re.compile(r"\d{6}\.jpg", re.ASCII)
_MAP = re.compile(r"\d{6}\.(pkl|png)", re.ASCII)
_LABELS = "label.json"  # the manifest of maps that `label` made


def is_same(found: Mapping[str, Any], identity: Mapping[str, Any], done: Collection[str]) -> bool:
    """Tells whether the frames that are there are those that are wanted.

    Args:
        found: The manifest of those that are there.
        identity: What a manifest says of those that are wanted.
        done: What has to be done to their pixels, in words; older programs did not do it.
    """
    same = all(found.get(key) == value for key, value in identity.items())
    return same and set(done) <= set(found.get("pixels", ()))


def expect_no_maps_lost(folders: Iterable[tuple[Path, Callable[[Mapping[str, Any]], bool]]]) -> None:
    """Refuses to replace frames of which maps were made.

    Args:
        folders: Of frames, each with a function that tells of its manifest whether these frames stay.

    Raises:
        DataError: There are such; the message names what would be lost.
    """
    lost: list[tuple[str, str]] = []  # what would be lost, and what else can be done
    for folder, stays in folders:
        masks = _masks_of(folder)
        if not folder.is_dir() or not _holds_maps(masks):
            continue
        try:
            found = fr.manifest_state(folder)
            is_lost = bool(found) and not stays(found)
        except DataError:  # it costs this source alone, and the work on it says so
            continue
        if is_lost:
            if (masks / _LABELS).is_file():
                instead = "--overwrite, which deletes these frames and maps"
            else:
                instead = f"move {masks} away, whose maps label did not write"
            lost.append((f"{_described(folder, found)} with maps in {masks}", instead))
    if lost:
        more = f" (and {len(lost) - 1} more videos)" if len(lost) > 1 else ""
        what, instead = lost[0]
        raise DataError(f"{what}{more} would be replaced by other frames: give another OUT, or {instead}")


def _masks_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{MASKS}")


def _holds_maps(masks: Path) -> bool:
    return masks.is_dir() and any(_MAP.fullmatch(path.name) for path in masks.iterdir())


def _described(folder: Path, found: dict[str, Any]) -> str:
    """Names the frames that a folder holds: "videos/video01: 18 frames at 1 fps"."""
    count = sum(1 for path in folder.iterdir() if _is_frame(path))
    settings = found.get("settings")
    fps = settings.get("fps") if isinstance(settings, dict) else None
    return f"{folder}: {count} frames" + (f" at {fps:g} fps" if isinstance(fps, (int, float)) else "")


def make_room(folder: Path, found: dict[str, Any]) -> list[str]:
    """Empties a folder of frames that other settings or another source made, and of their maps.

    The manifest says so first, so that no frame of before is ever taken for a new one.

    Args:
        folder: Of the frames; made where it is missing.
        found: Its manifest; empty where it has none.

    Returns:
        What to tell the user.

    Raises:
        DataError: The frames or maps are those of others.
        ResourceError: The folder cannot be written.
    """
    artifacts.ensure_writable_folder(folder)
    old = [path for path in folder.iterdir() if _LEFT_OVER.fullmatch(path.name)]
    if not found:
        if old:
            raise DataError(
                f"{folder} holds frames that extract did not write ({MANIFEST} is missing): move them away, "
                "or give another OUT"
            )
        return []
    masks = _masks_of(folder)
    if _holds_maps(masks) and not (masks / _LABELS).is_file():
        raise DataError(
            f"{masks} holds maps that label did not write ({_LABELS} is missing): move them away, or give "
            "another OUT"
        )
    told = [f"{_described(folder, found)} are replaced"] if any(map(_is_frame, old)) else []
    artifacts.write_json(folder / MANIFEST, {"schema": SCHEMA, "complete": False})
    if _holds_maps(masks):
        artifacts.delete_folder(masks)
        for picture in (f"{folder.name}_overlay.mp4", f"{folder.name}_sheet.png"):
            folder.with_name(picture).unlink(missing_ok=True)
        told.append(f"{masks}: the maps of the frames before are deleted")
    for path in old:
        path.unlink(missing_ok=True)
    return told


def remove_behind(folder: Path, num_frames: int) -> None:
    """Deletes frames from number `num_frames` on, and what a killed process left half-written."""
    for path in folder.iterdir():
        if _LEFT_OVER.fullmatch(path.name) and (path.name.startswith(".") or int(path.stem) >= num_frames):
            path.unlink(missing_ok=True)


def _is_frame(path: Path) -> bool:
    return _FRAME.fullmatch(path.name) is not None
