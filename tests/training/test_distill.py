"""Few-step students: the algebra, what they can reach, what they leave on disk, and what is refused."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from forked import run_ranks
from tiny_runs import SCHEDULER, m2v_config, s2m_config, train, write_dataset
from tiny_training import clips, config, m2v, s2m
from torch import Tensor

from hierasurg_cli.app import run
from hierasurg_core.artifacts import read_json
from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import HieraSurgError, UsageError, WeightsError
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.generation.sampling import denoise
from hierasurg_core.generation.solvers import advance, solver_steps, steps_along
from hierasurg_core.generation.sources import plan_models
from hierasurg_core.models import CogVideoXDPMScheduler, load_transformer
from hierasurg_core.progress import SilentProgress
from hierasurg_core.runtime import make_generator
from hierasurg_core.training import Batch, Draws, LatentCacheSource, M2VStage, S2MStage
from hierasurg_core.training import train as train_loop
from hierasurg_core.training.distill import (
    DistilledStage,
    Grid,
    as_student,
    make_grid,
    student_step,
    target_velocity,
    teacher_path,
)
from hierasurg_core.training.plan import plan_training
from hierasurg_core.training.stages import SquaredLoss, VelocityModel

CPU = torch.device("cpu")
SPREAD = 0.25  # variance of the data whose flow is known


def scheduler() -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(**SCHEDULER)


def draws(seed: int = 1, rank: int = 0, world_size: int = 1) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), rank, world_size)


def known_velocity(latents: Tensor, time_B: Tensor) -> Tensor:
    """The exact velocity of data N(0, SPREAD), which is linear in the latents."""
    level = scheduler().alphas_cumprod.double()[time_B].view(-1, *(1,) * (latents.ndim - 1)).to(latents.dtype)
    spread = level * SPREAD + 1 - level
    return latents * level.sqrt() * (1 - level).sqrt() * (1 - SPREAD) / spread


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8])
def test_the_grid_is_that_of_sampling(steps: int) -> None:
    grid = make_grid(scheduler(), steps, 5)
    assert grid.time_NK[:, 0].tolist() == [step.time for step in solver_steps(scheduler(), steps, "ddim")]
    assert grid.time_NK[0, 0] == 999
    assert (grid.time_NK.flatten().diff() < 0).all()
    assert grid.time_NK.min() >= 0
    if steps == 4:
        assert grid.time_NK[:, 0].tolist() == [999, 749, 499, 249]


@pytest.mark.parametrize(("steps", "substeps"), [(4, 1), (4, 8), (4, 25), (3, 7), (1, 10)])
def test_one_step_with_the_target_lands_where_the_teachers_many_do(steps: int, substeps: int) -> None:
    """At every place of the grid, pure noise (alpha_bar 0) and the step to clean latents among them."""
    assert scheduler().alphas_cumprod[999] == 0
    grid = make_grid(scheduler(), steps, substeps)
    index_B = torch.arange(steps)
    start = torch.randn(steps, 6, generator=make_generator(0), dtype=torch.float64).view(steps, 6, 1, 1, 1)

    def teacher(latents: Tensor, time_B: Tensor) -> Tensor:
        return torch.sin(3 * latents) + time_B.view(-1, *(1,) * (latents.ndim - 1)) / 1000

    expected = []
    for row, following in zip(grid.time_NK.tolist(), [*grid.time_NK[1:, 0].tolist(), -1], strict=True):
        latents, before = start[len(expected)], None
        for step in steps_along(scheduler(), [*row, following], "dpm++"):
            velocity = teacher(latents, torch.tensor(step.time))
            latents, before = advance(step, latents, velocity, before, None)
        expected.append(latents)
    end = teacher_path(grid, teacher, start, index_B)
    torch.testing.assert_close(end, torch.stack(expected), atol=1e-5, rtol=0)
    target = target_velocity(grid, end, start, index_B)
    assert torch.isfinite(target).all()
    torch.testing.assert_close(student_step(grid, target, start, index_B), end, atol=1e-5, rtol=0)
    if substeps == 1:
        torch.testing.assert_close(target, teacher(start, grid.time_NK[:, 0]), atol=1e-5, rtol=0)


def test_a_step_is_a_turn_of_data_and_noise() -> None:
    """x = a x0 + b e becomes a' x0 + b' e, with x0 and e as the velocity says; clean latents are x0."""
    grid = make_grid(scheduler(), 4, 2)
    levels = [*scheduler().alphas_cumprod.double()[grid.time_NK[:, 0]], torch.ones((), dtype=torch.float64)]
    start, velocity = torch.randn(2, 4, 1, 1, 1, 1, generator=make_generator(0), dtype=torch.float64)
    found = student_step(grid, velocity, start, torch.arange(4))
    for index in range(4):
        a, b = levels[index].sqrt(), (1 - levels[index]).sqrt()
        clean, noise = a * start[index] - b * velocity[index], b * start[index] + a * velocity[index]
        by_hand = levels[index + 1].sqrt() * clean + (1 - levels[index + 1]).sqrt() * noise
        torch.testing.assert_close(found[index], by_hand, atol=1e-9, rtol=0)


def test_substeps_are_even_in_angle_and_all_times_where_they_must() -> None:
    assert make_grid(scheduler(), 4, 4).time_NK.tolist()[3] == [249, 146, 68, 17]
    assert make_grid(scheduler(), 4, 250).time_NK.flatten().tolist() == list(range(999, -1, -1))


def test_a_students_step_is_the_samplers() -> None:
    grid = make_grid(scheduler(), 4, 3)
    start, velocity = torch.randn(2, 4, 1, 1, 1, 1, generator=make_generator(0), dtype=torch.float64)
    ours = student_step(grid, velocity, start, torch.arange(4))
    for index, step in enumerate(solver_steps(scheduler(), 4, "ddim")):
        theirs, _ = advance(step, start[index], velocity[index], None, None)
        torch.testing.assert_close(ours[index], theirs, atol=1e-9, rtol=0)


def test_a_perfect_student_of_a_known_flow_arrives_where_the_flow_ends() -> None:
    """The flow of N(0, 1/4) scales latents, so N numbers are a whole student: four steps are exact."""
    grid = make_grid(scheduler(), 4, 12)
    places = torch.ones(4, 1, 1, 1, 1, dtype=torch.float64)
    end = teacher_path(grid, known_velocity, places, torch.arange(4))
    factor_N = target_velocity(grid, end, places, torch.arange(4)).flatten()

    def student(latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
        places_B = (grid.time_NK[:, 0] == timesteps_B[:, None]).int().argmax(1)
        return factor_N[places_B].float().view(-1, 1, 1, 1, 1) * latents_BFCHW[:, :, :2]

    def sample(model: Any, steps: int) -> Tensor:
        return denoise(
            model,
            scheduler(),
            torch.zeros(1, 2, 1, 4, 4),
            conditions={},
            dropped={},
            channels=2,
            steps=steps,
            guidance=1.0,
            generator=make_generator(3),
            on_step=lambda: None,
            solver="ddim",
        )

    def plain(latents_BFCHW: Tensor, timesteps_B: Tensor, **conditions: Tensor) -> Tensor:
        return known_velocity(latents_BFCHW[:, :, :2], timesteps_B)

    exact = math.sqrt(SPREAD) * torch.randn(1, 2, 2, 4, 4, generator=make_generator(3))
    torch.testing.assert_close(sample(student, 4), exact, atol=0.02, rtol=0)
    assert (sample(plain, 4) - exact).abs().max() > 0.1


def tiny_stage(name: str, **options: Any) -> tuple[Any, DistilledStage]:
    """A student and its teacher, with the same weights; the teacher's output is made to matter."""
    models = [s2m() if name == "s2m" else m2v() for _ in range(2)]
    levels = scheduler().alphas_cumprod
    inner = S2MStage(levels) if name == "s2m" else M2VStage(levels, hierarchical=True)
    teacher = models[0].eval().requires_grad_(False)
    grid = make_grid(scheduler(), options.pop("steps", 4), options.pop("substeps", 3))
    return as_student(models[1], grid.steps), DistilledStage(inner, teacher, grid, **options)


@pytest.mark.parametrize("name", ["s2m", "m2v"])
def test_a_student_that_is_its_teacher_has_no_loss_with_one_substep(name: str) -> None:
    student, stage = tiny_stage(name, substeps=1)
    prediction, target = stage.prediction_and_target(student, clips(3), draws())
    torch.testing.assert_close(prediction, target, atol=1e-4, rtol=1e-4)
    assert prediction.requires_grad
    assert not target.requires_grad
    assert stage.name == f"{name}-student"
    assert student.config["distilled_steps"] == 4


@pytest.mark.parametrize("name", ["s2m", "m2v"])
def test_a_student_learns_a_batch(name: str, tmp_path: Path) -> None:
    student, stage = tiny_stage(name)
    with torch.no_grad():  # a strong teacher, from which the student starts as far as possible
        for parameter in stage.teacher.parameters():
            parameter.mul_(1.5)
    stays = {key: value.clone() for key, value in student.state_dict().items() if "segmap" in key}
    fixed = Fixed(stage)
    settings = config(steps=80, batch=2, lr=5e-3, warmup=5, log_every=10, ema=0.9)
    train_loop(student, fixed, LatentCacheSource(clips(2), 2), settings, tmp_path, SilentProgress())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.2 * losses[0]
    assert load_transformer(tmp_path).config["distilled_steps"] == 4
    assert read_json(tmp_path / "train.json")["stage"] == f"{name}-student"
    after = load_transformer(tmp_path / "checkpoint-80").state_dict()
    assert all(torch.equal(value, after[key]) for key, value in stays.items())


@dataclasses.dataclass
class Fixed(SquaredLoss):
    """The same draws at every step."""

    stage: DistilledStage

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def inputs(self) -> int:
        return self.stage.inputs

    def prediction_and_target(
        self, model: VelocityModel, batch: Batch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        fixed = Draws(torch.Generator().manual_seed(4), draws.rank, draws.world_size)
        return self.stage.prediction_and_target(model, batch, fixed)


def test_two_ranks_draw_what_one_draws() -> None:
    student, stage = tiny_stage("m2v")
    student.eval()
    batch = clips(4)
    whole = stage.prediction_and_target(student, batch, draws())
    for rank in range(2):
        half = batch.select(torch.arange(2 * rank, 2 * rank + 2))
        part = stage.prediction_and_target(student, half, draws(rank=rank, world_size=2))
        for ours, theirs in zip(part, whole, strict=True):
            torch.testing.assert_close(ours, theirs[2 * rank : 2 * rank + 2], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_train_the_student_that_one_does(root: Path) -> None:
    options: dict[str, Any] = {"steps": 3, "ema": 0.9, "condition_dropout": 0.2}
    losses = []
    for ranks, batch in ((1, 2), (2, 1)):
        name = f"ranks-{ranks}"
        run_ranks(ranks, train, student_of(root, "m2v", name, batch=batch, **options))
        lines = (root / "runs" / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_own_starts_are_the_students_own_path() -> None:
    """With own starts alone the student is asked at x of its own steps from the drawn noise."""
    student, stage = tiny_stage("s2m", own_share=1.0)
    asked: dict[int, Tensor] = {}

    def listening(latents: Tensor, time_B: Tensor, **conditions: Tensor) -> Tensor:
        for latent, time in zip(latents, time_B.tolist(), strict=True):
            asked[time] = latent[:, :4].detach()
        return student(latents, time_B, **conditions)

    batch, model = clips(1), cast(VelocityModel, listening)
    stage.prediction_and_target(model, batch, draws())
    again = draws()
    again.integers(4, (1,))
    latents = again.normal(tuple(batch.clean_latents.shape))
    for index, step in enumerate(solver_steps(scheduler(), 4, "ddim")):
        if step.time not in asked:
            break
        torch.testing.assert_close(asked[step.time], latents[0], atol=1e-4, rtol=1e-4)
        velocity = stage.velocity(student, latents, torch.tensor([step.time]), batch)
        latents, _ = advance(step, latents, velocity.detach(), None, None)
        assert index < 4


def test_guidance_is_taken_over() -> None:
    """Over one sub-step the target is the teacher's velocity, with guidance the guided one."""
    student, stage = tiny_stage("m2v", substeps=1, own_share=0.0)
    batch = clips(2)
    bare = batch.without_conditions(torch.ones(2, dtype=torch.bool))
    with_, without = (stage.prediction_and_target(student, of, draws())[1] for of in (batch, bare))
    assert not torch.allclose(with_, without, atol=1e-4)
    guided = dataclasses.replace(stage, guidance=3.0).prediction_and_target(student, batch, draws())[1]
    torch.testing.assert_close(guided, without + 3 * (with_ - without), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a data set and a finished run of either stage."""
    folder = tmp_path_factory.mktemp("students")
    write_dataset(folder)
    train(s2m_config(folder, "s2m"))
    train(m2v_config(folder, "m2v", hierarchical=True))
    return folder


def student_of(root: Path, stage: str, run: str | None = None, **changes: Any) -> Any:
    make = s2m_config if stage == "s2m" else m2v_config
    options = {"distill": str(root / "runs" / stage), "distill_substeps": 2, **changes}
    return make(root, run or f"{stage}-student", **options)


def test_both_students_are_exported_as_a_pipeline_of_their_steps(root: Path) -> None:
    first = train(student_of(root, "s2m", preview_every=2, ema=0.9))
    assert first.stage == "s2m-student"
    one = train(student_of(root, "m2v", export=str(root / "pipeline"), condition_dropout=0.5))
    assert one.export is not None
    index = read_json(root / "pipeline" / "model_index.json")
    of_student = {"steps": 4, "guidance": 1.0, "solver": "ddim"}
    assert index["sampling"] == {"s2m": of_student, "m2v": of_student}
    pipeline = HieraSurgPipeline.from_pretrained(root / "pipeline")
    assert [pipeline.sampling_of(stage).steps for stage in ("s2m", "m2v")] == [4, 4]
    assert "4 steps, taught by" in (root / "pipeline" / "README.md").read_text()
    plan = plan_models(GenerateConfig(model=str(root / "pipeline")), root, root)
    assert [plan.sampling[stage].steps for stage in ("s2m", "m2v")] == [4, 4]
    assert plan.sampling["m2v"].settled("m2v", GenerateConfig(steps=9)).steps == 9
    assert plan.notes == ()


def test_a_student_beside_a_model_keeps_its_own_steps_and_others_are_warned_of(root: Path) -> None:
    train(student_of(root, "s2m", ema=0.9))
    runs: dict[str, Any] = {
        name: str(root / "runs" / run) for name, run in (("s2m", "s2m-student"), ("m2v", "m2v"))
    }
    plan = plan_models(GenerateConfig(**runs), root, root)
    assert [plan.sampling[stage].steps for stage in ("s2m", "m2v")] == [4, 10]
    again = plan_models(GenerateConfig(**runs, steps=7, solver="dpm++"), root, root)
    said = "S2M is a student of 4 ddim steps; --steps 7 with --solver dpm++ is not what it learned"
    assert [note for note in again.notes if "student" in note] == [said]


def test_a_student_lora_trains_and_is_merged(root: Path) -> None:
    pytest.importorskip("peft")
    result = train(student_of(root, "m2v", "lora", lora_rank=2, ema=0.9))
    assert result.trained.model is not None
    model, teacher = load_transformer(result.trained.model), load_transformer(root / "runs" / "m2v")
    assert model.config["distilled_steps"] == 4
    name = "encoder_segmap.0.weight"
    assert torch.equal(model.state_dict()[name], teacher.state_dict()[name])


@pytest.mark.parametrize(
    ("stage", "changes", "error", "said"),
    [
        ("s2m", {"distill": "m2v"}, WeightsError, "which no S2MTransformer3DModel can start from"),
        ("s2m", {"distill": "model"}, WeightsError, "no teacher of this run: the student would differ"),
        ("m2v", {"hierarchical": False}, WeightsError, "no base for this model"),
        ("s2m", {"distill": "nowhere"}, WeightsError, "there is no model folder"),
        ("s2m", {"distill_steps": 400, "distill_substeps": 3}, UsageError, "more than the 1000 times"),
    ],
)
def test_what_is_no_teacher_is_refused(
    root: Path, stage: str, changes: dict[str, Any], error: type[HieraSurgError], said: str
) -> None:
    if "distill" in changes:
        folder = root if changes["distill"] == "model" else root / "runs"
        changes = {**changes, "distill": str(folder / changes["distill"])}
    with pytest.raises(error, match=said) as caught:
        plan_training(student_of(root, stage, "refused", **changes), stage, CPU)
    assert "\n" not in str(caught.value)
    assert not (root / "runs" / "refused").exists()


def test_a_student_teaches_no_one_and_is_no_run_of_its_teachers_folder(root: Path) -> None:
    train(student_of(root, "s2m", ema=0.9))
    with pytest.raises(WeightsError, match="is itself a student, of 4 steps"):
        train(s2m_config(root, "grandchild", distill=str(root / "runs" / "s2m-student")))
    with pytest.raises(WeightsError, match="checkpoint of s2m, not of s2m-student"):
        train(s2m_config(root, "s2m", distill=str(root / "runs" / "s2m"), steps=3))
    plain = train(s2m_config(root, "from-student", base=str(root / "runs" / "s2m-student"), steps=1))
    assert plain.trained.model is not None
    assert load_transformer(plain.trained.model).config["distilled_steps"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--distill", "runs/s2m", "--distill-steps", "0"], "distill_steps must be 1 or more, not 0"),
        (["--distill", "runs/m2v"], "which no S2MTransformer3DModel can start from"),
        (["--distill", "runs/s2m", "--set", "distill_own=2"], "distill_own must lie between 0 and 1"),
    ],
)
def test_the_command_says_it_in_one_line(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["hierasurg"])
    line = ["train-s2m", "dataset", "--out", "runs/refused", "--device", "cpu", "--dry-run", "--quiet"]
    code = run([*line, *options])
    err = capsys.readouterr().err.strip()
    assert code in (2, 4)
    assert err.count("\n") == 0
    assert said in err


def test_grids_move_as_a_whole() -> None:
    grid = make_grid(scheduler(), 2, 2)
    moved = grid.to(CPU)
    assert isinstance(moved, Grid)
    assert (moved.steps, moved.substeps) == (2, 2)
