"""Where the models of a run come from, and what their configs say, before any weight is read.

Owns the choice between `--model`, `--s2m`, `--m2v`, the runs of the working folder and the bundled mini
models, and tells which it was. It refuses folders that lack a part, parts of the wrong kind, and parts that
do not belong together; weights are read by `ModelPlan.load` only.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config import GenerateConfig
from hierasurg_core.config.sampling import StageSampling, as_index, own_sampling
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.generation.folders import part_folder
from hierasurg_core.generation.limits import check_size
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.models import (
    M2VTransformer3DModel,
    S2MTransformer3DModel,
    find_transformer,
    load_scheduler,
    load_transformer,
    load_vae,
)
from hierasurg_core.models.compat import PUBLIC_CLASSES, class_and_arguments
from hierasurg_core.models.configs import read_model_config
from hierasurg_core.models.defaults import SAMPLING, read_pipeline_sampling, read_sampling
from hierasurg_core.models.hub import local_folder
from hierasurg_core.models.loading import find_beside, tensor_shapes
from hierasurg_core.models.text_vectors import find_text_vectors, load_text_vectors
from hierasurg_core.progress import Progress

RATES = (1, 8)  # frames a second
MINI = "the bundled mini models"
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
        in_channels: Of its latents.
        public: Made by the public HieraSurg code.
        distilled_steps: Of a few-step student; None for any other model.
        vector_dim: Width of the text vectors that it is given; None: it is given ids, or no words at all.
        text_vectors: The file of them.
        frame_labels: An S2M that knows which label belongs to which second.
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
        rates = self.m2v.rates
        if asked is not None and asked not in rates:
            allowed = " or ".join(map(str, rates))
            raise UsageError(
                f"--fps {asked} is not possible: the model {self.m2v.folder} makes {allowed} fps"
            )
        return asked or rates[0]

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
        """Returns name, folders and the SHA-256 of every config and weight file, and of text vectors."""
        folders = {"m2v": self.m2v.folder, "vae": self.vae, "scheduler": self.scheduler}
        if self.s2m is not None:
            folders = {"s2m": self.s2m.folder, **folders}
        said = {"name": self.name, **{part: _describe_folder(folder) for part, folder in folders.items()}}
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


def plan_models(config: GenerateConfig, assets: Path, working: Path) -> ModelPlan:
    """Chooses and checks the models of a run.

    Without `model`, `s2m` and `m2v`: `runs/s2m` and `runs/m2v` of the working folder where both are
    finished, else the bundled mini models. VAE and scheduler are the pipeline's; without `model` and with
    both transformers replaced, those that lie beside a transformer (as in public checkpoints) come first.

    Args:
        config: What was asked for.
        assets: Folder of the package with `mini/`.
        working: Folder in which `runs/` is looked for.

    Raises:
        UsageError: Both `maps` and `s2m`, more steps than the scheduler has, or text vectors that are missing
            or that no model takes.
        DataError: The text vectors are damaged, or of another width than the model's.
        WeightsError: A folder is missing, lacks a part, or has one of the wrong kind.
    """
    if config.maps is not None and config.s2m is not None:
        raise UsageError("maps and s2m exclude each other: given maps take the place of S2M")
    wanted = ("m2v",) if config.maps is not None else ("s2m", "m2v")
    notes: list[str] = []
    replaced = {name: path for name, path in _replacements(config, working, notes).items() if name in wanted}
    base = assets / "mini" if config.model is None else local_folder(config.model)
    base_name = MINI if config.model is None else config.model
    stages = {
        name: _stage(find_transformer(replaced[name]) if name in replaced else _base_part(base, name), name)
        for name in wanted
    }
    stages = _with_text_vectors(stages, config.text_vectors, notes)
    whole = len(replaced) == len(wanted)
    vae, scheduler = (
        _shared_part(name, list(stages.values()), base, config.model is None, whole, notes)
        for name in ("vae", "scheduler")
    )
    for name, stage in stages.items():
        _expect_channels(stage, name, vae)

    defaults = {} if whole else read_pipeline_sampling(base)
    for name in replaced:
        beside = find_beside(stages[name].folder, SAMPLING)
        said = {} if beside is None else read_sampling(beside.parent)
        defaults.update({name: said[name]} if name in said else {})
    longest = int(
        read_model_config(scheduler / "scheduler_config.json").get("num_train_timesteps", _TRAINING_STEPS)
    )
    own = {name: own_sampling(defaults, name, stage.distilled_steps) for name, stage in stages.items()}
    if config.steps is not None and config.steps > longest:
        raise UsageError(f"--steps {config.steps} is not possible: the scheduler has {longest} steps")
    notes += [
        f"{name.upper()} is a student of {stage.distilled_steps} ddim steps; {asked} is not what it learned"
        for name, stage in stages.items()
        if stage.distilled_steps is not None and (asked := _beside_student(config, stage.distilled_steps))
    ]
    return ModelPlan(
        name=_name(None if whole else base_name, replaced),
        s2m=stages.get("s2m"),
        m2v=stages["m2v"],
        vae=vae,
        scheduler=scheduler,
        sampling={name: dataclasses.replace(how, steps=min(longest, how.steps)) for name, how in own.items()},
        notes=tuple(notes),
    )


def _replacements(config: GenerateConfig, working: Path, notes: list[str]) -> dict[str, Path]:
    """Returns the transformers that do not come from the pipeline folder, by stage."""
    given = {"s2m": config.s2m, "m2v": config.m2v}
    replaced = {name: local_folder(text) for name, text in given.items() if text is not None}
    if config.model is not None or replaced:
        return replaced
    runs = {name: working / "runs" / name for name in given}
    finished = {name: _is_finished(run) for name, run in runs.items()}
    if all(finished.values()):
        return runs
    for name, run in runs.items():
        if run.is_dir() and not finished[name]:
            notes.append(f"{run} holds no finished model and is not used")
        elif finished[name]:
            notes.append(f"{run} is not used alone; add --{name} {run} to use it with the mini models")
    return {}


def _beside_student(config: GenerateConfig, own_steps: int) -> str | None:
    """Returns what was asked for that a student was not made for, in words."""
    asked = [] if config.steps in (None, own_steps) else [f"--steps {config.steps}"]
    asked += [] if config.solver in (None, "ddim") else [f"--solver {config.solver}"]
    return " with ".join(asked) or None


def _is_finished(run: Path) -> bool:
    path = run / "train.json"
    if not path.is_file():
        return False
    said = read_json(path)
    return isinstance(said, dict) and said.get("finished") is True


def _base_part(base: Path, name: str) -> Path:
    """Returns a part of the pipeline folder."""
    if not base.is_dir():
        raise WeightsError(f"there is no folder {base}: give a pipeline folder or a Hub id as --model")
    read_pipeline_sampling(base)
    return part_folder(base, name)


def _shared_part(
    name: str, stages: list[StageModel], base: Path, is_mini: bool, whole: bool, notes: list[str]
) -> Path:
    """Returns the VAE or scheduler: the pipeline's, or that of the transformers where both were replaced."""
    if not is_mini:
        return _base_part(base, name)
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
    return _base_part(base, name)


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
        frames, seconds = int(arguments.get("sample_frames", 49)), int(arguments.get("sample_seconds", 16))
        size_hw = 8 * int(arguments.get("sample_height", 60)), 8 * int(arguments.get("sample_width", 90))
        size_hw = check_size(_PUBLIC_S2M_SIZE_HW if public and name == "s2m" else size_hw)
        in_channels = int(arguments.get("in_channels", 48 if name == "s2m" else 32))
    except (TypeError, ValueError, UsageError) as error:
        raise WeightsError(f"{path} names impossible sizes: {error}") from error
    distilled = arguments.get("distilled_steps")
    if distilled is not None and (type(distilled) is not int or distilled < 1):
        raise WeightsError(f"{path} names impossible distilled_steps: {distilled!r}")
    rate = (frames - 1) / seconds if seconds > 0 else 0
    rates = (int(rate),) if rate in RATES else RATES
    vector_dim = _vector_dim(config, arguments, folder)
    framed = bool(arguments.get("frame_labels", False))
    return StageModel(folder, size_hw, rates, in_channels, public, distilled, vector_dim, frame_labels=framed)


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
    """S2M reads three latents side by side, M2V two."""
    channels = int(read_model_config(vae / "config.json").get("latent_channels", 16))
    inputs = 3 if name == "s2m" else 2
    if stage.in_channels != inputs * channels:
        raise WeightsError(
            f"{stage.folder} takes {stage.in_channels} channels, but {inputs} latents of {vae} have "
            f"{inputs * channels}: they do not belong together"
        )


def _name(base: str | None, replaced: dict[str, Path]) -> str:
    """Says "the bundled mini models with M2V of runs/m2v", or "S2M of runs/s2m and M2V of runs/m2v"."""
    parts = " and ".join(f"{name.upper()} of {path}" for name, path in sorted(replaced.items(), reverse=True))
    return " with ".join(text for text in (base, parts) if text)


def _describe_folder(folder: Path) -> dict[str, Any]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".bin"))
    return {"folder": str(folder), "sha256": {file.name: sha256_file(file) for file in files}}
