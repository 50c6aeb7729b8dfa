import pytest

from hierasurg_core.config import TrainConfig
from hierasurg_core.errors import ResourceError
from hierasurg_core.training.memory import Workload, changes_of, choose_setting, estimate, what_to_lower

M2V = Workload(1_824_175_232, 1_824_175_232, 12_271, 1920, 30)


def test_estimate_by_hand() -> None:
    load = Workload(parameters=100, trained=40, tokens=10, width=8, blocks=2, lora=True)
    config = TrainConfig(batch=3, ema=0.9)
    told = estimate("recompute", load, config)
    assert (told.weights, told.gradients, told.moments, told.average) == (2 * 60 + 4 * 40, 160, 320, 160)
    assert told.activations == 3 * 10 * 8 * (2 * 2 + 60)
    assert told.total == sum(value for name, value in told.to_dict().items() if name != "total")
    assert estimate("offload", load, config).moments == 0
    assert estimate("8bit", load, config).moments == 80
    assert told.overlap == 160  # gradients, as 3 x 10 x 8 x 2 x 2 bytes are kept
    beside = estimate("recompute", load, config, world_size=2)
    assert beside.total == told.total + 160
    several = TrainConfig(batch=3, ema=0.9, accumulate=2)
    assert estimate("recompute", load, several) == beside
    full = Workload(parameters=100, trained=100, tokens=10, width=8, blocks=2)
    assert estimate("keep", full, TrainConfig(precision="bf16")).weights == 600
    assert estimate("recompute", full, TrainConfig(precision="bf16")).weights == 400 + 2 * 50
    assert estimate("keep", full, TrainConfig(precision="fp32")).weights == 400 + 4 * 3 * 64 * 2


def test_estimate_of_a_part_by_hand() -> None:
    load = Workload(parameters=100, trained=100, tokens=10, width=1, blocks=4, outside=20)
    config = TrainConfig(batch=1, ema=0.9, sharding="full")
    told = estimate("recompute", load, config, world_size=4)
    block = 20
    projections = 2 * 3
    assert told.weights == 400 // 4 + 2 * 2 * block + 4 * 20 + projections
    assert told.gradients == 400 // 4 + (2 + 4) * block + 8 * 20
    assert (told.moments, told.average) == (800 // 4, 400 // 4)
    assert told.activations == estimate("recompute", load, TrainConfig(batch=1)).activations
    assert estimate("keep", load, config, world_size=4).weights == told.weights + 3 * projections
    alone = estimate("keep", load, config, world_size=1)
    assert alone == estimate("keep", load, TrainConfig(batch=1, ema=0.9), world_size=1)


def test_flops_of_a_clip_are_the_baselines() -> None:
    assert M2V.flops_a_clip() / 782e12 == pytest.approx(0.257, abs=0.002)


def test_auto_takes_the_fastest_that_fits() -> None:
    config = TrainConfig(batch=1)
    chosen = [
        choose_setting("auto", M2V, config, free, with_8bit=True)
        for free in (80 * 10**9, 45 * 10**9, 21 * 10**9)
    ]
    assert chosen == ["keep", "attention", "offload"]
    assert choose_setting("auto", M2V, config, 32 * 10**9, with_8bit=True) == "8bit"
    assert choose_setting("auto", M2V, config, 32 * 10**9, with_8bit=False) == "offload"
    assert choose_setting("auto", M2V, config, None, with_8bit=False) == "keep"
    parts = TrainConfig(batch=1, sharding="full")
    shared = [choose_setting("auto", M2V, parts, 21 * 10**9, with_8bit=True, world_size=n) for n in (2, 4)]
    assert shared == ["recompute", "attention"]
    with pytest.raises(ResourceError, match=r"in order of effect, try --lora-rank 64$"):
        choose_setting("auto", M2V, parts, 8 * 10**9, with_8bit=True, world_size=2)
    matrices = TrainConfig(batch=1, optimizer="muon")
    with pytest.raises(ResourceError, match="in order of effect, try --sharding full"):
        choose_setting("auto", M2V, TrainConfig(batch=1), 8 * 10**9, with_8bit=True, world_size=2)
    with pytest.raises(ResourceError):
        choose_setting("auto", M2V, matrices, 24 * 10**9, with_8bit=True)
    assert choose_setting("recompute", M2V, config, 1, with_8bit=False) == "recompute"
    assert changes_of("offload") == {"gradient_checkpointing": True, "offload": True}
    with pytest.raises(ResourceError, match=r"GB of GPU memory are needed and 8\.0 GB are free: in order of"):
        choose_setting("auto", M2V, config, 8 * 10**9, with_8bit=True)


def test_what_to_lower_names_what_is_not_in_use() -> None:
    config = TrainConfig(batch=4, accumulate=2, gradient_checkpointing=False, ema=0.9)
    assert what_to_lower(config) == (
        "in order of effect, try --memory recompute, then --batch 2 with --accumulate 4, then "
        "--lora-rank 64, then --memory offload, then --set ema=null"
    )
    least = TrainConfig(offload=True)
    assert what_to_lower(least, lora=True).startswith("nothing is left to lower")
