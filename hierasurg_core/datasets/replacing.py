"""What `extract` does with frames that are there already: which it deletes, and which it never touches.

Frames that it wrote itself make room for others, and so do the maps that `label` made of them. It refuses to
delete frames or maps of anyone else.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from hierasurg_core import artifacts
from hierasurg_core.datasets.frames import MANIFEST, SCHEMA
from hierasurg_core.datasets.operations import MASKS
from hierasurg_core.errors import DataError

_FRAME = re.compile(r"\d{6}\.jpg", re.ASCII)
_UNFINISHED = re.compile(r"\.\d{6}\..*\.partial\.jpg", re.ASCII)
_MAP = re.compile(r"\d{6}\.(pkl|png)", re.ASCII)
_LABELS = "label.json"  # the manifest of maps that `label` made


def masks_of(folder: Path) -> Path:
    """Returns the folder of the maps of a frame folder."""
    return folder.with_name(f"{folder.name}{MASKS}")


def holds_maps(masks: Path) -> bool:
    """Tells whether there is such a folder, with maps in it."""
    return masks.is_dir() and any(_MAP.fullmatch(path.name) for path in masks.iterdir())


def described(folder: Path, found: dict[str, Any]) -> str:
    """Returns in words what a frame folder holds: "videos/video01: 18 frames at 1 fps".

    Args:
        folder: Of the frames.
        found: Its manifest.
    """
    count = sum(1 for path in folder.iterdir() if _FRAME.fullmatch(path.name))
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
    frames = [path for path in folder.iterdir() if _FRAME.fullmatch(path.name)]
    unfinished = [path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name)]
    if not found:
        if frames or unfinished:
            raise DataError(
                f"{folder} holds frames that extract did not write ({MANIFEST} is missing): move them away, "
                "or give another OUT"
            )
        return []
    masks = masks_of(folder)
    if holds_maps(masks) and not (masks / _LABELS).is_file():
        raise DataError(
            f"{masks} holds maps that label did not write ({_LABELS} is missing): move them away, or give "
            "another OUT"
        )
    told = [f"{described(folder, found)} are replaced"] if frames else []
    artifacts.write_json(folder / MANIFEST, {"schema": SCHEMA, "complete": False})
    if holds_maps(masks):
        shutil.rmtree(masks)
        for picture in (f"{folder.name}_overlay.mp4", f"{folder.name}_sheet.png"):
            folder.with_name(picture).unlink(missing_ok=True)
        told.append(f"{masks}: the maps of the frames before are deleted")
    for path in (*frames, *unfinished):
        path.unlink(missing_ok=True)
    return told


def remove_behind(folder: Path, num_frames: int) -> None:
    """Deletes frames from number `num_frames` on, and what a killed process left half-written."""
    for path in folder.iterdir():
        behind = _FRAME.fullmatch(path.name) is not None and int(path.stem) >= num_frames
        if behind or _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
