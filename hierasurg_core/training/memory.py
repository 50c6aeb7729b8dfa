"""How much GPU memory a run will take, and which setting of `--memory` fits.

Owns the arithmetic, in bytes a process. P are a model's values and T the trained ones among them, O those
outside of the blocks; N tokens a clip, D their width, L blocks, b clips a step:

    weights      4 P; with LoRA 2 (P - T) + 4 T, as what is frozen lies in bf16
    teacher      2 P of a student's, 4 P in fp32
    copies       of weights that a backward pass needs: 2 P in bf16 or fp16 if all is kept, 2 P / L where
                 blocks are computed again; none with LoRA, and in fp32 a block's projections side by side
    gradients    4 T, also in DDP's buckets
    moments      8 T; 2 T in 8 bits; 0 where the machine's memory holds them
    average      4 T where the run averages its weights
    activations  b L N D c: c = 40 bytes if all is kept, 6 with what attention gave, 2 with block inputs alone
                 (twice that in fp32), and 60 b N D for the block at work
    overlap      in one process, whose gradients last no longer than a step, the smaller of gradients and kept
                 activations: a backward pass makes the ones as it lets the others go
    the rest     1.5 GB: CUDA's context, workspaces, fragments

With sharding over R processes weights (4 P, also with LoRA), gradients, moments and average are divided by R.
To them come what is gathered at one time, two blocks in their number type and 4 O; the gradients on their
way, of a block in both types and 8 O; and of copies the 3 D^2 of each block whose three projections are one
product, as nothing else outlives what was gathered.

The estimate means to be some percent too high rather than too low; `--dry-run` prints it. On an H100, for
2b, 17x480x720, batch 1: M2V keep 56.8 GB (56.2 allocated, 0.5 context), offload 17.6 (16.5), S2M keep 45.1
(43.7), by `bench_train_gpu`.

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
        lora: Whether all but T is frozen.
        teacher: Values of a frozen teacher beside the model.
        extra_calls: Forward passes a clip that no gradient is taken of.
        outside: O.
    """

    parameters: int
    trained: int
    tokens: int
    width: int
    blocks: int
    lora: bool = False
    teacher: int = 0
    extra_calls: int = 0
    outside: int = 0

    def flops_a_clip(self) -> float:
        """Operations of one training step and clip: three forward passes and the extra calls.

        Recomputation is not counted.

        A forward pass of a block takes 2 operations a token and value of its 12 D x D matrices, and 4 N^2 D
        for attention.
        """
        return (
            (3.0 + self.extra_calls)
            * self.blocks
            * self.tokens
            * self.width
            * (24 * self.width + 4 * self.tokens)
        )


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a process, by what they are for."""

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    overlap: int = 0
    rest: int = _REST

    @property
    def total(self) -> int:
        """All of it at one time."""
        return sum(self._parts().values())

    def _parts(self) -> dict[str, int]:
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "moments": self.moments,
            "average": self.average,
            "activations": self.activations,
            "overlap": -self.overlap,
            "rest": self.rest,
        }

    def to_dict(self) -> dict[str, int]:
        """Returns plain values for JSON."""
        return {**self._parts(), "total": self.total}


def estimate(setting: str, load: Workload, config: TrainConfig, world_size: int = 1) -> MemoryEstimate:
    """Returns what a setting of `--memory` (but "auto") will take; see the module for the arithmetic."""
    half = config.precision != "fp32"
    ranks = world_size if config.sharding == "full" else 1
    weights = 4 * load.parameters
    if load.lora and half and ranks == 1:
        weights -= 2 * (load.parameters - load.trained)
    moments = {"8bit": 2, "offload": 0}.get(setting, 8) * load.trained
    average = 0 if config.ema is None else 4 * load.trained
    teacher = (2 if half else 4) * load.teacher
    a_value = config.batch * load.tokens * load.width * (1 if half else 2)
    gathered, sent = _in_flight(load, half=half) if ranks > 1 else (0, 0)
    copies = _copies(setting, load, half=half, sharded=ranks > 1)
    gradients = _part(4 * load.trained, ranks) + sent
    kept = a_value * load.blocks * _BYTES_KEPT[setting]
    fleeting = world_size == 1 and config.accumulate == 1
    return MemoryEstimate(
        weights=_part(weights, ranks) + gathered + copies + teacher,
        gradients=gradients,
        moments=_part(moments, ranks),
        average=_part(average, ranks),
        activations=kept + a_value * _BYTES_AT_WORK,
        overlap=min(gradients, kept) if fleeting else 0,
    )


def _part(size: int, ranks: int) -> int:
    return -(-size // ranks)


def _in_flight(load: Workload, *, half: bool) -> tuple[int, int]:
    """What sharding gathers, and the gradients that it sends, at one time."""
    a_value = 2 if half else 4
    block = (load.parameters - load.outside) // load.blocks
    gradients = (a_value + 4) * block + 8 * load.outside
    return 2 * a_value * block + 4 * load.outside, gradients * load.trained // load.parameters


def _copies(setting: str, load: Workload, *, half: bool, sharded: bool) -> int:
    """What a step makes of weights for its backward pass."""
    if load.lora:
        return 0
    if half and not sharded:
        return 2 * load.parameters // (1 if setting == "keep" else load.blocks)
    return (2 if half else 4) * 3 * load.width**2 * (load.blocks if setting == "keep" else 1)


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
    possible = _FASTEST_FIRST
    if config.sharding == "full" or config.optimizer == "muon":
        possible = tuple(setting for setting in possible if setting not in ("8bit", "offload"))
    for setting in possible:
        if setting == "8bit" and not with_8bit:
            continue
        if estimate(setting, load, config, world_size).total <= _SHARE * free:
            return setting
    least = estimate(possible[-1], load, config, world_size).total
    advice = what_to_lower(config, lora=load.lora, setting=possible[-1], world_size=world_size)
    raise ResourceError(
        f"about {least / 1e9:.1f} GB of GPU memory are needed and {free / 1e9:.1f} GB are free: {advice}"
    )


def changes_of(setting: str) -> dict[str, Any]:
    """Returns the fields of `TrainConfig` that a setting stands for."""
    return _CHANGES[setting]


def what_to_lower(
    config: TrainConfig, *, lora: bool = False, setting: str | None = None, world_size: int = 1
) -> str:
    """Names the options that save memory and are not in use yet, the most effective first."""
    options: list[str] = []
    if not config.gradient_checkpointing and setting != "recompute":
        options.append("--memory recompute")
    if config.batch > 1:
        options.append(f"--batch {config.batch // 2} with --accumulate {config.accumulate * 2}")
    plain = config.sharding == "none" and config.optimizer == "adamw" and not config.offload
    if plain and world_size > 1:
        options.append("--sharding full")
    if not lora:
        options.append("--lora-rank 64")
    if config.precision == "fp32":
        options.append("--precision bf16")
    if plain and setting != "offload":
        options.append("--memory offload")
    if config.ema is not None:
        options.append("--set ema=null")
    if not options:
        return "nothing is left to lower: use a larger GPU, or smaller clips"
    return "in order of effect, try " + ", then ".join(options)
