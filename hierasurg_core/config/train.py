"""The settings of `train-s2m` and `train-m2v`, and those of them that the loop itself takes.

`TrainConfig` is one stage's loop; the commands' configs add where data, base and results lie. Presets of
both stand as YAML in `assets/presets`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hierasurg_core.config.checks import (
    above_zero,
    at_least,
    check_choices,
    check_device,
    fraction,
    in_seeds,
)
from hierasurg_core.config.ranks import Ranks
from hierasurg_core.errors import UsageError

Precision = Literal["bf16", "fp16", "fp32"]
Schedule = Literal["constant", "cosine"]
Optimizer = Literal["adamw", "adamw8bit", "muon"]
Sharding = Literal["none", "full"]
Memory = Literal["auto", "keep", "attention", "recompute", "8bit", "offload"]
Reporting = Literal["none", "tensorboard", "wandb"]
TextCondition = Literal["labels", "vectors"]
M2VPart = Literal["unconditional", "maps"]
MapForm = Literal["ids", "colours"]

STUDENT_SUFFIX = "-student"  # of the folder of a run that distils
PRESETS = Path(__file__).resolve().parent.parent / "assets" / "presets"


@dataclass(frozen=True)
class TrainConfig:
    """How one stage is trained; the same for S2M and M2V.

    Attributes:
        steps: Optimizer steps in all.
        batch: Clips a step and process.
        accumulate: Micro-batches that make up one optimizer step.
        lr: Peak learning rate of AdamW.
        warmup: Steps over which the rate rises linearly from 0.
        schedule: What comes after: "constant", or "cosine" down to 0 at the last step.
        beta1: AdamW's first moment decay.
        beta2: AdamW's second moment decay.
        weight_decay: AdamW's decoupled weight decay.
        grad_clip: Largest norm of the gradient.
        precision: "bf16", "fp16" or "fp32".
        ema: Decay of the averaged weights; None: none are kept.
        condition_dropout: Probability that a clip is trained without its conditions.
        gradient_checkpointing: Recompute activations instead of keeping them.
        keep_attention: With it, keep what attention gave, which is half of the work at full size.
        compile: Run the blocks through torch.compile.
        checkpoint_every: Steps between checkpoints.
        keep: How many checkpoints stay on disk.
        seed: Of data order, noise and dropout.
        resume: "latest", "never", or the path of a checkpoint.
        log_every: Steps between lines of metrics.
        device: As in `GenerateConfig`.
        max_seconds: Stop with a checkpoint after this long; None: only at the last step.
        optimizer: "adamw", "adamw8bit" with moments in 8 bits (bitsandbytes), or "muon" for the blocks'
            matrices with AdamW for the rest.
        offload: Keep the optimiser's moments in the machine's memory and update there.
        preview_every: Steps between previews; 0: none.
        deterministic: Choose no kernel by timing, and let torch use algorithms without chance: the same seed
            then gives the same bytes on one kind of GPU, at some cost in speed.
        sharding: What several processes hold: "none" gives each all weights (DDP), "full" a part of weights,
            gradients, moments and averages (FSDP2).

    Raises:
        UsageError: A number is out of range.
    """

    steps: int = 10000
    batch: int = 1
    accumulate: int = 1
    lr: float = 1e-4
    warmup: int = 500
    schedule: Schedule = "constant"
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 1e-4
    grad_clip: float = 1.0
    precision: Precision = "bf16"
    ema: float | None = None
    condition_dropout: float = 0.0
    gradient_checkpointing: bool = True
    keep_attention: bool = False
    compile: bool = False
    checkpoint_every: int = 1000
    keep: int = 2
    seed: int = 0
    resume: str = "latest"
    log_every: int = 10
    device: str = "auto"
    max_seconds: float | None = None
    optimizer: Optimizer = "adamw"
    offload: bool = False
    preview_every: int = 0
    deterministic: bool = False
    sharding: Sharding = "none"

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_choices(self)
        for name in ("steps", "batch", "accumulate", "checkpoint_every", "keep", "log_every"):
            at_least(name, getattr(self, name), 1)
        for name in ("warmup", "weight_decay", "preview_every"):
            at_least(name, getattr(self, name), 0)
        for name in ("lr", "grad_clip"):
            above_zero(name, getattr(self, name))
        for name in ("beta1", "beta2"):
            fraction(name, getattr(self, name))
        if not 0 <= self.condition_dropout <= 1:
            raise UsageError(f"condition_dropout must lie between 0 and 1, not {self.condition_dropout}")
        if self.ema is not None:
            fraction("ema", self.ema)
        if self.max_seconds is not None:
            above_zero("max_seconds", self.max_seconds)
        if self.offload and self.optimizer != "adamw":
            raise UsageError(f"offload and optimizer {self.optimizer} exclude each other: choose one of them")
        if self.sharding == "full":
            self._check_sharded()
        in_seeds(self.seed)
        check_device(self.device)
        if not self.resume:
            raise UsageError("resume is empty: give 'latest', 'never' or the path of a checkpoint")

    def _check_sharded(self) -> None:
        """Refuses what needs whole weights, or sees what one process holds only."""
        if self.precision == "fp16":
            raise UsageError("sharding full and precision fp16 exclude each other: use bf16 or fp32")
        if self.optimizer != "adamw":
            raise UsageError(
                f"sharding full and optimizer {self.optimizer} exclude each other: use adamw, whose moments "
                "are shared among the processes"
            )
        if self.offload:
            raise UsageError("sharding full and offload exclude each other: choose one of them")


@dataclass(frozen=True)
class TrainStageConfig(TrainConfig, Ranks):
    """What both commands add to the loop's settings; processes as in `Ranks`.

    Attributes:
        dataset: What `build-dataset` made.
        out: The run's folder.
        base: Model to start from: a folder, a Hub id, or "mini"; None: the finished unconditional run beside
            `out`, which M2V may have, else CogVideoX-2b.
        fps: Frames a second that the data set must have; None: whatever it has.
        epochs: Passes over the data, in place of `steps`.
        text_condition: "labels" learns a vector for each phase and triplet, "vectors" takes given ones.
        text_vectors: Safetensors file with a vector by name of phase or triplet; for "vectors".
        lora_rank: Rank of the low-rank updates; 0 trains all weights.
        lora_alpha: Their scale times the rank; None: the rank, a scale of 1.
        object_dropout: Probability that a clip loses an object, for data encoded on the fly; None: as the
            data set was made.
        memory: How GPU memory is saved; "auto" takes the fastest setting that fits.
        report_to: Where metrics go besides metrics.jsonl.
        previews: Clips that previews show, of the validation split.
        preview_steps: Denoising steps of a preview.
        export: Folder for a whole pipeline in the end, or "public" for the public code's form in the run.
        distill: Teacher of a few-step student, named as `base` is, whose place it takes; None: no student.
        distill_steps: Steps that the student takes.
        distill_substeps: Steps of the teacher in each of them.
        distill_guidance: Scale of guidance that the student takes over from the teacher, 1 is off.
        max_restarts: How often all processes are started again after one has died.
        distill_own: Share of clips that start where the student's own steps end, not from noised truth.

    Raises:
        UsageError: A number is out of range, or two settings exclude each other.
    """

    dataset: Path = Path("dataset")
    out: Path = Path("runs/s2m")
    base: str | None = None
    fps: Literal[1, 8] | None = None
    epochs: float | None = None
    text_condition: TextCondition = "labels"
    text_vectors: Path | None = None
    lora_rank: int = 0
    lora_alpha: float | None = None
    object_dropout: float | None = None
    memory: Memory = "auto"
    report_to: Reporting = "none"
    previews: int = 2
    preview_steps: int = 20
    export: str | None = None
    distill: str | None = None
    max_restarts: int = 0
    distill_steps: int = 4
    distill_substeps: int = 8
    distill_guidance: float = 1.0
    distill_own: float = 0.5

    @property
    def run_folder(self) -> Path:
        """Returns where the run lies: `out`, or a folder beside the default for a student."""
        is_default = self.out == type(self)().out
        return (
            self.out.with_name(self.out.name + STUDENT_SUFFIX)
            if self.distill is not None and is_default
            else self.out
        )

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        super().__post_init__()
        for name, lowest in (("lora_rank", 0), ("previews", 1), ("preview_steps", 1)):
            at_least(name, getattr(self, name), lowest)
        for name in ("epochs", "lora_alpha"):
            if getattr(self, name) is not None:
                above_zero(name, getattr(self, name))
        if self.sharding == "full" and self.distill is not None:
            raise UsageError("sharding full and distill exclude each other: choose one of them")
        if self.sharding == "full" and self.memory in ("8bit", "offload"):
            raise UsageError(
                f"sharding full and memory {self.memory} exclude each other: use auto, keep, attention or "
                "recompute"
            )
        if self.lora_alpha is not None and not self.lora_rank:
            raise UsageError("lora_alpha needs lora_rank: without, all weights are trained")
        if self.object_dropout is not None and not 0 <= self.object_dropout <= 1:
            raise UsageError(f"object_dropout must lie between 0 and 1, not {self.object_dropout}")
        if (self.text_condition == "vectors") != (self.text_vectors is not None):
            raise UsageError("text_condition vectors and text_vectors FILE go together: give both or neither")
        for name, lowest in (("distill_steps", 1), ("distill_substeps", 1), ("distill_guidance", 0)):
            at_least(name, getattr(self, name), lowest)
        if not 0 <= self.distill_own <= 1:
            raise UsageError(f"distill_own must lie between 0 and 1, not {self.distill_own}")
        for name in ("base", "export", "distill"):
            if getattr(self, name) == "":
                raise UsageError(f"{name} is empty: give a folder or a name")


@dataclass(frozen=True)
class TrainS2MConfig(TrainStageConfig):
    """One call of `train-s2m`; see `TrainStageConfig`.

    Attributes:
        frame_labels: Whether labels steer the maps of their own seconds as well, where the published model
            knows their mean over the clip; None: as the base does, and of a new model on ids they do.
        maps: "ids" learns maps as categories, "colours" as published, as pictures through the VAE; None: as
            the base does.
    """

    frame_labels: bool | None = None
    maps: MapForm | None = None

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        super().__post_init__()
        if self.maps == "ids" and self.distill is not None:
            raise UsageError("distill needs maps colours: an S2M on ids samples in 4 to 8 steps as it is")
        if self.maps == "ids" and self.export == "public":
            raise UsageError("export public needs maps colours: the public code knows no other form")


@dataclass(frozen=True)
class TrainM2VConfig(TrainStageConfig):
    """One call of `train-m2v`; see `TrainStageConfig`.

    Attributes:
        stage: "unconditional" fits the base to surgical video, "maps" is the model itself; it starts from
            the unconditional run beside `out` where that is finished.
        hierarchical: Whether the model takes phase and triplet as well; None: as the base does.
    """

    out: Path = Path("runs/m2v")
    stage: M2VPart = "maps"
    hierarchical: bool | None = None

    @property
    def run_folder(self) -> Path:
        """Returns where the run lies; the unconditional stage has a folder beside the default too."""
        if self.stage == "unconditional" and self.out == type(self)().out:
            return unconditional_folder(self.out)
        return super().run_folder

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        super().__post_init__()
        if self.text_condition == "vectors" and self.hierarchical is not True:
            raise UsageError("text_condition vectors needs hierarchical: M2V takes no phases without it")
        if self.stage == "unconditional" and self.lora_rank:
            raise UsageError("stage unconditional trains all weights: leave out lora_rank")
        if self.stage == "unconditional" and self.export is not None:
            raise UsageError("export needs stage maps: the unconditional model makes no pipeline")
        if self.stage == "unconditional" and self.distill is not None:
            raise UsageError("distill needs stage maps: the unconditional model is no one's student")


def is_preset(origin: str) -> bool:
    """Tells whether what gave a setting (see `given_settings`) is one of the package's presets."""
    return origin != "" and Path(origin).parent == PRESETS


def unconditional_folder(out: Path) -> Path:
    """Returns where the first stage of an M2V run lies: beside it."""
    return out.with_name(f"{out.name}-unconditional")
