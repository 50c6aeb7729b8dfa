import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generation.tiny_assets import NUM_ENTITIES, SIZE_HW, edit_json, photograph, scaled, tiny_pipeline
from maps.moving_shapes import moving_ids

from hierasurg_core.config.sampling import StageSampling
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.generation import HieraSurgPipeline, Sampling
from hierasurg_core.generation.limits import check_frames, check_size, expect_levels
from hierasurg_core.maps import PanopticClip
from hierasurg_core.runtime import make_generator

MAPS = PanopticClip(moving_ids(NUM_ENTITIES, 16, SIZE_HW, seed=1), NUM_ENTITIES)
PHOTO = photograph(MAPS.map_FHW[0], seed=1)


@pytest.fixture(scope="module")
def pipeline() -> HieraSurgPipeline:
    return tiny_pipeline()


def sampling(*, phase: int = 1, triplet: int = 17, seed: int = 0, guidance: float | None = 1.0) -> Sampling:
    return Sampling(2, guidance, phase, triplet, make_generator(seed))


def maps_of(pipeline: HieraSurgPipeline, photo=PHOTO, first_map=MAPS.map_FHW[0], **words) -> np.ndarray:
    return pipeline.make_maps(photo, first_map, NUM_ENTITIES, sampling(**words)).map_FHW


def video_of(pipeline: HieraSurgPipeline, photo=PHOTO, maps=MAPS, fps: int = 1, **words) -> np.ndarray:
    return pipeline.make_video(photo, maps, fps, sampling(**words))


def test_s2m_makes_sixteen_maps_that_start_with_the_given_one(pipeline: HieraSurgPipeline):
    map_FHW = maps_of(pipeline)
    assert map_FHW.shape == (16, *SIZE_HW)
    assert np.array_equal(map_FHW[0], MAPS.map_FHW[0])
    assert map_FHW.max() <= NUM_ENTITIES + 1


def test_every_condition_of_s2m_changes_the_maps(pipeline: HieraSurgPipeline):
    before = maps_of(pipeline)
    assert np.array_equal(before, maps_of(pipeline))
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
    for name, map_FHW in others.items():
        assert not np.array_equal(before[1:], map_FHW[1:]), f"{name} changes nothing"


def test_every_condition_of_m2v_changes_the_video(pipeline: HieraSurgPipeline):
    before = video_of(pipeline)
    assert before.shape == (16, *SIZE_HW, 3)
    assert before.dtype == np.uint8
    assert np.array_equal(before, video_of(pipeline))
    other_maps = PanopticClip(moving_ids(NUM_ENTITIES, 16, SIZE_HW, seed=5), NUM_ENTITIES)
    others = {
        "phase": video_of(pipeline, phase=2),
        "triplet": video_of(pipeline, triplet=18),
        "photo": video_of(pipeline, photo=255 - PHOTO),
        "maps": video_of(pipeline, maps=other_maps),
        "seed": video_of(pipeline, seed=1),
        "guidance": video_of(pipeline, guidance=3.0),
    }
    for name, video in others.items():
        assert not np.array_equal(before, video), f"{name} changes nothing"


def test_each_stage_has_a_guidance_of_its_own():
    pipeline = tiny_pipeline()

    def scales(guidance: float | None = None, maps_guidance: float | None = None) -> tuple[float, float]:
        told = dataclasses.replace(sampling(), guidance=guidance, maps_guidance=maps_guidance)
        first, second = (pipeline.sampling_of(stage, told) for stage in ("s2m", "m2v"))
        return first.guidance, second.guidance

    assert scales() == (1.0, 1.0)
    plain, guided = maps_of(pipeline), maps_of(pipeline, guidance=3.0)
    pipeline.register_to_config(sampling=scaled(s2m=3.0, m2v=1.5))
    assert scales() == (3.0, 1.5)
    assert scales(guidance=2.0) == (2.0, 2.0)
    assert scales(maps_guidance=4.0) == (4.0, 1.5)
    assert np.array_equal(maps_of(pipeline, guidance=None), guided)
    assert np.array_equal(maps_of(pipeline), plain)
    assert pipeline.s2m is not None
    pipeline.s2m.register_to_config(distilled_steps=4)
    assert scales() == (1.0, 1.5)  # a student took its teacher's over


def test_a_pipeline_folder_keeps_its_stages_sampling(tmp_path: Path):
    pipeline = tiny_pipeline()
    own = {"s2m": {"steps": 7, "guidance": 3.0, "solver": "dpm++"}}
    pipeline.register_to_config(sampling=own)
    pipeline.save_pretrained(tmp_path)
    kept = HieraSurgPipeline.from_pretrained(tmp_path)
    assert kept.sampling_of("s2m") == StageSampling(7, 3.0, "dpm++")
    assert kept.sampling_of("m2v") == StageSampling(10, 1.0, "dpm++")  # nothing was said of it


def test_a_plain_m2v_minds_no_words():
    plain = tiny_pipeline(hierarchical=False)
    assert np.array_equal(video_of(plain, phase=1), video_of(plain, phase=2))


def test_eight_frames_a_second_take_six_maps(pipeline: HieraSurgPipeline):
    maps = PanopticClip(MAPS.map_FHW[:6], NUM_ENTITIES)
    assert video_of(pipeline, maps=maps, fps=8).shape == (48, *SIZE_HW, 3)


def test_maps_of_another_size_are_fitted(pipeline: HieraSurgPipeline):
    large = PanopticClip(MAPS.map_FHW.repeat(3, axis=1).repeat(3, axis=2), NUM_ENTITIES)
    assert np.array_equal(video_of(pipeline, maps=large), video_of(pipeline))


def test_a_reloaded_pipeline_makes_the_same(tmp_path: Path, pipeline: HieraSurgPipeline):
    pipeline.save_pretrained(tmp_path)
    again = HieraSurgPipeline.from_pretrained(tmp_path)
    assert again.sampling_of("m2v").steps == 2
    first = pipeline(PHOTO, MAPS.map_FHW[0], NUM_ENTITIES, phase=1, triplet=17)
    second = again(PHOTO, MAPS.map_FHW[0], NUM_ENTITIES, phase=1, triplet=17)
    assert np.array_equal(first.frames_FHWC, second.frames_FHWC)
    assert np.array_equal(first.maps.map_FHW, second.maps.map_FHW)


def test_a_pipeline_without_s2m_takes_maps_only(pipeline: HieraSurgPipeline):
    half = HieraSurgPipeline(None, pipeline.m2v, pipeline.vae, pipeline.scheduler)
    assert half(PHOTO, maps=MAPS, num_inference_steps=1).frames_FHWC.shape == (16, *SIZE_HW, 3)
    with pytest.raises(UsageError, match="no S2M"):
        half(PHOTO, MAPS.map_FHW[0], NUM_ENTITIES)
    with pytest.raises(UsageError, match="num_entities, or maps"):
        half(PHOTO)


@pytest.mark.parametrize("stage", ["s2m", "m2v"])
def test_nan_never_becomes_a_picture(stage: str):
    broken = tiny_pipeline()
    with torch.no_grad():
        getattr(broken, stage).proj_out.bias.fill_(torch.nan)
    with pytest.raises(WeightsError, match=f"{stage.upper()} made NaN or infinity in float32; its weights"):
        broken(PHOTO, MAPS.map_FHW[0], NUM_ENTITIES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"phase": -5}, "phase must be a whole number from 0 to 6, or -1 for none, not -5"),
        ({"phase": 7}, "phase must be a whole number from 0 to 6, or -1 for none, not 7"),
        ({"triplet": -7}, "triplet must be a whole number from 0 to 99, or -1 for none, not -7"),
        ({"triplet": 100}, "triplet must .*, not 100"),
        ({"triplet": True}, "triplet must .*, not True"),
        ({"phase": 1.5}, "phase must .*, not 1.5"),
        ({"phase": [1, 2, 9]}, "phase must .*, not 9"),
        ({"phase": []}, "phase is empty"),
    ],
)
def test_ids_that_do_not_exist_are_named(pipeline: HieraSurgPipeline, words: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        pipeline(PHOTO, maps=MAPS, num_inference_steps=1, **words)


def test_sizes_and_frame_counts_name_the_nearest():
    assert check_size((128, 192)) == (128, 192)
    assert check_frames(48) == 48
    with pytest.raises(UsageError, match=r"130x190.* the nearest is 128x192"):
        check_size((130, 190))
    with pytest.raises(UsageError, match="the nearest is 16x16"):
        check_size((3, 0))
    with pytest.raises(UsageError, match=r"18 frames .* are 16 and 20"):
        check_frames(18)


def test_a_photo_of_an_impossible_size_is_refused(pipeline: HieraSurgPipeline):
    with pytest.raises(UsageError, match="the nearest is 64x96"):
        video_of(pipeline, photo=PHOTO[:60])
    with pytest.raises(DataError, match="photograph is 48x96"):
        maps_of(pipeline, photo=PHOTO[:48])


def test_the_palette_covers_ids_that_the_first_map_hides():
    assert expect_levels(PanopticClip(np.zeros((1, 2, 2), np.uint8), 3)) == (0, 1, 2, 3, 4)
    sparse = PanopticClip(np.array([[[0, 30], [31, 31]]], np.uint8), 30)
    assert expect_levels(sparse) == (0, 30, 31)
    with pytest.raises(DataError, match="24 ids"):
        expect_levels(PanopticClip(np.arange(24, dtype=np.uint8).reshape(1, 4, 6), 22))


@pytest.mark.parametrize("part", ["s2m", "m2v", "vae", "scheduler"])
def test_a_missing_part_is_named(own_assets: Path, part: str):
    (own_assets / "mini" / part).rename(own_assets / part)
    with pytest.raises(WeightsError, match=f"lacks its part {part}"):
        HieraSurgPipeline.from_pretrained(own_assets / "mini")


def test_an_index_that_is_none(own_assets: Path):
    index = own_assets / "mini" / "model_index.json"
    for said, why in (
        (3, "must name stages"),
        ({"vae": {}}, "'vae' is no stage"),
        ({"s2m": {"step": 4}}, "takes steps, guidance, solver"),
        ({"s2m": {"steps": "many"}}, "steps must be a number"),
        ({"s2m": {"steps": 0}}, "steps must be 1 or more"),
        ({"m2v": {"guidance": -1}}, "guidance must be 0 or more"),
        ({"m2v": {"solver": "euler"}}, "solver must be one of"),
    ):
        edit_json(index, sampling=said)
        with pytest.raises(WeightsError, match=why):
            HieraSurgPipeline.from_pretrained(own_assets / "mini")
    edit_json(index, _class_name="StableDiffusionPipeline")
    with pytest.raises(WeightsError, match="does not describe"):
        HieraSurgPipeline.from_pretrained(own_assets / "mini")
    index.write_text("{")
    with pytest.raises(WeightsError, match="no JSON"):
        HieraSurgPipeline.from_pretrained(own_assets / "mini")
    index.unlink()
    with pytest.raises(WeightsError, match=r"no model_index\.json"):
        HieraSurgPipeline.from_pretrained(own_assets / "mini")


@pytest.mark.gpu
def test_a_gpu_makes_what_the_cpu_makes_from_the_same_seed(pipeline: HieraSurgPipeline):
    on_cpu = video_of(pipeline)
    on_gpu = video_of(tiny_pipeline().to("cuda"))
    assert np.abs(on_cpu.astype(int) - on_gpu).mean() < 2
