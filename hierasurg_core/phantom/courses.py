"""Clips out of the middle of an operation: one act ends, the next begins, instruments come and go.

Owns the draw of such clips for training; an act alone, from its start, is `draw.draw_clips`, and a whole
operation `operation`. As in an operation, the acting instrument stays where the next act asks for the same
one, else it is gone at once and the other comes in through its trocar. Legend: B clips, F frames, C codes.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hierasurg_core import taxonomy
from hierasurg_core.maps import MAX_LEVELS
from hierasurg_core.phantom import draw, motion
from hierasurg_core.phantom import scene as sc
from hierasurg_core.phantom.anatomy import draw_anatomy

BACKGROUND_CODE = draw.ASSISTANT_CODE + 1
"""Behind targets and instruments by kind, see `draw.ASSISTANT_CODE`; the border comes last."""
NUM_CODES = BACKGROUND_CODE + 2

_ACT_SECONDS = 10.5  # the mean of `operation`, by which the way to the target is drawn
_ARRIVE_SECONDS = (1.4, 5.6)
_LATEST_OFFSET_SECONDS = 13.0
_BEGINS = 0.3  # of the clips begin with their first act, its instrument still outside the view
_CHANGES = 0.8  # of the clips change from one act to another
_SAME = 0.4  # of the changes keep the instrument
_SPARE = 0.5  # of the clips have ids to spare, as where nobody knows what will come
_MOST_SPARE = 2
_MOST_ENTITIES = MAX_LEVELS - 2


def draw_second_acts(triplet_B: Tensor, generator: torch.Generator) -> Tensor:
    """Draws the triplet that follows each given one: often another of the same instrument, else any."""
    table = torch.tensor([triplet.instrument_id for triplet in taxonomy.TRIPLETS])
    weights = torch.ones(len(triplet_B), len(table))
    same_B = torch.rand(len(triplet_B), generator=generator) < _SAME
    weights[same_B] = (table == table[triplet_B[same_B]].unsqueeze(1)).to(torch.float32)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)


def draw_courses(
    phase_B: Tensor,
    triplet_B: Tensor,
    seed: int,
    *,
    num_frames: int = 16,
    fps: float = 1.0,
    size_hw: tuple[int, int] = draw.NATIVE_SIZE_HW,
    device: torch.device | str = "cpu",
    extras: float = 0.25,
    photos: int | None = None,
) -> draw.DrawnClips:
    """Draws clips that begin within an act or with it, and may change to another.

    Ids follow the classes, or the frame in which an entity is first seen, or nothing, in a third of the clips
    each. K counts all entities of the clip, and ids to spare, which lie behind.

    Args:
        phase_B: Phase ids 0..6 (CPU).
        triplet_B: Triplet ids 0..99 of the first acts (CPU).
        seed: The same seed gives the same clips; on another device up to rounding.
        num_frames: Frames of a clip, 2 or more.
        fps: Frames a second.
        size_hw: Frame size in pixels.
        device: Where to draw.
        extras: Chance of each target that neither the phase nor an act asks for.
        photos: How many frames are coloured (`draw.render`); None colours all. Maps are always whole.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = len(phase_B)

    def chosen(share: float) -> Tensor:
        return torch.rand(batch, generator=generator) < share

    then_B = draw_second_acts(triplet_B, generator)
    first_instrument_B, _, first_target_B = motion.parts(triplet_B)
    second_instrument_B, _, second_target_B = motion.parts(then_B)
    scene = sc.draw_scenes(phase_B, first_target_B, generator, extras=extras)
    scene = sc.with_target(scene, second_target_B)

    begins_B = chosen(_BEGINS)
    offset_B = torch.rand(batch, generator=generator) * _LATEST_OFFSET_SECONDS
    offset_B = torch.where(begins_B, 0.0, offset_B)
    change_B = torch.randint(1, num_frames, (batch,), generator=generator)
    change_B = torch.where(chosen(_CHANGES), change_B, num_frames)
    seconds_BF = motion.clip_times(batch, num_frames, fps)
    change_seconds_B1 = (change_B / fps).unsqueeze(1)

    first = _act(scene, triplet_B, generator, begins_B)
    same_B = first_instrument_B == second_instrument_B
    reached = motion.move(scene, first, offset_B.unsqueeze(1) + change_seconds_B1)
    second = _act(scene, then_B, generator, ~same_B, start_B2=reached.tip_BSF2[:, 0, 0])
    second = motion.keep_trocar(second, first, same_B)
    clock_BF = seconds_BF + torch.rand(batch, 1, generator=generator) * 60
    times = (seconds_BF + offset_B.unsqueeze(1), (seconds_BF - change_seconds_B1).clamp_min(0))
    later_BF = torch.arange(num_frames) >= change_B.unsqueeze(1)
    triplet_BF = torch.where(later_BF, then_B.unsqueeze(1), triplet_B.unsqueeze(1))

    scene, clock_BF, later_BF = scene.to(device), clock_BF.to(device), later_BF.to(device)
    canvas = draw_anatomy(scene, size_hw)
    videos: list[Tensor] = []
    codes: list[Tensor] = []
    acts = zip((first, second), times, (first_instrument_B, second_instrument_B), strict=True)
    for action, times_BF, instrument_B in acts:
        action = action.to(device)
        state = motion.move(scene, action, times_BF.to(device), clock_BF)
        video, code = draw.render(scene, action, state, size_hw, canvas, photos)
        videos.append(video)
        codes.append(_by_kind(code, instrument_B.to(device)))
    code_BFHW = torch.where(later_BF[:, :, None, None], codes[1], codes[0])

    order_BC = _order(code_BFHW, generator)
    ids, count_B, code_of_id_BN = draw.number_entities(code_BFHW, order_BC, NUM_CODES)
    spare_B = torch.randint(1, _MOST_SPARE + 1, (batch,), generator=generator) * chosen(_SPARE)
    ids, count_B, code_of_id_BN = _with_spare(ids, count_B, code_of_id_BN, spare_B.to(device))
    return draw.DrawnClips(
        video_BFCHW=torch.where(later_BF[:, : videos[0].shape[1], None, None, None], videos[1], videos[0]),
        map_BFHW=ids,
        num_entities_B=count_B,
        code_of_id_BN=code_of_id_BN,
        phase_BF=phase_B.unsqueeze(1).expand(-1, num_frames).to(device),
        triplet_BF=triplet_BF.to(device),
    )


def _act(
    scene: sc.Scene,
    triplet_B: Tensor,
    generator: torch.Generator,
    entering_B: Tensor,
    start_B2: Tensor | None = None,
) -> motion.Action:
    """Draws acts at an operation's pace."""
    action = motion.draw_actions(
        scene, triplet_B, generator, seconds=_ACT_SECONDS, start_B2=start_B2, entering_B=entering_B
    )
    low, high = _ARRIVE_SECONDS
    arrive_B = low + (high - low) * torch.rand(len(triplet_B), generator=generator)
    return dataclasses.replace(action, arrive_B=arrive_B)


def _by_kind(code_BFHW: Tensor, instrument_B: Tensor) -> Tensor:
    """Codes of `draw` as codes of a course, in which an acting instrument is told by its kind."""
    lut_BC = torch.arange(draw.NUM_CODES, device=code_BFHW.device).repeat(len(instrument_B), 1)
    lut_BC[:, draw.SLOT_CODE] = draw.SLOT_CODE + instrument_B
    lut_BC[:, draw.SLOT_CODE + 1] = draw.ASSISTANT_CODE
    lut_BC[:, draw.BACKGROUND_CODE] = BACKGROUND_CODE
    lut_BC[:, draw.BORDER_CODE] = BACKGROUND_CODE + 1
    flat = torch.gather(lut_BC, 1, code_BFHW.flatten(1).long())
    return flat.view(code_BFHW.shape).to(torch.uint8)


def _order(code_BFHW: Tensor, generator: torch.Generator) -> Tensor:
    """By what ids rise: the code, the first frame and then the code, or nothing; (B, C) float32."""
    batch = len(code_BFHW)
    seen_BFC = (draw.count_codes(code_BFHW, NUM_CODES) > 0).to(torch.float32).cpu()
    by_code_BC = torch.arange(NUM_CODES, dtype=torch.float32).expand(batch, -1)
    by_frame_BC = seen_BFC.argmax(dim=1) * NUM_CODES + by_code_BC
    by_chance_BC = torch.rand(batch, NUM_CODES, generator=generator)
    way_B1 = torch.randint(3, (batch, 1), generator=generator)
    return torch.where(way_B1 == 0, by_code_BC, torch.where(way_B1 == 1, by_frame_BC, by_chance_BC))


def _with_spare(
    map_BFHW: Tensor, count_B: Tensor, code_of_id_BN: Tensor, spare_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves background and border up, so that ids without a code are left free behind the entities."""
    wanted_B = (count_B + spare_B).clamp(max=_MOST_ENTITIES)  # 14 targets and 3 instruments are fewer
    lift_B = (wanted_B - count_B).view(-1, 1, 1, 1)
    lifted = torch.where(map_BFHW >= count_B.view(-1, 1, 1, 1), map_BFHW + lift_B, map_BFHW)
    position = torch.arange(code_of_id_BN.shape[1], device=count_B.device)
    codes_BN = torch.where(position < count_B.unsqueeze(1), code_of_id_BN, -1)
    codes_BN.scatter_(1, wanted_B.unsqueeze(1), BACKGROUND_CODE)
    codes_BN.scatter_(1, wanted_B.unsqueeze(1) + 1, BACKGROUND_CODE + 1)
    return lifted.to(torch.uint8), wanted_B, codes_BN
