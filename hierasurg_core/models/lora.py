"""Low-rank updates of a transformer (LoRA, Hu et al. 2021): W + alpha / rank * B A, with W left as it is.

Owns which layers get them, what is trained in full beside them (everything the base lacks: new input
channels, labels, map encoder), the form on disk, and reading that form back as one plain model. peft makes
the layers while training; reading needs it not.

    transformer/config.json                          the model's, as without LoRA
    transformer/lora.json                            rank, alpha, the base and how to build on it
    transformer/pytorch_lora_weights.safetensors     A and B, named as diffusers does
    transformer/trained_weights.safetensors          what is trained in full, and running statistics

Refuses: training, and a base whose weights have changed: `lora.json` holds their digest.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hierasurg_core.artifacts import read_json, write_json
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.models.configs import check_numbers
from hierasurg_core.models.digest import weights_digest
from hierasurg_core.models.stack import CogVideoXStack
from hierasurg_core.models.warmstart import WarmStart, stage_class, start_from

LORA_FILE = "lora.json"
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
TRAINED_WEIGHTS = "trained_weights.safetensors"
TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "norm1.linear",
    "norm2.linear",
)
_SCHEMA = 1
_PREFIX = "transformer."
_ADAPTER = "default"
_IN_FULL = ("patch_embed.proj.bias", "patch_embed.text_proj.bias")


@dataclass(frozen=True)
class Lora:
    """A run's low-rank updates, and the model they belong on.

    Attributes:
        rank: Of A and B.
        alpha: Their scale times the rank.
        stage: "s2m" or "m2v".
        base: Folder of the transformer that the run started from.
        arguments: Of the model's constructor.
        seed: Of the tensors that were new.
        start: What became of the base's tensors.
        digest: Of the base's weights, see `models.digest`.
    """

    rank: int
    alpha: float
    stage: str
    base: Path
    arguments: dict[str, Any]
    seed: int
    start: WarmStart
    digest: str


def expect_peft() -> None:
    """Looks for peft before anything loads.

    Raises:
        UsageError: It is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise UsageError("lora_rank needs peft, which is not installed: run pip install 'hierasurg[lora]'")


def attach(model: CogVideoXStack, lora: Lora) -> None:
    """Freezes the model, adds low-rank updates that are zero at first, and thaws what the base lacks.

    Raises:
        UsageError: peft is not installed.
    """
    expect_peft()
    from peft import LoraConfig

    model.requires_grad_(False)
    alpha: Any = lora.alpha  # peft says int and takes any number
    model.add_adapter(LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(TARGETS)))
    in_full = set(names_in_full(lora.start))
    for name, parameter in model.named_parameters():
        if _our_name(name) in in_full:
            parameter.requires_grad_(True)


def names_in_full(start: WarmStart) -> tuple[str, ...]:
    """Returns the tensors trained in full: new ones, and wider ones that no low-rank update covers."""
    covered = tuple(f".{target}.weight" for target in TARGETS)
    needed = [name for name in start.named("new", "widened") if not name.endswith(covered)]
    return (*needed, *_IN_FULL)


def is_attached(model: nn.Module) -> bool:
    """Tells whether a model has low-rank updates as layers of their own."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def save_lora(model: CogVideoXStack, lora: Lora, folder: Path) -> None:
    """Writes the form above into a new folder.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir()
    model.save_config(folder)
    updates, trained = _split(model)
    scale = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": list(TARGETS)}
    metadata = {f"{_PREFIX}{key}": value for key, value in scale.items()}
    save_file(
        {f"{_PREFIX}{name}": tensor for name, tensor in updates.items()},
        folder / LORA_WEIGHTS,
        metadata={"format": "pt", "lora_adapter_metadata": json.dumps(metadata)},
    )
    save_file(trained, folder / TRAINED_WEIGHTS)
    write_json(
        folder / LORA_FILE,
        {
            "schema": _SCHEMA,
            "rank": lora.rank,
            "alpha": lora.alpha,
            "targets": list(TARGETS),
            "stage": lora.stage,
            "base": str(lora.base.resolve()),
            "base_digest": lora.digest,
            "arguments": lora.arguments,
            "seed": lora.seed,
        },
    )


def load_into(model: CogVideoXStack, folder: Path) -> None:
    """Puts a checkpoint's updates into a model that has such layers already.

    Raises:
        WeightsError: The checkpoint is damaged, or of another rank or model.
    """
    tensors = read_trained(model, folder)
    present = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            present[name].copy_(tensor)


def read_trained(model: CogVideoXStack, folder: Path) -> dict[str, Tensor]:
    """Returns a checkpoint's trained tensors by the names they have in a model with such layers.

    Raises:
        WeightsError: As `load_into`.
    """
    updates, trained = _split(model)
    stored = {name.removeprefix(_PREFIX): t for name, t in _read(folder / LORA_WEIGHTS).items()}
    found: dict[str, Tensor] = {}
    for expected, given, where in (
        (updates, stored, LORA_WEIGHTS),
        (trained, _read(folder / TRAINED_WEIGHTS), TRAINED_WEIGHTS),
    ):
        if expected.keys() != given.keys():
            odd = min(expected.keys() ^ given.keys())
            raise WeightsError(f"{folder / where} is of another model than this run trains: see {odd}")
        for name, tensor in given.items():
            if tensor.shape != expected[name].shape:
                raise WeightsError(
                    f"{folder / where}: {name} has shape {tuple(tensor.shape)}, expected "
                    f"{tuple(expected[name].shape)}; resume with the same lora_rank"
                )
        found |= given
    own = {_our_name(name): name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {own[name]: tensor for name, tensor in found.items()}


def is_lora(folder: Path) -> bool:
    """Tells whether a transformer's folder holds updates only."""
    return (folder / LORA_FILE).is_file()


def expect_same_base(folder: Path, base: Path, digest: str) -> None:
    """Refuses updates that were learned on other weights than those they would be added to.

    A file that names no digest (of an older version) is taken as it is; see `undated`.

    Args:
        folder: With the updates.
        base: The transformer that they would be added to.
        digest: Of its weights.

    Raises:
        WeightsError: The digests differ.
    """
    said = _read_lora_file(folder).get("base_digest")
    if said is not None and said != digest:
        raise WeightsError(
            f"{folder} holds low-rank updates of another base than {base} has now: its weights have digest "
            f"{digest[:12]}, the updates were learned on {str(said)[:12]}; bring that base back, or use the "
            "run's finished model, which holds its own"
        )


def undated(folder: Path) -> str | None:
    """Returns a note on updates that do not say which weights they belong to; None for all others.

    Raises:
        WeightsError: `lora.json` is damaged.
    """
    if not is_lora(folder):
        return None
    said = _read_lora_file(folder)
    if said.get("base_digest") is not None:
        return None
    return f"{folder} does not say which weights of {said['base']} it belongs to: they are taken as they are"


def load_merged(
    folder: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> CogVideoXStack:
    """Returns a plain model (float32 unless told otherwise): the base with the updates added to its weights.

    Warns of updates that do not say which weights they belong to.

    Raises:
        WeightsError: The base is gone or is another one, or the checkpoint is damaged.
    """
    said = _read_lora_file(folder)
    base = Path(said["base"])
    if not base.is_dir():
        raise WeightsError(f"{folder} holds low-rank updates of {base}, which is not there; bring it back")
    note = undated(folder)
    if note is None:
        expect_same_base(folder, base, weights_digest(base))
    else:
        warnings.warn(note, stacklevel=2)
    model, _ = start_from(base, stage_class(said["stage"]), said["arguments"], said["seed"])
    weights = model.state_dict()
    with torch.no_grad():
        for name, tensor in _read(folder / TRAINED_WEIGHTS).items():
            _expect(name, tensor.shape, weights, folder)
            weights[name].copy_(tensor)
        updates = {name.removeprefix(_PREFIX): t for name, t in _read(folder / LORA_WEIGHTS).items()}
        for name, down in updates.items():
            owner, _, kind = name.rpartition(".lora_A.")
            if kind != "weight":
                continue
            up = updates.get(f"{owner}.lora_B.weight")
            if up is None:
                raise WeightsError(f"{folder / LORA_WEIGHTS} lacks {owner}.lora_B.weight")
            update = (up.float() @ down.float()) * (said["alpha"] / said["rank"])
            _expect(f"{owner}.weight", update.shape, weights, folder)
            weights[f"{owner}.weight"] += update
    nn.Module.to(model, device=device, dtype=dtype)
    return model.eval()


def copy_updates(folder: Path, target: Path) -> None:
    """Copies the low-rank updates beside a merged model, for tools that add them to the base themselves."""
    with safe_open(folder / LORA_WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    save_file(_read(folder / LORA_WEIGHTS), target / LORA_WEIGHTS, metadata=metadata)


def _split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns low-rank updates, and what is trained in full with running statistics; by plain names."""
    updates: dict[str, Tensor] = {}
    trained: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (updates if ".lora_" in name else trained)[_our_name(name)] = parameter.data.contiguous()
    trained |= {_our_name(name): buffer.contiguous() for name, buffer in model.named_buffers()}
    return updates, trained


def _our_name(name: str) -> str:
    """The name without what peft adds to it."""
    return name.replace(f".{_ADAPTER}.", ".").replace(".base_layer.", ".")


def _expect(name: str, shape: torch.Size, weights: dict[str, Tensor], folder: Path) -> None:
    if name not in weights or weights[name].shape != shape:
        raise WeightsError(f"{folder} does not fit its base at {name}; the base is another one than it was")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read {path}: {error}; use another checkpoint") from error


def _read_lora_file(folder: Path) -> dict[str, Any]:
    try:
        said = read_json(folder / LORA_FILE)
    except DataError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(said, dict) or said.get("schema") != _SCHEMA:
        raise WeightsError(
            f"{folder / LORA_FILE} is not of schema {_SCHEMA}; it was written by another version"
        )
    if isinstance(said.get("arguments"), dict):
        check_numbers(said["arguments"], str(folder / LORA_FILE))
    missing = {"rank", "alpha", "stage", "base", "arguments", "seed"} - said.keys()
    if missing:
        raise WeightsError(f"{folder / LORA_FILE} is damaged: it lacks {min(missing)}")
    return said
