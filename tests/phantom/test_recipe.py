"""The recipe of the mini models runs: in pieces, resumed, to a pipeline that loads."""

import dataclasses
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import hierasurg_core
from hierasurg_core.errors import UsageError
from hierasurg_core.generation.pipelines import HieraSurgPipeline
from hierasurg_core.maps import PanopticClip, colour_map
from hierasurg_core.models import S2MTransformer3DModel, load_transformer, load_vae
from hierasurg_core.phantom import encoded
from hierasurg_core.phantom.draw import draw_clips
from hierasurg_core.phantom.frame_vae import train_frame_vae
from hierasurg_core.phantom.recipe import M2V_CONFIG, PATCHES_CONFIG, S2M_CONFIG, Piece, bundle, train_stage
from hierasurg_core.phantom.vae import coloured_maps, palette_table, random_labels, train_vae
from hierasurg_core.progress import SilentProgress
from hierasurg_core.training.checkpoint import checkpoints, read_state

CPU = torch.device("cpu")
MINI = Path(hierasurg_core.__file__).parent / "assets" / "mini"
PIECE = Piece(steps=2, batch=2, clips=2)


def vae_steps(out: Path, steps: int, seconds: float) -> bool:
    return train_vae(
        out,
        steps=steps,
        clips_per_step=1,
        seed=0,
        device=CPU,
        max_seconds=seconds,
        progress=SilentProgress(),
        size_hw=(32, 48),
    )


@pytest.mark.slow
def test_the_vae_goes_on_where_it_was_and_is_not_used_before_it_is_done(tmp_path: Path):
    assert not vae_steps(tmp_path / "cut", 2, seconds=1e-6)
    with pytest.raises(UsageError, match="lacks 1 steps"):
        train_stage("s2m", tmp_path / "cut", PIECE, 0, CPU, 60, SilentProgress())
    assert vae_steps(tmp_path / "cut", 2, seconds=1e6)
    assert vae_steps(tmp_path / "cut", 2, seconds=1e6)
    vae = load_vae(tmp_path / "cut")
    assert vae.config["scaling_factor"] != 1.15258426


def test_frame_labels_are_not_for_m2v(tmp_path: Path):
    shutil.copytree(MINI / "vae", tmp_path / "vae")
    with pytest.raises(UsageError, match="--frame-labels is for S2M"):
        train_stage("m2v", tmp_path, dataclasses.replace(PIECE, frame_labels=1), 0, CPU, 60, SilentProgress())


@pytest.mark.slow
def test_both_stages_train_to_a_pipeline_that_loads(tmp_path: Path):
    shutil.copytree(MINI / "vae", tmp_path / "vae")
    for name in ("s2m", "m2v"):
        assert train_stage(name, tmp_path, PIECE, 0, CPU, 1e6, SilentProgress())
    bundle(tmp_path, tmp_path / "mini")
    pipeline = HieraSurgPipeline.from_pretrained(tmp_path / "mini")
    assert pipeline.s2m is not None
    for model, config in ((pipeline.s2m, S2M_CONFIG), (pipeline.m2v, M2V_CONFIG)):
        assert {key: model.config[key] for key in config} == {
            key: list(value) if isinstance(value, tuple) else value for key, value in config.items()
        }
    weights = list((tmp_path / "mini").rglob("*.safetensors"))
    assert len(weights) == 3
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in weights)


@pytest.mark.slow
def test_m2v_learns_on_a_vae_that_codes_frames_alone(tmp_path: Path):
    one: dict[str, Any] = {
        "clips_per_step": 1,
        "seed": 0,
        "device": CPU,
        "max_seconds": 1e6,
        "progress": SilentProgress(),
    }
    assert train_frame_vae(tmp_path, steps=1, size_hw=(32, 48), **one)
    assert train_stage("m2v", tmp_path, PIECE, 0, CPU, 1e6, SilentProgress())
    model = load_transformer(tmp_path / "m2v" / "transformer")
    assert {key: model.config[key] for key in PATCHES_CONFIG} == PATCHES_CONFIG


@pytest.mark.slow
def test_an_s2m_of_colours_goes_on_from_its_own_clips(tmp_path: Path):
    shutil.copytree(MINI / "vae", tmp_path / "vae")
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "time_embed_dim": 16,
    }
    colours = S2MTransformer3DModel(**small, condition_embed_dim=48, condense_dim=8, sample_seconds=16)
    colours.save_pretrained(tmp_path / "start")
    piece = dataclasses.replace(PIECE, start=str(tmp_path / "start"))
    assert train_stage("s2m", tmp_path, piece, 0, CPU, 1e6, SilentProgress())
    assert load_transformer(tmp_path / "s2m" / "transformer").config["maps"] == "colours"


@pytest.mark.slow
def test_a_stage_trains_on_clips_that_are_drawn_meanwhile(tmp_path: Path):
    shutil.copytree(MINI / "vae", tmp_path / "vae")
    piece = dataclasses.replace(PIECE, stream=1, workers=2, clips=3, frame_labels=1, courses=0.5)
    assert train_stage("s2m", tmp_path, piece, 0, CPU, 1e6, SilentProgress())
    state = read_state(checkpoints(tmp_path / "s2m")[-1])
    assert state["ranks"][0]["data"]["drawn"] >= 3
    assert not multiprocessing.active_children()


def test_training_colours_are_those_of_generation():
    clips = draw_clips(*random_labels(2, torch.Generator().manual_seed(0)), 0, size_hw=(32, 48), num_frames=2)
    ours = ((coloured_maps(clips, palette_table("cpu")) + 1) * 127.5).round().to(torch.uint8)
    for index, count in enumerate(clips.num_entities_B.tolist()):
        clip = PanopticClip(clips.map_BFHW[index].numpy(), count)
        theirs = colour_map(clip.map_FHW, range(count + 2))
        assert (ours[index].permute(0, 2, 3, 1).numpy() == theirs).all()


@pytest.mark.slow
def test_how_many_processes_draw_changes_no_clip(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoded, "_PART_CLIPS", 2)
    alone, together = (encoded.draw_together("m2v", MINI / "vae", 3, 5, CPU, workers) for workers in (1, 2))
    assert len(alone[0]) == 3
    assert alone[0].maps_BFHW is not None
    assert len({clip.numpy().tobytes() for clip in alone[0].maps_BFHW}) == 3
    for name in ("latents_BFCHW", "phase_BF", "triplet_BF", "maps_BFHW", "max_id_B"):
        assert torch.equal(getattr(alone[0], name), getattr(together[0], name)), name
    assert alone[1] is not None
    assert together[1] is not None
    assert alone[1].shape == (3, 2, 16, 16, 24)
    assert torch.equal(alone[1], together[1])
    assert not torch.equal(alone[1][:, 0], alone[1][:, 1])
