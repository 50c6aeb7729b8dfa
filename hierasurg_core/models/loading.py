"""Opening model folders: transformers, VAE, scheduler.

Owns: where a part's files lie, reading them without executing anything, accounting for every tensor.
Refuses: the Hub (a caller hands in a folder), and guessing: a missing, extra or misshapen tensor is an
error that names it.

Letters: see `transformers`.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from hierasurg_core.errors import WeightsError
from hierasurg_core.models.backbone import AutoencoderKLCogVideoX, CogVideoXDPMScheduler
from hierasurg_core.models.compat import class_and_arguments, our_name
from hierasurg_core.models.configs import read_model_config
from hierasurg_core.models.files import CONFIG_FILE, expect_folder, find_transformer
from hierasurg_core.models.stack import CogVideoXStack

SCHEDULER_FILE = "scheduler_config.json"
WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
Model = TypeVar("Model", bound=nn.Module)
# What torch and safetensors raise on a damaged file.
_DAMAGED = (
    *(OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError),
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError),
    struct.error,
)
_SUMMABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SCHEDULER_CLASSES = ("CogVideoXDPMScheduler", "CogVideoXDDIMScheduler")


def load_transformer(
    folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> CogVideoXStack:
    """Return the S2M or M2V transformer of a folder, in evaluation mode.

    Args:
        folder: holds `config.json`, or `transformer/`, or `checkpoint-STEP/` folders (the newest counts).
            Ours and those of the public HieraSurg code. Low-rank updates come added to their base.
        dtype: of the weights; None keeps that on disk.
        device: where they go.

    Raises:
        WeightsError: no such folder or part, another kind of model, a damaged file, or a tensor that is
            missing, extra or of another shape than its config says.

    Example:
        >>> m2v = load_transformer("runs/m2v", dtype=torch.bfloat16, device="cuda")
    """
    part = find_transformer(Path(folder))
    from hierasurg_core.models import lora  # builds on this module

    if lora.is_lora(part):
        return lora.load_merged(part, dtype, device)
    config = read_model_config(part / CONFIG_FILE)
    tensors = named_tensors(part, torch.device(device))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    cls, arguments = class_and_arguments(config, shapes, str(part / CONFIG_FILE))
    return _filled(cls, arguments, tensors, part, dtype)


def load_vae(
    folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> AutoencoderKLCogVideoX:
    """Return the CogVideoX VAE of a folder (or of its `vae/`), frozen and in evaluation mode.

    Raises:
        WeightsError: as `load_transformer`.
    """
    part = _find_part(Path(folder), "vae", CONFIG_FILE)
    config = read_model_config(part / CONFIG_FILE)
    _expect_class(config, ("AutoencoderKLCogVideoX",), part / CONFIG_FILE)
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    tensors = read_tensors(part, torch.device(device))
    vae = _filled(AutoencoderKLCogVideoX, arguments, tensors, part, dtype)
    vae.requires_grad_(False)
    return vae


def load_scheduler(folder: str | Path) -> CogVideoXDPMScheduler:
    """Return the CogVideoX DPM scheduler of a folder (or of its `scheduler/`).

    CogVideoX-2b's own file names the DDIM class; its settings serve the DPM scheduler as they are.

    Raises:
        WeightsError: no such file, or another kind of scheduler or prediction.
    """
    part = _find_part(Path(folder), "scheduler", SCHEDULER_FILE)
    config = read_model_config(part / SCHEDULER_FILE)
    _expect_class(config, _SCHEDULER_CLASSES, part / SCHEDULER_FILE)
    prediction = config.get("prediction_type")
    if prediction != "v_prediction":
        raise WeightsError(
            f"{part / SCHEDULER_FILE}: prediction_type is {prediction!r}, but S2M and M2V predict velocity "
            "('v_prediction'); take the scheduler of CogVideoX-2b"
        )
    try:
        scheduler = CogVideoXDPMScheduler.from_config(config)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{part / SCHEDULER_FILE} makes no scheduler: {error}") from error
    assert isinstance(scheduler, CogVideoXDPMScheduler)  # a tuple only where unused settings are asked for
    return scheduler


def read_tensors(folder: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """Return all tensors of a folder's weights: one file or shards, safetensors or `.bin`.

    A `.bin` is read with `weights_only`, so nothing in it is executed.

    Raises:
        WeightsError: no weights, a shard missing, or a file that can't be read.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return _read_file(folder / name, device)
        index = folder / f"{name}.index.json"
        if index.is_file():
            tensors: dict[str, torch.Tensor] = {}
            for shard in _shards(index):
                tensors |= _read_file(shard, device)
            return tensors
    raise WeightsError(f"{folder} holds no weights: expected {WEIGHT_FILES[0]} (or .bin, or shards)")


def named_tensors(folder: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """Return a folder's tensors by the names that our classes give them.

    Raises:
        WeightsError: as `read_tensors`, or two tensors with the same place.
    """
    return _by_our_names(read_tensors(folder, device), folder)


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a folder's tensors by our names; of safetensors only the headers are read.

    Raises:
        WeightsError: as `named_tensors`.
    """
    return {name: tuple(t.shape) for name, t in named_tensors(folder, torch.device("meta")).items()}


def weights_file(folder: Path) -> Path:
    """Return the file that holds a folder's weights, or names their shards; the folder where none is."""
    names = [name for file in WEIGHT_FILES for name in (file, f"{file}.index.json")]
    return next((folder / name for name in names if (folder / name).is_file()), folder)


def expect_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse weights with NaN or infinity, which would look like a fault of whatever computes with them.

    One sum a tensor tells, and costs a read of it; only where that is not finite all numbers are looked at.

    Args:
        tensors: by name; those on the meta device and those of whole numbers are passed over.
        path: their file, named in errors.

    Raises:
        WeightsError: naming file and tensor.
    """
    for name, tensor in tensors.items():
        if tensor.device.type == "meta" or not tensor.is_floating_point():
            continue
        wide = tensor if tensor.dtype in _SUMMABLE else tensor.float()
        if wide.sum().isfinite():
            continue
        bad = int((~wide.isfinite()).sum())
        if bad:
            raise WeightsError(
                f"{path}: tensor {name} holds NaN or infinity in {bad:,} of {tensor.numel():,} numbers: the "
                "file is damaged, or its training went wrong; take another checkpoint"
            )


def _filled(
    cls: type[Model],
    arguments: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    folder: Path,
    dtype: torch.dtype | None,
) -> Model:
    """Return a model of the class with these tensors in it; nothing is initialised before."""
    try:
        with torch.device("meta"):
            model = cls(**arguments)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise WeightsError(f"{folder / CONFIG_FILE} describes no {cls.__name__}: {error}") from error
    _check_tensors(model.state_dict(), tensors, folder)
    expect_finite(tensors, weights_file(folder))
    model.load_state_dict(_owned(tensors, dtype or _stored_dtype(tensors)), strict=True, assign=True)
    return model.eval()


def _check_tensors(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], folder: Path
) -> None:
    problems = [
        f"tensor {name} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems += [
        f"tensor {name} holds {str(found[name].dtype).removeprefix('torch.')}, expected {_kind(tensor)}"
        for name, tensor in expected.items()
        if name in found and _kind(found[name]) != _kind(tensor)
    ]
    problems += [
        f"tensor {name} of shape {tuple(tensor.shape)} is missing"
        for name, tensor in expected.items()
        if name not in found
    ]
    problems += [
        f"tensor {name} of shape {tuple(tensor.shape)} has no place in this model"
        for name, tensor in found.items()
        if name not in expected
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise WeightsError(f"{folder}: {problems[0]}{more}; weights and {CONFIG_FILE} don't belong together")


def _kind(tensor: torch.Tensor) -> str:
    if tensor.is_complex():
        return "complex numbers"
    return "floating-point numbers" if tensor.is_floating_point() else "whole numbers"


def _owned(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the tensors in memory of their own, floating ones cast; ``tensors`` is emptied on the way.

    A tensor mapped from a file starts at any address, and CPU kernels round otherwise there: only a copy
    gives the very output of the model that was saved, and outlives its file.
    """
    owned: dict[str, torch.Tensor] = {}
    for name in list(tensors):
        tensor = tensors.pop(name)
        target = dtype if tensor.is_floating_point() else tensor.dtype
        owned[name] = tensor.to(target, copy=tensor.device.type == "cpu")
    return owned


def _stored_dtype(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Return the widest floating dtype on disk, so that a mixed file becomes a uniform model."""
    stored = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
    widest = stored[0] if stored else torch.float32
    for dtype in stored:
        widest = torch.promote_types(widest, dtype)
    return widest


def _by_our_names(tensors: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    named: dict[str, torch.Tensor] = {}
    for stored, tensor in tensors.items():
        name = our_name(stored)
        if name in named:
            raise WeightsError(f"{folder}: tensor {stored} has no place, there is another one for {name}")
        if name is not None:
            named[name] = tensor
    return named


def _find_part(folder: Path, part: str, file: str) -> Path:
    expect_folder(folder)
    for candidate in (folder, folder / part):
        if (candidate / file).is_file():
            return candidate
    raise WeightsError(f"{folder} lacks its {part}: neither {file} nor {part}/{file} is there")


def _expect_class(config: Mapping[str, Any], allowed: tuple[str, ...], path: Path) -> None:
    name = config.get("_class_name")
    if name not in allowed:
        raise WeightsError(f"{path}: its class is {name!r}, expected {' or '.join(allowed)}")


def _shards(index: Path) -> list[Path]:
    weight_map = read_model_config(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} names no shards (weight_map)")
    paths = [index.parent / Path(str(name)).name for name in sorted({str(v) for v in weight_map.values()})]
    for path in paths:
        if not path.is_file():
            raise WeightsError(f"{index.parent} lacks the shard {path.name} that {index.name} names")
    return paths


def _read_file(path: Path, device: torch.device) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors" and device.type == "meta":
            return _headers(path)
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device=str(device))
        tensors = torch.load(path, map_location=device, weights_only=True)
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} can't be read, it may be damaged: {reason}") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise WeightsError(f"{path} holds no plain table of tensors")
    return tensors


def _headers(path: Path) -> dict[str, torch.Tensor]:
    """Return a safetensors file's tensors without their values."""
    with safetensors.safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
