"""A new S2M or M2V out of a base model: which of its tensors go where, and which are new.

Owns the rules: equal names and shapes are copied; input channels and norm inputs that the base lacks are
zeros, as is what adds labels to frames, so that at step 0 the model behaves as its base and what was added is
silent; the rest is new. The base is a CogVideoX-2b transformer, or one of our own stage (ours or public).
Every tensor of both sides is accounted for: one that fits no rule is an error.

Refuses: the choice of a base, and training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hierasurg_core.errors import WeightsError
from hierasurg_core.models.compat import NOT_2B, OUR_CLASSES, PUBLIC_CLASSES, class_and_arguments
from hierasurg_core.models.configs import read_model_config
from hierasurg_core.models.files import CONFIG_FILE
from hierasurg_core.models.loading import named_tensors, tensor_shapes
from hierasurg_core.models.stack import CogVideoXStack
from hierasurg_core.models.transformers import M2VTransformer3DModel, S2MTransformer3DModel

BASE_CLASS = "CogVideoXTransformer3DModel"
_KEPT = (
    "num_attention_heads",
    "attention_head_dim",
    "out_channels",
    "time_embed_dim",
    "num_layers",
    "sample_width",
    "sample_height",
    "sample_frames",
    "patch_size",
    "spatial_interpolation_scale",
    "temporal_interpolation_scale",
)
_FIXED: Mapping[str, Any] = {
    "activation_fn": "gelu-approximate",
    "timestep_activation_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "attention_bias": True,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-5,
}
_WIDENED = re.compile(r"patch_embed\.proj\.weight|(.+\.norm[12]|norm_out)\.linear\.weight")
_NEW = re.compile(
    r"(phase|triplet)_(emb|condense)\..+|encoder_segmap\..+|segmap_resblocks\..+|patch_embed\.text_proj\.weight"
    r"|label_proj\.weight|map_embed\.weight|photo_embed\.(weight|bias)"
)
_REFORMED = re.compile(r"(patch_embed\.proj|proj_out)\.(weight|bias)")  # of another form of maps
_REPLACED = re.compile(r"(phase|triplet)_emb\..+|patch_embed\.text_proj\.weight")

Fate = Literal["copied", "widened", "new"]


@dataclass(frozen=True)
class TensorStart:
    """How one tensor of the new model begins.

    Attributes:
        name: In the new model.
        shape: Likewise.
        fate: "copied", "widened" (the base's values, then zeros), or "new" (as torch initialises it).
        base_shape: Its shape in the base; None where it has none.
    """

    name: str
    shape: tuple[int, ...]
    fate: Fate
    base_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class WarmStart:
    """The account of all tensors.

    Attributes:
        base: The transformer's folder.
        tensors: Of the new model, in its order.
        unused: Of the base, what the new model has no place for.
    """

    base: Path
    tensors: tuple[TensorStart, ...]
    unused: tuple[str, ...]

    def named(self, *fates: Fate) -> tuple[str, ...]:
        """Returns the names of the tensors that begin so."""
        return tuple(tensor.name for tensor in self.tensors if tensor.fate in fates)

    def summary(self) -> str:
        """Returns one line with the counts."""
        counts = {fate: len(self.named(fate)) for fate in ("copied", "widened", "new")}
        return (
            f"starting from {self.base}: {counts['copied']} tensors copied, {counts['widened']} widened with "
            f"zeros, {counts['new']} new, {len(self.unused)} of the base unused"
        )

    def table(self) -> str:
        """Returns a line for every tensor of both sides, with tabs between name, shapes and fate."""
        rows = [("tensor", "shape", "base", "fate")]
        for tensor in self.tensors:
            base = "-" if tensor.base_shape is None else _sides(tensor.base_shape)
            rows.append((tensor.name, _sides(tensor.shape), base, tensor.fate))
        rows += [(name, "-", "-", "unused") for name in self.unused]
        return "".join("\t".join(row) + "\n" for row in rows)


def starting_arguments(part: Path, cls: type[CogVideoXStack], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the constructor arguments of a model that starts from a base; reads no weights.

    Args:
        part: The base transformer's folder.
        cls: `S2MTransformer3DModel` or `M2VTransformer3DModel`.
        changes: Arguments that differ from the base's.

    Raises:
        WeightsError: The base is no CogVideoX-2b and not of our stage.
    """
    path = part / CONFIG_FILE
    config = read_model_config(path)
    name = config.get("_class_name")
    if name in (*OUR_CLASSES, *PUBLIC_CLASSES):
        found, arguments = class_and_arguments(config, tensor_shapes(part), str(path))
        if found is not cls:
            raise WeightsError(f"{part} holds a {found.__name__}, which no {cls.__name__} can start from")
        return arguments | dict(changes)
    if name != BASE_CLASS:
        raise WeightsError(
            f"{path}: its class is {name!r}, not {BASE_CLASS}: give CogVideoX-2b, or a run of this stage"
        )
    return base_arguments(config, cls, str(path)) | dict(changes)


def base_arguments(config: Mapping[str, Any], cls: type[CogVideoXStack], where: str) -> dict[str, Any]:
    """Returns the constructor arguments that a CogVideoX-2b config stands for; `where` is named in errors.

    Raises:
        WeightsError: Another CogVideoX than 2b.
    """
    for key in NOT_2B:
        if config.get(key):
            raise WeightsError(
                f"{where}: {key} is {config[key]}, but only CogVideoX-2b's layout can be a base"
            )
    for key, expected in _FIXED.items():
        if config.get(key, expected) != expected:
            raise WeightsError(f"{where}: {key} is {config[key]!r}, but S2M and M2V have {expected!r}")
    arguments = {key: config[key] for key in _KEPT if key in config}
    channels = arguments.get("out_channels") or 16
    if config.get("in_channels", channels) != channels:
        raise WeightsError(
            f"{where}: it takes {config['in_channels']} channels for {channels} of latents; a base is a "
            "text-to-video model, which takes as many as it gives"
        )
    return arguments | {"in_channels": channels * inputs_of(cls)}


def inputs_of(cls: type[CogVideoXStack]) -> int:
    """Returns how many latents lie side by side in a stage's input channels."""
    return 3 if issubclass(cls, S2MTransformer3DModel) else 2


def start_from(
    part: Path, cls: type[CogVideoXStack], arguments: Mapping[str, Any], seed: int
) -> tuple[CogVideoXStack, WarmStart]:
    """Builds a model with a base's weights, float32 on the CPU, and accounts for every tensor.

    Args:
        part: The base transformer's folder.
        cls: The model's class.
        arguments: From `starting_arguments`.
        seed: Of the new tensors; the global generator is left alone.

    Raises:
        WeightsError: A tensor of either side fits no rule; the message names it.
    """
    try:
        with torch.device("meta"):
            model = cls(**arguments)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise WeightsError(f"{part / CONFIG_FILE} describes no {cls.__name__}: {error}") from error
    base = named_tensors(part, torch.device("cpu"))
    plan = plan_start(part, model.state_dict(), {name: tuple(t.shape) for name, t in base.items()})
    _initialise(model, set(plan.named("new")), seed)
    filled: dict[str, Tensor] = {}
    for tensor in plan.tensors:
        if tensor.fate == "new":
            continue
        source = base.pop(tensor.name)
        source = source.to(torch.float32, copy=True) if source.is_floating_point() else source.clone()
        filled[tensor.name] = source if tensor.fate == "copied" else _padded(source, tensor.shape)
    model.load_state_dict(filled, strict=False, assign=True)
    return model.eval(), plan


def plan_start(part: Path, wanted: Mapping[str, Tensor], base: Mapping[str, tuple[int, ...]]) -> WarmStart:
    """Decides the fate of every tensor by name and shape.

    Raises:
        WeightsError: One fits no rule.
    """
    tensors: list[TensorStart] = []
    on_ids = "photo_embed.weight" in wanted
    for name, tensor in wanted.items():
        shape, found = tuple(tensor.shape), base.get(name)
        if found == shape:
            fate: Fate = "copied"
        elif found is not None and _WIDENED.fullmatch(name) and _is_wider(shape, found):
            fate = "widened"
        elif (on_ids and _REFORMED.fullmatch(name)) or (
            _NEW.fullmatch(name) and (found is None or _REPLACED.fullmatch(name))
        ):
            fate, found = "new", None
        else:
            said = "is missing" if found is None else f"has shape {_sides(found)}"
            raise WeightsError(f"{part} is no base for this model: {name} {said}, expected {_sides(shape)}")
        tensors.append(TensorStart(name, shape, fate, found))
    used = {tensor.name for tensor in tensors if tensor.fate != "new"}
    unused = tuple(name for name in base if name not in used)
    for name in unused:
        if not (_REPLACED.fullmatch(name) or (on_ids and _REFORMED.fullmatch(name))):
            raise WeightsError(f"{part} is no base for this model: it has no place for {name}")
    return WarmStart(part, tuple(tensors), unused)


def without_weights(cls: type[CogVideoXStack], arguments: Mapping[str, Any]) -> CogVideoXStack:
    """Returns the model on the meta device, to count what it would hold."""
    with torch.device("meta"):
        return cls(**arguments)


def stage_class(name: str) -> type[CogVideoXStack]:
    """Returns the class of "s2m" or "m2v"."""
    return S2MTransformer3DModel if name == "s2m" else M2VTransformer3DModel


def _initialise(model: nn.Module, new: set[str], seed: int) -> None:
    """Gives the modules that own new tensors memory and torch's own initial values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for owner, module in model.named_modules():
            own = {f"{owner}.{name}" for name, _ in module.named_parameters(recurse=False)}
            own |= {f"{owner}.{name}" for name, _ in module.named_buffers(recurse=False)}
            reset = getattr(module, "reset_parameters", None)
            if own & new and callable(reset):
                module.to_empty(device="cpu", recurse=False)
                reset()


def _padded(source: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sets a tensor into the beginning of a larger one of zeros."""
    whole = torch.zeros(shape)
    whole[tuple(slice(side) for side in source.shape)] = source
    return whole


def _is_wider(shape: tuple[int, ...], base: tuple[int, ...]) -> bool:
    """Whether only the inputs, axis 1, have grown."""
    return len(shape) == len(base) and shape[1] > base[1] and shape[:1] + shape[2:] == base[:1] + base[2:]


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
