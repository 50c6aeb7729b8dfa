"""Clips out of the middle of an operation tell the truth of what comes, changes and goes."""

import torch

from hierasurg_core import taxonomy
from hierasurg_core.phantom import courses, draw
from hierasurg_core.phantom.courses import draw_courses, draw_second_acts
from hierasurg_core.phantom.draw import DrawnClips, draw_clips
from hierasurg_core.phantom.vae import coloured_maps, palette_table, random_labels

SIZE_HW = (32, 48)
LARGE = 12  # pixels of 1536


def clips_of(count: int, seed: int, **options) -> DrawnClips:
    generator = torch.Generator().manual_seed(seed)
    phases = torch.randint(7, (count,), generator=generator)
    triplets = torch.randint(100, (count,), generator=generator)
    return draw_courses(phases, triplets, seed, size_hw=SIZE_HW, **options)


def instrument_of(triplet: int) -> int:
    return taxonomy.TRIPLETS[triplet].instrument_id


def sizes(clips: DrawnClips, index: int) -> torch.Tensor:
    """Pixels of each entity in each frame, (F, K)."""
    count = int(clips.num_entities_B[index])
    return torch.stack(
        [torch.bincount(m.flatten().long(), minlength=count + 2) for m in clips.map_BFHW[index]]
    )[:, :count]


def changes(clips: DrawnClips) -> list[tuple[int, int]]:
    """Clips and frames at which another act begins."""
    found = (clips.triplet_BF[:, 1:] != clips.triplet_BF[:, :-1]).nonzero()
    return [(int(clip), int(frame) + 1) for clip, frame in found]


def test_the_same_seed_draws_the_same_and_another_does_not():
    first, again, other = (clips_of(4, seed) for seed in (3, 3, 4))
    assert torch.equal(first.map_BFHW, again.map_BFHW)
    assert torch.equal(first.video_BFCHW, again.video_BFCHW)
    assert torch.equal(first.num_entities_B, again.num_entities_B)
    assert not torch.equal(first.map_BFHW, other.map_BFHW)


def test_fewer_photos_are_the_same_photos_and_all_maps_stay():
    phase_B, triplet_B = random_labels(12, torch.Generator().manual_seed(1))
    whole = (draw_courses(phase_B, triplet_B, 3), draw_clips(phase_B, triplet_B, 3, shuffle_ids=0.5))
    part = (
        draw_courses(phase_B, triplet_B, 3, photos=2),
        draw_clips(phase_B, triplet_B, 3, shuffle_ids=0.5, photos=2),
    )
    for all_photos, two in zip(whole, part, strict=True):
        assert two.video_BFCHW.shape[1] == 2
        assert torch.equal(two.video_BFCHW, all_photos.video_BFCHW[:, :2])
        assert torch.equal(two.map_BFHW, all_photos.map_BFHW)


def test_instruments_come_and_go_where_the_labels_say_so():
    clips = clips_of(64, 1)
    others = [
        (clip, frame)
        for clip, frame in changes(clips)
        if 4 <= frame <= 8  # the first instrument has come by then, and the other has time to
        and instrument_of(int(clips.triplet_BF[clip, 0])) != instrument_of(int(clips.triplet_BF[clip, 15]))
    ]
    assert len(others) >= 8
    came = gone = 0
    for clip, frame in others:
        size_FK = sizes(clips, clip)
        came += bool(((size_FK[:frame] == 0).all(0) & (size_FK[15] >= LARGE)).any())
        gone += bool(((size_FK[frame - 1] >= LARGE) & (size_FK[frame:] == 0).all(0)).any())
    assert came >= 0.8 * len(others)
    assert gone >= 0.8 * len(others)


def test_the_same_instrument_stays_with_its_id():
    clips = clips_of(64, 2)
    same = [
        (clip, frame)
        for clip, frame in changes(clips)
        if instrument_of(int(clips.triplet_BF[clip, frame - 1]))
        == instrument_of(int(clips.triplet_BF[clip, 15]))
    ]
    assert len(same) >= 8
    for clip, frame in same:
        size_FK = sizes(clips, clip)
        # Targets do not come or go within a clip, so what is new at a change can only be an assistant.
        appeared = (size_FK[frame - 1] == 0) & (size_FK[frame] >= LARGE)
        assert int(appeared.sum()) <= 1


def test_many_clips_have_one_act_and_many_begin_without_its_instrument():
    clips = clips_of(64, 5)
    assert 4 <= 64 - len(changes(clips)) <= 28
    late = sum(
        bool(((size[0] == 0) & (size[15] >= LARGE)).any()) for size in (sizes(clips, i) for i in range(64))
    )
    assert late >= 16


def test_ids_fit_and_some_clips_have_ids_to_spare():
    clips = clips_of(48, 6, extras=0.4)
    spare = []
    for index, count in enumerate(clips.num_entities_B.tolist()):
        occurring = torch.unique(clips.map_BFHW[index]).tolist()
        assert occurring[-2:] == [count, count + 1]  # background and border
        entities = occurring[:-2]
        assert entities == list(range(len(entities)))
        spare.append(count - len(entities))
        assert count + 2 <= 20
    assert set(spare) == {0, 1, 2}
    coloured_maps(clips, palette_table("cpu"))  # S2M has a colour for each


def test_second_acts_often_keep_the_instrument():
    given = torch.arange(100).repeat(20)
    then = draw_second_acts(given, torch.Generator().manual_seed(0))
    of = torch.tensor([triplet.instrument_id for triplet in taxonomy.TRIPLETS])
    by_chance = float(torch.stack([(of == of[t]).float().mean() for t in given]).mean())
    share = float((of[given] == of[then]).float().mean())
    expected = courses._SAME + (1 - courses._SAME) * by_chance
    assert abs(share - expected) < 0.04


def test_codes_tell_what_each_id_is():
    clips = clips_of(32, 7)
    acting = 0
    for index, count in enumerate(clips.num_entities_B.tolist()):
        codes = clips.code_of_id_BN[index].tolist()
        entities = len(torch.unique(clips.map_BFHW[index])) - 2
        assert codes[count : count + 2] == [courses.BACKGROUND_CODE, courses.BACKGROUND_CODE + 1]
        assert set(codes[entities:count] + codes[count + 2 :]) == {-1}  # ids to spare, and beyond
        assert min(codes[:entities]) >= 0
        assert max(codes[:entities]) <= draw.ASSISTANT_CODE
        own = draw.SLOT_CODE + instrument_of(int(clips.triplet_BF[index, 0]))
        later = draw.SLOT_CODE + instrument_of(int(clips.triplet_BF[index, -1]))
        tools = {code for code in codes[:entities] if draw.SLOT_CODE <= code < draw.ASSISTANT_CODE}
        assert tools <= {own, later}
        acting += len(tools)
    assert acting >= 32
