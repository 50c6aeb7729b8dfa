import random
from pathlib import Path

import numpy as np
import pytest
import torch

from hierasurg_core.errors import ResourceError, UsageError
from hierasurg_core.runtime import (
    claim,
    generator_state,
    hear,
    make_generator,
    memory_in_use,
    process_group,
    random_state,
    rank,
    resolve_device,
    resolve_dtype,
    restore_generator,
    restore_random_state,
    seed_everything,
    tell,
    tell_done,
    wait_for_all,
    wait_for_units,
    world_size,
)

CPU = torch.device("cpu")


def draw_of_each() -> tuple[float, float, float, float]:
    return (
        random.random(),
        random.gauss(0, 1),
        float(np.random.standard_normal()),  # noqa: NPY002
        torch.rand(1).item(),
    )


def test_devices_by_name() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:x", "xpu", ""):
        with pytest.raises(UsageError, match="use auto, cpu, cuda"):
            resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_gpu_is_no_silent_cpu() -> None:
    with pytest.raises(ResourceError, match="use --device cpu"):
        resolve_device("cuda")


@pytest.mark.gpu
def test_gpu_beyond_the_last() -> None:
    assert resolve_device("cuda").index == 0
    with pytest.raises(ResourceError, match="this machine has"):
        resolve_device("cuda:99")


def test_dtypes_by_name() -> None:
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("fp16", CPU) == torch.float16
    with pytest.raises(UsageError, match="unknown dtype 'int8'"):
        resolve_dtype("int8", CPU)


def test_equal_seeds_draw_equal_numbers() -> None:
    assert torch.equal(torch.rand(3, generator=make_generator(7)), torch.rand(3, generator=make_generator(7)))
    seed_everything(2**40)
    first = draw_of_each()
    seed_everything(2**40)
    assert draw_of_each() == first


def test_random_states_go_on_where_they_were() -> None:
    draw_of_each()
    state = random_state(CPU)
    expected = draw_of_each()
    draw_of_each()
    restore_random_state(state, CPU)
    assert draw_of_each() == expected


def test_generator_state_is_text_that_restores() -> None:
    generator = make_generator(3)
    state = generator_state(generator)
    expected = torch.rand(4, generator=generator)
    restore_generator(generator, state)
    assert torch.equal(torch.rand(4, generator=generator), expected)
    with pytest.raises(UsageError, match="another kind of device"):
        restore_generator(generator, "00ff")


def test_alone_on_a_cpu() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert memory_in_use(CPU) == {}
    with process_group("cpu") as device:
        assert device == CPU
        assert world_size() == 1


def test_a_unit_of_work_is_claimed_once(tmp_path: Path) -> None:
    assert claim("video01") is claim("video01") is True  # alone, everything is ours
    meeting = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        assert [claim(unit) for unit in ("video01", "video02", "video01")] == [True, True, False]
        wait_for_all()
        tell_done("video01")
        wait_for_units(["video01"])
        tell("map of a photo", "text")
        assert hear("map of a photo") == "text"
    finally:
        torch.distributed.destroy_process_group()
    wait_for_all()
    tell("alone", "heard by nobody")
    tell_done("video01")
    wait_for_units(["video01", "video02"])  # alone, nobody else has any
