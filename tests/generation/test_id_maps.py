"""The pipeline with an S2M on ids, an M2V of patches and a VAE that codes each frame alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from generation.tiny_assets import NUM_ENTITIES, NUM_NUMBERS, SIZE_HW, photograph, tiny_pipeline
from maps.moving_shapes import moving_ids

from hierasurg_core.errors import DataError
from hierasurg_core.generation import HieraSurgPipeline, Sampling
from hierasurg_core.generation.id_maps import IdStart, clips_of, left_out_note
from hierasurg_core.maps import PanopticClip
from hierasurg_core.models.ids import shares_of
from hierasurg_core.runtime import make_generator

MAPS = PanopticClip(moving_ids(NUM_ENTITIES, 16, SIZE_HW, seed=1), NUM_ENTITIES)
FIRST = MAPS.map_FHW[0]
PHOTO = photograph(FIRST, seed=1)


@pytest.fixture(scope="module")
def pipeline() -> HieraSurgPipeline:
    return tiny_pipeline(on_ids=True)


def sampling(*, phase: int = 1, triplet: int = 17, seed: int = 0, guidance: float | None = 1.0) -> Sampling:
    return Sampling(2, guidance, phase, triplet, make_generator(seed))


def maps_of(pipeline: HieraSurgPipeline, photo=PHOTO, first_map=FIRST, known=None, **words) -> PanopticClip:
    return pipeline.make_maps(photo, first_map, NUM_ENTITIES, sampling(**words), known)


def test_maps_begin_with_the_given_one_and_may_have_newcomers(pipeline: HieraSurgPipeline):
    clip = maps_of(pipeline)
    assert clip.map_FHW.shape == (16, *SIZE_HW)
    assert clip.num_entities >= NUM_ENTITIES
    border, background = clip.map_FHW[0] == clip.num_entities + 1, clip.map_FHW[0] == clip.num_entities
    assert np.array_equal(border, FIRST == NUM_ENTITIES + 1)
    assert np.array_equal(background, FIRST == NUM_ENTITIES)
    assert np.array_equal(clip.map_FHW[0][~(border | background)], FIRST[FIRST < NUM_ENTITIES])


def test_every_condition_changes_the_maps(pipeline: HieraSurgPipeline):
    before = maps_of(pipeline).map_FHW
    assert np.array_equal(before, maps_of(pipeline).map_FHW)
    others = {
        "phase": maps_of(pipeline, phase=2),
        "triplet": maps_of(pipeline, triplet=18),
        "no phase": maps_of(pipeline, phase=-1),
        "no triplet": maps_of(pipeline, triplet=-1),
        "photo": maps_of(pipeline, photo=255 - PHOTO),
        "first map": maps_of(pipeline, first_map=MAPS.map_FHW[8]),
        "seed": maps_of(pipeline, seed=1),
        "guidance": maps_of(pipeline, guidance=3.0),
    }
    for name, clip in others.items():
        assert not np.array_equal(before[1:], clip.map_FHW[1:]), f"{name} changes nothing"


def test_a_batch_makes_what_single_clips_make(pipeline: HieraSurgPipeline):
    both = pipeline.make_maps_batch(
        [PHOTO, 255 - PHOTO], [FIRST, FIRST], [NUM_ENTITIES] * 2, [sampling(), sampling(seed=3)]
    )
    alone = [maps_of(pipeline), maps_of(pipeline, photo=255 - PHOTO, seed=3)]
    for batched, single in zip(both, alone, strict=True):
        assert (batched.map_FHW == single.map_FHW).mean() > 0.999


def test_known_maps_stay(pipeline: HieraSurgPipeline):
    clip = maps_of(pipeline, known=MAPS.map_FHW[:5])
    assert np.array_equal(clip.map_FHW[:5] == 0, MAPS.map_FHW[:5] == 0)
    assert not np.array_equal(clip.map_FHW[5:], maps_of(pipeline).map_FHW[5:])


def test_gaps_in_the_ids_of_a_first_map_make_no_difference_to_the_model(pipeline: HieraSurgPipeline):
    spread = np.array([0, 3, 6, 9, 12, 13], np.uint8)[FIRST]
    clip = pipeline.make_maps(PHOTO, spread, 12, sampling())
    dense = maps_of(pipeline)
    assert np.array_equal(clip.map_FHW == 3, dense.map_FHW == 1)
    assert np.array_equal(clip.map_FHW == clip.num_entities, dense.map_FHW == dense.num_entities)


def test_too_many_entities_lose_the_smallest_and_say_so(pipeline: HieraSurgPipeline):
    crowded = FIRST.copy()
    crowded[crowded >= NUM_ENTITIES] += 5  # room for 5 more
    for index in range(5):
        crowded[30 + index, 40 : 42 + index] = NUM_ENTITIES + index  # 2 to 6 pixels
    first = PanopticClip(crowded[None], NUM_ENTITIES + 5)
    note = left_out_note(first, NUM_NUMBERS)
    assert (
        note
        == "the first map has 3 more entities than S2M's 6: ids 4, 5, 6, the smallest, count as background"
    )
    assert left_out_note(MAPS, NUM_NUMBERS) is None
    clip = pipeline.make_maps(PHOTO, crowded, NUM_ENTITIES + 5, sampling())
    assert set(np.unique(clip.map_FHW[1:])).isdisjoint({4, 5, 6})
    assert np.array_equal(clip.map_FHW[0] == 0, crowded == 0)


def test_a_photo_of_another_size_than_its_map_is_named(pipeline: HieraSurgPipeline):
    with pytest.raises(DataError, match="the photograph is 32x96, but its map 64x96"):
        maps_of(pipeline, photo=PHOTO[:32])


def test_newcomers_that_stay_specks_are_left_out():
    start = IdStart.of([np.zeros((1, 64, 96), np.uint8)], [1], 5)
    numbers = torch.zeros(1, 2, 64, 96, dtype=torch.uint8)
    numbers[0, 1, :2, :2] = 1  # 4 of 6144 pixels
    numbers[0, 1, 32:48, 32:48] = 2  # 256
    (clip,) = clips_of(shares_of(numbers, 5), start)
    assert np.unique(clip.map_FHW[1]).tolist() == [0, 1]
    assert int((clip.map_FHW[1] == 1).sum()) == 256
    assert clip.num_entities == 2


def test_video_follows_maps_photo_and_words(pipeline: HieraSurgPipeline):
    def video(photo=PHOTO, maps=MAPS, fps: int = 1, **words) -> np.ndarray:
        return pipeline.make_video(photo, maps, fps, sampling(**words))

    before = video()
    assert before.shape == (16, *SIZE_HW, 3)
    moved = dataclasses.replace(MAPS, map_FHW=MAPS.map_FHW[::-1].copy())
    for name, other in {
        "maps": video(maps=moved),
        "photo": video(photo=255 - PHOTO),
        "phase": video(phase=2),
        "triplet": video(triplet=18),
    }.items():
        assert not np.array_equal(before, other), f"{name} changes nothing"
    six = PanopticClip(MAPS.map_FHW[:6], NUM_ENTITIES)
    assert video(maps=six, fps=8).shape == (48, *SIZE_HW, 3)


def test_a_pipeline_on_ids_comes_back_from_disk(pipeline: HieraSurgPipeline, tmp_path: Path):
    pipeline.save_pretrained(tmp_path)
    again = HieraSurgPipeline.from_pretrained(tmp_path)
    assert np.array_equal(maps_of(again).map_FHW, maps_of(pipeline).map_FHW)


def test_a_model_on_ids_is_sampled_in_eight_steps_where_nothing_is_said(pipeline: HieraSurgPipeline):
    own = HieraSurgPipeline(pipeline.s2m, pipeline.m2v, pipeline.vae, pipeline.scheduler)
    assert dataclasses.astuple(own.sampling_of("s2m")) == (8, 1.0, "ddim")
