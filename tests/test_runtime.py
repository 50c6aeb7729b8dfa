import random
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import waiting_ranks
from forked import run_ranks, start_ranks

from hierasurg_core import runtime
from hierasurg_core.errors import ResourceError, UsageError
from hierasurg_core.runtime import (
    agree,
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


def test_a_wait_for_all_outlasts_any_work(tmp_path: Path) -> None:
    meeting = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        group = runtime._patient_group()
        assert group._get_backend(CPU).options._timeout == timedelta(days=7)
        assert runtime._patient_group() is group
    finally:
        torch.distributed.destroy_process_group()


def test_a_dead_rank_ends_the_wait_of_the_others() -> None:
    (waiting, told), (dead, _) = start_ranks(2, waiting_ranks.one_ends_while_the_other_waits)
    assert list(told) == [waiting_ranks.NOTICED]
    for process in (waiting, dead):
        process.join()
    assert (waiting.exitcode, dead.exitcode) == (0, 3)


def test_ranks_agree_on_the_first_answer(tmp_path: Path) -> None:
    assert agree("kernel", "own") == "own"
    run_ranks(2, waiting_ranks.answers, tmp_path)
    said = [(tmp_path / str(number)).read_text().split() for number in (0, 1)]
    assert said[0] == said[1]
    assert said[0][0] in ("own-0", "own-1")
    assert said[0][1:] == [said[0][0], "x"]


def test_determinism_is_for_the_time_of_a_block() -> None:
    def state() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark

    before = state()
    with runtime.deterministic(False):
        assert state() == before
    with pytest.raises(KeyError), runtime.deterministic(True):
        assert state() == (True, True, False)
        assert runtime.is_deterministic()
        raise KeyError
    assert state() == before
    assert not runtime.is_deterministic()
