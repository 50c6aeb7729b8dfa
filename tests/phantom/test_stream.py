"""Clips that are drawn while training goes on: the newest are there, and an ended process is missed."""

import queue
from pathlib import Path

import pytest
import torch

from hierasurg_core.errors import ResourceError
from hierasurg_core.phantom.encoded import PHOTOS, Tensors, Wanted
from hierasurg_core.phantom.stream import ClipStream, PartsOnDisk, drawing

CPU = torch.device("cpu")


def part(number: int) -> Tensors:
    """Two clips all of one number, their photos in variants of it and a hundred more."""
    latents = torch.full((2, 3, 1, 2, 2), float(number))
    kinds = torch.tensor([0.0, 100.0]).view(1, 2, 1, 1, 1).expand(2, 2, 1, 2, 2) + number
    labels = torch.full((2, 3), number)
    return {
        "latents_BFCHW": latents,
        "first_frame_B1CHW": latents[:, :1],
        "phase_BF": labels,
        "triplet_BF": labels,
        PHOTOS: kinds,
    }


def parts(*numbers: int) -> queue.Queue[Tensors]:
    filled: queue.Queue[Tensors] = queue.Queue()
    for number in numbers:
        filled.put(part(number))
    return filled


def test_the_newest_clips_take_the_place_of_the_oldest():
    coming = parts(0, 1)
    stream = ClipStream(coming, pool=5, batch=64, seed=0, device=CPU)  # rounded up to 6
    stream.wait_for(4)
    batches = iter(stream)
    assert set(next(batches).clean_latents.flatten().tolist()) == {0, 1}
    for number in (2, 3, 4):
        coming.put(part(number))
    batch = next(batches)
    assert set(batch.clean_latents.flatten().tolist()) == {2, 3, 4}
    assert batch.phase_BF is not None
    assert torch.equal(batch.phase_BF[:, 0].float(), batch.clean_latents[:, 0, 0, 0, 0])
    assert stream.drawn == 10


def test_a_first_photo_is_one_of_its_own_variants():
    batch = next(iter(ClipStream(parts(7), pool=2, batch=64, seed=0, device=CPU)))
    assert batch.first_frame_B1CHW.shape == (64, 1, 1, 2, 2)
    assert set(batch.first_frame_B1CHW.flatten().tolist()) == {7, 107}


def test_waiting_ends_with_a_full_pool():
    coming = parts(0, 1, 2)
    stream = ClipStream(coming, pool=4, batch=1, seed=0, device=CPU)
    stream.wait_for(100)
    assert stream.drawn == 4
    assert coming.qsize() == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_file_that_cannot_be_read_ends_the_waiting(tmp_path: Path):
    (tmp_path / "part-0000.safetensors").write_bytes(b"cut")
    with pytest.raises(ResourceError, match="the thread that reads drawn clips ended early"):
        PartsOnDisk(tmp_path, [], pin=False).get()


@pytest.mark.slow
def test_a_process_that_ended_is_named_and_not_waited_for(tmp_path: Path):
    wanted = Wanted("s2m", tmp_path / "no-vae", 0, CPU, 0.0)
    with (
        pytest.raises(ResourceError, match="a process that draws clips ended early"),
        drawing(wanted, 2, 2, 1, CPU, workers=1),
    ):
        pytest.fail("there is nothing to train on")
