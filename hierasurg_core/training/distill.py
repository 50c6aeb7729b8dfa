"""Few-step students: a model learns to go in N steps where its teacher goes in many.

Owns the student's objective; the loop is the trainer's, and the stage inside says what a model is given. The
student's grid are the N times that sampling visits (`generation.solvers`, "ddim"), and it is never asked at
another. At time t_i the frozen teacher takes K steps to t_i+1 (from the last one, to clean latents), and the
student's target is the velocity whose one DDIM step lands at the same place. That is the idea of progressive
distillation (Salimans and Ho 2022, arXiv 2202.00512) with all halvings in one training, since the teacher's
path from each of N places can be paid for at once. With a = sqrt(alpha_bar), b = sqrt(1 - a^2), and a', b'
those of the next time, a DDIM step is

    x' = A x + B v,   A = a a' + b b',   B = a b' - a' b,   so that   v = (x' - A x) / B,

which divides by nothing small: B is -a' at pure noise (a = 0) and -b in the step to clean latents (b' = 0).

The teacher's steps are DPM-Solver++ 2M, evenly spaced in the angle arctan(b / a), by which latents turn from
data to noise, not in time: the last of four gaps has half of the angle. A flow of N(0, 1/4), N = 4 and K = 8
then ends with 1 % too little spread, where DDIM at even times loses 18 %, which a student would learn.

The starting places are of two kinds. One part of the clips are true latents with noise, as in other training;
for the other part the student itself goes from pure noise to t_i, without gradients, so that it is also
taught where its own steps end, which no noised truth shows it (as the backward distillation of Kohler et al.
2024, arXiv 2405.05224). The student begins with its teacher's weights.

M2V's map encoder stays the teacher's: it is frozen, and its tokens are computed once a batch, in evaluation
mode, for all calls of teacher and student.

Refuses: the choice of a teacher (`plan`), and teachers that are students.

B clips, F latent frames, C channels, H W latent rows and columns; N steps, K sub-steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from hierasurg_core.config import STUDENT_SUFFIX as SUFFIX
from hierasurg_core.errors import DataError, UsageError, WeightsError
from hierasurg_core.generation.solvers import solver_steps, steps_along
from hierasurg_core.models import (
    CogVideoXDPMScheduler,
    CogVideoXStack,
    M2VTransformer3DModel,
    load_transformer,
)
from hierasurg_core.models.attention import choose_kernel, use_kernel
from hierasurg_core.training.batch import Batch
from hierasurg_core.training.draws import Draws
from hierasurg_core.training.stages import M2VStage, S2MStage, SquaredLoss, VelocityModel, emphasised


@dataclass(frozen=True, eq=False)
class Grid:
    """The times of student and teacher, and every step between them.

    A student's step is x' = A x + B v, a teacher's goes as `generation.solvers.SolverStep` says.

    Attributes:
        time_NK: Where the teacher is asked; the student is asked at the first of each row.
        teacher_NK5: Of the teacher's steps clean_noisy, clean_model, next_noisy, next_clean and next_before,
            float64.
        student_N2: A and B of the student's, each over a whole row.
        noised_N2: sqrt(alpha_bar) and sqrt(1 - alpha_bar) at the student's times.
    """

    time_NK: Tensor
    teacher_NK5: Tensor
    student_N2: Tensor
    noised_N2: Tensor

    @property
    def steps(self) -> int:
        """N."""
        return self.time_NK.shape[0]

    @property
    def substeps(self) -> int:
        """K."""
        return self.time_NK.shape[1]

    def to(self, device: torch.device) -> Grid:
        """Returns the grid on a device."""
        return Grid(**{name: value.to(device) for name, value in vars(self).items()})


def make_grid(scheduler: CogVideoXDPMScheduler, steps: int, substeps: int) -> Grid:
    """Lays out the student's N times as sampling with N steps has them, and K of the teacher in each gap.

    Args:
        scheduler: Noise levels; it predicts velocities.
        steps: N.
        substeps: K; evenly over each gap's angle.

    Raises:
        UsageError: There are fewer training times in a gap than sub-steps.
    """
    longest = int(scheduler.config["num_train_timesteps"])
    if steps * substeps > longest:
        raise UsageError(
            f"distill_steps {steps} of {substeps} distill_substeps are more than the {longest} times there "
            "are: lower one of them"
        )
    student = solver_steps(scheduler, steps, "ddim")
    times = [step.time for step in student]
    alpha_bar_T = scheduler.alphas_cumprod.double()
    angles = torch.arccos(alpha_bar_T.clamp(0, 1).sqrt()).tolist()
    rows = [_between(time, end, substeps, angles) for time, end in pairwise([*times, -1])]
    teacher = [
        [
            (step.clean_noisy, step.clean_model, step.next_noisy, step.next_clean, step.next_before)
            for step in steps_along(scheduler, [*row, end], "dpm++")
        ]
        for row, end in zip(rows, [*times[1:], -1], strict=True)
    ]
    return Grid(
        time_NK=torch.tensor(rows),
        teacher_NK5=torch.tensor(teacher, dtype=torch.float64),
        student_N2=torch.tensor(
            [
                (step.next_noisy + step.next_clean * step.clean_noisy, step.next_clean * step.clean_model)
                for step in student
            ],
            dtype=torch.float64,
        ),
        noised_N2=torch.stack([alpha_bar_T[times].sqrt(), (1 - alpha_bar_T[times]).sqrt()], dim=1),
    )


Velocity = Callable[[Tensor, Tensor], Tensor]
"""Latents (B, F, C, H, W) and times (B,) to their velocity."""


def teacher_path(grid: Grid, ask: Velocity, start_BFCHW: Tensor, index_B: Tensor) -> Tensor:
    """Goes K steps from each clip's place on the grid to the next one.

    Args:
        grid: On the latents' device.
        ask: The teacher.
        start_BFCHW: Latents at time `grid.time_NK[index_B, 0]`.
        index_B: Where each clip is, 0..N - 1.

    Returns:
        Latents at the next time of the grid, clean ones from the last; the start's number type.
    """
    latents = start_BFCHW
    clean_before = torch.zeros_like(latents)
    for sub in range(grid.substeps):
        velocity = ask(latents, grid.time_NK[index_B, sub])
        clean_noisy, clean_model, next_noisy, next_clean, next_before = (
            _as_factor(value_B, latents) for value_B in grid.teacher_NK5[index_B, sub].unbind(1)
        )
        clean = clean_noisy * latents + clean_model * velocity
        latents = next_noisy * latents + next_clean * clean + next_before * clean_before
        clean_before = clean
    return latents


def student_step(grid: Grid, velocity_BFCHW: Tensor, start_BFCHW: Tensor, index_B: Tensor) -> Tensor:
    """Returns where a velocity leads in one step of the student; arguments as in `teacher_path`."""
    a, b = (_as_factor(value_B, start_BFCHW) for value_B in grid.student_N2[index_B].unbind(1))
    return a * start_BFCHW + b * velocity_BFCHW


def target_velocity(grid: Grid, end_BFCHW: Tensor, start_BFCHW: Tensor, index_B: Tensor) -> Tensor:
    """Returns the velocity with which `student_step` gets from a start to an end."""
    a, b = (_as_factor(value_B, start_BFCHW) for value_B in grid.student_N2[index_B].unbind(1))
    return (end_BFCHW - a * start_BFCHW) / b


@dataclass(frozen=True, eq=False)
class DistilledStage(SquaredLoss):
    """A stage whose targets come from a teacher; see the module.

    Attributes:
        inner: The stage of both models.
        teacher: Frozen, in evaluation mode, on the training device. Its number type is that of its weights,
            under autocast where that is not float32.
        grid: On the training device.
        guidance: Scale of classifier-free guidance on the teacher, which the student takes over; 1 is off.
        own_share: Of the clips that start where the student's own steps end.
        name: "s2m-student" or "m2v-student".

    Raises:
        WeightsError: The teacher is a student itself.
    """

    inner: S2MStage | M2VStage
    teacher: CogVideoXStack
    grid: Grid
    guidance: float = 1.0
    own_share: float = 0.5
    name: str = field(init=False)

    def __post_init__(self) -> None:
        """Names the stage."""
        expect_teacher(self.teacher.config["distilled_steps"], "the teacher")
        object.__setattr__(self, "name", self.inner.name + SUFFIX)

    @property
    def inputs(self) -> int:
        """As the inner stage's."""
        return self.inner.inputs

    @property
    def alpha_bar_T(self) -> Tensor:
        """As the inner stage's."""
        return self.inner.alpha_bar_T

    def velocity(self, model: VelocityModel, noisy_BFCHW: Tensor, time_B: Tensor, batch: Batch) -> Tensor:
        """Asks a model; see `VelocityStage`."""
        return self.inner.velocity(model, noisy_BFCHW, time_B, batch)

    def prediction_and_target(
        self, model: VelocityModel, batch: Batch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Asks the student at one place of its grid a clip, and the teacher for what it should say."""
        clean = batch.clean_latents.float()
        index_B = draws.integers(self.grid.steps, (len(batch),))
        noise = draws.normal(tuple(clean.shape))
        own_B = draws.uniform((len(batch),)) < self.own_share
        with torch.no_grad():
            tokens = self._tokens(batch)
            ask_student = self._asking(model, batch, tokens)
            signal, blur = (_as_factor(of_B, clean) for of_B in self.grid.noised_N2[index_B].unbind(1))
            start = signal * clean + blur * noise
            if self.own_share > 0:
                own = self._own_start(ask_student, noise, index_B)
                start = torch.where(own_B.view(-1, 1, 1, 1, 1), own, start)
            end = teacher_path(self.grid, self._asking_teacher(batch, tokens), start, index_B)
            target = target_velocity(self.grid, end, start, index_B)
        velocity = ask_student(start, self.grid.time_NK[index_B, 0])
        emphasis = self.inner.emphasis if isinstance(self.inner, S2MStage) else 0.0
        return emphasised(velocity, target, clean, emphasis)

    def _own_start(self, ask: Velocity, noise_BFCHW: Tensor, index_B: Tensor) -> Tensor:
        """Returns where the student gets from pure noise in `index_B` steps, a number of its own a clip.

        All clips take all steps, so that shapes never change and ranks always make equally many calls.
        """
        latents = found = noise_BFCHW
        for index in range(self.grid.steps - 1):
            here_B = torch.full_like(index_B, index)
            velocity = ask(latents, self.grid.time_NK[here_B, 0]).float()
            latents = student_step(self.grid, velocity, latents, here_B)
            found = torch.where((index_B == index + 1).view(-1, 1, 1, 1, 1), latents, found)
        return found

    def _asking(self, model: VelocityModel, batch: Batch, tokens_BND: Tensor | None) -> Velocity:
        """The model under a batch's conditions, with the teacher's map tokens where it takes any."""
        called = model if tokens_BND is None else _WithTokens(model, tokens_BND)
        return lambda latents, time_B: self.inner.velocity(called, latents, time_B, batch)

    def _asking_teacher(self, batch: Batch, tokens_BND: Tensor | None) -> Velocity:
        ask = self._asking(self.teacher, batch, tokens_BND)
        unconditional = None
        if self.guidance != 1:
            all_B = torch.ones(len(batch), dtype=torch.bool, device=batch.clean_latents.device)
            bare = batch.without_conditions(all_B)
            unconditional = self._asking(self.teacher, bare, self._tokens(bare))

        def guided(latents: Tensor, time_B: Tensor) -> Tensor:
            with self._autocast():
                velocity = ask(latents, time_B).float()
                if unconditional is None:
                    return velocity
                without = unconditional(latents, time_B).float()
            return without + self.guidance * (velocity - without)

        return guided

    def _tokens(self, batch: Batch) -> Tensor | None:
        """What teacher and student see of the maps; None for S2M, which sees none."""
        if not isinstance(self.teacher, M2VTransformer3DModel):
            return None
        levels = batch.levels_BFHW()
        if levels is None:
            raise DataError("M2V's training needs maps_BFHW in each batch")
        with torch.no_grad(), self._autocast():
            return self.teacher.encode_maps(levels)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        """The arithmetic of the student, where weights in half precision say that it has such."""
        weights = next(self.teacher.parameters())
        if weights.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(weights.device.type, weights.dtype, cache_enabled=False)


@dataclass(frozen=True, eq=False)
class _WithTokens:
    """A model that is given the tokens of a batch's maps in place of them."""

    model: VelocityModel | nn.Module
    map_tokens_BND: Tensor

    def __call__(
        self,
        latents_BFCHW: Tensor,
        timesteps_B: Tensor,
        phase_BF: Tensor | None = None,
        triplet_BF: Tensor | None = None,
        maps_BFHW: Tensor | None = None,
    ) -> Tensor:
        call: Callable[..., Tensor] = self.model
        tokens = self.map_tokens_BND
        return call(
            latents_BFCHW, timesteps_B, phase_BF=phase_BF, triplet_BF=triplet_BF, map_tokens_BND=tokens
        )


def load_teacher(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    *,
    tokens: int | None = None,
    compiled: bool = False,
) -> CogVideoXStack:
    """Returns a frozen model as `DistilledStage` takes it.

    Args:
        folder: Its transformer.
        dtype: Of its weights.
        device: Where the student is trained.
        tokens: N of a clip; given, the fastest attention kernel for them is looked for.
        compiled: Whether its blocks run through torch.compile.

    Raises:
        WeightsError: It cannot be read, or is a student itself.
    """
    teacher = load_transformer(folder, dtype, device)
    expect_teacher(teacher.config["distilled_steps"], str(folder))
    teacher.requires_grad_(False)
    if tokens is not None:
        heads, head_dim = teacher.config["num_attention_heads"], teacher.config["attention_head_dim"]
        use_kernel(teacher, choose_kernel(tokens, heads, head_dim, dtype, device))
    if compiled:
        for block in teacher.transformer_blocks:
            block.compile(dynamic=False)
    return teacher.eval()


def calls_of_a_clip(steps: int, substeps: int, guidance: float, own_share: float) -> int:
    """Returns the forward passes of a student's step besides its own: N - 1 to its start, K or 2 K after."""
    return (steps - 1 if own_share > 0 else 0) + (substeps if guidance == 1 else 2 * substeps)


def expect_teacher(distilled_steps: int | None, where: str) -> None:
    """Refuses a teacher that knows but a few steps.

    Raises:
        WeightsError: It is a student; `where` is named.
    """
    if distilled_steps is not None:
        raise WeightsError(
            f"{where} is itself a student, of {distilled_steps} steps, and can teach no others: give the "
            "model that it was made from"
        )


def freeze_maps(model: CogVideoXStack) -> None:
    """Takes M2V's map encoder out of training."""
    for name in ("encoder_segmap", "segmap_resblocks"):
        model.get_submodule(name).requires_grad_(False)


def as_student(model: CogVideoXStack, steps: int) -> CogVideoXStack:
    """Makes a copy of a teacher a student: its config says so, and its map encoder is not trained."""
    model.register_to_config(distilled_steps=steps)
    if isinstance(model, M2VTransformer3DModel):
        freeze_maps(model)
    return model


def _between(time: int, end: int, substeps: int, angle_T: Sequence[float]) -> list[int]:
    """Returns falling times from `time` on, before `end`, whose angles are as even as whole times allow."""
    last = angle_T[end] if end >= 0 else 0.0
    times = [time]
    for left in range(substeps - 1, 0, -1):
        wanted = last + (angle_T[time] - last) * left / substeps
        nearest = min(range(end + 1, time), key=lambda t: abs(angle_T[t] - wanted))
        times.append(max(min(nearest, times[-1] - 1), end + left))
    return times


def _as_factor(value_B: Tensor, latents: Tensor) -> Tensor:
    return value_B.to(latents.dtype).view(-1, 1, 1, 1, 1)
