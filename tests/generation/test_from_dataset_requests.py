import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation.test_generate import refused, run
from generation.test_requests import NO_WORDS
from tiny_datasets import build, config, map_of, write_operation

from hierasurg_core.artifacts import read_json
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.maps import load_clip


@pytest.fixture(scope="module")
def root(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operations")
    write_operation(folder, 1, 18)
    write_operation(folder, 2, 17)
    shutil.copytree(assets / "mini" / "vae", folder / "model" / "vae")
    build(config(folder, val_fraction=0.5, size="32x48", map_size="32x48"))
    return folder


def made(assets: Path, root: Path, folder: Path, **options: Any) -> list[dict[str, Any]]:
    wanted = {**NO_WORDS, "from_dataset": root / "dataset", "steps": 1, **options}
    return [read_json(sample.record) for sample in run(assets, folder, **wanted).samples]


def test_samples_are_made_of_clips_and_say_which(assets: Path, root: Path, tmp_path: Path):
    records = made(assets, root, tmp_path, split="train")
    said = read_json(root / "dataset" / "manifest.json")
    assert len(records) == said["clips"]["train"]
    first = records[0]
    video = said["splits"]["train"][0]
    assert first["video"] == f"{video}_000000.mp4"
    assert first["source"] == {
        "dataset": str(root / "dataset"),
        "split": "train",
        "clip": f"{video}/000000",
        "frames": str(root / "videos" / video),
        "first_frame": 0,
        "num_frames": 16,
        "fps": 1,
        "maps": str(root / "videos" / f"{video}_masks"),
        "true_maps": False,
    }
    assert first["phase"]["by_second"] == [second // 8 for second in range(16)]
    assert first["triplet"]["by_second"] == [-1 if second % 5 == 0 else 17 for second in range(16)]
    maps = load_clip(tmp_path / "samples" / first["maps"])
    assert maps.num_entities == 3
    assert [record["seed"] for record in records] == list(range(len(records)))


def test_true_maps_take_the_place_of_s2m(assets: Path, root: Path, tmp_path: Path):
    record = made(assets, root, tmp_path, split="train", true_maps=True, limit=1)[0]
    ids = load_clip(tmp_path / "samples" / record["maps"]).map_FHW
    truth = np.stack([map_of(second) for second in range(16)])
    assert ids.shape == truth.shape
    assert (ids == truth).mean() > 0.97
    assert set(record["seconds"]) == {"maps", "video", "write"}


def test_a_limit_keeps_names_and_seeds(assets: Path, root: Path, tmp_path: Path):
    everything = made(assets, root, tmp_path, split="train")
    some = made(assets, root, tmp_path, split="train", limit=1)
    assert some[0]["fingerprint"] == everything[0]["fingerprint"]


def test_what_does_not_fit_is_refused(assets: Path, root: Path, tmp_path: Path):
    wanted: dict[str, Any] = {**NO_WORDS, "from_dataset": root / "none"}
    refused(DataError, "is no data set", assets, tmp_path, **wanted)
    moved = tmp_path / "moved"
    shutil.copytree(root / "dataset", moved)
    manifest = moved / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(root / "videos"), str(tmp_path / "nowhere")))
    refused(DataError, "there is no folder .*nowhere", assets, tmp_path, **{**wanted, "from_dataset": moved})
    text = manifest.read_text().replace('"fps": 1', '"fps": 8')
    manifest.write_text(text)
    refused(
        UsageError,
        "has 8 frames a second, but this run makes 1",
        assets,
        tmp_path,
        **{**wanted, "from_dataset": moved},
    )
