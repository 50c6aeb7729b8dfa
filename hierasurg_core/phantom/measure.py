"""Measures the mini models on held-out phantom clips: ``python -m hierasurg_core.phantom.measure [MODEL]``.

Owns two figures. M2V: PSNR of videos made from true maps, beside the frozen first frame. S2M: how often the
tip of the instrument ends at the target that was asked for, beside chance. Both are mini: they say that the
models obey, nothing about real surgery. Legend: F frames, H W pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core import runtime, taxonomy
from hierasurg_core.generation.pipelines import HieraSurgPipeline, Sampling
from hierasurg_core.generation.solvers import SOLVERS, Solver
from hierasurg_core.maps import PanopticClip
from hierasurg_core.models import decode_video, encode_video
from hierasurg_core.phantom import draw
from hierasurg_core.phantom.vae import HELD_OUT_SEED, random_labels

M2V_SEED = HELD_OUT_SEED + 1
S2M_SEED = HELD_OUT_SEED + 2
_DRAWN_AT_ONCE = 8
_OTHERS = 3
_SEEN_PIXELS = 30


@dataclasses.dataclass(frozen=True)
class VideoScore:
    """Mini PSNR of M2V in dB over all frames but the first, which is given; means over clips."""

    clips: int
    model_db: float
    frozen_db: float
    vae_db: float


@dataclasses.dataclass(frozen=True)
class TargetScore:
    """How often the tip is nearest to the asked target over the last half, mini.

    Attributes:
        requests: Starts times triplets.
        share: Of requests whose mean tip distance is smallest for the asked target.
        frame_share: Of single frames.
        chance: Mean of one over the number of targets in view.
        standing_share: What an instrument that stays where it starts would reach.
    """

    requests: int
    share: float
    frame_share: float
    chance: float
    standing_share: float


def psnr(a_FHWC: NDArray[np.uint8], b_FHWC: NDArray[np.uint8]) -> float:
    """PSNR in dB of uint8 videos."""
    error = np.mean((a_FHWC.astype(np.float64) - b_FHWC.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def uint8_video(clips: draw.DrawnClips) -> NDArray[np.uint8]:
    """The clips' frames as uint8 (B, F, H, W, 3)."""
    return (clips.video_BFCHW * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()


@dataclasses.dataclass(frozen=True)
class HeldOutClip:
    """A clip that no training has seen, uint8 frames (F, H, W, 3), with what M2V is told of it."""

    video_FHWC: NDArray[np.uint8]
    maps: PanopticClip
    phase: int
    triplet: int


@functools.cache
def held_out_clips(count: int) -> tuple[HeldOutClip, ...]:
    """The first of the clips that M2V is measured on, drawn once a process."""
    generator = torch.Generator().manual_seed(M2V_SEED)
    clips: list[HeldOutClip] = []
    for start in range(0, count, _DRAWN_AT_ONCE):
        phases, triplets = random_labels(_DRAWN_AT_ONCE, generator)
        drawn = draw.draw_clips(phases, triplets, M2V_SEED + start, shuffle_ids=0.5)
        for index, video_FHWC in enumerate(uint8_video(drawn)):
            maps = PanopticClip(drawn.map_BFHW[index].numpy(), int(drawn.num_entities_B[index]))
            clips.append(HeldOutClip(video_FHWC, maps, int(phases[index]), int(triplets[index])))
    return tuple(clips[:count])


def measure_m2v(
    pipeline: HieraSurgPipeline, clips: int = 64, steps: int | None = None, *, solver: Solver | None = None
) -> VideoScore:
    """PSNR of videos from true maps of held-out clips.

    Args:
        pipeline: With an M2V of the phantom's size.
        clips: How many.
        steps: Sampling steps; None takes the pipeline's own default.
        solver: None takes the pipeline's own.
    """
    scores: list[tuple[float, float, float]] = []
    for index, clip in enumerate(held_out_clips(clips)):
        truth_FHWC = clip.video_FHWC
        sampling = sampling_of(pipeline, clip.phase, clip.triplet, index, steps, solver)
        made = pipeline.make_video(truth_FHWC[0], clip.maps, 1, sampling)
        frozen = np.broadcast_to(truth_FHWC[:1], truth_FHWC.shape)
        coded = vae_round_trip(pipeline, truth_FHWC)
        scores.append(tuple(psnr(x[1:], truth_FHWC[1:]) for x in (made, frozen, coded)))  # type: ignore[arg-type]
    model_db, frozen_db, vae_db = np.mean(scores, axis=0)
    return VideoScore(len(scores), float(model_db), float(frozen_db), float(vae_db))


@torch.inference_mode()
def vae_round_trip(pipeline: HieraSurgPipeline, video_FHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A clip through the VAE and back: what no M2V can beat."""
    pixels = (
        torch.from_numpy(video_FHWC).permute(3, 0, 1, 2)[None].to(pipeline.device, pipeline.vae.dtype) / 127.5
        - 1
    )
    pixels = torch.cat([pixels, torch.full_like(pixels[:, :, :1], -1.0)], dim=2)
    decoded = decode_video(pipeline.vae, encode_video(pipeline.vae, pixels))[0, :, :-1]
    bytes_CFHW = ((decoded.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return bytes_CFHW.permute(1, 2, 3, 0).cpu().numpy()


def sampling_of(
    pipeline: HieraSurgPipeline,
    phase: int,
    triplet: int,
    seed: int,
    steps: int | None,
    solver: Solver | None = None,
) -> Sampling:
    """How the measurements sample: the pipeline's defaults, a student's own steps, one seed a request."""
    return Sampling(
        solver=solver,
        steps=steps,
        guidance=None,
        phase=phase,
        triplet=triplet,
        generator=runtime.make_generator(seed),
    )


@dataclasses.dataclass(frozen=True)
class StartScene:
    """A held-out start with what it may be asked for."""

    photo_HWC: NDArray[np.uint8]
    map_HW: NDArray[np.uint8]
    num_entities: int
    phase: int
    codes: tuple[int, ...]
    entry_view_2: NDArray[np.float64]
    triplets: tuple[int, ...]


@functools.cache
def held_out_starts(count: int) -> tuple[StartScene, ...]:
    """Starts with three other triplets of the instrument that is in view, their targets in view too."""
    generator = torch.Generator().manual_seed(S2M_SEED)
    starts: list[StartScene] = []
    round_ = 0
    while len(starts) < count:
        phases, triplets = random_labels(16, generator)
        clips = draw.draw_clips(
            phases, triplets, S2M_SEED + round_, num_frames=1, shuffle_ids=0.5, extras=0.5
        )
        round_ += 1
        frames = uint8_video(clips)
        entry = draw.view_of_world(clips.scene, clips.state, clips.action.entry_BS2[:, :1]).numpy()[:, 0]
        for index in range(16):
            map_HW = clips.map_BFHW[index, 0].numpy()
            k = int(clips.num_entities_B[index])
            codes = tuple(clips.code_of_id_BN[index, :k].tolist())
            area = np.bincount(map_HW.ravel(), minlength=k + 2)
            seen = {c for i, c in enumerate(codes) if c < draw.SLOT_CODE and area[i] >= _SEEN_PIXELS}
            tool_seen = draw.SLOT_CODE in codes and area[codes.index(draw.SLOT_CODE)] >= 2 * _SEEN_PIXELS
            given = taxonomy.TRIPLETS[int(triplets[index])]
            others = {
                t.target_id: t.id
                for t in taxonomy.triplets_of(given.instrument)
                if t.target_id in seen and t.target_id != given.target_id
            }
            if not tool_seen or len(others) < _OTHERS:
                continue
            pick = torch.randperm(len(others), generator=generator)[:_OTHERS].tolist()
            chosen = tuple(sorted(others.values())[i] for i in pick)
            starts.append(
                StartScene(
                    frames[index, 0], map_HW, k, int(phases[index]), codes, entry[index].astype(float), chosen
                )
            )
    return tuple(starts[:count])


def tip_of(mask_HW: NDArray[np.bool_], entry_view_2: NDArray[np.float64]) -> tuple[int, int] | None:
    """Row and column of an instrument's tip: its pixel farthest from the trocar, of its largest component.

    Args:
        mask_HW: The instrument.
        entry_view_2: The trocar in view units (see `draw.view_grid`).

    Returns:
        None where there is no instrument.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    rows, columns = np.nonzero(labels == largest)
    height, width = mask_HW.shape
    x = (columns + 0.5) * 2 / height - width / height
    y = (rows + 0.5) * 2 / height - 1
    far = int(np.argmax((x - entry_view_2[0]) ** 2 + (y - entry_view_2[1]) ** 2))
    return int(rows[far]), int(columns[far])


def distances_to_targets(
    map_HW: NDArray[np.uint8], codes: tuple[int, ...], entry_view_2: NDArray[np.float64]
) -> dict[int, float]:
    """Pixels from the acting instrument's tip to each target of a map; empty without an instrument."""
    tip = tip_of(map_HW == codes.index(draw.SLOT_CODE), entry_view_2)
    if tip is None:
        return {}
    found: dict[int, float] = {}
    for identity, code in enumerate(codes):
        if code < draw.SLOT_CODE:
            rows, columns = np.nonzero(map_HW == identity)
            if len(rows):
                found[code] = float(np.sqrt(np.min((rows - tip[0]) ** 2 + (columns - tip[1]) ** 2)))
    return found


def _nearest(distances: dict[int, float]) -> int | None:
    return min(distances, key=lambda code: distances[code]) if distances else None


def measure_s2m(
    pipeline: HieraSurgPipeline,
    starts: int = 64,
    steps: int | None = None,
    *,
    solver: Solver | None = None,
    batch: int = 8,
) -> TargetScore:
    """Where the tip ends, for held-out starts with three other triplets of the same instrument each.

    A target's distance is averaged over the last half of the maps; the nearest one is what the tip is at.

    Args:
        pipeline: With an S2M of the phantom's size.
        starts: How many.
        steps: Sampling steps; None takes the pipeline's own default.
        solver: None takes the pipeline's own.
        batch: Requests sampled at once.
    """
    hits, frame_hits, frames, chances, standing = 0, 0, 0, [], 0
    scenes = held_out_starts(starts)
    requests = [(scene, triplet) for scene in scenes for triplet in scene.triplets]
    made: list[PanopticClip] = []
    for first in range(0, len(requests), batch):
        asked_for = requests[first : first + batch]
        made += pipeline.make_maps_batch(
            [scene.photo_HWC for scene, _ in asked_for],
            [scene.map_HW for scene, _ in asked_for],
            [scene.num_entities for scene, _ in asked_for],
            [
                sampling_of(pipeline, scene.phase, triplet, first + index, steps, solver)
                for index, (scene, triplet) in enumerate(asked_for)
            ],
        )
    for (scene, triplet), maps in zip(requests, made, strict=True):
        at_start = distances_to_targets(scene.map_HW, scene.codes, scene.entry_view_2)
        asked = taxonomy.TRIPLETS[triplet].target_id
        half = maps.map_FHW[len(maps.map_FHW) // 2 :]
        found = [distances_to_targets(m, scene.codes, scene.entry_view_2) for m in half]
        far = float(sum(half.shape[1:]))
        names = {code for one in found for code in one}
        mean = {code: float(np.mean([one.get(code, far) for one in found])) for code in names}
        hits += _nearest(mean) == asked
        frame_hits += sum(_nearest(one) == asked for one in found)
        frames += len(found)
        standing += _nearest(at_start) == asked
        chances.append(1 / max(1, len(at_start)))
    count = len(requests)
    return TargetScore(count, hits / count, frame_hits / frames, float(np.mean(chances)), standing / count)


def main() -> None:
    """Prints both figures as JSON lines; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m hierasurg_core.phantom.measure", description=__doc__)
    default = Path(__file__).resolve().parents[1] / "assets" / "mini"
    parser.add_argument(
        "model", type=Path, nargs="?", default=default, help="pipeline folder (default: bundled)"
    )
    parser.add_argument("--clips", type=int, default=64, help="of M2V")
    parser.add_argument("--starts", type=int, default=64, help="of S2M, three requests each")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--solver", choices=SOLVERS, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", choices=("s2m", "m2v"), default=None)
    options = parser.parse_args()
    device = runtime.resolve_device(options.device)
    pipeline = HieraSurgPipeline.from_pretrained(options.model, torch.float32, device)
    if options.only != "s2m":
        video = measure_m2v(pipeline, options.clips, options.steps, solver=options.solver)
        print(json.dumps({"m2v": dataclasses.asdict(video)}), flush=True)
    if options.only != "m2v":
        target = measure_s2m(pipeline, options.starts, options.steps, solver=options.solver)
        print(json.dumps({"s2m": dataclasses.asdict(target)}), flush=True)


if __name__ == "__main__":
    main()
