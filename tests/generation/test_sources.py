import shutil
from pathlib import Path

import pytest
from generation.tiny_assets import edit_json, scaled, tiny_pipeline

from hierasurg_core.artifacts import sha256_file, write_json
from hierasurg_core.config import GenerateConfig
from hierasurg_core.config.sampling import StageSampling
from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.generation.samples import ASSETS
from hierasurg_core.generation.sources import MINI, ModelPlan, plan_models


def plan(assets: Path, working: Path, **options) -> ModelPlan:
    return plan_models(GenerateConfig(**options), assets, working)


def finished_run(working: Path, name: str, *, finished: bool = True, vae: bool = False) -> Path:
    run = working / "runs" / name
    pipeline = tiny_pipeline(seed=5)
    getattr(pipeline, name).save_pretrained(run / "transformer")
    if vae:
        pipeline.vae.save_pretrained(run / "vae")
        pipeline.scheduler.save_pretrained(run / "scheduler")
    write_json(run / "train.json", {"finished": finished, "stage": name})
    return run


def public_folder(folder: Path, assets: Path, name: str, class_name: str, *, vae: bool) -> Path:
    shutil.copytree(assets / "mini" / name, folder / "transformer")
    edit_json(folder / "transformer" / "config.json", _class_name=class_name)
    if vae:
        shutil.copytree(assets / "mini" / "vae", folder / "vae")
        shutil.copytree(assets / "mini" / "scheduler", folder / "scheduler")
    return folder


def test_the_bundled_models_are_the_default(assets: Path, tmp_path: Path):
    found = plan(assets, tmp_path)
    assert found.name == MINI
    assert found.m2v.folder == assets / "mini" / "m2v"
    assert found.s2m is not None
    assert found.s2m.size_hw == found.m2v.size_hw == (64, 96)
    assert found.m2v.rates == (1,)
    assert found.sampling == {stage: StageSampling(steps=2) for stage in ("s2m", "m2v")}
    assert found.notes == ()


def test_the_stages_guidance_is_the_index_s_unless_asked_for(own_assets: Path, tmp_path: Path):
    edit_json(own_assets / "mini" / "model_index.json", sampling=scaled(s2m=3.0, m2v=1.5))
    found = plan(own_assets, tmp_path)
    for guidance, maps_guidance, scales in (
        (None, None, (3.0, 1.5)),
        (2.0, None, (2.0, 2.0)),
        (None, 4.0, (4.0, 1.5)),
        (1.0, 4.0, (4.0, 1.0)),
    ):
        config = GenerateConfig(guidance=guidance, maps_guidance=maps_guidance)
        settled = [found.sampling[stage].settled(stage, config) for stage in ("s2m", "m2v")]
        assert tuple(how.guidance for how in settled) == scales, config
    edit_json(own_assets / "mini" / "s2m" / "config.json", distilled_steps=4)
    student = plan(own_assets, tmp_path)
    assert student.sampling["s2m"] == StageSampling(4, 1.0, "ddim")
    assert student.sampling["m2v"].guidance == 1.5


def test_a_run_is_sampled_as_what_it_started_from(assets: Path, tmp_path: Path):
    s2m = finished_run(tmp_path, "s2m")
    finished_run(tmp_path, "m2v", vae=True)
    unsaid = StageSampling()
    assert plan(assets, tmp_path).sampling == {"s2m": unsaid, "m2v": unsaid}
    own = {"steps": 6, "guidance": 3.0, "solver": "dpm++"}
    write_json(s2m / "sampling.json", {"s2m": own, "m2v": {"steps": 9}})
    assert plan(assets, tmp_path).sampling == {"s2m": StageSampling(6, 3.0, "dpm++"), "m2v": unsaid}
    alone = plan(assets, tmp_path, model=str(assets / "mini"), s2m=str(s2m))
    assert alone.sampling == {"s2m": StageSampling(6, 3.0, "dpm++"), "m2v": StageSampling(steps=2)}
    write_json(s2m / "sampling.json", {"s2m": {"steps": -6}})
    with pytest.raises(WeightsError, match=r"sampling\.json says an impossible sampling: steps must be 1"):
        plan(assets, tmp_path)


def test_finished_runs_of_both_stages_come_first(assets: Path, tmp_path: Path):
    s2m = finished_run(tmp_path, "s2m")
    assert plan(assets, tmp_path).name == MINI
    assert f"add --s2m {s2m}" in plan(assets, tmp_path).notes[0]
    m2v = finished_run(tmp_path, "m2v")
    found = plan(assets, tmp_path)
    assert found.name == f"S2M of {s2m} and M2V of {m2v}"
    assert found.m2v.folder == m2v / "transformer"
    assert found.vae == assets / "mini" / "vae"
    assert found.notes == (f"vae: of {MINI}", f"scheduler: of {MINI}")
    assert plan(assets, tmp_path, model=str(assets / "mini")).m2v.folder == assets / "mini" / "m2v"


def test_an_unfinished_run_is_passed_over_and_said(assets: Path, tmp_path: Path):
    finished_run(tmp_path, "s2m")
    finished_run(tmp_path, "m2v", finished=False)
    found = plan(assets, tmp_path)
    assert found.name == MINI
    assert any("m2v holds no finished model" in note for note in found.notes)


def test_runs_with_a_vae_of_their_own(assets: Path, tmp_path: Path):
    finished_run(tmp_path, "s2m")
    m2v = finished_run(tmp_path, "m2v", vae=True)
    found = plan(assets, tmp_path)
    assert (found.vae, found.scheduler) == (m2v / "vae", m2v / "scheduler")
    assert found.notes == ()


def test_one_part_is_replaced_by_a_run_or_a_checkpoint(assets: Path, tmp_path: Path):
    run = finished_run(tmp_path, "m2v", vae=True)
    found = plan(assets, tmp_path, m2v=str(run))
    assert found.name == f"{MINI} with M2V of {run}"
    assert found.m2v.folder == run / "transformer"
    assert found.vae == assets / "mini" / "vae"
    (run / "checkpoint-10").mkdir()
    (run / "transformer").rename(run / "checkpoint-10" / "transformer")
    assert plan(assets, tmp_path, m2v=str(run)).m2v.folder == run / "checkpoint-10" / "transformer"


def test_public_folders_bring_their_own_vae(assets: Path, tmp_path: Path):
    s2m = public_folder(tmp_path / "a", assets, "s2m", "CogVideoXTransformer3DModel_SegPred_I2V", vae=True)
    m2v = public_folder(tmp_path / "b", assets, "m2v", "CogVideoXTransformer3DModel_SegCond_I2V", vae=False)
    found = plan(assets, tmp_path, s2m=str(s2m), m2v=str(m2v))
    assert found.vae == s2m / "vae"
    assert found.s2m is not None
    assert found.s2m.size_hw == (256, 384)
    assert found.m2v.size_hw == (64, 96)
    with pytest.raises(WeightsError, match=rf"{m2v}/transformer was not made for {MINI}.*as --model"):
        plan(assets, tmp_path, m2v=str(m2v))


def test_maps_need_no_s2m(own_assets: Path, tmp_path: Path):
    shutil.rmtree(own_assets / "mini" / "s2m")
    found = plan(own_assets, tmp_path, maps=tmp_path / "maps.pkl")
    assert found.s2m is None
    with pytest.raises(UsageError, match="exclude each other"):
        plan(own_assets, tmp_path, maps=tmp_path / "maps.pkl", s2m="x")
    with pytest.raises(WeightsError, match="lacks its part s2m"):
        plan(own_assets, tmp_path)


def test_rates_follow_the_config(own_assets: Path, tmp_path: Path):
    assert plan(own_assets, tmp_path).rate(None) == 1
    with pytest.raises(UsageError, match=r"--fps 8 is not possible: .*m2v makes 1"):
        plan(own_assets, tmp_path).rate(8)
    config = own_assets / "mini" / "m2v" / "config.json"
    edit_json(config, sample_frames=49, sample_seconds=6)
    assert plan(own_assets, tmp_path).rate(None) == 8
    edit_json(config, sample_frames=49, sample_seconds=16)
    assert plan(own_assets, tmp_path).rate(None) == 1
    assert plan(own_assets, tmp_path).rate(8) == 8


def test_the_plan_describes_every_file_it_uses(assets: Path, tmp_path: Path):
    described = plan(assets, tmp_path).describe()
    assert list(described) == ["name", "s2m", "m2v", "vae", "scheduler"]
    weights = assets / "mini" / "m2v" / "diffusion_pytorch_model.safetensors"
    assert described["m2v"]["folder"] == str(weights.parent)
    assert described["m2v"]["sha256"][weights.name] == sha256_file(weights)
    assert "config.json" in described["vae"]["sha256"]
    assert described["vae"]["mini"] is False


def test_a_run_with_a_copy_of_the_mini_vae_is_a_mini_model(own_assets: Path, tmp_path: Path):
    """What `train-m2v --preset mini` leaves behind: the bundled weights in a folder of its own."""
    shutil.rmtree(own_assets / "mini" / "vae")
    shutil.copytree(ASSETS / "mini" / "vae", own_assets / "mini" / "vae")
    edit_json(own_assets / "mini" / "vae" / "config.json", sample_height=64)
    found = plan(own_assets, tmp_path, model=str(own_assets / "mini"))
    assert found.name == str(own_assets / "mini")
    assert found.describe()["vae"]["mini"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nowhere"}, "there is no model folder nowhere"),
        ({"s2m": "nowhere"}, "there is no model folder nowhere"),
        ({"s2m": "MINI/m2v"}, "holds a M2VTransformer3DModel, but S2M is a S2MTransformer3DModel"),
        ({"m2v": "MINI"}, "whole pipeline"),
        ({"model": "MINI/m2v"}, r"no model_index\.json"),
    ],
)
def test_folders_that_do_not_serve(assets: Path, tmp_path: Path, options: dict[str, str], message: str):
    options = {key: value.replace("MINI", str(assets / "mini")) for key, value in options.items()}
    with pytest.raises(WeightsError, match=message):
        plan(assets, tmp_path, **options)


def test_the_line_that_names_the_models_says_how_long_they_were_trained(assets: Path, tmp_path: Path):
    s2m, m2v = (finished_run(tmp_path, name) for name in ("s2m", "m2v"))
    for run, steps in ((s2m, 4), (m2v, 1)):
        write_json(run / "train.json", {"finished": True, "step": steps})
    assert (
        plan(assets, tmp_path).name
        == f"S2M of {s2m}, 4 steps of training, and M2V of {m2v}, 1 step of training"
    )
    (m2v / "transformer").rename(m2v / "checkpoint-30")
    (m2v / "train.json").unlink()
    write_json(m2v / "checkpoint-30" / "state.json", {"step": 30})
    assert plan(assets, tmp_path, m2v=str(m2v)).name == f"{MINI} with M2V of {m2v}, 30 steps of training"


def test_a_hub_id_without_a_network_is_said(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"nobody/nothing-at-all is no folder here, and the Hub"):
        plan(assets, tmp_path, model="nobody/nothing-at-all")


def test_configs_that_do_not_belong_together(own_assets: Path, tmp_path: Path):
    edit_json(own_assets / "mini" / "vae" / "config.json", latent_channels=4)
    with pytest.raises(WeightsError, match="takes 48 channels, but 3 latents"):
        plan(own_assets, tmp_path)
    edit_json(own_assets / "mini" / "vae" / "config.json", latent_channels=16)
    edit_json(own_assets / "mini" / "s2m" / "config.json", sample_height=9)
    with pytest.raises(WeightsError, match=r"impossible sizes: .*72x96.* the nearest is 64x96"):
        plan(own_assets, tmp_path)


def test_more_steps_than_the_scheduler_has(assets: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"--steps 1001 .* has 1000"):
        plan(assets, tmp_path, steps=1001)
