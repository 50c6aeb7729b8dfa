"""Reading the config of a transformer folder, ours or one that the public HieraSurg code saved.

Owns: which class and which arguments a checkpoint stands for, from its config and its tensors' shapes.
The public configs are silent about the conditioning's widths and wrong about two others (the
hierarchical variant's `time_embed_dim` says 1024 where `time_embedding` gives 512), so those come from
the tensors.
Refuses: reading files, and layouts that are not CogVideoX-2B's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hierasurg_core.errors import WeightsError
from hierasurg_core.models.stack import CogVideoXStack
from hierasurg_core.models.transformers import M2VTransformer3DModel, S2MTransformer3DModel

Shape = tuple[int, ...]

OUR_CLASSES: dict[str, type[CogVideoXStack]] = {
    cls.__name__: cls for cls in (S2MTransformer3DModel, M2VTransformer3DModel)
}
PUBLIC_CLASSES: dict[str, tuple[type[CogVideoXStack], dict[str, Any]]] = {
    "CogVideoXTransformer3DModel_SegPred_I2V": (S2MTransformer3DModel, {}),
    "CogVideoXTransformer3DModel_SegCond_I2V": (M2VTransformer3DModel, {"hierarchical": False}),
    "CogVideoXTransformer3DModel_SegCond_Hierarchical_I2V": (M2VTransformer3DModel, {"hierarchical": True}),
}
NOT_2B = (
    "use_rotary_positional_embeddings",
    "use_learned_positional_embeddings",
    "patch_size_t",
    "ofs_embed_dim",
)
_DERIVED = ("patch_embed.pos_embedding",)


def class_and_arguments(
    config: Mapping[str, Any], shapes: Mapping[str, Shape], where: str
) -> tuple[type[CogVideoXStack], dict[str, Any]]:
    """Return the class and constructor arguments of a checkpoint.

    Args:
        config: what `config.json` holds.
        shapes: of the checkpoint's tensors, by our names (see `our_name`).
        where: named in errors.

    Raises:
        WeightsError: no S2M or M2V class, or a CogVideoX layout other than 2B's.
    """
    name = config.get("_class_name")
    if isinstance(name, str) and name in OUR_CLASSES:
        cls = OUR_CLASSES[name]
        return cls, _known_arguments(cls, config)
    if not isinstance(name, str) or name not in PUBLIC_CLASSES:
        known = ", ".join([*OUR_CLASSES, *PUBLIC_CLASSES])
        raise WeightsError(f"{where}: its class {name!r} is no S2M or M2V transformer; known are {known}")
    for key in NOT_2B:
        if config.get(key):
            raise WeightsError(f"{where}: {key} is {config[key]}, but S2M and M2V have CogVideoX-2B's layout")
    cls, fixed = PUBLIC_CLASSES[name]
    arguments = _known_arguments(cls, config)
    arguments.pop("text_cond", None)
    return cls, arguments | _widths_of_tensors(shapes) | fixed


def our_name(name: str) -> str | None:
    """Return the name a stored tensor has in our classes; None if it can be computed and is not kept.

    The published description names no parameter of the projection of text vectors, so the one linear layer
    under `phase_emb` or `triplet_emb` is taken for it whatever its place there.
    """
    name = name.removeprefix("module.")
    if name in _DERIVED:
        return None
    owner, _, rest = name.partition(".")
    if owner not in ("phase_emb", "triplet_emb"):
        return name
    if rest in ("embedding_table", "embedding_table.weight"):
        return f"{owner}.embedding_table.weight"
    return f"{owner}.0.{rest.rpartition('.')[2]}"


def _known_arguments(cls: type[CogVideoXStack], config: Mapping[str, Any]) -> dict[str, Any]:
    accepted = inspect.signature(cls.__init__).parameters
    return {key: value for key, value in config.items() if key in accepted and key != "self"}


def _widths_of_tensors(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the arguments that a public config lacks or gets wrong, as far as the tensors tell them."""
    found: dict[str, Any] = {}

    def take(argument: str, tensor: str, axis: int) -> None:
        shape = shapes.get(tensor, ())
        if axis < len(shape):
            found[argument] = shape[axis]

    take("time_embed_dim", "time_embedding.linear_1.weight", 0)
    take("text_embed_dim", "patch_embed.text_proj.weight", 1)
    take("condense_dim", "phase_condense.0.weight", 0)
    take("condition_embed_dim", "phase_condense.0.weight", 1)
    if "phase_emb.0.weight" in shapes:
        found["text_cond"] = "vectors"
        take("text_vector_dim", "phase_emb.0.weight", 1)
    take("num_phases", "phase_emb.embedding_table.weight", 0)
    take("num_triplets", "triplet_emb.embedding_table.weight", 0)
    if "num_triplets" in found:
        found["num_triplets"] -= 1
    widths = [
        shapes[name][1]
        for name in sorted(shapes)
        if name.startswith("segmap_resblocks.") and name.endswith(".conv1.weight") and len(shapes[name]) > 1
    ]
    if widths:
        found["map_widths"] = tuple(widths)
    return found
