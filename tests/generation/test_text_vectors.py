"""Models that learned from text vectors: where the vectors come from, and that they steer."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generation.test_generate import Told, refused, run
from generation.test_requests import NO_WORDS, files
from generation.tiny_assets import SIZE_HW, photograph, tiny_pipeline, write_assets
from maps.moving_shapes import moving_ids
from safetensors.torch import save_file
from tiny_datasets import build, config, write_operation

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config.sampling import StageSampling
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.generation import HieraSurgPipeline, Sampling
from hierasurg_core.models.export import Card, write_pipeline
from hierasurg_core.models.text_vectors import (
    TEXT_VECTORS,
    find_text_vectors,
    load_text_vectors,
    save_text_vectors,
)
from hierasurg_core.runtime import make_generator
from hierasurg_core.taxonomy import PHASES, TRIPLETS

WIDTH = 6
CPU = torch.device("cpu")


def vectors_file(path: Path, seed: int = 0, width: int = WIDTH) -> Path:
    draw = torch.Generator().manual_seed(seed)
    names = [*PHASES, *(triplet.name for triplet in TRIPLETS)]
    save_file({name: 3 * torch.randn(width, generator=draw) for name in names}, path)
    return path


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Assets whose models take vectors, without the file."""
    return write_assets(tmp_path_factory.mktemp("speaking"), vector_dim=WIDTH)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return vectors_file(tmp_path / "vectors.safetensors")


def test_vectors_of_ids_that_do_not_exist(file: Path):
    vectors = load_text_vectors(file, CPU)
    assert not vectors.phases(torch.tensor([[-1]])).any()
    assert torch.equal(vectors.phases(torch.tensor([[6, 0]]))[0], vectors.phase_PE[[6, 0]])
    assert torch.equal(vectors.triplets(torch.tensor([[99]]))[0], vectors.triplet_TE[[99]])
    for looked_up, wrong in (
        (vectors.phases, 7),
        (vectors.phases, 8),
        (vectors.triplets, 100),
        (vectors.triplets, -2),
    ):
        with pytest.raises(UsageError, match=f"not {wrong}"):
            looked_up(torch.tensor([[0, wrong]]))


def test_vectors_steer_the_sample_and_its_json_names_them(speaking: Path, tmp_path: Path, file: Path):
    run(speaking, tmp_path, text_vectors=file)
    first = files(tmp_path / "samples")
    record = read_json(tmp_path / "samples" / "0000.json")
    both = {"s2m": sha256_file(file), "m2v": sha256_file(file)}
    assert record["model"]["text_vectors"] == {
        "files": {"s2m": str(file), "m2v": str(file)},
        "sha256": both,
    }
    told = Told()
    run(speaking, tmp_path, told, text_vectors=shutil.copy(file, tmp_path / "copy.safetensors"))
    assert any("0000: kept" in note for note in told.notes)
    run(speaking, tmp_path, text_vectors=vectors_file(tmp_path / "other.safetensors", seed=1))
    other = files(tmp_path / "samples")
    assert first["0000.mp4"] == other["0000.mp4"]
    assert first["0000.mp4"] != other["0001.mp4"]
    assert first["0000_maps.mp4"] != other["0001_maps.mp4"]


def test_without_the_file_nothing_is_loaded_or_written(own_assets: Path, tmp_path: Path):
    assets = write_assets(tmp_path / "speaking", vector_dim=WIDTH)
    for path in (assets / "mini").rglob("*.safetensors"):
        path.write_bytes(b"never read")
    said = r"S2M of .*/mini/s2m learned from text vectors, .*: give their file as --text-vectors$"
    refused(UsageError, said, assets, tmp_path)
    wide = vectors_file(tmp_path / "wide.safetensors", width=7)
    refused(DataError, r"text vectors of width 7, but S2M of .* takes 6", assets, tmp_path, text_vectors=wide)
    refused(UsageError, "these models learned labels; leave it out", own_assets, tmp_path, text_vectors=wide)


def test_they_lie_with_the_model_in_its_part_or_its_run(speaking: Path, tmp_path: Path, file: Path):
    assets = Path(shutil.copytree(speaking, tmp_path / "assets"))
    shutil.copy(file, assets / "mini" / TEXT_VECTORS)
    run(assets, tmp_path)
    alone = files(tmp_path / "samples")
    run(speaking, tmp_path, out=tmp_path / "given", text_vectors=file)
    assert files(tmp_path / "given") == alone
    other = vectors_file(tmp_path / "other.safetensors", seed=1)
    result = run(assets, tmp_path, out=tmp_path / "replaced", text_vectors=other)
    assert f"S2M: text vectors of {other}, in place of its own" in result.notes
    own_run = tmp_path / "run"
    shutil.copytree(assets / "mini" / "s2m", own_run / "checkpoint-2" / "transformer")
    assert find_text_vectors(own_run / "checkpoint-2" / "transformer") is None
    shutil.copy(other, own_run / TEXT_VECTORS)
    assert find_text_vectors(own_run / "checkpoint-2" / "transformer") == own_run / TEXT_VECTORS


def test_stories_requests_and_data_sets_take_them_too(speaking: Path, tmp_path: Path, file: Path):
    def made(name: str, **options: Any) -> dict[str, str]:
        run(speaking, tmp_path, out=tmp_path / name, text_vectors=file, steps=1, **options)
        return files(tmp_path / name)

    one = made("one")
    requests = tmp_path / "wanted.csv"
    requests.write_text("phase,triplet\ncalot,17\ncalot,17@0-7;60@8-\n")
    many = made("many", **NO_WORDS, requests=requests)
    assert many["0000.mp4"] == one["0000.mp4"]
    story = made("story", seconds=16)
    assert story == one
    write_operation(tmp_path, 1, 18)
    write_operation(tmp_path, 2, 17)
    shutil.copytree(speaking / "mini" / "vae", tmp_path / "model" / "vae")
    build(config(tmp_path, val_fraction=0.5, size="32x48", map_size="32x48"))
    assert made("of-data", **NO_WORDS, from_dataset=tmp_path / "dataset", limit=1)


def test_a_pipeline_keeps_its_vectors_and_needs_them(tmp_path: Path, file: Path):
    pipeline = tiny_pipeline(vector_dim=WIDTH)
    map_HW = moving_ids(4, 1, SIZE_HW, seed=1)[0]

    def maps(of: HieraSurgPipeline, **words: Any) -> np.ndarray:
        sampling = Sampling(
            1, **{"guidance": 2.0, "phase": 1, "triplet": 17, **words}, generator=make_generator(0)
        )
        return of.make_maps(photograph(map_HW, 1), map_HW, 4, sampling).map_FHW

    with pytest.raises(UsageError, match="learned from text vectors: give them to the pipeline"):
        maps(pipeline)
    vectors = load_text_vectors(file, CPU)
    pipeline.text_vectors = {"s2m": vectors, "m2v": vectors}
    before = maps(pipeline)
    for words in ({"phase": 2}, {"triplet": 18}, {"phase": -1}, {"triplet": (17,) * 8 + (60,)}):
        assert not np.array_equal(before, maps(pipeline, **words)), words
    pipeline.save_pretrained(tmp_path / "saved")
    assert np.array_equal(maps(HieraSurgPipeline.from_pretrained(tmp_path / "saved")), before)


def test_a_dropped_class_is_a_vector_of_zeros(tmp_path: Path, file: Path):
    vectors = load_text_vectors(file, CPU)
    ids_BF = torch.tensor([[0, 6, -1]])
    assert torch.equal(vectors.phases(ids_BF)[0], vectors.phase_PE[[0, 6, 7]])
    assert not vectors.triplets(ids_BF)[0, 2].any()
    save_text_vectors(vectors, tmp_path / "again.safetensors")
    again = load_text_vectors(tmp_path / "again.safetensors", CPU)
    assert torch.equal(again.triplet_TE, vectors.triplet_TE)


@pytest.mark.parametrize("same", [True, False])
def test_an_exported_pipeline_carries_them(speaking: Path, tmp_path: Path, same: bool):
    runs = {}
    for index, name in enumerate(("s2m", "m2v")):
        runs[name] = tmp_path / "runs" / name / "transformer"
        shutil.copytree(speaking / "mini" / name, runs[name])
        vectors_file(runs[name].parent / TEXT_VECTORS, seed=0 if same else index)
    target = tmp_path / "pipeline"
    card = Card("A pipeline", None, {})
    once = {stage: StageSampling(steps=1) for stage in ("s2m", "m2v")}
    write_pipeline(target, **runs, shared=speaking / "mini", dtype=torch.float32, sampling=once, card=card)
    found = sorted(path.relative_to(target).parent.as_posix() for path in target.rglob(TEXT_VECTORS))
    assert found == (["."] if same else ["m2v", "s2m"])
    run(speaking, tmp_path, model=str(target))
    said = read_json(tmp_path / "samples" / "0000.json")["model"]["text_vectors"]["sha256"]
    assert said == {name: sha256_file(part.parent / TEXT_VECTORS) for name, part in runs.items()}
