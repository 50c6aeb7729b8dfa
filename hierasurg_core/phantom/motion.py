"""How instruments, tissue and camera move: a triplet and a time give a state.

Owns the meaning of each verb. Everything is a smooth function of continuous time, so that the same action can
be drawn at 1, 8 or 25 frames a second. Legend: B clips, F times, S = 2 instrument slots (the acting one, an
assistant).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from hierasurg_core import taxonomy
from hierasurg_core.phantom import scene as sc
from hierasurg_core.phantom.scene import Scene

NUM_SLOTS = 2
NULL_TARGET = taxonomy.TARGETS.index("null_target")
GRASP, RETRACT, DISSECT, COAGULATE, CLIP, CUT, ASPIRATE, IRRIGATE, PACK, NULL_VERB = range(10)

_TRIPLET_PARTS = torch.tensor([[t.instrument_id, t.verb_id, t.target_id] for t in taxonomy.TRIPLETS])
_ENTRY_DEGREES = (18.0, 55.0, 125.0, 162.0)
_ENTRY_DISTANCE = 2.1
_GRASPER = taxonomy.INSTRUMENTS.index("grasper")
# Colour, radii (along and across the instrument) and final opacity of what a verb leaves on the tissue.
_MARKS = {
    COAGULATE: ((0.10, 0.05, 0.03), (0.085, 0.065), 0.85),
    CLIP: ((0.88, 0.91, 0.97), (0.026, 0.085), 1.0),
    CUT: ((0.16, 0.02, 0.02), (0.030, 0.115), 0.9),
    DISSECT: ((0.62, 0.16, 0.12), (0.075, 0.055), 0.55),
    IRRIGATE: ((0.66, 0.76, 0.86), (0.15, 0.11), 0.40),
}
# Colour, length, width and opacity of what leaves the tip.
_PUFFS = {
    COAGULATE: ((0.86, 0.84, 0.82), 0.16, 0.16, 0.55),
    IRRIGATE: ((0.80, 0.92, 1.00), 0.17, 0.045, 0.80),
}


@dataclasses.dataclass(frozen=True)
class Action:
    """What is done in B clips.

    Attributes:
        triplet_B: Triplet ids 0..99.
        start_B2: World xy of the acting tip at time 0.
        work_B2: World xy where it works.
        entry_BS2: World xy of the trocars, outside the view, for each slot.
        arrive_B: Seconds after which the tip is at `work_B2`.
        assistant_B: Whether a second instrument, a grasper, holds tissue.
        hold_B2: World xy of the assistant's tip.
        wander_B4: Phases in [0, 2 pi) of small movements.
    """

    triplet_B: Tensor
    start_B2: Tensor
    work_B2: Tensor
    entry_BS2: Tensor
    arrive_B: Tensor
    assistant_B: Tensor
    hold_B2: Tensor
    wander_B4: Tensor

    def to(self, device: torch.device | str) -> Action:
        """The same actions on another device."""
        return Action(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True)
class State:
    """Everything that moves, at F times of B clips.

    Attributes:
        tip_BSF2: World xy of the tips.
        axis_BSF2: Unit vector from tip to trocar.
        opening_BSF: Half angle of the jaws, radians.
        shown_BS: Which slots hold an instrument.
        instrument_BS: Instrument ids.
        pull_BF2: Displacement of the tissue at `work_B2`.
        shrink_BF: Size of the tissue at `work_B2` over its size at rest (a pool that is sucked away).
        reach_B: Standard deviation of pull and shrink around `work_B2`.
        mark_BF: Opacity of the mark on the tissue.
        puff_BF: Opacity of smoke or water.
        spark_BF: Brightness of the electric arc.
        view_BF3: Camera: pan x, pan y, breathing (see `camera`).
    """

    tip_BSF2: Tensor
    axis_BSF2: Tensor
    opening_BSF: Tensor
    shown_BS: Tensor
    instrument_BS: Tensor
    pull_BF2: Tensor
    shrink_BF: Tensor
    reach_B: Tensor
    mark_BF: Tensor
    puff_BF: Tensor
    spark_BF: Tensor
    view_BF3: Tensor


def parts(triplet: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Instrument, verb and target ids of triplet ids, any shape."""
    table = _TRIPLET_PARTS.to(triplet.device)[triplet]
    return table[..., 0], table[..., 1], table[..., 2]


def verb_table(table: dict[int, tuple[tuple[float, float, float], tuple[float, float], float]]) -> Tensor:
    """A (10, 6) table of colour, radii and opacity by verb id; zeros where a verb has no entry."""
    rows = torch.zeros(len(taxonomy.VERBS), 6)
    for verb, (colour, radii, opacity) in table.items():
        rows[verb] = torch.tensor((*colour, *radii, opacity))
    return rows


MARK_TABLE = verb_table(_MARKS)
PUFF_TABLE = verb_table(
    {verb: (rgb, (length, width), alpha) for verb, (rgb, length, width, alpha) in _PUFFS.items()}
)


def draw_actions(
    scene: Scene,
    triplet_B: Tensor,
    generator: torch.Generator,
    *,
    seconds: float = 16.0,
    start_B2: Tensor | None = None,
    entering_B: Tensor | None = None,
) -> Action:
    """Draws how B triplets are carried out in B scenes.

    Args:
        scene: Scenes on the CPU.
        triplet_B: Triplet ids.
        generator: CPU generator.
        seconds: Length of the clip: the tip arrives after a fifth to two fifths of it, 7 s at most.
        start_B2: Where the tip is at time 0; drawn anywhere in the field when not given.
        entering_B: True where the instrument comes in through its trocar at time 0.
    """
    batch = len(triplet_B)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    instrument_B, _, target_B = parts(triplet_B)
    rows = torch.arange(batch)
    work_B2 = scene.anchor_BT2[rows, target_B.clamp(max=sc.NUM_TARGETS - 1)] + uniform(-0.02, 0.02, 2)
    idle_B2 = torch.stack([uniform(-0.35, 0.45), uniform(0.42, 0.62)], dim=-1)
    work_B2 = torch.where((target_B == NULL_TARGET).unsqueeze(-1), idle_B2, work_B2)

    side = torch.randint(len(_ENTRY_DEGREES), (batch,), generator=generator)
    angle = torch.deg2rad(torch.tensor(_ENTRY_DEGREES)[side] + uniform(-7, 7))
    helper_angle = torch.deg2rad(uniform(-160, -135))
    entry_BS2 = torch.stack(
        [torch.stack([torch.cos(a), torch.sin(a)], dim=-1) * _ENTRY_DISTANCE for a in (angle, helper_angle)],
        dim=1,
    )
    radius, turn = 0.85 * torch.sqrt(uniform(0.0, 1.0)), uniform(0, 2 * torch.pi)
    anywhere_B2 = torch.stack([1.05 * radius * torch.cos(turn), 0.85 * radius * torch.sin(turn)], dim=-1)
    start = anywhere_B2 if start_B2 is None else start_B2
    if entering_B is not None:
        start = torch.where(entering_B.unsqueeze(-1), entry_BS2[:, 0] * 0.8, start)

    holdable_B = scene.present_BT[:, sc.GALLBLADDER] & (target_B != sc.GALLBLADDER) & (scene.phase_B <= 3)
    assistant_B = holdable_B & (instrument_B != _GRASPER) & (uniform(0, 1) < 0.4)
    hold_B2 = scene.anchor_BT2[:, sc.GALLBLADDER] + uniform(-0.03, 0.03, 2) + torch.tensor((0.02, -0.05))
    return Action(
        triplet_B=triplet_B,
        start_B2=start,
        work_B2=work_B2,
        entry_BS2=entry_BS2,
        arrive_B=uniform(0.2, 0.4) * min(seconds, 17.0),
        assistant_B=assistant_B,
        hold_B2=hold_B2,
        wander_B4=uniform(0, 2 * torch.pi, 4),
    )


def keep_trocar(action: Action, before: Action, where_B: Tensor) -> Action:
    """Lets the acting instrument of some clips stay in the trocar that it was in: the same hand holds it."""
    acting_B2 = torch.where(where_B.unsqueeze(1), before.entry_BS2[:, 0], action.entry_BS2[:, 0])
    return dataclasses.replace(action, entry_BS2=torch.stack([acting_B2, action.entry_BS2[:, 1]], dim=1))


def _ease(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def camera(scene: Scene, times_BF: Tensor) -> Tensor:
    """Pan x, pan y (world units) and breathing at the given times (seconds), (B, F, 3)."""
    drift = scene.drift_B8.unsqueeze(1)
    angle = 2 * torch.pi * drift[..., 2:4] * times_BF.unsqueeze(-1) + drift[..., 4:6]
    pan = drift[..., 0:2] * torch.sin(angle)
    breath = drift[..., 6] * torch.sin(2 * torch.pi * 0.11 * times_BF + drift[..., 7])
    return torch.cat([pan, breath.unsqueeze(-1)], dim=-1)


def move(scene: Scene, action: Action, times_BF: Tensor, clock_BF: Tensor | None = None) -> State:
    """The state of B clips at F times.

    Args:
        scene: B scenes.
        action: B actions, on the scene's device.
        times_BF: Seconds since the action began.
        clock_BF: Seconds since the operation began, which drive the camera; `times_BF` when not given.
    """
    instrument_B, verb_B, _ = parts(action.triplet_B)
    verb = verb_B.unsqueeze(1)
    wander = action.wander_B4
    arrive = action.arrive_B.unsqueeze(1)
    way = _ease(times_BF / arrive)
    since = (times_BF - arrive).clamp_min(0)
    inward = _unit(action.work_B2 - action.entry_BS2[:, 0])  # from trocar to tissue
    across = torch.stack([-inward[..., 1], inward[..., 0]], dim=-1)

    def on(*verbs: int) -> Tensor:
        return torch.isin(verb, torch.tensor(verbs, device=verb.device)).to(times_BF.dtype)

    # Along (a) and across (c) the instrument, about the working point, once the tip has arrived.
    settled = _ease(since / 1.5)
    stroke = torch.sin(2 * torch.pi * since / 5.0 + wander[:, :1] * 0.2)
    circle = 2 * torch.pi * since / 6.0
    a = settled * (
        on(DISSECT) * 0.055 * stroke
        + on(ASPIRATE, IRRIGATE) * 0.05 * torch.cos(circle)
        + on(NULL_VERB) * 0.05 * torch.sin(circle * 0.7)
        + on(COAGULATE) * 0.012 * torch.sin(2.3 * circle)
    )
    c = settled * (
        on(DISSECT) * 0.045 * torch.sin(2 * torch.pi * since / 7.0)
        + on(ASPIRATE, IRRIGATE) * 0.06 * torch.sin(circle)
        + on(NULL_VERB) * 0.06 * torch.cos(circle * 0.6)
    )
    amount = on(RETRACT) * 0.15 + on(GRASP) * 0.035 + on(PACK) * 0.12
    pulled = (
        amount
        * _ease((since - 0.8) / 3.0)
        * (1 + 0.08 * torch.sin(2 * torch.pi * since / 4.5 + wander[:, 1:2]))
    )
    # Retraction lifts tissue up and towards the trocar, so that it never leaves the view.
    up = _unit(-0.6 * inward + inward.new_tensor((0.0, -0.8)))
    pull_BF2 = pulled.unsqueeze(-1) * up.unsqueeze(1)
    offset = a.unsqueeze(-1) * inward.unsqueeze(1) + c.unsqueeze(-1) * across.unsqueeze(1) + pull_BF2

    tremor = 0.006 * torch.stack(
        [torch.sin(4.1 * times_BF + wander[:, 2:3]), torch.sin(3.3 * times_BF + wander[:, 3:4])], dim=-1
    )
    bow = 0.10 * (4 * way * (1 - way)).unsqueeze(-1) * across.unsqueeze(1)
    path = torch.lerp(
        action.start_B2.unsqueeze(1).expand_as(offset),
        action.work_B2.unsqueeze(1).expand_as(offset),
        way.unsqueeze(-1),
    )
    acting_BF2 = path + bow + tremor + offset * way.unsqueeze(-1)
    helper_BF2 = action.hold_B2.unsqueeze(1) + tremor.flip(-1)
    tip_BSF2 = torch.stack([acting_BF2, helper_BF2], dim=1)
    axis_BSF2 = _unit(action.entry_BS2.unsqueeze(2) - tip_BSF2)

    closing = 1 - _ease(since / 1.0)
    snapping = 0.5 - 0.5 * torch.cos(2 * torch.pi * since / 3.0)
    rest = 0.30
    opening = (
        on(GRASP, RETRACT, PACK) * (0.05 + 0.40 * closing)
        + on(DISSECT) * (0.12 + 0.28 * (0.5 + 0.5 * stroke))
        + on(COAGULATE) * (0.10 + 0.15 * closing)
        + on(CLIP)
        * (0.06 + 0.42 * torch.where(since < 1.8, 1 - _ease(since / 1.5), _ease((since - 3.5) / 1.5)))
        + on(CUT) * (0.06 + 0.40 * snapping)
        + on(ASPIRATE, IRRIGATE, NULL_VERB) * 0.18
    )
    opening = torch.lerp(torch.full_like(opening, rest), opening, _ease((way - 0.5) * 2))
    opening_BSF = torch.stack([opening, torch.full_like(opening, 0.06)], dim=1)

    growing = (
        on(COAGULATE, DISSECT, IRRIGATE) * _ease(since / 4.0)
        + on(CLIP) * _ease((since - 1.4) / 0.3)
        + on(CUT) * _ease((since - 1.0) / 2.5)
    )
    puff = on(COAGULATE) * _ease(since / 2.5) * (0.8 + 0.2 * torch.sin(1.9 * since)) + on(IRRIGATE) * _ease(
        since / 0.5
    )
    spark = on(COAGULATE) * _ease(since / 0.4) * (0.75 + 0.25 * torch.sin(5.0 * since))
    reach = torch.where(verb_B == ASPIRATE, 0.30, 0.24)
    return State(
        tip_BSF2=tip_BSF2,
        axis_BSF2=axis_BSF2,
        opening_BSF=opening_BSF,
        shown_BS=torch.stack([torch.ones_like(action.assistant_B), action.assistant_B], dim=1),
        instrument_BS=torch.stack([instrument_B, torch.full_like(instrument_B, _GRASPER)], dim=1),
        pull_BF2=pull_BF2 * way.unsqueeze(-1),
        shrink_BF=1 - on(ASPIRATE) * 0.45 * _ease(since / 9.0),
        reach_B=reach,
        mark_BF=growing,
        puff_BF=puff,
        spark_BF=spark,
        view_BF3=camera(scene, times_BF if clock_BF is None else clock_BF),
    )


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp_min(1e-6)


def clip_times(batch: int, num_frames: int, fps: float) -> Tensor:
    """Times in seconds of the frames of B clips that begin with their action, (B, F)."""
    if not fps > 0 or not math.isfinite(fps):
        raise ValueError(f"fps is {fps}: give a positive number of frames a second")
    return (torch.arange(num_frames, dtype=torch.float32) / fps).expand(batch, -1)
