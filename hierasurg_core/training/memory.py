"""How much GPU memory a run will take, and which setting of `--memory` fits.

Owns the arithmetic, in bytes a process. P are a model's values and T the trained ones among them; N tokens a
clip, D their width, L blocks, b clips a step:

    weights      4 P; with LoRA 2 (P - T) + 4 T, as what is frozen lies in bf16
    half copies  2 P in bf16 or fp16, which autocast keeps for a step; none with LoRA, none in fp32
    gradients    4 T; 8 T with several processes, as DDP sends them from buckets of its own
    moments      8 T; 2 T in 8 bits; 0 where the machine's memory holds them
    average      4 T where the run averages its weights
    activations  b L N D c: c = 40 bytes if all is kept, 6 with what attention gave, 2 with block inputs alone
                 (twice that in fp32), and 60 b N D for the block at work
    the rest     1.5 GB: CUDA's context, workspaces, fragments

The estimate means to be some percent too high rather than too low; `--dry-run` prints it.

Refuses: measuring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hierasurg_core.config import TrainConfig
from hierasurg_core.errors import ResourceError

_BYTES_KEPT = {"keep": 40, "attention": 6, "recompute": 2, "8bit": 2, "offload": 2}
_BYTES_AT_WORK = 60
_REST = 1_500_000_000
_SHARE = 0.95  # of what is free, that an estimate may fill
_FASTEST_FIRST = ("keep", "attention", "recompute", "8bit", "offload")
_CHANGES: dict[str, dict[str, Any]] = {
    "keep": {"gradient_checkpointing": False},
    "attention": {"gradient_checkpointing": True, "keep_attention": True},
    "recompute": {"gradient_checkpointing": True},
    "8bit": {"gradient_checkpointing": True, "optimizer": "adamw8bit"},
    "offload": {"gradient_checkpointing": True, "offload": True},
}


@dataclass(frozen=True)
class Workload:
    """What decides about memory and work.

    Attributes:
        parameters: P.
        trained: T.
        tokens: N, of both streams.
        width: D.
        blocks: L.
        lora: Whether all but T is frozen, in bf16.
    """

    parameters: int
    trained: int
    tokens: int
    width: int
    blocks: int
    lora: bool = False

    def flops_a_clip(self) -> float:
        """Operations of one training step and clip: three forward passes, recomputation not counted.

        A forward pass takes 2 operations a token and value of the blocks' 12 D x D matrices, and 4 N^2 D for
        attention (baselines.md).
        """
        return 3.0 * self.blocks * self.tokens * self.width * (24 * self.width + 4 * self.tokens)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a process, by what they are for."""

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    rest: int = _REST

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.average + self.activations + self.rest

    def to_dict(self) -> dict[str, int]:
        """Returns plain values for JSON."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "moments": self.moments,
            "average": self.average,
            "activations": self.activations,
            "rest": self.rest,
            "total": self.total,
        }


def estimate(setting: str, load: Workload, config: TrainConfig, world_size: int = 1) -> MemoryEstimate:
    """Returns what a setting of `--memory` (but "auto") will take; see the module for the arithmetic."""
    half = config.precision != "fp32"
    frozen = load.parameters - load.trained
    weights = 4 * load.trained + (2 if load.lora and half else 4) * frozen
    if half and not load.lora:
        weights += 2 * load.parameters
    moments = {"8bit": 2, "offload": 0}.get(setting, 8) * load.trained
    copies = 1 if world_size == 1 else 2
    a_value = config.batch * load.tokens * load.width * (1 if half else 2)
    return MemoryEstimate(
        weights=weights,
        gradients=4 * load.trained * copies,
        moments=moments,
        average=0 if config.ema is None else 4 * load.trained,
        activations=a_value * (load.blocks * _BYTES_KEPT[setting] + _BYTES_AT_WORK),
    )


def choose_setting(
    wanted: str,
    load: Workload,
    config: TrainConfig,
    free: int | None,
    *,
    with_8bit: bool,
    world_size: int = 1,
) -> str:
    """Turns "auto" into the fastest setting that fits; any other name stays.

    Args:
        wanted: The config's `memory`.
        load: The model at the data's size.
        config: The run.
        free: Bytes of GPU memory that the process may take; None on a CPU, where nothing is saved.
        with_8bit: Whether the 8-bit optimiser is at hand.
        world_size: Ranks.

    Raises:
        ResourceError: "auto", and nothing fits: the message says what to lower.
    """
    if wanted != "auto":
        return wanted
    if free is None:
        return "keep"
    for setting in _FASTEST_FIRST:
        if setting == "8bit" and not with_8bit:
            continue
        if estimate(setting, load, config, world_size).total <= _SHARE * free:
            return setting
    least = estimate("offload", load, config, world_size).total
    raise ResourceError(
        f"about {least / 1e9:.1f} GB of GPU memory are needed and {free / 1e9:.1f} GB are free: "
        f"{what_to_lower(config, lora=load.lora, setting='offload')}"
    )


def changes_of(setting: str) -> dict[str, Any]:
    """Returns the fields of `TrainConfig` that a setting stands for."""
    return _CHANGES[setting]


def what_to_lower(config: TrainConfig, *, lora: bool = False, setting: str | None = None) -> str:
    """Names the options that save memory and are not in use yet, the most effective first."""
    options: list[str] = []
    if not config.gradient_checkpointing:
        options.append("--memory recompute")
    if config.batch > 1:
        options.append(f"--batch {config.batch // 2} with --accumulate {config.accumulate * 2}")
    if not lora:
        options.append("--lora-rank 64")
    if config.precision == "fp32":
        options.append("--precision bf16")
    if not config.offload and setting != "offload":
        options.append("--memory offload")
    if config.ema is not None:
        options.append("--set ema=null")
    if not options:
        return "nothing is left to lower: use a larger GPU, or smaller clips"
    return "in order of effect, try " + ", then ".join(options)
