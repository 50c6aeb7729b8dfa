from typing import Any

import pytest
import torch
from generation.tiny_assets import SIZE_HW, photograph, tiny_pipeline
from maps.moving_shapes import moving_ids

from hierasurg_core.errors import ResourceError, UsageError
from hierasurg_core.generation import HieraSurgPipeline, Sampling
from hierasurg_core.generation.acceleration import Speed, prepare
from hierasurg_core.generation.memory import (
    ClipShape,
    choose,
    count_tokens,
    estimate,
    stage_tokens,
    weight_bytes,
)
from hierasurg_core.generation.placement import Placement, Waiting
from hierasurg_core.maps import PanopticClip
from hierasurg_core.models import M2VTransformer3DModel, S2MTransformer3DModel
from hierasurg_core.runtime import make_generator

CPU = torch.device("cpu")
CLIP = ClipShape(SIZE_HW, SIZE_HW, 16, 16)
MAPS = PanopticClip(moving_ids(4, 16, SIZE_HW, seed=1), 4)


def parts(pipeline: HieraSurgPipeline):
    assert pipeline.s2m is not None
    models = {"m2v": pipeline.m2v, "s2m": pipeline.s2m}
    return models, pipeline.vae, stage_tokens(pipeline.s2m, pipeline.m2v, pipeline.vae, CLIP, 16), CLIP


def video(pipeline: HieraSurgPipeline, steps: int = 2):
    sampling = Sampling(steps, 1.0, 1, 17, make_generator(0))
    return pipeline.make_video(photograph(MAPS.map_FHW[0], 1), MAPS, 1, sampling)


def test_tokens_of_the_full_sizes():
    with torch.device("meta"):
        m2v, s2m = M2VTransformer3DModel(num_layers=1), S2MTransformer3DModel(num_layers=1)
    assert count_tokens(m2v, (480, 720), 5, 16) == 12271
    assert count_tokens(m2v, (480, 720), 13, 6) == 17551 + 6 * 345
    assert count_tokens(s2m, (256, 384), 16, 0) == 6146


def test_each_way_takes_less_than_the_one_before():
    given = parts(tiny_pipeline())
    ways = [("fast", False), ("offload", False), ("offload", True), ("group-offload", True)]
    totals = [estimate(way, tiled, *given).total for way, tiled in ways]
    assert totals == sorted(totals, reverse=True)
    fast = estimate("fast", False, *given)
    assert fast.weights >= sum(weight_bytes(model) for model in given[0].values())


def test_auto_takes_the_fastest_that_fits_and_whole_frames_first():
    given = parts(tiny_pipeline())
    fast, offload = (estimate(way, False, *given).total for way in ("fast", "offload"))
    assert choose("auto", fast, *given).way == "fast"
    between = choose("auto", offload, *given)
    assert (between.way, between.tiled) == ("offload", False)
    least = estimate("group-offload", True, *given).total
    assert choose("auto", least, *given).tiled
    with pytest.raises(ResourceError, match=r"at least about .* GiB"):
        choose("auto", 1000, *given)


def test_a_way_asked_for_is_not_refused_by_an_estimate():
    given = parts(tiny_pipeline())
    assert choose("offload", 1000, *given).way == "offload"
    with pytest.raises(UsageError, match="use auto, fast, offload, group-offload"):
        choose("little", 1000, *given)  # type: ignore[arg-type]


def test_a_transformer_that_waits_makes_the_same():
    pipeline = tiny_pipeline()
    before = video(pipeline)
    waiting = {"m2v": Waiting(pipeline.m2v, CPU)}
    pipeline.use_placement(Placement(CPU, waiting))
    assert (video(pipeline) == before).all()


def test_on_a_cpu_nothing_changes():
    pipeline, plain = tiny_pipeline(), tiny_pipeline()
    assert prepare(pipeline, CPU, CLIP, Speed()) == ()
    assert (video(pipeline) == video(plain)).all()
    assert not pipeline.placement.tiles((256, 384))
    assert pipeline.placement.tiles((480, 720))


@pytest.mark.parametrize("cache", ["first-block", "taylorseer", "pab"])
def test_a_cache_forgets_between_clips(cache):
    pipeline = HieraSurgPipeline(None, _deep_m2v(), tiny_pipeline().vae, tiny_pipeline().scheduler)
    notes = prepare(pipeline, CPU, CLIP, Speed(cache=cache))
    assert any(cache in note for note in notes)
    assert (video(pipeline) == video(pipeline)).all()


def test_pab_takes_attention_from_the_call_before_in_the_middle_of_sampling():
    made = {}
    for cache in ("none", "pab"):
        pipeline = HieraSurgPipeline(None, _deep_m2v(), tiny_pipeline().vae, tiny_pipeline().scheduler)
        prepare(pipeline, CPU, CLIP, Speed(cache=cache))  # type: ignore[arg-type]
        called: list[int] = []
        for block in pipeline.m2v.transformer_blocks:
            processor = block.attn1.processor  # type: ignore[union-attr]
            block.attn1.processor = _Counted(processor, pipeline, called)  # type: ignore[union-attr]
        made[cache] = video(pipeline, steps=4)
        times = [999, 749, 499, 249]
        assert called == [time for time in (times if cache == "none" else times[::2]) for _ in range(3)]
    assert (made["none"] != made["pab"]).any()


class _Counted:
    """Calls an attention and remembers at which time steps."""

    def __init__(self, processor: Any, pipeline: HieraSurgPipeline, called: list[int]) -> None:
        self._processor, self._pipeline, self._called = processor, pipeline, called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._called.append(self._pipeline.current_timestep)
        return self._processor(*args, **kwargs)


def _deep_m2v() -> M2VTransformer3DModel:
    config = {**tiny_pipeline().m2v.config, "num_layers": 3}
    torch.manual_seed(0)
    return M2VTransformer3DModel(**{key: value for key, value in config.items() if not key.startswith("_")})


@pytest.mark.parametrize(
    ("speed", "reason"),
    [
        (Speed(memory="offload"), "for GPUs"),
        (Speed(cache="some"), "use none, first-block, taylorseer, pab"),  # type: ignore[arg-type]
        (Speed(compile=True, cache="pab"), "cache pab exclude each other"),
        (Speed(compile=True, memory="group-offload"), "for GPUs|exclude"),
        (Speed(quantize="int8", memory="group-offload"), "for GPUs|exclude"),
    ],
)
def test_what_does_not_go_together(speed: Speed, reason: str):
    with pytest.raises(UsageError, match=reason):
        prepare(tiny_pipeline(), CPU, CLIP, speed)
