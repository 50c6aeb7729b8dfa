"""A model in pieces (FSDP2): of N ranks each keeps 1/N of its values, gradients, moments and averages.

Owns what is a unit, in which number types units travel, and the way between pieces and whole tensors. Each
transformer block is a unit, gathered before it runs and let go after; all else is one unit that stays from
the forward to the backward pass. Gradients are averaged over ranks after each backward pass, also after
those of a step of several, so that no rank ever holds all of them.

With bf16 the master weights are float32; blocks travel, and are multiplied, in bf16, and gradients are summed
in float32. So a run differs from one with whole copies by the rounding of the blocks' norm weights alone,
which stay float32 there. Everything outside of the blocks travels in float32, as batch norms need it.

Refuses: optimisers (they see the pieces), and the form of a checkpoint, which is that of whole tensors.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hierasurg_core.models import CogVideoXStack
from hierasurg_core.runtime import rank, world_size


def shard(model: CogVideoXStack, device: torch.device, *, half: bool) -> None:
    """Leaves this rank its piece of a model, on its device; all ranks call it, and rank 0's values count.

    The model keeps its names and is called as before, on all ranks at once. It can't be made whole again:
    take `gathered` tensors.

    Args:
        model: Whole, float32; best on the CPU, from which a unit at a time is taken.
        device: This rank's.
        half: Whether blocks travel in bf16.
    """
    mesh = init_device_mesh(device.type, (world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in model.transformer_blocks:
        _agree((*block.parameters(), *block.buffers()), device)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    rest = (tensor for tensor in (*model.parameters(), *model.buffers()) if not isinstance(tensor, DTensor))
    _agree(rest, device)
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))


def let_go(model: nn.Module) -> None:
    """Lets a model in pieces forget what it gathered, as is due after a forward pass without gradients."""
    if isinstance(model, FSDPModule):
        model.reshard()


def in_pieces(tensor: Tensor) -> bool:
    """Tells whether a tensor lies in pieces on several ranks."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Returns this rank's piece, which shares the tensor's memory; a whole tensor is its own piece."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns whole tensors on the CPU of rank 0, and nothing on others; all ranks call it.

    The device holds one whole tensor at a time.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            found[name] = whole.detach().to("cpu", copy=True).contiguous()
    return found


def piece_of(whole: Tensor, like: Tensor) -> Tensor:
    """Cuts a whole tensor, which all ranks have, as another one is cut; needs no other rank."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(
        whole.to(like.device), like.device_mesh, list(like.placements), src_data_rank=None
    )


@torch.no_grad()
def put(whole: Tensor, into: Tensor) -> None:
    """Copies a whole tensor, which all ranks have, into one that may lie in pieces."""
    local(into).copy_(local(piece_of(whole, into)))


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scales the gradients of pieces to a norm of at most `largest`, that of all ranks' pieces together.

    Returns:
        The norm before, without shape, equal on all ranks.
    """
    held = list(parameters)
    norm = nn.utils.get_total_norm([value.grad for value in held if value.grad is not None])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    nn.utils.clip_grads_with_norm_(held, largest, norm)
    return norm


def hollow(model: CogVideoXStack) -> CogVideoXStack:
    """Returns a model's structure without memory: every tensor of the copy lies on the meta device."""
    empty: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = torch.empty_like(parameter, device="meta")
        empty[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
    empty |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()}
    return copy.deepcopy(model, empty)


@contextlib.contextmanager
def filled(
    shell: CogVideoXStack, tensors: Mapping[str, Tensor], *, strict: bool = True
) -> Iterator[CogVideoXStack]:
    """Lets a hollow model have these tensors within the block; no number is copied.

    Args:
        shell: Of `hollow`.
        tensors: By name; on the CPU.
        strict: Whether they must be all of the model's.

    Raises:
        RuntimeError: They do not fit, as `load_state_dict` says it.
    """
    try:
        shell.load_state_dict(tensors, strict=strict, assign=True)
        yield shell
    finally:
        cast(nn.Module, shell).to("meta")


def _agree(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Brings tensors to the device and gives every rank those of rank 0, as DDP does."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device)
        broadcast(tensor.data)
