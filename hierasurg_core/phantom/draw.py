"""Frames and exact panoptic maps of the phantom: a canvas warped by camera and traction, instruments on top.

Owns composition. `draw_clips` is what training uses (thousands of clips a minute on a GPU), `render` the
piece that whole operations are drawn with. Legend: B clips, F frames, H W pixels, K entities; colours in [0,
1].
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hierasurg_core import taxonomy
from hierasurg_core.phantom import motion
from hierasurg_core.phantom import scene as sc
from hierasurg_core.phantom.anatomy import Canvas, draw_anatomy
from hierasurg_core.phantom.instruments import shape_instruments
from hierasurg_core.phantom.motion import Action, State
from hierasurg_core.phantom.scene import Scene

NATIVE_SIZE_HW = (128, 192)
SLOT_CODE = sc.NUM_TARGETS
"""Codes of a code map: 0..13 targets, 14 and 15 the instruments by slot, 16 background, 17 black border."""
BACKGROUND_CODE = SLOT_CODE + motion.NUM_SLOTS
BORDER_CODE = BACKGROUND_CODE + 1
NUM_CODES = BORDER_CODE + 1
ASSISTANT_CODE = SLOT_CODE + len(taxonomy.INSTRUMENTS)
"""Where instruments are told apart by kind: 14..19 the acting ones by instrument id, 20 the assistant."""

_SMALLEST_SHARE = 6e-4


@dataclasses.dataclass(frozen=True)
class DrawnClips:
    """B drawn clips with what a dataset holds of them.

    Attributes:
        video_BFCHW: Frames in [0, 1], float32, RGB; fewer than the maps' where only the first are coloured.
        map_BFHW: Panoptic ids, uint8: entities 0..K-1, background K, black border K + 1 (K of that clip).
        num_entities_B: K of each clip, int64.
        code_of_id_BN: Code of each id of each clip, int64, -1 where an id stands for nothing. Codes are those
            beside `SLOT_CODE`; of clips whose acting instrument may change, those of `ASSISTANT_CODE`.
        phase_BF: Phase ids.
        triplet_BF: Triplet ids of the acting instrument.
    """

    video_BFCHW: Tensor
    map_BFHW: Tensor
    num_entities_B: Tensor
    code_of_id_BN: Tensor
    phase_BF: Tensor
    triplet_BF: Tensor


@dataclasses.dataclass(frozen=True)
class PhantomClips(DrawnClips):
    """B drawn clips of one action each, with their whole truth.

    Attributes:
        scene: The scenes.
        action: The actions.
        state: The states drawn.
    """

    scene: Scene
    action: Action
    state: State


def view_grid(size_hw: tuple[int, int], device: torch.device | str) -> Tensor:
    """View coordinates of the pixel centres, (H, W, 2): y in [-1, 1], x in [-W/H, W/H]."""
    height, width = size_hw
    y = (torch.arange(height, device=device) + 0.5) * (2 / height) - 1
    x = (torch.arange(width, device=device) + 0.5) * (2 / height) - width / height
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)


def world_of_view(scene: Scene, state: State, view_2: Tensor) -> Tensor:
    """World coordinates of view coordinates (..., 2) for each frame: (B, F, ..., 2)."""
    extra = (1,) * (view_2.dim() - 1)
    zoom = scene.zoom_B.view(-1, 1) * (1 + state.view_BF3[..., 2])
    pan = state.view_BF3[..., :2].view(*state.view_BF3.shape[:2], *extra, 2)
    return view_2 * zoom.view(*zoom.shape, *extra, 1) + pan


def view_of_world(scene: Scene, state: State, world_BF2: Tensor) -> Tensor:
    """View coordinates of one world point a frame, (B, F, 2)."""
    zoom = scene.zoom_B.view(-1, 1) * (1 + state.view_BF3[..., 2])
    return (world_BF2 - state.view_BF3[..., :2]) / zoom.unsqueeze(-1)


def render(
    scene: Scene,
    action: Action,
    state: State,
    size_hw: tuple[int, int],
    canvas: Canvas | None = None,
    photos: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws frames and their code maps.

    Args:
        scene: B scenes.
        action: B actions.
        state: Their states at F times.
        size_hw: Frame size in pixels.
        canvas: The scenes' canvas, when it was drawn before.
        photos: How many frames are coloured, which is most of the work; None colours all.

    Returns:
        Video (B, photos or F, 3, H, W) in [0, 1] and codes (B, F, H, W) uint8.
    """
    canvas = canvas or draw_anatomy(scene, size_hw)
    batch, frames = state.mark_BF.shape
    height, width = size_hw
    pixel = 2 / height
    view = view_grid(size_hw, scene.noise_B8.device)
    world = world_of_view(scene, state, view)

    centre = (action.work_B2.unsqueeze(1) + 0.5 * state.pull_BF2).view(batch, frames, 1, 1, 2)
    from_centre = world - centre
    reach = state.reach_B.view(-1, 1, 1, 1)
    near = torch.exp(-(from_centre * from_centre).sum(-1) / (2 * reach * reach)).unsqueeze(-1)
    stretch = (1 / state.shrink_BF - 1).view(batch, frames, 1, 1, 1)
    source = world - near * (state.pull_BF2.view(batch, frames, 1, 1, 2) - from_centre * stretch)
    grid = source / source.new_tensor(canvas.half_extent_xy)
    coloured = frames if photos is None else min(photos, frames)
    first = slice(coloured)

    def sampled(canvas_BCYX: Tensor, count: int, mode: str) -> Tensor:
        # One sampling for all frames of a clip: the frames are stacked along the rows of the grid.
        rows = grid[:, :count].reshape(batch, count * height, width, 2)
        found = torch.nn.functional.grid_sample(canvas_BCYX, rows, mode, "border", align_corners=False)
        return found.view(batch, -1, count, height, width).transpose(1, 2)

    rgb = sampled(canvas.rgb_B3YX, coloured, "bilinear")
    codes = sampled(canvas.class_B1YX, frames, "nearest").squeeze(2).round()
    codes = torch.where(codes < 0, float(BACKGROUND_CODE), codes)

    _, verb_B, _ = motion.parts(action.triplet_B)
    inward = -state.axis_BSF2[:, 0, first].view(batch, coloured, 1, 1, 2)
    from_work = source[:, first] - action.work_B2.view(batch, 1, 1, 1, 2)
    rgb = _mark(rgb, from_work, inward, verb_B, state.mark_BF[:, first])
    for slot in reversed(range(motion.NUM_SLOTS)):
        chosen = state.shown_BS[:, slot].nonzero().squeeze(1)
        if len(chosen) == 0:
            continue
        whole = len(chosen) == batch
        offset = (world if whole else world[chosen]) - state.tip_BSF2[chosen, slot].view(-1, frames, 1, 1, 2)
        shape = shape_instruments(
            state.instrument_BS[chosen, slot].repeat_interleave(frames),
            state.opening_BSF[chosen, slot].flatten(),
            offset.flatten(0, 1),
            state.axis_BSF2[chosen, slot].flatten(0, 1),
        )
        distance = shape.distance_NYX.view(-1, frames, height, width)
        colours = shape.first_frames(frames, coloured).colours(pixel * 0.95)
        cover = (0.5 - distance[:, first] / pixel).clamp(0, 1).unsqueeze(2)
        shadow = 0.45 * torch.exp(-distance[:, first].clamp_min(0) / 0.045).unsqueeze(2)
        under = rgb if whole else rgb[chosen]
        over = torch.lerp(under * (1 - shadow), colours.view(-1, coloured, 3, height, width), cover)
        slot_codes = torch.where(distance < 0, float(SLOT_CODE + slot), codes if whole else codes[chosen])
        if whole:
            rgb, codes = over, slot_codes
        else:
            rgb = rgb.index_copy(0, chosen, over)
            codes = codes.index_copy(0, chosen, slot_codes)

    radius_sq = (view * view).sum(-1)
    falloff = (1.10 - 0.26 * radius_sq).clamp_min(0.3)
    rgb = rgb * (falloff * scene.tint_B3.view(-1, 1, 3, 1, 1))
    from_tip = world[:, first] - state.tip_BSF2[:, 0, first].view(batch, coloured, 1, 1, 2)
    rgb = _puff(rgb, from_tip, inward, verb_B, state)

    border = scene.border_B3.view(-1, 1, 1, 1, 3)
    from_middle = torch.linalg.vector_norm(view - border[..., :2], dim=-1) - border[..., 2]
    inside = (0.5 - from_middle / pixel).clamp(0, 1)
    rgb = rgb * inside.unsqueeze(2)
    codes = torch.where(inside < 0.5, float(BORDER_CODE), codes)
    return rgb.clamp(0, 1), codes.to(torch.uint8)


def _along_across(offset: Tensor, inward: Tensor) -> tuple[Tensor, Tensor]:
    along = (offset * inward).sum(-1)
    across = offset[..., 1] * inward[..., 0] - offset[..., 0] * inward[..., 1]
    return along, across


def _mark(rgb: Tensor, offset: Tensor, inward: Tensor, verb_B: Tensor, mark_BF: Tensor) -> Tensor:
    """Clips, cuts and burns on the tissue, which move with it."""
    row = motion.MARK_TABLE.to(rgb.device)[verb_B].view(-1, 6, 1, 1, 1)
    if not bool((row[:, 5] > 0).any()):
        return rgb
    along, across = _along_across(offset, inward)
    rx, ry = row[:, 3].clamp_min(1e-3), row[:, 4].clamp_min(1e-3)
    shape = ((1.15 - (along / rx) ** 2 - (across / ry) ** 2) / 0.45).clamp(0, 1)
    alpha = (shape * row[:, 5] * mark_BF[:, :, None, None]).unsqueeze(2)
    return torch.lerp(rgb, row[:, :3].view(-1, 1, 3, 1, 1).expand_as(rgb), alpha)


def _puff(rgb: Tensor, offset: Tensor, inward: Tensor, verb_B: Tensor, state: State) -> Tensor:
    """Smoke and water from the acting tip, and the arc of coagulation."""
    row = motion.PUFF_TABLE.to(rgb.device)[verb_B].view(-1, 6, 1, 1, 1)
    if not bool((row[:, 5] > 0).any()):
        return rgb
    along, across = _along_across(offset, inward)
    length, breadth = row[:, 3].clamp_min(1e-3), row[:, 4].clamp_min(1e-3)
    frames = rgb.shape[1]
    strength = state.puff_BF[:, :frames, None, None]
    cloud = torch.exp(-(((along - 0.5 * length) / length) ** 2) - (across / breadth) ** 2)
    rgb = torch.lerp(
        rgb, row[:, :3].view(-1, 1, 3, 1, 1).expand_as(rgb), (cloud * row[:, 5] * strength).unsqueeze(2)
    )
    arc = torch.exp(-(along * along + across * across) / (0.045**2)) * state.spark_BF[:, :frames, None, None]
    return rgb + arc.unsqueeze(2) * rgb.new_tensor((1.0, 0.95, 0.70)).view(3, 1, 1)


def count_codes(code_BFHW: Tensor, num_codes: int = NUM_CODES) -> Tensor:
    """Pixels of each code in each frame, int64 (B, F, C)."""
    batch, frames = code_BFHW.shape[:2]
    frame = torch.arange(batch * frames, device=code_BFHW.device).view(batch, frames, 1, 1)
    flat = (frame * num_codes + code_BFHW).flatten()
    return torch.bincount(flat, minlength=batch * frames * num_codes).view(batch, frames, num_codes)


def number_entities(
    code_BFHW: Tensor, order_BC: Tensor | None = None, num_codes: int = NUM_CODES
) -> tuple[Tensor, Tensor, Tensor]:
    """Turns code maps into panoptic ids without gaps.

    Entities that are nowhere larger than 0.06 % of a frame become background.

    Args:
        code_BFHW: Codes, uint8.
        order_BC: Ids of a clip's entities rise with this number of their codes, float32; None takes the code
            itself. Random numbers number them as an automatic labeller would that knows no classes.
        num_codes: C; the last two are background and black border.

    Returns:
        Ids (B, F, H, W) uint8, K of each clip (B,), and the code of each id (B, C) int64, -1 behind the last.
    """
    batch, _, height, width = code_BFHW.shape
    device = code_BFHW.device
    background, border = num_codes - 2, num_codes - 1
    largest_BC = count_codes(code_BFHW, num_codes).amax(1)
    there_BC = largest_BC >= max(4, _SMALLEST_SHARE * height * width)
    there_BC[:, background:] = False
    num_entities_B = there_BC.sum(1)
    if order_BC is None:
        order_BC = torch.arange(num_codes, device=device).expand(batch, -1).to(torch.float32)
    order_BC = torch.where(there_BC, order_BC.to(device), float("inf"))
    code_of_id_BN = order_BC.argsort(dim=1, stable=True)
    position = torch.arange(num_codes, device=device).expand(batch, -1)
    lut_BC = torch.empty(batch, num_codes, dtype=torch.int64, device=device).scatter_(
        1, code_of_id_BN, position
    )
    lut_BC = torch.where(there_BC, lut_BC, num_entities_B.unsqueeze(1))
    lut_BC[:, border] = num_entities_B + 1
    ids = torch.gather(lut_BC, 1, code_BFHW.view(batch, -1).long()).view(code_BFHW.shape).to(torch.uint8)
    code_of_id_BN = torch.where(position < num_entities_B.unsqueeze(1), code_of_id_BN, -1)
    code_of_id_BN.scatter_(1, num_entities_B.unsqueeze(1), background)
    code_of_id_BN.scatter_(1, num_entities_B.unsqueeze(1) + 1, border)
    return ids, num_entities_B, code_of_id_BN


def draw_clips(
    phase_B: Tensor,
    triplet_B: Tensor,
    seed: int,
    *,
    num_frames: int = 16,
    fps: float = 1.0,
    size_hw: tuple[int, int] = NATIVE_SIZE_HW,
    device: torch.device | str = "cpu",
    shuffle_ids: float = 0.0,
    extras: float = 0.25,
    photos: int | None = None,
) -> PhantomClips:
    """Draws clips in which an instrument goes from anywhere to its target and acts on it.

    Args:
        phase_B: Phase ids 0..6 (CPU).
        triplet_B: Triplet ids 0..99 (CPU).
        seed: The same seed gives the same clips; on another device up to rounding.
        num_frames: Frames of a clip.
        fps: Frames a second; the motion takes as long as it takes.
        size_hw: Frame size in pixels.
        device: Where to draw.
        shuffle_ids: Share of clips whose entity ids are shuffled.
        extras: Chance of each target that the phase does not ask for.
        photos: How many frames are coloured (`render`); None colours all. Maps are always whole.
    """
    generator = torch.Generator().manual_seed(seed)
    _, _, target_B = motion.parts(triplet_B)
    scene = sc.draw_scenes(phase_B, target_B, generator, extras=extras)
    action = motion.draw_actions(scene, triplet_B, generator, seconds=num_frames / fps)
    clock = torch.rand(len(phase_B), 1, generator=generator) * 60
    times_BF = motion.clip_times(len(phase_B), num_frames, fps)
    shuffle_B = torch.rand(len(phase_B), generator=generator) < shuffle_ids
    scene, action = scene.to(device), action.to(device)
    state = motion.move(scene, action, times_BF.to(device), (times_BF + clock).to(device))
    video, codes = render(scene, action, state, size_hw, photos=photos)
    ids, num_entities, code_of_id = number_entities(codes)
    if bool(shuffle_B.any()):
        order_BC = torch.rand(len(phase_B), NUM_CODES, generator=generator)
        mixed = [new[shuffle_B.to(device)] for new in number_entities(codes, order_BC)]
        index = shuffle_B.nonzero().squeeze(1).to(device)
        ids = ids.index_copy(0, index, mixed[0])
        code_of_id = code_of_id.index_copy(0, index, mixed[2])
    return PhantomClips(
        video_BFCHW=video,
        map_BFHW=ids,
        num_entities_B=num_entities,
        code_of_id_BN=code_of_id,
        phase_BF=phase_B.unsqueeze(1).expand(-1, num_frames).to(device),
        triplet_BF=triplet_B.unsqueeze(1).expand(-1, num_frames).to(device),
        scene=scene,
        action=action,
        state=state,
    )
