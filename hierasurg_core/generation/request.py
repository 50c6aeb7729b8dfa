"""What a run starts from, read and checked before any weight loads.

Owns the user's words and pictures: phase, triplet, photograph, map, maps. It refuses pictures that are too
small or do not belong together, maps of too few frames, and photographs without the words that S2M needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.generation.pipelines import UNKNOWN, expect_levels
from hierasurg_core.generation.scenes import Scene, load_scenes, matching_scenes, scene_of_maps
from hierasurg_core.maps import PanopticClip, load_clip, load_map_image, map_num_entities
from hierasurg_core.taxonomy import PHASES, TRIPLETS, Triplet, parse_phase, parse_triplet
from hierasurg_core.video import read_image

SMALLEST_SIDE = 64  # pixels


@dataclass(frozen=True)
class Start:
    """What one sample starts from.

    Attributes:
        photo_HWC: First frame, uint8 RGB, at its own size.
        first_map: Its map as a clip of one frame, for S2M.
        maps: Maps of the whole clip in place of S2M's, or None.
        phase: Id, -1 where nothing is known of it.
        triplet: Id, -1 likewise.
        source: Where photograph and maps come from, for the sample's JSON.
        notes: What was chosen for the user.
    """

    photo_HWC: NDArray[np.uint8]
    first_map: PanopticClip
    maps: PanopticClip | None
    phase: int
    triplet: int
    source: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def phase_name(self) -> str | None:
        """The phase's name, None where it is not known."""
        return None if self.phase == UNKNOWN else PHASES[self.phase]

    @property
    def triplet_name(self) -> str | None:
        """The triplet's name, None where it is not known."""
        return None if self.triplet == UNKNOWN else TRIPLETS[self.triplet].name


def read_starts(config: GenerateConfig, seconds: int, gallery: Path) -> tuple[Start, ...]:
    """Reads what the run's samples start from; sample i takes number i modulo how many there are.

    Scenes of the gallery take turns by seed, where several show equally much of what is asked for.

    Args:
        config: What was asked for.
        seconds: Maps that a clip needs, one a second.
        gallery: Folder of the scenes; not read where nothing of it is needed.

    Raises:
        UsageError: An unknown phase or triplet, or a photograph or maps without what belongs to them.
        DataError: A picture or maps that are damaged, too small, too few, or of different sizes.
    """
    phase = None if config.phase is None else parse_phase(config.phase)
    triplet = None if config.triplet is None else parse_triplet(config.triplet)
    if config.frame is None and config.maps is None:
        found, missing = matching_scenes(load_scenes(gallery), phase, triplet)
        turns = range(config.seed, config.seed + min(config.num, len(found)))
        return tuple(_start_of_scene(found[turn % len(found)], missing, phase, triplet) for turn in turns)
    if config.maps is not None:
        return (_start_of_maps(config, seconds, gallery, phase, triplet),)
    return (_start_of_photo(config, phase, triplet),)


def _start_of_scene(
    scene: Scene, missing: Sequence[str], phase: int | None, triplet: Triplet | None
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
        triplet=scene.triplet if triplet is None else triplet.id,
        source={"scene": scene.name},
        notes=tuple(notes),
    )


def _start_of_photo(config: GenerateConfig, phase: int | None, triplet: Triplet | None) -> Start:
    if config.frame is None or config.map is None:
        raise UsageError(
            "--frame needs --map: give the panoptic map of that image (an indexed PNG), or --maps of the clip"
        )
    if phase is None:
        raise UsageError("--frame needs --phase: S2M has to be told which phase goes on from that image")
    photo_HWC = _read_photo(config)
    map_HW = load_map_image(config.map)
    _expect_same_size(f"the map {config.map}", map_HW.shape, f"its frame {config.frame}", photo_HWC.shape)
    first_map = PanopticClip(map_HW[None], map_num_entities(config.map))
    expect_levels(first_map)
    return Start(
        photo_HWC=photo_HWC,
        first_map=first_map,
        maps=None,
        phase=phase,
        triplet=UNKNOWN if triplet is None else triplet.id,
        source={"frame": _named(config.frame), "map": _named(config.map)},
        notes=() if triplet is not None else ("no triplet was given; S2M is told of none",),
    )


def _start_of_maps(
    config: GenerateConfig, seconds: int, gallery: Path, phase: int | None, triplet: Triplet | None
) -> Start:
    assert config.maps is not None
    maps = load_clip(config.maps, seconds)
    source: dict[str, Any] = {"maps": _named(config.maps)}
    notes: tuple[str, ...] = ()
    if config.frame is not None:
        photo_HWC = _read_photo(config)
        shape = maps.map_FHW.shape[1:]
        _expect_same_size(f"the maps {config.maps}", shape, f"the frame {config.frame}", photo_HWC.shape)
        source["frame"] = _named(config.frame)
    else:
        scene = scene_of_maps(load_scenes(gallery), maps)
        if scene is None:
            raise UsageError(f"--maps {config.maps} needs --frame: give the image of the first map")
        photo_HWC = scene.photo()
        source["scene"] = scene.name
        notes = (f"first frame: scene {scene.name}, from which the maps start",)
    return Start(
        photo_HWC=photo_HWC,
        first_map=PanopticClip(maps.map_FHW[:1], maps.num_entities),
        maps=maps,
        phase=UNKNOWN if phase is None else phase,
        triplet=UNKNOWN if triplet is None else triplet.id,
        source=source,
        notes=notes,
    )


def _read_photo(config: GenerateConfig) -> NDArray[np.uint8]:
    assert config.frame is not None
    photo_HWC = read_image(config.frame)
    height, width = photo_HWC.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise DataError(
            f"the frame {config.frame} is {width}x{height} px; it needs {SMALLEST_SIDE} px a side at least"
        )
    return photo_HWC


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
