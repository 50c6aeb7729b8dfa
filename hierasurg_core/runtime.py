"""Device, number type, seeds and ranks: the only module that asks torch.cuda and torch.distributed.

Everything else takes a `torch.device`, a `torch.dtype` or a `torch.Generator` as an argument. It refuses to
fall back: a device that was asked for by name and is not there is an error, never a silent CPU run.
"""

import contextlib
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierasurg_core.errors import ResourceError, UsageError

_A_WEEK = timedelta(days=7)
_LOOK_AGAIN = 0.02  # seconds between two looks at what is waited for
_patient: list[Any] = []  # the process group, and the one for waiting that was made for it
_SHAPES = 64
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolve_device(name: str = "auto") -> torch.device:
    """Turns a device's name into a device that exists.

    Args:
        name: "auto" (the GPU of this rank if there is one, else the CPU), "cpu", "cuda" (the same GPU),
            "cuda:N" or "mps".

    Raises:
        UsageError: No such name.
        ResourceError: The device is not on this machine.
    """
    if name == "auto":
        return resolve_device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ResourceError("device mps is not available on this machine; use --device cpu")
        return device
    if device.type != "cuda":
        raise UsageError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    if not torch.cuda.is_available():
        raise ResourceError(f"device {name} is not available: torch finds no GPU here; use --device cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    count = torch.cuda.device_count()
    if index >= count:
        raise ResourceError(
            f"device cuda:{index} is not available: this machine has {count} GPUs, from cuda:0"
        )
    return torch.device("cuda", index)


def select_device(device: torch.device) -> None:
    """Makes `device` the one that libraries use which ask for "the current GPU"; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turns "auto", "bf16", "fp16" or "fp32" into a dtype; "auto" is bf16 on a GPU and fp32 elsewhere.

    Raises:
        UsageError: No such name.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise UsageError(f"unknown dtype {name!r}: use auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a generator on `device` that starts at `seed`.

    A generator on the CPU draws the same numbers on every machine; one on a GPU only on GPUs.
    """
    return torch.Generator(device=device).manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, numpy and torch (CPU and every GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries below draw from numpy's global generator
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns the state of the global generators (Python, numpy, torch, this GPU) as values JSON can hold."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [name, [int(key) for key in keys], position, has_gauss, cached],
        "torch": generator_state(torch.default_generator),
    }
    if device.type == "cuda":
        state["cuda"] = _as_hex(torch.cuda.get_rng_state(device))
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts the global generators back to what `random_state` returned; a GPU's only where both have one."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    restore_generator(torch.default_generator, state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_from_hex(state["cuda"]), device)


def generator_state(generator: torch.Generator) -> str:
    """Returns a generator's state as hexadecimal text."""
    return _as_hex(generator.get_state())


def restore_generator(generator: torch.Generator, state: str) -> None:
    """Puts a generator back to what `generator_state` returned for one on the same kind of device.

    Raises:
        UsageError: The state is one of another kind of device.
    """
    try:
        generator.set_state(_from_hex(state))
    except RuntimeError as error:
        raise UsageError(
            f"cannot continue on {generator.device}: the random state was saved on another kind of device; "
            "resume on the device it was started on"
        ) from error


def rank() -> int:
    """This process's number among those that work together; 0 when it is alone."""
    return torch.distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes work together; 1 when this one is alone."""
    return torch.distributed.get_world_size() if is_distributed() else 1


def is_distributed() -> bool:
    """Tells whether a process group is up."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def claim(unit: str) -> bool:
    """Tells whether this process is the first of its group to ask for a unit of work; always when alone.

    So processes share work without a plan: each goes through all units and does those it can claim. A name
    can be claimed once in the life of a process group.
    """
    if not is_distributed():
        return True
    store = torch.distributed.distributed_c10d._get_default_store()
    return store.add(f"claim/{unit}", 1) == 1


def tell_done(unit: str) -> None:
    """Tells the other processes of the group that a claimed unit is done; nothing when alone."""
    if is_distributed():
        torch.distributed.distributed_c10d._get_default_store().add(f"done/{unit}", 1)


def wait_for_units(units: Iterable[str]) -> None:
    """Waits until every unit was told to be done, however long; signals are heard meanwhile."""
    if is_distributed():
        store = torch.distributed.distributed_c10d._get_default_store()
        for unit in units:
            while not store.check([f"done/{unit}"]):
                time.sleep(_LOOK_AGAIN)


def tell(name: str, text: str) -> None:
    """Tell the other processes of the group a text under a name; nothing when alone."""
    if is_distributed():
        torch.distributed.distributed_c10d._get_default_store().set(f"told/{name}", text)


def hear(name: str) -> str:
    """Return what a process of the group tells under a name, however long that takes."""
    store = torch.distributed.distributed_c10d._get_default_store()
    store.wait([f"told/{name}"], _A_WEEK)
    return store.get(f"told/{name}").decode()


def from_first(name: str, make: Callable[[], Any]) -> Any:
    """Returns in every process of the group what the first one makes; the others wait, however long.

    Args:
        name: Of the value; once in the life of a process group.
        make: Returns it, as plain values for JSON; called in the first process only.
    """
    if not is_distributed():
        return make()
    store = torch.distributed.distributed_c10d._get_default_store()
    if rank() == 0:
        store.set(f"value/{name}", json.dumps(make()))
    store.wait([f"value/{name}"], _A_WEEK)
    return json.loads(store.get(f"value/{name}"))


def wait_for_all() -> None:
    """Waits until all processes of the group have come here, however long; nothing when alone.

    NCCL gives up after ten minutes, and one rank may copy or write longer than that. So the wait goes through
    a gloo group of its own, whose limit is a week. Signals are heard meanwhile.

    Raises:
        RuntimeError: Another process has ended; its closed connection tells at once.
    """
    if not is_distributed():
        return
    arrived = torch.distributed.barrier(group=_patient_group(), async_op=True)
    assert arrived is not None
    while not arrived.is_completed():
        time.sleep(_LOOK_AGAIN)
    arrived.wait()


def agree(question: str, answer: str) -> str:
    """Returns the answer that all processes of the group take: that of the first to say one; alone the own.

    Args:
        question: Names what is decided; one answer to it holds for the life of the group.
        answer: This process's own; not empty.
    """
    if not is_distributed():
        return answer
    store = torch.distributed.distributed_c10d._get_default_store()
    return bytes(store.compare_set(f"agreed/{question}", "", answer)).decode()


def memory_in_use(device: torch.device) -> dict[str, int]:
    """Returns bytes of GPU memory: allocated now, reserved, and the peak allocated; empty on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "memory_allocated": torch.cuda.memory_allocated(device),
        "memory_reserved": torch.cuda.memory_reserved(device),
        "memory_peak": torch.cuda.max_memory_allocated(device),
    }


def free_memory(device: torch.device) -> int:
    """Returns the bytes of GPU memory that are left: free on the card, or cached by torch and unused.

    Raises:
        ValueError: The device is no CUDA GPU.
    """
    if device.type != "cuda":
        raise ValueError(f"{device} has no memory of its own")
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def compute_capability(device: torch.device) -> tuple[int, int]:
    """Returns a GPU's generation as CUDA numbers them, (9, 0) for an H100; (0, 0) for anything else."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def device_milliseconds(work: Callable[[], None], device: torch.device, repeats: int = 5) -> float:
    """Returns the median time of some work on a CUDA GPU, measured on the GPU after two warm-up runs."""
    elapsed = []
    with torch.cuda.device(device):
        for _ in range(repeats + 2):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            elapsed.append(start.elapsed_time(end))
    return statistics.median(elapsed[2:])


def keep_compiled(folder: Path) -> None:
    """Keeps what torch.compile makes in a folder, where later processes find it.

    An environment that names a folder of its own wins. Best called before anything is compiled. Also lets one
    function be compiled for as many shapes as the VAE's levels have; past torch's limit of 8 it runs plain.
    """
    torch._dynamo.config.recompile_limit = max(_SHAPES, torch._dynamo.config.recompile_limit)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Lets torch and cuDNN use algorithms without chance for the time of the block, where they have such.

    Nothing is chosen by timing meanwhile (see `is_deterministic`). What has no such algorithm still runs, and
    torch warns of it. Best entered before the first work on a GPU, as cuBLAS reads its setting only once.

    Args:
        wanted: False changes nothing.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
        cudnn.deterministic,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, cudnn.deterministic = before[2:]


def is_deterministic() -> bool:
    """Tells whether this is a block of `deterministic`, in which nothing may be chosen by timing."""
    return torch.are_deterministic_algorithms_enabled()


def device_name(device: torch.device) -> str:
    """Returns what a GPU calls itself, and "cpu" for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def expect_fixed_shapes(device: torch.device) -> None:
    """Lets cuDNN try its convolutions once for each shape, which pays where all steps have equal shapes.

    Not in a block of `deterministic`: which one is fastest is up to chance.
    """
    if device.type == "cuda" and not is_deterministic():
        torch.backends.cudnn.benchmark = True


class SideStream:
    """A second queue of a GPU's work, beside the main one; its tensors have memory of their own."""

    def __init__(self, device: torch.device) -> None:
        """Makes an empty one.

        Args:
            device: A CUDA GPU.
        """
        self._stream = torch.cuda.Stream(device)
        self._device = device

    @contextlib.contextmanager
    def after(self, *inputs: torch.Tensor) -> Iterator[None]:
        """Puts what the block does into this queue, behind all that the main one has been told so far.

        Args:
            inputs: Tensors of the main queue that the block reads; their memory is kept for it.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for tensor in inputs:
            tensor.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            yield


def fetch(values: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begins to copy a tensor to the host; the function that is returned waits for it, in any thread."""
    if values.device.type != "cuda":
        return values.cpu
    on_host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    on_host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event(blocking=True)
    arrived.record(torch.cuda.current_stream(values.device))

    def wait() -> torch.Tensor:
        arrived.synchronize()
        return on_host

    return wait


def _patient_group() -> torch.distributed.ProcessGroup:
    """Returns the gloo group in which processes wait for each other; all make it together, at the first call.

    It lives as long as the process group that it belongs to.
    """
    whole = torch.distributed.group.WORLD
    if not _patient or _patient[0] is not whole:
        own = torch.distributed.new_group(backend="gloo", timeout=_A_WEEK)
        _patient[:] = [whole, own]
    return _patient[1]


def _as_hex(state: torch.Tensor) -> str:
    return state.cpu().numpy().tobytes().hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


@contextlib.contextmanager
def process_group(device_name: str = "auto") -> Iterator[torch.device]:
    """Joins the process group that a launcher prepared, for the time of the block; alone without one.

    Args:
        device_name: As for `resolve_device`.

    Yields:
        This rank's device.
    """
    device = resolve_device(device_name)
    select_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or is_distributed():
        yield device
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    _patient_group()  # made while all are here: making it later would wait with a limit of its own
    try:
        yield device
    finally:
        _patient.clear()
        torch.distributed.destroy_process_group()
