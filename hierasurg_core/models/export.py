"""Finished models in the forms that others take: a whole pipeline's folder, and the public code's form.

Owns the pipeline's layout (`model_index.json`, a part a folder, a card README.md, and text vectors where the
models learned from such), which `generate --model` and `push_to_hub` take as it is, and the names of the
public classes and parameters. Refuses: what the public code has no word for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hierasurg_core.artifacts import (
    atomic_file,
    atomic_folder,
    ensure_writable_folder,
    sha256_file,
    write_json,
)
from hierasurg_core.config.sampling import StageSampling, as_index, own_sampling
from hierasurg_core.errors import UsageError
from hierasurg_core.models.compat import PUBLIC_CLASSES
from hierasurg_core.models.defaults import MODEL_INDEX, PIPELINE_CLASS
from hierasurg_core.models.files import CONFIG_FILE, find_transformer
from hierasurg_core.models.loading import WEIGHT_FILES, load_transformer
from hierasurg_core.models.stack import CogVideoXStack
from hierasurg_core.models.text_vectors import TEXT_VECTORS, find_text_vectors, takes_text_vectors
from hierasurg_core.models.trained import trained_steps, write_trained_steps
from hierasurg_core.models.transformers import M2VTransformer3DModel, S2MTransformer3DModel

PARTS = ("vae", "scheduler")
_PUBLIC_CONFIG = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "time_embed_dim",
    "text_embed_dim",
    "num_layers",
    "sample_width",
    "sample_height",
    "sample_frames",
    "patch_size",
    "spatial_interpolation_scale",
    "temporal_interpolation_scale",
)
_ALWAYS_SO: Mapping[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-5,
    "timestep_activation_fn": "silu",
    "use_learned_positional_embeddings": False,
    "use_rotary_positional_embeddings": False,
}
_UNKNOWN_TO_PUBLIC: Mapping[str, Any] = {
    "repeat_first_frame": False,
    "frame_labels": False,
    "distilled_steps": None,
    "map_downscale": 2,
    "segmap_posenc_spatial_scale": 1.875,
    "segmap_posenc_temporal_scale": 1.0,
}


@dataclass(frozen=True)
class Card:
    """What a pipeline's card tells.

    Attributes:
        title: Its heading.
        notice: The data's licence notice of the data set's manifest; None where it has none.
        facts: Lines "name: value" on data, sizes, rates and training, by section.
    """

    title: str
    notice: Mapping[str, Any] | None
    facts: Mapping[str, Mapping[str, str]]

    def text(self) -> str:
        """Returns the card as Markdown with the header that model hubs read."""
        license_id = "cc-by-nc-sa-4.0" if self.notice else "other"
        header = [
            "---",
            f"license: {license_id}",
            "library_name: diffusers",
            "pipeline_tag: image-to-video",
            "tags: [surgery, laparoscopy, video-generation, hierasurg]",
            "---",
        ]
        lines = [*header, "", f"# {self.title}", ""]
        lines += [
            "A phase, an action triplet and a first frame become panoptic maps (S2M), the maps become video",
            "(M2V), after HieraSurg (MICCAI 2025, arXiv 2506.21287).",
            "",
            "```sh",
            "hierasurg generate --model FOLDER_OR_HUB_ID --phase calot --triplet grasper,retract,gallbladder",
            "```",
        ]
        for section, facts in self.facts.items():
            lines += ["", f"## {section}", "", *(f"- {name}: {value}" for name, value in facts.items())]
        lines += ["", "## Licence and citation", ""]
        if self.notice is None:
            lines.append("The data set carries no notice; its own terms hold for this model.")
        else:
            lines += [f"{self.notice['data']} Licence: {self.notice['license']}. {self.notice['terms']}", ""]
            lines += [f"- {paper}" for paper in self.notice["papers"]]
        return "\n".join(lines) + "\n"


def copy_parts(base: Path, out: Path) -> None:
    """Copies VAE and scheduler of a base beside a run's transformer, so that the run needs it no more.

    Raises:
        ResourceError: The disk is full.
    """
    for part in PARTS:
        source, target = base / part, out / part
        if target.is_dir() or not source.is_dir():
            continue
        with atomic_folder(target) as folder:
            for file in sorted(source.iterdir()):
                if file.suffix in (".json", ".safetensors", ".bin"):
                    shutil.copyfile(file, folder / file.name)


def copy_text_vectors(source: Path, out: Path) -> None:
    """Copies the text vectors that a model learned beside it, so that it needs no other file.

    Raises:
        ResourceError: The disk is full.
    """
    target = out / TEXT_VECTORS
    if not (target.is_file() and target.samefile(source)):
        with atomic_file(target) as part:
            shutil.copyfile(source, part)


def expect_same_text_vectors(source: Path | None, run: Path) -> None:
    """Refuses to go on with a run that has learned from other text vectors.

    Raises:
        UsageError: The run's copy is another one.
    """
    own = run / TEXT_VECTORS
    if source is not None and own.is_file() and sha256_file(own) != sha256_file(source):
        raise UsageError(
            f"{run} was begun with other text vectors than {source}: go on with --text-vectors {own}, or "
            "start anew in another folder with --out"
        )


def write_pipeline(
    target: Path,
    *,
    s2m: Path,
    m2v: Path,
    shared: Path,
    dtype: torch.dtype,
    sampling: Mapping[str, StageSampling],
    card: Card,
) -> None:
    """Writes the folder of a whole pipeline; one that is there is replaced as a whole.

    Args:
        target: The folder.
        s2m: Run or folder of the finished model.
        m2v: Likewise.
        shared: Folder with `vae/` and `scheduler/`.
        dtype: Of the transformers' weights.
        sampling: How each stage is sampled unless told otherwise; of a few-step student the index says its
            own way.
        card: Becomes README.md.

    Raises:
        UsageError: The target holds something else than a pipeline.
        WeightsError: A model cannot be read.
        ResourceError: The disk is full.
    """
    if target.exists() and any(target.iterdir()) and not (target / MODEL_INDEX).is_file():
        raise UsageError(f"{target} holds other files than a pipeline; choose another folder for --export")
    ensure_writable_folder(target.absolute().parent)
    with atomic_folder(target) as folder:
        own: dict[str, StageSampling] = {}
        of_vectors: dict[str, Path] = {}
        for name, source in (("s2m", s2m), ("m2v", m2v)):
            model = load_transformer(source, dtype)
            own[name] = own_sampling(
                sampling, name, model.config["distilled_steps"], on_ids=model.config["maps"] == "ids"
            )
            model.save_pretrained(folder / name)
            write_trained_steps(folder / name, trained_steps(source))
            if takes_text_vectors(model):
                of_vectors[name] = source
        copy_parts(shared, folder)
        _copy_all_text_vectors(of_vectors, folder)
        write_json(folder / MODEL_INDEX, model_index(own))
        (folder / "README.md").write_text(card.text(), encoding="utf-8")


def model_index(sampling: Mapping[str, StageSampling]) -> dict[str, Any]:
    """Returns a pipeline folder's `model_index.json`."""
    return {
        "_class_name": PIPELINE_CLASS,
        "sampling": as_index(sampling),
        "m2v": ["hierasurg_core.models", "M2VTransformer3DModel"],
        "s2m": ["hierasurg_core.models", "S2MTransformer3DModel"],
        "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }


def _copy_all_text_vectors(sources: Mapping[str, Path], folder: Path) -> None:
    """Puts the models' text vectors into a pipeline: one file for both, or each into its part."""
    found = {name: find_text_vectors(find_transformer(source)) for name, source in sources.items()}
    files = {name: file for name, file in found.items() if file is not None}
    together = len({sha256_file(file) for file in files.values()}) == 1
    for name, file in files.items():
        copy_text_vectors(file, folder if together else folder / name)


def write_public(model: CogVideoXStack, target: Path) -> None:
    """Writes a transformer in the public HieraSurg code's form: its class, its parameters' names.

    Args:
        model: S2M or M2V.
        target: The transformer's folder, replaced as a whole.

    Raises:
        UsageError: The model has what the public code does not know.
        ResourceError: The disk is full.
    """
    if model.config["maps"] not in ("colours", "tokens"):
        raise UsageError(
            f"--export public is not possible: the public code takes no maps as {model.config['maps']}"
        )
    for key, expected in _UNKNOWN_TO_PUBLIC.items():
        if key in model.config and model.config[key] != expected:
            position_only = key.startswith("segmap_posenc") and not model.config["use_segmap_posenc"]
            if not position_only:
                raise UsageError(
                    f"--export public is not possible: the public code has no {key} = {model.config[key]}"
                )
    ensure_writable_folder(target.absolute().parent)
    with atomic_folder(target) as folder:
        text = json.dumps(public_config(model), indent=2, sort_keys=True)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, folder / WEIGHT_FILES[0], metadata={"format": "pt"})


def public_config(model: CogVideoXStack) -> dict[str, Any]:
    """Returns the `config.json` of a model in the public form."""
    config = {key: model.config[key] for key in _PUBLIC_CONFIG} | dict(_ALWAYS_SO)
    if isinstance(model, S2MTransformer3DModel):
        hierarchical, with_words = None, True
    else:
        assert isinstance(model, M2VTransformer3DModel)
        hierarchical = with_words = bool(model.config["hierarchical"])
        config["use_segmap_posenc"] = model.config["use_segmap_posenc"]
    if with_words:
        config["text_cond"] = "SurgVLP" if model.config["text_cond"] == "vectors" else "labels"
    name = next(
        public
        for public, (cls, fixed) in PUBLIC_CLASSES.items()
        if isinstance(model, cls) and fixed.get("hierarchical") == hierarchical
    )
    return {"_class_name": name, **config}
