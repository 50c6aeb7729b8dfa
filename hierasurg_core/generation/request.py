"""What a run starts from, read and checked before any weight loads.

Owns the user's words and pictures: phase, triplet, photograph, map, maps. It refuses pictures that are too
small or do not belong together, maps of too few frames, and photographs without the words that S2M needs.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.generation.limits import expect_levels
from hierasurg_core.generation.scenes import Scene, load_scenes, matching_scenes, scene_of_maps
from hierasurg_core.generation.timeline import UNKNOWN, parse_triplets
from hierasurg_core.labeling.sam_weights import expect_segmenter
from hierasurg_core.maps import (
    MAX_LEVELS,
    PanopticClip,
    load_clip,
    load_map_image,
    map_num_entities,
    with_room,
)
from hierasurg_core.pictures import read_picture
from hierasurg_core.taxonomy import PHASES, TRIPLETS, Triplet, parse_phase

SMALLEST_SIDE = 64  # pixels
_WITHOUT_SAM = "give the frame's map as --map, or use the bundled --sam mini, which knows the phantom only"


@dataclass(frozen=True)
class Start:
    """What one sample starts from.

    Attributes:
        photo_HWC: First frame, uint8 RGB, at its own size.
        first_map: Its map as a clip of one frame, for S2M.
        maps: Maps of the whole clip in place of S2M's, or None.
        phase: Id, -1 where nothing is known of it; or one a second.
        triplet: Likewise.
        source: Where photograph and maps come from, for the sample's JSON.
        notes: What was chosen for the user.
        names: What entities of the maps are called, where that is known.
        unmapped: The photograph has no map yet; `first_map` is all background until `first_maps` makes it.
    """

    photo_HWC: NDArray[np.uint8]
    first_map: PanopticClip
    maps: PanopticClip | None
    phase: int | tuple[int, ...]
    triplet: int | tuple[int, ...]
    source: dict[str, Any]
    notes: tuple[str, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    unmapped: bool = False

    def describe_phase(self) -> dict[str, Any] | None:
        """Returns id and name of the phase, for JSON; None where it is not known."""
        return describe_ids(self.phase, PHASES)

    def describe_triplet(self) -> dict[str, Any] | None:
        """Returns id and name of the triplet likewise."""
        return describe_ids(self.triplet, [triplet.name for triplet in TRIPLETS])

    def digest(self) -> str:
        """Returns a SHA-256 of the pixels and ids that the models will see."""
        total = hashlib.sha256()
        for array in (self.photo_HWC, self.first_map.map_FHW, *([self.maps.map_FHW] if self.maps else [])):
            total.update(f"{array.shape}".encode())
            total.update(np.ascontiguousarray(array).data)
        total.update(f"{self.first_map.num_entities}".encode())
        return total.hexdigest()


def describe_ids(ids: int | Sequence[int], names: Sequence[str]) -> dict[str, Any] | None:
    """Says which phase or triplet a clip has: id and name, and where they change all ids by second.

    Where they change, id and name are those of most seconds. None where nothing is known.
    """
    given = [ids] if isinstance(ids, int) else list(ids)
    known = Counter(id_ for id_ in given if id_ != UNKNOWN)
    if not known:
        return None
    most = known.most_common(1)[0][0]
    said: dict[str, Any] = {"id": most, "name": names[most]}
    return said if len(set(given)) == 1 else {**said, "by_second": given}


def read_starts(config: GenerateConfig, seconds: int, gallery: Path) -> tuple[Start, ...]:
    """Reads what the run's samples start from; sample i takes number i modulo how many there are.

    Scenes of the gallery take turns by seed, where several show equally much of what is asked for. A
    photograph without a map comes back `unmapped`; torch is not loaded.

    Args:
        config: What was asked for.
        seconds: Maps that a clip needs, one a second.
        gallery: Folder of the scenes; not read where nothing of it is needed.

    Raises:
        UsageError: An unknown phase or triplet, or a photograph or maps without what belongs to them.
        WeightsError: The SAM 2 that a photograph needs is not to be had.
        DataError: A picture or maps that are damaged, too small, too few, or of different sizes.
    """
    phase = None if config.phase is None else parse_phase(config.phase)
    triplet = None if config.triplet is None else parse_triplets(config.triplet, seconds)
    if config.maps is not None:
        return (_start_of_maps(config, seconds, gallery, phase, triplet),)
    if config.frame is not None:
        starts = [_start_of_photo(config, phase, triplet)]
    else:
        found, missing = matching_scenes(load_scenes(gallery), phase, _first_of(triplet))
        turns = range(config.seed, config.seed + min(config.num, len(found)))
        starts = [_start_of_scene(found[turn % len(found)], missing, phase, triplet) for turn in turns]
    return tuple(with_newcomers(start, config.newcomers) for start in starts)


def with_newcomers(start: Start, count: int) -> Start:
    """Keep ids free in the first map, which S2M has colours for; a start without a map stays as it is.

    Raises:
        UsageError: S2M's palette has too few colours for so many.
    """
    if not count or start.unmapped:
        return start
    entities, most = start.first_map.num_entities, MAX_LEVELS - 2
    if entities + count > most:
        raise UsageError(
            f"--newcomers {count}: the first map has {entities} entities, and S2M's palette tells {most} "
            f"apart: give at most {max(0, most - entities)}"
        )
    return dataclasses.replace(start, first_map=with_room(start.first_map, entities + count))


def _start_of_scene(
    scene: Scene, missing: Sequence[str], phase: int | None, triplet: int | tuple[int, ...] | None
) -> Start:
    notes = [f"scene {scene.name} is the nearest, but does not show: {', '.join(missing)}"] if missing else []
    if phase is None:
        notes.append(f"phase: {PHASES[scene.phase]}, as in scene {scene.name}")
    if triplet is None:
        notes.append(f"triplet: {TRIPLETS[scene.triplet].name}, as in scene {scene.name}")
    first_map = scene.first_map()
    expect_levels(first_map)
    return Start(
        photo_HWC=scene.photo(),
        first_map=first_map,
        maps=None,
        phase=scene.phase if phase is None else phase,
        triplet=scene.triplet if triplet is None else triplet,
        source={"scene": scene.name},
        notes=tuple(notes),
        names=scene.entities,
    )


def _start_of_photo(
    config: GenerateConfig, phase: int | None, triplet: int | tuple[int, ...] | None
) -> Start:
    assert config.frame is not None
    if phase is None:
        raise UsageError("--frame needs --phase: S2M has to be told which phase goes on from that image")
    photo_HWC, notes = _read_photo(config)
    source: dict[str, Any] = {"frame": _named(config.frame)}
    if triplet is None:
        notes.append("no triplet was given; S2M is told of none")
    if config.map is not None:
        map_HW = load_map_image(config.map)
        _expect_same_size(f"the map {config.map}", map_HW.shape, f"its frame {config.frame}", photo_HWC.shape)
        first_map = PanopticClip(map_HW[None], map_num_entities(config.map))
        source["map"] = _named(config.map)
    else:
        expect_segmenter(config.sam, None, None, instead=_WITHOUT_SAM)
        first_map = PanopticClip(np.zeros((1, *photo_HWC.shape[:2]), np.uint8), 0)
    expect_levels(first_map)
    return Start(
        photo_HWC=photo_HWC,
        first_map=first_map,
        maps=None,
        phase=phase,
        triplet=UNKNOWN if triplet is None else triplet,
        source=source,
        notes=tuple(notes),
        unmapped=config.map is None,
    )


def _start_of_maps(
    config: GenerateConfig,
    seconds: int,
    gallery: Path,
    phase: int | None,
    triplet: int | tuple[int, ...] | None,
) -> Start:
    assert config.maps is not None
    maps = load_clip(config.maps, seconds)
    source: dict[str, Any] = {"maps": _named(config.maps)}
    notes: list[str] = []
    names: Mapping[int, str] = {}
    if config.frame is not None:
        photo_HWC, notes = _read_photo(config)
        shape = maps.map_FHW.shape[1:]
        _expect_same_size(f"the maps {config.maps}", shape, f"the frame {config.frame}", photo_HWC.shape)
        source["frame"] = _named(config.frame)
    else:
        scene = scene_of_maps(load_scenes(gallery), maps)
        if scene is None:
            raise UsageError(f"--maps {config.maps} needs --frame: give the image of the first map")
        photo_HWC = scene.photo()
        source["scene"] = scene.name
        names = scene.entities
        notes = [f"first frame: scene {scene.name}, from which the maps start"]
    return Start(
        photo_HWC=photo_HWC,
        first_map=PanopticClip(maps.map_FHW[:1], maps.num_entities),
        maps=maps,
        phase=UNKNOWN if phase is None else phase,
        triplet=UNKNOWN if triplet is None else triplet,
        source=source,
        notes=tuple(notes),
        names=names,
    )


def _first_of(triplet: int | tuple[int, ...] | None) -> Triplet | None:
    """Returns the triplet that a scene should show: the first that is done."""
    ids = (triplet,) if isinstance(triplet, int) else triplet or ()
    return next((TRIPLETS[id_] for id_ in ids if id_ != UNKNOWN), None)


def _read_photo(config: GenerateConfig) -> tuple[NDArray[np.uint8], list[str]]:
    """Reads the first frame; the notes say what was done to its pixels."""
    assert config.frame is not None
    picture = read_picture(config.frame)
    photo_HWC = picture.pixels_HWC
    height, width = photo_HWC.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise DataError(
            f"the frame {config.frame} is {width}x{height} px; it needs {SMALLEST_SIDE} px a side at least"
        )
    return photo_HWC, [f"{config.frame}: {', '.join(picture.done)}"] if picture.done else []


def _named(path: Path) -> dict[str, Any]:
    """Path and SHA-256 of a file, or of each PNG of a folder."""
    if path.is_dir():
        return {
            "path": str(path),
            "sha256": {file.name: sha256_file(file) for file in sorted(path.glob("*.png"))},
        }
    return {"path": str(path), "sha256": sha256_file(path)}


def _expect_same_size(one: str, one_shape: Sequence[int], other: str, other_shape: Sequence[int]) -> None:
    if tuple(one_shape[:2]) != tuple(other_shape[:2]):
        sizes = [f"{width}x{height}" for height, width in (one_shape[:2], other_shape[:2])]
        raise DataError(f"{one} is {sizes[0]} px, but {other} is {sizes[1]} px; they must have one size")
