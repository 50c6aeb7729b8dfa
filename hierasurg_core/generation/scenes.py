"""The gallery of starting scenes: photographs with their maps, for every phase.

Owns which scene a run starts from. It refuses a damaged gallery; that no scene shows all that was asked for
is no error, the nearest is taken and said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.artifacts import read_json
from hierasurg_core.errors import DataError
from hierasurg_core.maps import PanopticClip, fit_maps, load_map_image, with_room
from hierasurg_core.pictures import read_image
from hierasurg_core.taxonomy import PHASES, TRIPLETS, Triplet

SCENES_FILE = "scenes.json"
_SCHEMA = 1
_SAME_MAP = 0.95  # share of equal pixels; coloured mp4 lose a little along borders


@dataclass(frozen=True)
class Scene:
    """One starting scene on disk.

    Attributes:
        name: Its number in the gallery, "000".
        phase: Id.
        triplet: Id of what is being done in it.
        frame: Photograph.
        map: Indexed PNG of ids.
        num_entities: K of the map.
        instruments: Names of those that are seen.
        targets: Names of those that are seen.
        entities: Name of each id of the map.
    """

    name: str
    phase: int
    triplet: int
    frame: Path
    map: Path
    num_entities: int
    instruments: tuple[str, ...]
    targets: tuple[str, ...]
    entities: Mapping[int, str]

    def photo(self) -> NDArray[np.uint8]:
        """Reads the photograph, uint8 (H, W, 3)."""
        return read_image(self.frame)

    def first_map(self) -> PanopticClip:
        """Reads the map as a clip of one frame."""
        return PanopticClip(load_map_image(self.map)[None], self.num_entities)


def load_scenes(folder: Path) -> tuple[Scene, ...]:
    """Reads a gallery's index, `scenes.json`; pictures are read when a scene is used.

    Raises:
        DataError: The index is missing, damaged, empty, or of another schema.
    """
    path = folder / SCENES_FILE
    index = read_json(path)
    if not isinstance(index, dict) or index.get("schema") != _SCHEMA or not index.get("scenes"):
        raise DataError(f"{path} is no gallery of scenes of schema {_SCHEMA}")
    try:
        return tuple(_scene(folder, entry) for entry in index["scenes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} describes a scene wrongly: {error!r}") from error


def matching_scenes(
    scenes: Sequence[Scene], phase: int | None, triplet: Triplet | None
) -> tuple[tuple[Scene, ...], tuple[str, ...]]:
    """Finds the scenes that show most of what is asked for.

    The instrument counts most (what is not in the first map has no colour in S2M's palette), then the
    phase, then the target.

    Returns:
        The equally good scenes, and what they do not show ("phase cleaning-and-coagulation", "target gut").
    """
    asked = [
        ("instrument", None if triplet is None else triplet.instrument, lambda scene: scene.instruments),
        ("phase", None if phase is None else PHASES[phase], lambda scene: (PHASES[scene.phase],)),
        (
            "target",
            None if triplet is None or triplet.target == "null_target" else triplet.target,
            lambda scene: scene.targets,
        ),
    ]
    wanted = [(kind, name, shows) for kind, name, shows in asked if name is not None]
    scores = [tuple(name in shows(scene) for _, name, shows in wanted) for scene in scenes]
    best = max(scores)
    candidates = [scene for scene, score in zip(scenes, scores, strict=True) if score == best]
    missing = tuple(
        f"{kind} {name}" for (kind, name, _), shown in zip(wanted, best, strict=True) if not shown
    )
    return tuple(candidates), tuple(missing)


def scene_of_maps(scenes: Sequence[Scene], maps: PanopticClip) -> Scene | None:
    """Finds the scene that a clip of maps starts from, None where there is none.

    The maps may have more ids than the scene, kept free for what came into view.
    """
    for scene in scenes:
        if scene.num_entities > maps.num_entities:
            continue
        first_HW = with_room(scene.first_map(), maps.num_entities).map_FHW[0]
        if first_HW.shape[0] * maps.map_FHW.shape[2] != first_HW.shape[1] * maps.map_FHW.shape[1]:
            continue
        if (fit_maps(maps.map_FHW[0], first_HW.shape) == first_HW).mean() >= _SAME_MAP:
            return scene
    return None


def _scene(folder: Path, entry: dict[str, Any]) -> Scene:
    phase, triplet = int(entry["phase"]), int(entry["triplet"])
    if not (0 <= phase < len(PHASES) and 0 <= triplet < len(TRIPLETS)):
        raise ValueError(f"phase {phase} or triplet {triplet} does not exist")
    return Scene(
        name=str(entry["name"]),
        phase=phase,
        triplet=triplet,
        frame=folder / entry["frame"],
        map=folder / entry["map"],
        num_entities=int(entry["num_entities"]),
        instruments=tuple(entry["instruments"]),
        targets=tuple(entry["targets"]),
        entities={int(id_): str(name) for id_, name in entry["entities"].items()},
    )
