"""Whole phantom operations, written the way a lab has them on disk, with the truth beside.

An operation goes through the seven phases; in each, one action follows another and the instrument changes
when the triplet asks for it. Owns the course of an operation and its files: ``in/videoNN.mp4`` (25 fps),
``labels/VIDnn.json`` (CholecT50's form, 1 fps), ``truth/videoNN_masks/NNNNNN.png`` (indexed, one a second)
and ``truth/entities.json``. Memory does not grow with the length of an operation. Legend: F frames, H W
pixels, T triplet ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hierasurg_core import artifacts, taxonomy, video
from hierasurg_core.maps import save_map_png
from hierasurg_core.phantom import draw, motion
from hierasurg_core.phantom import scene as sc
from hierasurg_core.phantom.anatomy import Canvas, draw_anatomy
from hierasurg_core.progress import Progress

VIDEO_FPS = 25
_CHUNK = 5
_PHASE_TRIPLETS: tuple[tuple[str, ...], ...] = (
    (
        "grasper,retract,omentum",
        "bipolar,coagulate,omentum",
        "grasper,grasp,gallbladder",
        "scissors,cut,adhesion",
    ),
    (
        "hook,dissect,cystic_duct",
        "hook,dissect,cystic_artery",
        "grasper,retract,gallbladder",
        "bipolar,coagulate,cystic_pedicle",
    ),
    (
        "clipper,clip,cystic_duct",
        "scissors,cut,cystic_duct",
        "clipper,clip,cystic_artery",
        "scissors,cut,cystic_artery",
    ),
    (
        "hook,dissect,gallbladder",
        "hook,coagulate,cystic_plate",
        "grasper,retract,gallbladder",
        "hook,dissect,cystic_plate",
    ),
    ("grasper,pack,gallbladder", "grasper,grasp,specimen_bag"),
    (
        "irrigator,aspirate,fluid",
        "bipolar,coagulate,liver",
        "irrigator,irrigate,liver",
        "bipolar,coagulate,cystic_plate",
    ),
    ("grasper,grasp,specimen_bag", "grasper,null_verb,null_target"),
)


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of an operation with one action.

    Attributes:
        phase: Phase id.
        triplet: What is done.
        start: First second.
        seconds: Length, whole seconds.
        scene: One scene.
        action: One action in it.
        entering: The instrument is new: it comes in through its trocar.
    """

    phase: int
    triplet: taxonomy.Triplet
    start: int
    seconds: int
    scene: sc.Scene
    action: motion.Action
    entering: bool


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        number: NN of videoNN.
        segments: In order of time, without gaps.
        codes: Codes (see `draw.SLOT_CODE`) of all entities of the operation, in the order of their ids;
            instruments
            are told apart by kind, see `draw.ASSISTANT_CODE`.
    """

    number: int
    segments: tuple[Segment, ...]
    codes: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name ``videoNN``."""
        return f"video{self.number:02d}"

    @property
    def seconds(self) -> int:
        """Length in seconds."""
        last = self.segments[-1]
        return last.start + last.seconds

    @property
    def entities(self) -> dict[int, str]:
        """What each id is, background and border included."""
        names = [_code_name(code) for code in self.codes]
        return dict(enumerate([*names, "background", "black_border"]))


def _code_name(code: int) -> str:
    if code < draw.SLOT_CODE:
        return taxonomy.TARGETS[code]
    return "assistant_grasper" if code == draw.ASSISTANT_CODE else taxonomy.INSTRUMENTS[code - draw.SLOT_CODE]


def plan_operation(number: int, seconds: int, seed: int) -> Operation:
    """Plans one operation of the given length.

    Args:
        number: NN of videoNN; operations of one seed differ by it.
        seconds: Length; the phases share it, and each action takes 7 to 14 s.
        seed: The same seed and number give the same operation.

    Raises:
        ValueError: Fewer than 1 second.
    """
    if seconds < 1:
        raise ValueError(f"an operation of {seconds} s has no frame: give at least 1 second")
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**62)
    bounds = [round(seconds * share) for share in np.linspace(0, 1, len(taxonomy.PHASES) + 1)]
    segments: list[Segment] = []
    for phase in range(len(taxonomy.PHASES)):
        second = bounds[phase]
        choices = [taxonomy.parse_triplet(text) for text in _PHASE_TRIPLETS[phase]]
        order = torch.randperm(len(choices), generator=generator).tolist()
        scene: sc.Scene | None = None
        turn = 0
        while second < bounds[phase + 1]:
            triplet = choices[order[turn % len(order)]]
            left = bounds[phase + 1] - second
            length = int(torch.randint(7, 15, (1,), generator=generator))
            length = left if left - length < 5 else length
            segment = _plan_segment(phase, triplet, second, length, segments, scene, generator)
            scene = segment.scene
            segments.append(segment)
            second += length
            turn += 1
    present = torch.stack([s.scene.present_BT[0] for s in segments]).any(0).nonzero().squeeze(1).tolist()
    instruments = sorted({draw.SLOT_CODE + s.triplet.instrument_id for s in segments})
    assistant = [draw.ASSISTANT_CODE] if any(bool(s.action.assistant_B[0]) for s in segments) else []
    return Operation(number, tuple(segments), (*present, *instruments, *assistant))


def _plan_segment(
    phase: int,
    triplet: taxonomy.Triplet,
    second: int,
    length: int,
    before: list[Segment],
    scene: sc.Scene | None,
    generator: torch.Generator,
) -> Segment:
    target_B = torch.tensor([triplet.target_id])
    if scene is None:
        scene = sc.draw_scenes(torch.tensor([phase]), target_B, generator)
    else:
        scene = sc.with_target(scene, target_B)
    same = bool(before) and before[-1].triplet.instrument == triplet.instrument and before[-1].phase == phase
    start_B2 = None
    if same:
        last = before[-1]
        end = torch.tensor([[float(last.seconds)]])
        start_B2 = motion.move(last.scene, last.action, end).tip_BSF2[:, 0, 0]
    action = motion.draw_actions(
        scene,
        torch.tensor([triplet.id]),
        generator,
        seconds=float(length),
        start_B2=start_B2,
        entering_B=torch.tensor([not same]),
    )
    if same:
        action = motion.keep_trocar(action, before[-1].action, torch.tensor([True]))
    return Segment(phase, triplet, second, length, scene, action, not same)


def draw_operation(
    operation: Operation, size_hw: tuple[int, int], fps: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Draws an operation frame by frame.

    Args:
        operation: The plan.
        size_hw: Frame size in pixels.
        fps: Frames a second.
        device: Where to draw.

    Yields:
        Frame uint8 (H, W, 3) RGB and its map of the operation's ids, uint8 (H, W).
    """
    for segment in operation.segments:
        scene, action = segment.scene.to(device), segment.action.to(device)
        canvas = draw_anatomy(scene, size_hw)
        lut = torch.from_numpy(_segment_ids(operation, segment)).to(device)
        count = segment.seconds * fps
        for first in range(0, count, _CHUNK):
            index = torch.arange(first, min(first + _CHUNK, count), device=device)
            yield from _drawn(scene, action, canvas, segment.start, index / fps, size_hw, lut)


def _drawn(
    scene: sc.Scene,
    action: motion.Action,
    canvas: Canvas,
    start: int,
    times_F: Tensor,
    size_hw: tuple[int, int],
    lut: Tensor,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    times_BF = times_F.to(torch.float32).unsqueeze(0)
    state = motion.move(scene, action, times_BF, times_BF + start)
    rgb, codes = draw.render(scene, action, state, size_hw, canvas)
    frames = (rgb[0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
    maps = lut[codes[0].long()].cpu().numpy()
    yield from zip(frames, maps, strict=True)


def _segment_ids(operation: Operation, segment: Segment) -> NDArray[np.uint8]:
    """The operation's id of each of a segment's codes."""
    background = len(operation.codes)
    lut = np.full(draw.NUM_CODES, background, np.uint8)
    for identity, code in enumerate(operation.codes):
        if code < draw.SLOT_CODE:
            lut[code] = identity
        elif code == draw.SLOT_CODE + segment.triplet.instrument_id:
            lut[draw.SLOT_CODE] = identity
        elif code == draw.ASSISTANT_CODE:
            lut[draw.SLOT_CODE + 1] = identity
    lut[draw.BORDER_CODE] = background + 1
    return lut


def label_file(operation: Operation, size_hw: tuple[int, int]) -> dict[str, Any]:
    """The operation's labels in CholecT50's form: 15 numbers an instance, 1 fps.

    A box is the instrument's tip region as fractions of the frame; the target has none (-1), as in CholecT50.
    """
    frames: dict[str, list[list[float]]] = {}
    aspect = size_hw[1] / size_hw[0]
    for segment in operation.segments:
        times_BF = torch.arange(segment.seconds, dtype=torch.float32).unsqueeze(0)
        state = motion.move(segment.scene, segment.action, times_BF, times_BF + segment.start)
        helper = bool(segment.action.assistant_B[0])
        tips = [draw.view_of_world(segment.scene, state, state.tip_BSF2[:, slot])[0] for slot in range(2)]
        retract = taxonomy.parse_triplet("grasper,retract,gallbladder")
        for second in range(segment.seconds):
            rows = [_instance(segment.triplet, segment.phase, tips[0][second], aspect)]
            if helper:
                rows.append(_instance(retract, segment.phase, tips[1][second], aspect))
            frames[str(segment.start + second)] = rows
    names = {
        "triplet": [triplet.name for triplet in taxonomy.TRIPLETS],
        "instrument": taxonomy.INSTRUMENTS,
        "verb": taxonomy.VERBS,
        "target": taxonomy.TARGETS,
        "phase": taxonomy.PHASES,
    }
    return {
        "video": operation.number,
        "fps": 1,
        "num_frames": operation.seconds,
        "categories": {kind: {str(i): n for i, n in enumerate(values)} for kind, values in names.items()},
        "annotations": frames,
    }


def _instance(triplet: taxonomy.Triplet, phase: int, tip_view_2: Tensor, aspect: float) -> list[float]:
    x, y = (float(value) for value in tip_view_2)
    half = 0.16
    left, top = max(0.0, (x - half + aspect) / (2 * aspect)), max(0.0, (y - half + 1) / 2)
    right, bottom = min(1.0, (x + half + aspect) / (2 * aspect)), min(1.0, (y + half + 1) / 2)
    box = [round(v, 5) for v in (left, top, max(0.0, right - left), max(0.0, bottom - top))]
    # An instrument still outside the view has no box.
    box = box if box[2] > 0 and box[3] > 0 else [-1.0] * 4
    no_target_box = [-1.0] * 5
    instrument = [triplet.instrument_id, 1.0, *box]
    return [triplet.id, *instrument, triplet.verb_id, triplet.target_id, *no_target_box, phase]


def write_operations(
    out: Path,
    *,
    videos: int,
    seconds: int,
    size_hw: tuple[int, int],
    seed: int,
    progress: Progress,
    device: torch.device | str = "cpu",
) -> None:
    """Writes operations as a lab has them, with the truth; see the module's docstring for the files.

    Args:
        out: Folder, made if missing.
        videos: How many, numbered from 1.
        seconds: Length of each.
        size_hw: Frame size in pixels.
        seed: Of all.
        progress: Told of each second drawn.
        device: Where to draw.
    """
    for folder in ("in", "labels", "truth"):
        artifacts.ensure_writable_folder(out / folder)
    entities: dict[str, dict[str, str]] = {}
    progress.start("phantom", videos * seconds, "s")
    for number in range(1, videos + 1):
        operation = plan_operation(number, seconds, seed)
        masks = out / "truth" / f"{operation.name}_masks"
        artifacts.ensure_writable_folder(masks)

        def frames(operation: Operation = operation, masks: Path = masks) -> Iterator[NDArray[np.uint8]]:
            for index, (frame, ids) in enumerate(draw_operation(operation, size_hw, VIDEO_FPS, device)):
                if index % VIDEO_FPS == 0:
                    save_map_png(masks / f"{index // VIDEO_FPS:06d}.png", ids, len(operation.codes))
                    progress.advance()
                yield frame

        comment = "hierasurg phantom: a synthetic operation"
        video.write_mp4(out / "in" / f"{operation.name}.mp4", frames(), VIDEO_FPS, comment)
        artifacts.write_json(out / "labels" / f"VID{number:02d}.json", label_file(operation, size_hw))
        entities[operation.name] = {str(key): name for key, name in operation.entities.items()}
    artifacts.write_json(out / "truth" / "entities.json", entities)
