"""What the mini models are measured on: phantom clips, starts and courses that no training has drawn.

Owns their draws, and the form in which maps are compared: entities keep their ids, background is
`BACKGROUND` and the black border `BORDER` whatever a clip's number of entities. Everything is drawn on the
CPU, so that all devices measure the same, and once a process. Legend: F frames, H W pixels, K entities.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hierasurg_core import taxonomy
from hierasurg_core.maps import PanopticClip, with_room
from hierasurg_core.maps.clip import MAX_ENTITIES
from hierasurg_core.phantom import draw, motion
from hierasurg_core.phantom.anatomy import Canvas, draw_anatomy
from hierasurg_core.phantom.courses import draw_courses
from hierasurg_core.phantom.scene import Scene
from hierasurg_core.phantom.vae import HELD_OUT_SEED, random_labels

M2V_SEED = HELD_OUT_SEED + 1
S2M_SEED = HELD_OUT_SEED + 2
COURSE_SEED = HELD_OUT_SEED + 5000
NUM_FRAMES = 16
REQUESTS_A_START = 3
BACKGROUND = MAX_ENTITIES
BORDER = MAX_ENTITIES + 1
_DRAWN_AT_ONCE = 8
_STARTS_AT_ONCE = 16
_SEEN_PIXELS = 30
_Drawn = TypeVar("_Drawn", Scene, motion.Action)
_EXTRAS = 0.4  # chance of a target that the phase does not ask for, as in training


def uint8_video(clips: draw.DrawnClips) -> NDArray[np.uint8]:
    """The clips' frames as uint8 (B, F, H, W, 3)."""
    return (clips.video_BFCHW * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()


def comparable(clip: PanopticClip) -> NDArray[np.uint8]:
    """A clip's ids with `BACKGROUND` and `BORDER` in place of its two highest, uint8 (F, H, W)."""
    return with_room(clip, MAX_ENTITIES).map_FHW


@dataclasses.dataclass(frozen=True)
class HeldOutClip:
    """A clip of one act.

    Attributes:
        video_FHWC: uint8 RGB.
        maps: Its true maps.
        phase: Id 0..6.
        triplet: Id 0..99.
        instruments: Ids of the instruments in the maps.
    """

    video_FHWC: NDArray[np.uint8]
    maps: PanopticClip
    phase: int
    triplet: int
    instruments: tuple[int, ...]


@functools.cache
def held_out_clips(count: int) -> tuple[HeldOutClip, ...]:
    """The first of the clips that the VAE and M2V are measured on."""
    generator = torch.Generator().manual_seed(M2V_SEED)
    clips: list[HeldOutClip] = []
    for start in range(0, count, _DRAWN_AT_ONCE):
        phases, triplets = random_labels(_DRAWN_AT_ONCE, generator)
        drawn = draw.draw_clips(phases, triplets, M2V_SEED + start, shuffle_ids=0.5)
        for index, video_FHWC in enumerate(uint8_video(drawn)):
            maps = PanopticClip(drawn.map_BFHW[index].numpy(), int(drawn.num_entities_B[index]))
            codes = drawn.code_of_id_BN[index, : maps.num_entities].tolist()
            tools = tuple(i for i, code in enumerate(codes) if code >= draw.SLOT_CODE)
            clips.append(HeldOutClip(video_FHWC, maps, int(phases[index]), int(triplets[index]), tools))
    return tuple(clips[:count])


@dataclasses.dataclass(frozen=True)
class StartScene:
    """A start with what it may be asked for.

    Attributes:
        photo_HWC: uint8 RGB.
        map_HW: Its map: uint8 ids 0..K-1, background K, black border K + 1.
        num_entities: K.
        phase: Id 0..6.
        codes: Code of each entity, see `draw.SLOT_CODE`.
        entry_view_2: The acting instrument's trocar in view units, see `draw.view_grid`.
        triplets: Three of the same instrument, at other targets in view than that of the drawn act.
        drawn: The clips of one frame that this start was drawn with.
        row: Which of these it is.
    """

    photo_HWC: NDArray[np.uint8]
    map_HW: NDArray[np.uint8]
    num_entities: int
    phase: int
    codes: tuple[int, ...]
    entry_view_2: NDArray[np.float64]
    triplets: tuple[int, ...]
    drawn: draw.PhantomClips
    row: int


@functools.cache
def held_out_starts(count: int) -> tuple[StartScene, ...]:
    """Starts with three other triplets of the instrument that is in view, their targets in view too."""
    generator = torch.Generator().manual_seed(S2M_SEED)
    starts: list[StartScene] = []
    round_ = 0
    while len(starts) < count:
        phases, triplets = random_labels(_STARTS_AT_ONCE, generator)
        clips = draw.draw_clips(
            phases, triplets, S2M_SEED + round_, num_frames=1, shuffle_ids=0.5, extras=0.5
        )
        round_ += 1
        frames = uint8_video(clips)
        entry = draw.view_of_world(clips.scene, clips.state, clips.action.entry_BS2[:, :1]).numpy()[:, 0]
        for index in range(_STARTS_AT_ONCE):
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
            if not tool_seen or len(others) < REQUESTS_A_START:
                continue
            pick = torch.randperm(len(others), generator=generator)[:REQUESTS_A_START].tolist()
            starts.append(
                StartScene(
                    photo_HWC=frames[index, 0],
                    map_HW=map_HW,
                    num_entities=k,
                    phase=int(phases[index]),
                    codes=codes,
                    entry_view_2=entry[index].astype(float),
                    triplets=tuple(sorted(others.values())[i] for i in pick),
                    drawn=clips,
                    row=index,
                )
            )
    return tuple(starts[:count])


def requests_of(count: int) -> list[tuple[StartScene, int]]:
    """So many starts with each of their triplets."""
    return [(start, triplet) for start in held_out_starts(count) for triplet in start.triplets]


@functools.cache
def true_answers(count: int) -> tuple[NDArray[np.uint8], ...]:
    """What the phantom does when the starts' triplets are asked for: comparable maps, start by start.

    The instrument begins where the start shows it and works at the target that is asked for. The camera
    stands still. It is one right answer of many: nobody can tell from a start when an instrument arrives.
    """
    answers: list[NDArray[np.uint8]] = []
    for start in held_out_starts(count):
        triplet_B = torch.tensor(start.triplets)
        row_B = torch.full_like(triplet_B, start.row)
        scene, drawn_action = _rows(start.drawn.scene, row_B), _rows(start.drawn.action, row_B)
        _, _, target_B = motion.parts(triplet_B)
        action = dataclasses.replace(
            drawn_action,
            triplet_B=triplet_B,
            work_B2=scene.anchor_BT2[torch.arange(len(row_B)), target_B],
            arrive_B=drawn_action.arrive_B * NUM_FRAMES,  # it was drawn for a clip of one second
        )
        state = motion.move(scene, action, motion.clip_times(len(row_B), NUM_FRAMES, 1.0))
        still_BF3 = start.drawn.state.view_BF3[row_B].expand(-1, NUM_FRAMES, -1)
        state = dataclasses.replace(state, view_BF3=still_BF3)
        size_hw = (start.map_HW.shape[0], start.map_HW.shape[1])
        one = draw_anatomy(_rows(scene, row_B.new_zeros(1)), size_hw)
        canvas = Canvas(
            one.rgb_B3YX.expand(len(row_B), -1, -1, -1),
            one.class_B1YX.expand(len(row_B), -1, -1, -1),
            one.half_extent_xy,
        )
        _, code_BFHW = draw.render(scene, action, state, size_hw, canvas, photos=1)
        id_of_code = np.full(draw.NUM_CODES, BACKGROUND, np.uint8)
        id_of_code[list(start.codes)] = np.arange(len(start.codes))
        id_of_code[draw.BORDER_CODE] = BORDER
        answers += list(id_of_code[code_BFHW.numpy()])
    return tuple(answers)


@dataclasses.dataclass(frozen=True)
class Course:
    """A clip in which instruments may come and go, ids by first appearance.

    What comes into view has the next free id behind those of the first map, so that it can be foretold.

    Attributes:
        photo_HWC: The first frame, uint8 RGB.
        map_FHW: The true maps in comparable ids.
        codes: Code of each entity, instruments by kind (`draw.ASSISTANT_CODE`).
        phase: Id of each second.
        triplet: Id of each second.
    """

    photo_HWC: NDArray[np.uint8]
    map_FHW: NDArray[np.uint8]
    codes: tuple[int, ...]
    phase: tuple[int, ...]
    triplet: tuple[int, ...]

    def first_map(self) -> PanopticClip:
        """What S2M is given: the first frame's map alone, without room for what comes later."""
        first_1HW = self.map_FHW[:1]
        count = len(np.unique(first_1HW[first_1HW < BACKGROUND]))  # ids by first appearance have no gap
        ids = np.arange(256, dtype=np.uint8)
        ids[[BACKGROUND, BORDER]] = count, count + 1
        return PanopticClip(ids[first_1HW], count)


@functools.cache
def held_out_courses(count: int) -> tuple[Course, ...]:
    """The first of the courses that S2M is measured on."""
    generator = torch.Generator().manual_seed(COURSE_SEED)
    courses: list[Course] = []
    for start in range(0, count, _STARTS_AT_ONCE):
        phases, triplets = random_labels(_STARTS_AT_ONCE, generator)
        drawn = draw_courses(phases, triplets, COURSE_SEED + start, extras=_EXTRAS, photos=1)
        photos = uint8_video(drawn)[:, 0]
        for index, photo_HWC in enumerate(photos):
            clip = PanopticClip(drawn.map_BFHW[index].numpy(), int(drawn.num_entities_B[index]))
            map_FHW, old = number_by_appearance(clip)
            code_N = drawn.code_of_id_BN[index]
            courses.append(
                Course(
                    photo_HWC,
                    map_FHW,
                    tuple(int(code_N[i]) for i in old),
                    tuple(drawn.phase_BF[index].tolist()),
                    tuple(drawn.triplet_BF[index].tolist()),
                )
            )
    return tuple(courses[:count])


def number_by_appearance(clip: PanopticClip) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Renumbers entities by the frame in which each is first seen, and then by their old ids.

    Returns:
        Comparable ids (F, H, W), and the old id of each new one.
    """
    map_FHW, count = clip.map_FHW, clip.num_entities
    seen_FK = np.stack([np.bincount(frame.ravel(), minlength=count)[:count] > 0 for frame in map_FHW])
    occurring = np.flatnonzero(seen_FK.any(axis=0))
    old = occurring[np.argsort(seen_FK[:, occurring].argmax(axis=0), kind="stable")]
    ids = np.zeros(256, np.uint8)
    ids[old] = np.arange(len(old))
    ids[[count, count + 1]] = BACKGROUND, BORDER
    return ids[map_FHW], tuple(old.tolist())


def _rows(of: _Drawn, row_B: torch.Tensor) -> _Drawn:
    """These rows of scenes or actions."""
    return dataclasses.replace(of, **{f.name: getattr(of, f.name)[row_B] for f in dataclasses.fields(of)})
