"""What the models of a run are, by their configs, before any weight is read.

Owns the check of the folders that `model_choice` found. It refuses folders that lack a part, parts of the
wrong kind, and parts that do not belong together; weights are read by `ModelPlan.load` only.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierasurg_core.artifacts import sha256_file
from hierasurg_core.config import GenerateConfig
from hierasurg_core.config.sampling import StageSampling, as_index, own_sampling
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.generation.limits import check_size
from hierasurg_core.generation.model_choice import (
    MINI,
    ModelChoice,
    base_part,
    choose_models,
    rate_of,
    rates_of,
)
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.models import (
    M2VTransformer3DModel,
    S2MTransformer3DModel,
    load_scheduler,
    load_transformer,
    load_vae,
)
from hierasurg_core.models.compat import PUBLIC_CLASSES, class_and_arguments
from hierasurg_core.models.configs import read_model_config
from hierasurg_core.models.defaults import SAMPLING, read_pipeline_sampling, read_sampling
from hierasurg_core.models.files import find_beside
from hierasurg_core.models.hub import local_folder
from hierasurg_core.models.loading import tensor_shapes
from hierasurg_core.models.lora import undated
from hierasurg_core.models.text_vectors import find_text_vectors, load_text_vectors
from hierasurg_core.progress import Progress

_PUBLIC_S2M_SIZE_HW = (256, 384)  # what it is used at; its config repeats the base model's 480x720
_TRAINING_STEPS = 1000
_TEXT_WIDTH = 768  # of SurgVLP's vectors


@dataclass(frozen=True)
class StageModel:
    """A transformer on disk, as its config describes it.

    Attributes:
        folder: Holds `config.json` and the weights.
        size_hw: Pixels it is used at.
        rates: Frames a second that it can make.
        in_channels: Of the latents that it reads.
        public: Made by the public HieraSurg code.
        distilled_steps: Of a few-step student; None for any other model.
        vector_dim: Width of the text vectors that it is given; None: it is given ids, or no words at all.
        text_vectors: The file of them.
        frame_labels: An S2M that knows which label belongs to which second.
        num_numbers: Of an S2M on ids, background and border included; None for any other model.
    """

    folder: Path
    size_hw: tuple[int, int]
    rates: tuple[int, ...]
    in_channels: int
    public: bool
    distilled_steps: int | None = None
    vector_dim: int | None = None
    text_vectors: Path | None = None
    frame_labels: bool = False
    num_numbers: int | None = None


@dataclass(frozen=True)
class ModelPlan:
    """The models of a run, chosen and checked but not loaded.

    Attributes:
        name: What the user is told.
        s2m: None where maps are given.
        m2v: The other stage.
        vae: Folder.
        scheduler: Folder.
        sampling: How each stage is sampled unless a call says otherwise.
        notes: What was chosen for the user besides.
    """

    name: str
    s2m: StageModel | None
    m2v: StageModel
    vae: Path
    scheduler: Path
    sampling: Mapping[str, StageSampling]
    notes: tuple[str, ...]

    def rate(self, asked: int | None) -> int:
        """Returns the frames a second of a run.

        Raises:
            UsageError: The model does not make the rate asked for.
        """
        return rate_of(self.m2v.rates, asked, self.m2v.folder)

    def load(self, device: torch.device, dtype: torch.dtype, progress: Progress) -> HieraSurgPipeline:
        """Reads the weights.

        Raises:
            WeightsError: A file is damaged, or a tensor is missing or of another shape.
        """
        progress.start("load models", 3 if self.s2m else 2, "models")
        vae = load_vae(self.vae, dtype, device)
        progress.advance()
        s2m = None
        if self.s2m is not None:
            s2m = load_transformer(self.s2m.folder, dtype, device)
            assert isinstance(s2m, S2MTransformer3DModel)
            progress.advance()
        m2v = load_transformer(self.m2v.folder, dtype, device)
        assert isinstance(m2v, M2VTransformer3DModel)
        progress.advance()
        scheduler = load_scheduler(self.scheduler)
        pipeline = HieraSurgPipeline(s2m, m2v, vae, scheduler, as_index(self.sampling))
        pipeline.set_progress_bar_config(disable=True)
        for name, file in self._text_vectors().items():
            pipeline.text_vectors[name] = load_text_vectors(file, torch.device("cpu"))
        return pipeline

    def describe(self) -> dict[str, Any]:
        """Returns name, folders and the SHA-256 of every config and weight file, and of text vectors.

        The VAE's "mini" tells whether its weights are those of the bundled mini models, as in every run of
        the preset mini: such a model makes frames of the phantom.
        """
        folders = {"m2v": self.m2v.folder, "vae": self.vae, "scheduler": self.scheduler}
        if self.s2m is not None:
            folders = {"s2m": self.s2m.folder, **folders}
        said: dict[str, Any] = {"name": self.name}
        said |= {part: _describe_folder(folder) for part, folder in folders.items()}
        bundled = _describe_folder(local_folder("mini") / "vae")
        said["vae"]["mini"] = _weights_of(said["vae"]) == _weights_of(bundled)
        vectors = self._text_vectors()
        if vectors:
            said["text_vectors"] = {
                "files": {name: str(file) for name, file in vectors.items()},
                "sha256": {name: sha256_file(file) for name, file in vectors.items()},
            }
        return said

    def _text_vectors(self) -> dict[str, Path]:
        """Returns the files of the stages that are given text vectors."""
        stages = {"s2m": self.s2m, "m2v": self.m2v}
        return {name: s.text_vectors for name, s in stages.items() if s is not None and s.text_vectors}


def plan_models(
    config: GenerateConfig, assets: Path, working: Path, choice: ModelChoice | None = None
) -> ModelPlan:
    """Chooses and checks the models of a run.

    Without `model`, `s2m` and `m2v`: `runs/s2m` and `runs/m2v` of the working folder where both are
    finished, else the bundled mini models. VAE and scheduler are the pipeline's; without `model` and with
    both transformers replaced, those that lie beside a transformer (as in public checkpoints) come first.

    Args:
        config: What was asked for.
        assets: Folder of the package with `mini/`.
        working: Folder in which `runs/` is looked for.
        choice: What `choose_models` found, where it has looked already.

    Raises:
        UsageError: Both `maps` and `s2m`, more steps than the scheduler has, or text vectors that are missing
            or that no model takes.
        DataError: The text vectors are damaged, or of another width than the model's.
        WeightsError: A folder is missing, lacks a part, or has one of the wrong kind.
    """
    choice = choose_models(config, assets, working) if choice is None else choice
    base, replaced, notes = choice.base, choice.replaced, list(choice.notes)
    stages = {name: _stage(folder, name) for name, folder in choice.stages.items()}
    stages = _with_text_vectors(stages, config.text_vectors, notes)
    notes += [note for stage in stages.values() if (note := undated(stage.folder)) is not None]
    vae, scheduler = (
        _shared_part(name, list(stages.values()), base, choice.is_mini, choice.whole, notes)
        for name in ("vae", "scheduler")
    )
    for name, stage in stages.items():
        _expect_channels(stage, name, vae)

    defaults = {} if choice.whole else read_pipeline_sampling(base)
    for name in replaced:
        beside = find_beside(stages[name].folder, SAMPLING)
        said = {} if beside is None else read_sampling(beside.parent)
        defaults.update({name: said[name]} if name in said else {})
    longest = int(
        read_model_config(scheduler / "scheduler_config.json").get("num_train_timesteps", _TRAINING_STEPS)
    )
    own = {
        name: own_sampling(defaults, name, stage.distilled_steps, on_ids=stage.num_numbers is not None)
        for name, stage in stages.items()
    }
    if config.steps is not None and config.steps > longest:
        raise UsageError(f"--steps {config.steps} is not possible: the scheduler has {longest} steps")
    notes += [
        f"{name.upper()} is a student of {stage.distilled_steps} ddim steps; {asked} is not what it learned"
        for name, stage in stages.items()
        if stage.distilled_steps is not None and (asked := _beside_student(config, stage.distilled_steps))
    ]
    return ModelPlan(
        name=choice.name,
        s2m=stages.get("s2m"),
        m2v=stages["m2v"],
        vae=vae,
        scheduler=scheduler,
        sampling={name: dataclasses.replace(how, steps=min(longest, how.steps)) for name, how in own.items()},
        notes=tuple(notes),
    )


def _beside_student(config: GenerateConfig, own_steps: int) -> str | None:
    """Returns what was asked for that a student was not made for, in words."""
    asked = [] if config.steps in (None, own_steps) else [f"--steps {config.steps}"]
    asked += [] if config.solver in (None, "ddim") else [f"--solver {config.solver}"]
    return " with ".join(asked) or None


def _shared_part(
    name: str, stages: list[StageModel], base: Path, is_mini: bool, whole: bool, notes: list[str]
) -> Path:
    """Returns the VAE or scheduler: the pipeline's, or that of the transformers where both were replaced."""
    if not is_mini:
        return base_part(base, name)
    if whole:
        for stage in reversed(stages):
            beside = _beside(stage.folder, name)
            if beside is not None:
                return beside
    for stage in stages:
        if stage.public:
            raise WeightsError(
                f"{stage.folder} was not made for {MINI}, and no {name}/ lies beside it: "
                "give the pipeline that it belongs to as --model"
            )
    if whole:
        notes.append(f"{name}: of {MINI}")
    return base_part(base, name)


def _beside(folder: Path, name: str) -> Path | None:
    """Looks for a part in the folder that holds `transformer/`, and above a checkpoint."""
    file = find_beside(folder, f"{name}/{'scheduler_config' if name == 'scheduler' else 'config'}.json")
    return None if file is None else file.parent


def _stage(folder: Path, name: str) -> StageModel:
    """Reads what a transformer's config says of it."""
    path = folder / "config.json"
    config = read_model_config(path)
    cls, arguments = class_and_arguments(config, {}, str(path))
    wanted = S2MTransformer3DModel if name == "s2m" else M2VTransformer3DModel
    if cls is not wanted:
        raise WeightsError(f"{folder} holds a {cls.__name__}, but {name.upper()} is a {wanted.__name__}")
    public = config.get("_class_name") in PUBLIC_CLASSES
    try:
        size_hw = 8 * int(arguments.get("sample_height", 60)), 8 * int(arguments.get("sample_width", 90))
        size_hw = check_size(_PUBLIC_S2M_SIZE_HW if public and name == "s2m" else size_hw)
        in_channels = int(arguments.get("in_channels", 48 if name == "s2m" else 32))
        num_numbers = int(arguments["out_channels"]) if arguments.get("maps") == "ids" else None
        if num_numbers is not None:  # of what lies side by side only the photograph comes from the VAE
            in_channels = int(arguments.get("photo_channels", 16))
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise WeightsError(f"{path} names impossible sizes: {error}") from error
    distilled = arguments.get("distilled_steps")
    if distilled is not None and (type(distilled) is not int or distilled < 1):
        raise WeightsError(f"{path} names impossible distilled_steps: {distilled!r}")
    rates = rates_of(config, folder)
    vector_dim = _vector_dim(config, arguments, folder)
    framed = bool(arguments.get("frame_labels", False))
    return StageModel(
        folder,
        size_hw,
        rates,
        in_channels,
        public,
        distilled,
        vector_dim,
        frame_labels=framed,
        num_numbers=num_numbers,
    )


def _vector_dim(config: dict[str, Any], arguments: dict[str, Any], folder: Path) -> int | None:
    """Returns the width of the text vectors that a model is given, None where it is given none."""
    if config.get("_class_name") in PUBLIC_CLASSES and config.get("text_cond", "labels") != "labels":
        shapes = tensor_shapes(folder)  # the published configs name no width
        arguments = {**arguments, **class_and_arguments(config, shapes, str(folder / "config.json"))[1]}
    if arguments.get("text_cond") != "vectors" or not arguments.get("hierarchical", True):
        return None
    return int(arguments.get("text_vector_dim", _TEXT_WIDTH))


def _with_text_vectors(
    stages: dict[str, StageModel], given: Path | None, notes: list[str]
) -> dict[str, StageModel]:
    """Gives stages the text vectors that they need: those asked for, else those that lie with the model."""
    needing = {name: stage for name, stage in stages.items() if stage.vector_dim is not None}
    if given is not None and not needing:
        raise UsageError(f"text_vectors {given} is of no use: these models learned labels; leave it out")
    found = dict(stages)
    for name, stage in needing.items():
        own = find_text_vectors(stage.folder)
        file = given or own
        if file is None:
            raise UsageError(
                f"{name.upper()} of {stage.folder} learned from text vectors, and there are none beside it: "
                "give their file as --text-vectors"
            )
        width = load_text_vectors(file, torch.device("cpu")).width
        if width != stage.vector_dim:
            raise DataError(
                f"{file} has text vectors of width {width}, but {name.upper()} of {stage.folder} takes "
                f"{stage.vector_dim}: give the file that it was trained with"
            )
        if own is not None and sha256_file(own) != sha256_file(file):
            notes.append(f"{name.upper()}: text vectors of {file}, in place of its own")
        found[name] = dataclasses.replace(stage, text_vectors=file)
    return found


def _expect_channels(stage: StageModel, name: str, vae: Path) -> None:
    """S2M reads three latents side by side, or on ids one; M2V two."""
    channels = int(read_model_config(vae / "config.json").get("latent_channels", 16))
    inputs = 2 if name == "m2v" else 1 if stage.num_numbers is not None else 3
    if stage.in_channels != inputs * channels:
        raise WeightsError(
            f"{stage.folder} takes {stage.in_channels} channels, but {inputs} latents of {vae} have "
            f"{inputs * channels}: they do not belong together"
        )


def _weights_of(described: Mapping[str, Any]) -> set[str]:
    """Returns the digests of a described folder's weight files, whatever their names."""
    return {digest for name, digest in described["sha256"].items() if not name.endswith(".json")}


def _describe_folder(folder: Path) -> dict[str, Any]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".bin"))
    return {"folder": str(folder), "sha256": {file.name: sha256_file(file) for file in files}}
