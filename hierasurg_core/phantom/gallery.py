"""The gallery of starting scenes of the mini models: ``python -m hierasurg_core.phantom.gallery OUT``.

Owns which scenes there are: for every phase and instrument one that looks as the phase typically does, and as
many more as it takes until every target of the instrument's triplets is to be seen in one of them. All come
from held-out seeds. Reading a gallery belongs to `hierasurg_core.generation.scenes`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from hierasurg_core import artifacts, taxonomy
from hierasurg_core.errors import ResourceError
from hierasurg_core.maps import save_map_png
from hierasurg_core.phantom import draw, motion
from hierasurg_core.phantom import scene as sc
from hierasurg_core.phantom.vae import HELD_OUT_SEED

GALLERY_SEED = HELD_OUT_SEED + 10**6
_CANDIDATES = 24
_SEEN_SHARE = 1.2e-3
_JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One drawn scene that may enter the gallery.

    Attributes:
        frame_HWC: uint8 RGB.
        map_HW: uint8 ids.
        codes: Code of each entity id.
        triplet: Triplet id of the action that was drawn.
        targets: Target ids that are well to be seen.
        tool_share: Share of the frame that the acting instrument covers.
    """

    frame_HWC: np.ndarray
    map_HW: np.ndarray
    codes: tuple[int, ...]
    triplet: int
    targets: frozenset[int]
    tool_share: float


def draw_candidates(phase: int, instrument: int, extras: float, seed: int) -> list[Candidate]:
    """Draws scenes of a phase in which the instrument is there."""
    own = [t.id for t in taxonomy.triplets_of(taxonomy.INSTRUMENTS[instrument])]
    triplets = torch.tensor([own[i % len(own)] for i in range(_CANDIDATES)])
    clips = draw.draw_clips(torch.full((_CANDIDATES,), phase), triplets, seed, num_frames=1, extras=extras)
    # What a scene holds is what its first frame shows; the camera stands still for it.
    frames = (clips.video_BFCHW[:, 0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    candidates = []
    for index in range(_CANDIDATES):
        map_HW = clips.map_BFHW[index, 0].numpy()
        count = int(clips.num_entities_B[index])
        codes = tuple(clips.code_of_id_BN[index, :count].tolist())
        share = np.bincount(map_HW.ravel(), minlength=count) / map_HW.size
        seen = frozenset(c for i, c in enumerate(codes) if c < draw.SLOT_CODE and share[i] >= _SEEN_SHARE)
        tool = share[codes.index(draw.SLOT_CODE)] if draw.SLOT_CODE in codes else 0.0
        candidates.append(Candidate(frames[index], map_HW, codes, int(triplets[index]), seen, float(tool)))
    return candidates


def choose(phase: int, instrument: int, seed: int) -> list[Candidate]:
    """Picks the gallery's scenes of a phase and an instrument."""
    needed = {
        t.target_id
        for t in taxonomy.triplets_of(taxonomy.INSTRUMENTS[instrument])
        if t.target_id != motion.NULL_TARGET
    }
    typical = draw_candidates(phase, instrument, 0.12, seed)
    rich = draw_candidates(phase, instrument, 0.9, seed + 1)

    def handy(candidate: Candidate) -> bool:
        return 0.02 <= candidate.tool_share <= 0.12

    typical = [c for c in typical if handy(c)] or typical
    rich = [c for c in rich if handy(c)] or rich
    usual = sc.typical_targets(phase)
    chosen = [max(typical, key=lambda c: len(c.targets & usual) - len(c.targets - usual))]
    left = needed - chosen[0].targets
    while left:
        best = max(rich, key=lambda c: len(c.targets & left))
        if not best.targets & left:
            break
        chosen.append(best)
        left -= best.targets
    return chosen


def write_gallery(out: Path, seed: int = GALLERY_SEED) -> int:
    """Writes `scenes.json` and its pictures; returns the number of scenes.

    Raises:
        ResourceError: The folder cannot be written.
    """
    with artifacts.atomic_folder(out) as folder:
        scenes: list[dict[str, Any]] = []
        for phase in range(len(taxonomy.PHASES)):
            for instrument in range(len(taxonomy.INSTRUMENTS)):
                for candidate in choose(phase, instrument, seed + 100 * (phase * 10 + instrument)):
                    scenes.append(_write(folder, f"{len(scenes):03d}", phase, instrument, candidate))
        artifacts.write_json(
            folder / "scenes.json", {"schema": 1, "size_hw": list(draw.NATIVE_SIZE_HW), "scenes": scenes}
        )
    return len(scenes)


def _write(folder: Path, name: str, phase: int, instrument: int, candidate: Candidate) -> dict[str, Any]:
    frame, picture = f"{name}_frame.jpg", f"{name}_map.png"
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    if not cv2.imwrite(str(folder / frame), cv2.cvtColor(candidate.frame_HWC, cv2.COLOR_RGB2BGR), quality):
        raise ResourceError(f"cannot write {folder / frame}: is the disk full?")
    save_map_png(folder / picture, candidate.map_HW, len(candidate.codes))
    tools = {draw.SLOT_CODE: taxonomy.INSTRUMENTS[instrument], draw.SLOT_CODE + 1: "grasper"}
    names = [tools.get(c) or taxonomy.TARGETS[c] for c in candidate.codes]
    return {
        "name": name,
        "phase": phase,
        "triplet": candidate.triplet,
        "frame": frame,
        "map": picture,
        "num_entities": len(candidate.codes),
        "entities": {str(i): entity for i, entity in enumerate(names)},
        "instruments": [taxonomy.INSTRUMENTS[instrument]],
        "targets": [taxonomy.TARGETS[t] for t in sorted(candidate.targets)],
    }


def main() -> None:
    """Writes the gallery; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m hierasurg_core.phantom.gallery", description=__doc__)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    count = write_gallery(options.out)
    print(f"{count} scenes in {options.out}")


if __name__ == "__main__":
    main()
