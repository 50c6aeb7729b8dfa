"""The manifest of a data set: what is read of it, and that no damaged value gets further."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hierasurg_core.datasets.fingerprint import SCHEMA
from hierasurg_core.datasets.manifest import Manifest, read_dataset_manifest
from hierasurg_core.errors import DataError

SAID: dict[str, Any] = {
    "kind": "hierasurg dataset",
    "contents": "latents",
    "form": {
        "fps": 1,
        "step": 4,
        "size_hw": [32, 48],
        "map_size_hw": [16, 24],
        "first_frames": 2,
        "seed": 0,
    },
    "flip": 0.3,
    "object_dropout": 0,
    "vae": {"name": "mini", "sha256": "ab", "size_hw": [32, 48], "channels": 4, "scaling_factor": 0.7},
    "sources": {"videos": "videos", "maps": "videos"},
    "videos": {
        "video01": {
            "split": "train",
            "shards": [{"file": "video01-00000.safetensors", "clips": 3, "fingerprint": {"schema": 1}}],
        }
    },
}


def read(folder: Path, said: dict[str, Any]) -> Manifest:
    (folder / "manifest.json").write_text(json.dumps({**said, "schema": SCHEMA}))
    return read_dataset_manifest(folder)


def test_a_manifest_is_read(tmp_path: Path) -> None:
    manifest = read(tmp_path, SAID)
    assert manifest.form.size_hw == (32, 48)
    assert manifest.vae.scaling_factor == 0.7
    assert [(entry.path, entry.clips) for entry in manifest.shards] == [
        (tmp_path / "video01-00000.safetensors", 3)
    ]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("form.size_hw", -16, "form.size_hw is -16, not [rows, columns]"),
        ("form.size_hw", [-16, 48], "form.size_hw is -16, not a whole number from 8 to 16384"),
        ("form.size_hw", [1e9, 48], "form.size_hw is 1000000000.0, not a whole number"),
        ("form.size_hw", [10**9, 48], "form.size_hw is 1000000000, not a whole number"),
        ("form.size_hw", "ab", "form.size_hw is 'ab', not [rows, columns]"),
        ("form.map_size_hw", ["a", "b"], "form.map_size_hw is 'a', not a whole number"),
        ("form.map_size_hw", [16, 24, 1], "form.map_size_hw is [16, 24, 1], not [rows, columns]"),
        ("form.fps", 25, "form.fps is 25"),
        ("form.fps", [1], "unhashable"),
        ("form.step", 0, "form.step is 0"),
        ("form.seed", -1, "form.seed is -1"),
        ("form.first_frames", 10**9, "form.first_frames is 1000000000"),
        ("form", [], "list indices"),
        ("vae.size_hw", [0, 0], "vae.size_hw is 0"),
        ("vae.channels", "x", "vae.channels is 'x'"),
        ("vae.scaling_factor", "x", "vae.scaling_factor is 'x', not a number"),
        ("vae.scaling_factor", 0, "vae.scaling_factor is 0, not a number"),
        ("vae.sha256", None, "vae.sha256 is None, not text"),
        ("flip", 2, "flip is 2"),
        ("object_dropout", True, "object_dropout is True"),
        ("contents", "pictures", "contents are 'pictures'"),
        ("sources", [], "damaged"),
        ("sources.maps", 3, "sources.maps is 3, not text"),
        ("videos", [], "damaged"),
        ("videos.video01", 3, "damaged"),
        ("videos.video01.split", 3, "split of video01 is 3, not text"),
        ("videos.video01.shards", [3], "damaged"),
        ("videos.video01.shards.0.file", "../../etc/passwd", "a file of video01 is '../../etc/passwd'"),
        ("videos.video01.shards.0.file", "a\0b", r"a file of video01 is 'a\x00b'"),
        ("videos.video01.shards.0.file", "a" * 300, "(300 characters)"),
        ("videos.video01.shards.0.clips", -1, "clips of video01-00000.safetensors is -1"),
        ("videos.video01.shards.0.fingerprint", 1, "the fingerprint of video01-00000.safetensors is 1"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 and value.isprintable() else "",
)
def test_a_damaged_value_is_named(tmp_path: Path, place: str, value: Any, said: str) -> None:
    changed = copy.deepcopy(SAID)
    *way, last = place.split(".")
    at: Any = changed
    for step in way:
        at = at[int(step) if isinstance(at, list) else step]
    at[last] = value
    with pytest.raises(DataError) as caught:
        read(tmp_path, changed)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'manifest.json'} is damaged: ")
    assert said in message
    assert message.endswith("; build the data set again")


def test_an_index_needs_paths_that_can_be(tmp_path: Path) -> None:
    sources = {"videos": "~nobody-of-this-name/x", "maps": "videos"}
    latents = read(tmp_path, {**SAID, "sources": sources})
    assert latents.contents == "latents"
    with pytest.raises(DataError, match=r"json is damaged: sources\.videos .* no home folder of ~nobody"):
        latents.folder_of("videos")
    with pytest.raises(DataError, match=r"there is no folder videos, of whose maps"):
        latents.folder_of("maps")
    with pytest.raises(DataError, match=r"is damaged: sources\.videos .* no home folder of ~nobody"):
        read(tmp_path, {**SAID, "contents": "index", "sources": sources})


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kind": 1, "kind": 2}', "9" * 5000, "[]", "NaN"])
def test_a_hostile_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json is no"):
        read_dataset_manifest(tmp_path)
