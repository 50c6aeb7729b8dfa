import dataclasses
import filecmp
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from generation.tiny_assets import NUM_ENTITIES, SIZE_HW, edit_json, photograph
from maps.moving_shapes import moving_ids
from PIL import Image
from safetensors.torch import load_file, save_file

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config import GenerateConfig, load_config
from hierasurg_core.errors import DataError, HieraSurgError, ResourceError, UsageError, WeightsError
from hierasurg_core.generation import GenerateResult, generate
from hierasurg_core.generation.samples import ORDER_LOST
from hierasurg_core.maps import PanopticClip, load_clip, save_clip, save_map_png, with_room
from hierasurg_core.models import S2MTransformer3DModel
from hierasurg_core.models.warmstart import start_from, starting_arguments
from hierasurg_core.pictures import read_image, write_png
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import read_video

WORDS = {"phase": "calot", "triplet": "grasper,retract,gallbladder"}


class Told(SilentProgress):
    """Remembers what the user would be told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self.stages.append(stage)

    def note(self, message: str) -> None:
        self.notes.append(message)


def run(assets: Path, folder: Path, told: Told | None = None, **options: Any) -> GenerateResult:
    chosen: dict[str, Any] = {**WORDS, "out": folder / "samples", **options}
    config = GenerateConfig(**chosen)
    return generate(config, told or Told(), assets=assets, working=folder)


def start_files(folder: Path, seed: int = 7, scale: int = 1) -> dict[str, Path]:
    map_HW = moving_ids(NUM_ENTITIES, 1, SIZE_HW, seed)[0].repeat(scale, axis=0).repeat(scale, axis=1)
    write_png(folder / "frame.png", photograph(map_HW, seed))
    save_map_png(folder / "map.png", map_HW, NUM_ENTITIES)
    return {"frame": folder / "frame.png", "map": folder / "map.png"}


def clip_file(path: Path, num_frames: int = 16, size_hw: tuple[int, int] = SIZE_HW, seed: int = 7) -> Path:
    save_clip(path, PanopticClip(moving_ids(NUM_ENTITIES, num_frames, size_hw, seed), NUM_ENTITIES))
    return path


def test_the_user_hears_where_the_order_of_labels_is_lost(assets: Path, tmp_path: Path):
    over_time = {"triplet": "grasper,retract,gallbladder@0-7; hook,dissect,cystic_duct@8-"}
    for options, said in ((over_time, 1), ({}, 0)):
        told = Told()
        result = run(assets, tmp_path, told, num=2, **options)
        assert told.notes.count(ORDER_LOST) == said
        assert result.notes.count(ORDER_LOST) == said
    model = tmp_path / "framed"
    shutil.copytree(assets / "mini", model)
    part = assets / "mini" / "s2m"
    arguments = starting_arguments(part, S2MTransformer3DModel, {"frame_labels": True})
    start_from(part, S2MTransformer3DModel, arguments, 0)[0].save_pretrained(model / "s2m")
    options: dict[str, Any] = {"model": str(model), "out": tmp_path / "other", **over_time}
    result = run(assets, tmp_path, **options)
    assert ORDER_LOST not in result.notes
    assert result.samples[0].video.is_file()


def test_ids_are_kept_free_for_newcomers(assets: Path, tmp_path: Path):
    plain = run(assets, tmp_path, out=tmp_path / "plain").samples[0]
    sample = run(assets, tmp_path, newcomers=2).samples[0]
    before, clip = (load_clip(one.maps, 16) for one in (plain, sample))
    assert clip.num_entities == before.num_entities + 2
    lifted = with_room(before, clip.num_entities)
    assert (clip.map_FHW[0] == lifted.map_FHW[0]).mean() > 0.98  # an mp4's borders differ
    assert not filecmp.cmp(plain.video, sample.video, shallow=False)
    # What was made so is still known by the scene it starts from.
    again = run(assets, tmp_path, maps=sample.maps, out=tmp_path / "again", triplet=None)
    assert any("from which the maps start" in note for note in again.notes)


def test_newcomers_that_have_no_colour_or_no_sense_are_refused(assets: Path, tmp_path: Path):
    files = start_files(tmp_path)
    left = 18 - NUM_ENTITIES
    refused(UsageError, f"give at most {left}", assets, tmp_path, newcomers=left + 1, **files)
    maps = clip_file(tmp_path / "maps.mp4")
    refused(
        UsageError,
        "newcomers and maps exclude",
        assets,
        tmp_path,
        newcomers=1,
        maps=maps,
        frame=files["frame"],
    )
    refused(UsageError, "newcomers must be", assets, tmp_path, newcomers=-1)


def test_a_phase_and_a_triplet_become_a_video(assets: Path, tmp_path: Path):
    told = Told()
    result = run(assets, tmp_path, told)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "0000.json",
        "0000.mp4",
        "0000_maps.mp4",
        "generate.yaml",
    ]
    video, fps = read_video(tmp_path / "samples" / "0000.mp4")
    assert video.shape == (16, *SIZE_HW, 3)
    assert fps == 1
    with av.open(str(tmp_path / "samples" / "0000.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    maps = load_clip(tmp_path / "samples" / "0000_maps.mp4")
    assert maps.map_FHW.shape == (16, *SIZE_HW)
    assert maps.num_entities == NUM_ENTITIES
    assert told.notes == ["models: the bundled mini models"]
    assert told.stages == ["load models", "0000 maps", "0000 video", "0000 write"]
    assert result.samples[0].video == tmp_path / "samples" / "0000.mp4"
    assert result.contact_sheet is None


def test_the_json_says_how_to_make_it_again(assets: Path, tmp_path: Path):
    run(assets, tmp_path, seed=2)
    record = read_json(tmp_path / "samples" / "0000.json")
    assert list(record) == [
        "schema",
        "video",
        "maps",
        "outputs",
        "seed",
        "phase",
        "triplet",
        "start",
        "source",
        "edit",
        "notes",
        "sampling",
        "computing",
        "model",
        "config",
        "versions",
        "fingerprint",
        "seconds",
    ]
    assert record["phase"] == {"id": 1, "name": "carlot-triangle-dissection"}
    assert record["triplet"] == {"id": 17, "name": "grasper,retract,gallbladder"}
    assert record["start"] == {"scene": "000"}
    assert record["seed"] == 2
    assert record["model"]["name"] == "the bundled mini models"
    assert record["sampling"]["num_frames"] == 16
    assert record["computing"] == {
        "attention": {"s2m": "default", "m2v": "default"},
        "chosen_by": {"s2m": "torch", "m2v": "torch"},
        "deterministic": False,
    }
    assert set(record["seconds"]) == {"maps", "video", "write"}
    written = tmp_path / "samples" / "generate.yaml"
    again = load_config(GenerateConfig, "generate", files=[written], overrides={}, sets=[])
    words: dict[str, Any] = WORDS
    assert again == GenerateConfig(**words, seed=2, out=tmp_path / "samples")


def test_the_result_is_plain_values(assets: Path, tmp_path: Path):
    result = run(assets, tmp_path, contact_sheet=True)
    told = result.to_dict()
    assert list(told) == ["samples", "model", "seconds", "notes", "contact_sheet"]
    assert told["samples"] == [
        {
            "video": f"{tmp_path}/samples/0000.mp4",
            "maps": f"{tmp_path}/samples/0000_maps.mp4",
            "record": f"{tmp_path}/samples/0000.json",
            "seed": 0,
            "kept": False,
            "outputs": {},
            "seconds": read_json(tmp_path / "samples" / "0000.json")["seconds"],
        }
    ]
    assert dataclasses.is_dataclass(result)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(assets: Path, tmp_path: Path):
    run(assets, tmp_path, num=2, seed=4)
    run(assets, tmp_path, out=tmp_path / "again", seed=5)
    first, second = (sha256_file(tmp_path / "samples" / f"000{i}.mp4") for i in (0, 1))
    assert sha256_file(tmp_path / "again" / "0000.mp4") == second
    assert filecmp.cmp(
        tmp_path / "again" / "0000_maps.mp4", tmp_path / "samples" / "0001_maps.mp4", shallow=False
    )
    assert first != second


def test_another_phase_triplet_frame_or_map_gives_another_sample(assets: Path, tmp_path: Path):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    start, others = start_files(own), start_files(other, seed=8)

    def files(name: str, **options: Any) -> tuple[str, str]:
        run(assets, tmp_path, out=tmp_path / name, **{**start, **options})
        return sha256_file(tmp_path / name / "0000_maps.mp4"), sha256_file(tmp_path / name / "0000.mp4")

    maps, video = files("a")
    assert files("again") == (maps, video)
    for name, change in {
        "phase": {"phase": "preparation"},
        "triplet": {"triplet": "grasper,grasp,gallbladder"},
        "frame": {"frame": others["frame"]},
        "map": {"map": others["map"]},
    }.items():
        changed_maps, changed_video = files(name, **change)
        assert changed_maps != maps, f"another {name} gives the same maps"
        assert changed_video != video, f"another {name} gives the same video"


def test_a_frame_of_another_size_is_cropped_and_resized(assets: Path, tmp_path: Path):
    files: dict[str, Any] = dict(start_files(tmp_path, scale=3))
    run(assets, tmp_path, **files)
    assert read_video(tmp_path / "samples" / "0000.mp4")[0].shape == (16, *SIZE_HW, 3)
    record = read_json(tmp_path / "samples" / "0000.json")
    assert record["start"] == {
        name: {"path": str(path), "sha256": sha256_file(path)} for name, path in files.items()
    }


def test_a_frame_of_cmyk_is_read_and_the_user_hears_of_it(assets: Path, tmp_path: Path):
    files: dict[str, Any] = dict(start_files(tmp_path))
    Image.open(files["frame"]).convert("CMYK").save(tmp_path / "frame.tif")
    told = Told()
    run(assets, tmp_path, told, **{**files, "frame": tmp_path / "frame.tif"})
    assert f"0000: {tmp_path / 'frame.tif'}: CMYK to RGB" in told.notes
    run(assets, tmp_path, out=tmp_path / "plain", **files)
    assert filecmp.cmp(tmp_path / "samples" / "0000.mp4", tmp_path / "plain" / "0000.mp4", shallow=False)


def test_given_maps_take_the_place_of_s2m(own_assets: Path, tmp_path: Path):
    shutil.rmtree(own_assets / "mini" / "s2m")
    maps = clip_file(tmp_path / "maps.pkl")
    told = Told()
    frame = start_files(tmp_path)["frame"]
    run(own_assets, tmp_path, told, maps=maps, frame=frame, phase=None, triplet=None)
    assert told.stages == ["load models", "0000 video", "0000 write"]
    written = load_clip(tmp_path / "samples" / "0000_maps.mp4")
    assert (written.map_FHW == load_clip(maps).map_FHW).mean() > 0.97
    assert read_json(tmp_path / "samples" / "0000.json")["phase"] is None


def test_maps_of_a_sample_find_their_scene_again(assets: Path, tmp_path: Path):
    run(assets, tmp_path)
    told = Told()
    run(assets, tmp_path, told, out=tmp_path / "again", maps=tmp_path / "samples" / "0000_maps.mp4")
    assert "0000: first frame: scene 000, from which the maps start" in told.notes


def test_maps_of_more_ids_than_colours(assets: Path, tmp_path: Path):
    map_FHW = np.arange(40, dtype=np.uint8).repeat(64 * 96 // 32)[: 64 * 96].reshape(1, 64, 96).repeat(16, 0)
    save_clip(tmp_path / "maps.pkl", PanopticClip(map_FHW, 38))
    run(assets, tmp_path, maps=tmp_path / "maps.pkl", frame=start_files(tmp_path)["frame"])
    assert read_video(tmp_path / "samples" / "0000_maps.mp4")[0].shape == (16, *SIZE_HW, 3)


def test_a_contact_sheet_shows_every_sample(assets: Path, tmp_path: Path):
    result = run(assets, tmp_path, num=2, contact_sheet=True)
    assert result.contact_sheet == tmp_path / "samples" / "contact_sheet.png"
    sheet = read_image(tmp_path / "samples" / "contact_sheet.png")
    assert sheet.shape[1] == 8 * 196 + 4
    assert sheet.shape[0] == 2 * (20 + 2 * 132 + 4 + 22)  # caption, frames and maps, gap, legend


def test_what_was_chosen_is_said(assets: Path, tmp_path: Path):
    told = Told()
    result = run(assets, tmp_path, told, phase="packaging", triplet=None)
    assert "0000: triplet: grasper,pack,gallbladder, as in scene 002" in told.notes
    assert "triplet: grasper,pack,gallbladder, as in scene 002" in result.notes
    record = read_json(tmp_path / "samples" / "0000.json")
    assert record["triplet"]["name"] == "grasper,pack,gallbladder"
    assert record["notes"] == ["triplet: grasper,pack,gallbladder, as in scene 002"]


def refused(error: type[HieraSurgError], message: str, assets: Path, folder: Path, **options: Any) -> None:
    before = {path: sha256_file(path) for path in folder.rglob("*") if path.is_file()}
    folders = {path for path in folder.rglob("*") if path.is_dir()}
    with pytest.raises(error, match=message) as caught:
        run(assets, folder, **options)
    assert "\n" not in str(caught.value)
    assert {path: sha256_file(path) for path in folder.rglob("*") if path.is_file()} == before
    assert {path for path in folder.rglob("*") if path.is_dir()} == folders


def test_bad_words_leave_nothing(assets: Path, tmp_path: Path):
    refused(UsageError, "phase", assets, tmp_path, phase="lunch")
    refused(UsageError, "triplet|grasper", assets, tmp_path, triplet="grasper,clip,gallbladder")
    frame = start_files(tmp_path)
    refused(UsageError, "--frame needs --phase", assets, tmp_path, phase=None, **frame)


def test_bad_frames_and_maps_leave_nothing(assets: Path, tmp_path: Path):
    files = start_files(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    refused(DataError, r"text\.png", assets, tmp_path, frame=tmp_path / "text.png", map=files["map"])
    refused(DataError, r"none\.png", assets, tmp_path, frame=tmp_path / "none.png", map=files["map"])
    message = r"frame\.png is a picture of mode RGB"
    refused(DataError, message, assets, tmp_path, frame=files["frame"], map=files["frame"])
    small = tmp_path / "small.png"
    write_png(small, np.zeros((63, 200, 3), np.uint8))
    refused(
        DataError, r"small\.png is 200x63 px; it needs 64", assets, tmp_path, frame=small, map=files["map"]
    )
    write_png(small, np.zeros((128, 192, 3), np.uint8))
    message = r"map\.png is 96x64 px, but its frame .*small\.png is 192x128 px"
    refused(DataError, message, assets, tmp_path, frame=small, map=files["map"])
    many = tmp_path / "many.png"
    save_map_png(
        many, np.arange(64 * 96, dtype=np.uint16).reshape(SIZE_HW).__floordiv__(200).astype(np.uint8)
    )
    refused(DataError, "at most 20", assets, tmp_path, frame=files["frame"], map=many)


def test_bad_clips_of_maps_leave_nothing(assets: Path, tmp_path: Path):
    frame = start_files(tmp_path)["frame"]
    few = clip_file(tmp_path / "few.pkl", num_frames=12)
    refused(
        DataError,
        r"few\.pkl holds maps of 12 frames, but 16 are needed",
        assets,
        tmp_path,
        maps=few,
        frame=frame,
    )
    large = clip_file(tmp_path / "large.pkl", size_hw=(128, 192))
    refused(DataError, r"large\.pkl is 192x128 px, but", assets, tmp_path, maps=large, frame=frame)
    other = clip_file(tmp_path / "other.pkl")
    refused(UsageError, r"other\.pkl needs --frame", assets, tmp_path, maps=other)
    refused(DataError, "no maps at", assets, tmp_path, maps=tmp_path / "none.pkl", frame=frame)


def test_bad_models_leave_nothing(own_assets: Path, tmp_path: Path):
    weights = own_assets / "mini" / "m2v" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "proj_out.bias": torch.zeros(3)}, weights)
    message = r"m2v: tensor proj_out\.bias has shape \(3,\), expected \(64,\)"
    refused(WeightsError, message, own_assets, tmp_path)
    save_file({**tensors, "proj_out.bias": torch.full((64,), torch.nan)}, weights)
    message = rf"{weights}: tensor proj_out\.bias holds NaN or infinity in 64 of 64 numbers"
    refused(WeightsError, message, own_assets, tmp_path)
    huge = torch.full_like(tensors["proj_out.weight"], 3e38)
    save_file({**tensors, "proj_out.weight": huge}, weights)
    refused(WeightsError, "M2V made NaN", own_assets, tmp_path)
    weights.write_bytes(b"hello")
    refused(WeightsError, "damaged", own_assets, tmp_path)
    weights.unlink()
    refused(WeightsError, "no weights", own_assets, tmp_path)
    (own_assets / "mini" / "m2v" / "config.json").unlink()
    refused(WeightsError, "lacks its part m2v", own_assets, tmp_path)
    edit_json(own_assets / "scenes" / "scenes.json", schema=0)


def test_folders_that_cannot_be_written_are_refused_first(own_assets: Path, tmp_path: Path):
    for path in (own_assets / "mini").rglob("*.safetensors"):
        path.write_bytes(b"never read")
    (tmp_path / "file").write_text("hello")
    refused(ResourceError, "it is a file", own_assets, tmp_path, out=tmp_path / "file")
    refused(ResourceError, "file", own_assets, tmp_path, out=tmp_path / "file" / "samples")
    refused(ResourceError, r"samples need .* MB", own_assets, tmp_path, num=10**9)


def test_devices_and_rates_that_are_not_there(assets: Path, tmp_path: Path):
    refused(UsageError, "--fps 8", assets, tmp_path, fps=8)
    refused(UsageError, "--steps 2000", assets, tmp_path, steps=2000)
    if not torch.cuda.is_available():
        refused(ResourceError, "cuda", assets, tmp_path, device="cuda")


def test_an_error_in_a_later_sample_keeps_the_earlier_ones(own_assets: Path, tmp_path: Path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "notes.txt").write_text("mine")
    run(own_assets, tmp_path)
    before = sha256_file(tmp_path / "samples" / "0000.mp4")
    weights = own_assets / "mini" / "s2m" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    huge = torch.full_like(tensors["proj_out.weight"], 3e38)
    save_file({**tensors, "proj_out.weight": huge}, weights)
    refused(WeightsError, "S2M made NaN or infinity", own_assets, tmp_path)
    assert sha256_file(tmp_path / "samples" / "0000.mp4") == before
    assert (tmp_path / "samples" / "notes.txt").read_text() == "mine"
