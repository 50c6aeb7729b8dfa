"""The maps of one video, second by second, in either form that labelling writes.

`videoNN_masks/` holds either indexed PNGs, one a second, whose ids are the same objects through the whole
video, or a `.pkl` a clip of 16 seconds, named by its first second, whose ids are the clip's own. It finds
the maps of a stretch of seconds; it makes up none.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.errors import DataError
from hierasurg_core.maps import (
    MAX_LEVELS,
    PanopticClip,
    load_clip,
    load_map_image,
    map_num_entities,
    palette_levels,
)

CLIP_SECONDS = 16  # of a .pkl
_FILE = re.compile(r"(\d+)\.(png|pkl)", re.IGNORECASE)
_WHOLE_BYTES = 1 << 20  # files up to this size are read whole for a digest, of larger ones both ends
_END_BYTES = 1 << 16


class VideoMaps:
    """The maps of one video.

    Example:
        >>> maps = VideoMaps(Path("videos/video01_masks"))
        >>> maps.clip(480, 16).map_FHW.shape
        (16, 480, 854)
    """

    def __init__(self, folder: Path, kept: int = 0) -> None:
        """Lists the folder's files.

        Args:
            folder: `videoNN_masks`.
            kept: Decoded PNGs that are kept for clips nearby.

        Raises:
            DataError: There is no such folder, it holds no maps, or both forms.
        """
        if not folder.is_dir():
            raise DataError(f"there are no maps at {folder}: make them with 'hierasurg label'")
        self.folder, self._most = folder, kept
        named = ((_FILE.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
        by_form: dict[str, dict[int, Path]] = {}
        for match, path in named:
            if match:
                by_form.setdefault(match[2].lower(), {})[int(match[1])] = path
        if len(by_form) != 1:
            reason = "holds maps as .pkl and as .png: keep one form" if by_form else "holds no maps"
            raise DataError(f"{folder} {reason}; files are named 000000.pkl or 000000.png, by their second")
        ((self._form, self._files),) = by_form.items()
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()
        self._entities: int | None = None

    def has(self, second: int, seconds: int) -> bool:
        """Tells whether there are maps for all of these seconds."""
        if self._form == "png":
            return all(index in self._files for index in range(second, second + seconds))
        return self._clip_start(second, seconds) is not None

    def file(self, second: int) -> Path:
        """Returns the file that the maps from this second on would have."""
        return self.folder / f"{second:06d}.{self._form}"

    def clip(self, second: int, seconds: int) -> PanopticClip:
        """Reads the maps of a stretch, uint8 (seconds, H, W).

        A `.pkl` that starts at this second comes first; else the nearest before it that reaches far enough.

        Raises:
            DataError: A file is missing or damaged, or the maps differ in size.
        """
        if self._form == "pkl":
            start = self._clip_start(second, seconds)
            if start is None:
                raise DataError(f"the maps {self.file(second)} are missing: run 'hierasurg label' to its end")
            clip = load_clip(self._files[start], second - start + seconds)
            return PanopticClip(clip.map_FHW[second - start :], clip.num_entities)
        maps = [self._png(index) for index in range(second, second + seconds)]
        if len({map_HW.shape for map_HW in maps}) > 1:
            raise DataError(f"the maps in {self.folder} differ in size from second {second} on")
        return PanopticClip(np.stack(maps), self._num_entities())

    def paintable(self, second: int, seconds: int) -> bool:
        """Tells whether the ids of a stretch are few enough for S2M's colours.

        Raises:
            DataError: As `clip`.
        """
        if self._form == "png" and self._num_entities() + 1 < MAX_LEVELS:
            return True
        return palette_levels(self.clip(second, seconds)) is not None

    def digest(self) -> str:
        """Returns a SHA-256 over names, sizes and content; of files above 1 MiB over both ends only."""
        total = hashlib.sha256()
        for _, path in sorted(self._files.items()):
            size = path.stat().st_size
            total.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                if size <= _WHOLE_BYTES:
                    total.update(file.read())
                else:
                    total.update(file.read(_END_BYTES))
                    file.seek(-_END_BYTES, 2)
                    total.update(file.read())
        return total.hexdigest()

    def forget(self) -> None:
        """Lets go of the maps that are kept."""
        with self._lock:
            self._kept.clear()

    def _clip_start(self, second: int, seconds: int) -> int | None:
        earliest = max(0, second - CLIP_SECONDS + seconds)
        return next((start for start in range(second, earliest - 1, -1) if start in self._files), None)

    def _png(self, second: int) -> NDArray[np.uint8]:
        with self._lock:
            if second in self._kept:
                self._kept.move_to_end(second)
                return self._kept[second]
        path = self._files.get(second)
        if path is None:
            raise DataError(f"the map {self.file(second)} is missing: run 'hierasurg label' to its end")
        map_HW = load_map_image(path)
        with self._lock:
            self._kept[second] = map_HW
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return map_HW

    def _num_entities(self) -> int:
        """What the first file says; a folder of other people's grey PNGs is searched for its highest id."""
        with self._lock:
            if self._entities is None:
                self._entities = max(map_num_entities(path) for path in self._files.values())
            return self._entities
