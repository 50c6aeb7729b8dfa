"""Loading SAM 2: from files only, whole or not at all; features of frames."""

from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.labeling.mini_sam import mini_config, read_mini, write_mini
from hierasurg_core.labeling.sam_weights import PUBLISHED
from hierasurg_core.labeling.segmenter import (
    Segmenter,
    build_mini_network,
    build_mini_segmenter,
    build_network,
    build_segmenter,
    load_segmenter,
    published_config,
)

CPU = torch.device("cpu")


def test_the_mini_network_is_small_and_comes_back_from_its_folder(tmp_path: Path):
    torch.manual_seed(0)
    module = build_mini_network().half().float()
    assert sum(parameter.numel() for parameter in module.parameters()) <= 4_000_000
    write_mini(tmp_path / "sam", module.state_dict())
    assert (tmp_path / "sam" / "model.safetensors").stat().st_size <= 8_000_000
    tree, tensors = read_mini(tmp_path / "sam")
    assert tree == mini_config()
    frames = np.random.default_rng(0).integers(0, 255, (2, 20, 30, 3), np.uint8)
    before = Segmenter(module, name="mini", digest="", device=CPU).encode(frames)
    loaded = load_segmenter(str(tmp_path / "sam"), device=CPU)
    assert all(torch.equal(a, b) for a, b in zip(before.levels, loaded.encode(frames).levels, strict=True))
    assert tensors.keys() == module.state_dict().keys()
    assert (loaded.name, len(loaded.digest), loaded.size) == ("mini", 64, 256)


def test_features_are_the_same_in_batches_and_in_parts():
    segmenter = build_mini_segmenter()
    frames = np.random.default_rng(0).integers(0, 255, (9, 20, 30, 3), np.uint8)
    features = segmenter.encode(frames)
    assert (len(features), features.size_hw) == (9, (20, 30))
    assert [tuple(level.shape) for level in features.levels] == [
        (9, 16, 64, 64),
        (9, 32, 32, 32),
        (9, 128, 16, 16),
    ]
    alone = segmenter.encode(torch.from_numpy(frames[8:]))
    torch.testing.assert_close(features[8].levels[2], alone.levels[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features[-1].levels[0], features[8:9].levels[0])
    assert len(type(features).join([features[:4], features[4:]]).cpu()) == 9
    with pytest.raises(IndexError, match="frame 9 of 9"):
        features[9]


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)],
)
def test_frames_of_another_form_are_refused(frames: np.ndarray):
    with pytest.raises(UsageError, match="frames are uint8"):
        build_mini_segmenter().encode(frames)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_configurations_are_read_from_the_package(name: str):
    tree = published_config(name)
    assert tree["image_size"] == 1024
    assert tree["binarize_mask_from_pts_for_mem_enc"] is True


def test_an_unknown_size_is_refused():
    for load in (load_segmenter, build_segmenter):
        with pytest.raises(UsageError, match="unknown SAM 2 'huge': use tiny, small"):
            load("huge", device=CPU)


def test_missing_weights_are_named_with_where_to_put_them(tmp_path: Path, monkeypatch):
    with pytest.raises(WeightsError, match=r"holds no sam2.1_hiera_large.pt.*facebook/sam2.1-hiera-large"):
        load_segmenter("large", weights_dir=tmp_path, device=CPU)
    with pytest.raises(WeightsError, match=r"there is no checkpoint .*none.pt"):
        load_segmenter("large", checkpoint=tmp_path / "none.pt", device=CPU)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"sam2.1_hiera_base_plus.pt.*--sam-checkpoint FILE.*--weights-dir"
    ):
        load_segmenter("base-plus", device=CPU)
    with pytest.raises(WeightsError, match=r"lacks config\.json"):
        load_segmenter(str(tmp_path), device=CPU)
    with pytest.raises(UsageError, match="is for a published size"):
        load_segmenter("mini", checkpoint=tmp_path / "x.pt", device=CPU)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_checkpoint_is_tensors_of_that_size_or_an_error(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": Hostile()}, path)
    with pytest.raises(WeightsError, match="holds more than tensors, which is never loaded"):
        load_segmenter("tiny", weights_dir=tmp_path, device=CPU)
    assert not (tmp_path / "ran").exists()
    torch.save({"model": [1, 2]}, path)
    with pytest.raises(WeightsError, match="no table of tensors called 'model'"):
        load_segmenter("tiny", weights_dir=tmp_path, device=CPU)
    torch.save({"model": {"no_mem_embed": torch.zeros(1, 1, 3)}}, path)
    with pytest.raises(WeightsError, match=r"does not fit SAM 2\.1 tiny: it lacks maskmem_tpos_enc"):
        load_segmenter("tiny", weights_dir=tmp_path, device=CPU)


@pytest.mark.slow
def test_a_published_size_loads_from_its_file(tmp_path: Path):
    torch.manual_seed(0)
    module = build_network(published_config("tiny"))
    torch.save({"model": module.state_dict()}, tmp_path / "sam2.1_hiera_tiny.pt")
    segmenter = load_segmenter("tiny", weights_dir=tmp_path, device=CPU)
    features = segmenter.encode(np.zeros((1, 48, 85, 3), np.uint8))
    assert [level.shape[-1] for level in features.levels] == [256, 128, 64]
    assert segmenter.thresholds.predicted_iou == 0.9


def test_a_configuration_names_no_other_class(tmp_path: Path):
    with pytest.raises(WeightsError, match="class system, which is no part of SAM 2"):
        build_network({"_target_": "os.system", "command": "touch ran"})
    with pytest.raises(WeightsError, match="RoPEAttention can't be built"):
        build_network({"_target_": "RoPEAttention", "heads": 3})
    with pytest.raises(WeightsError, match="describes a dict, no SAM 2"):
        build_network({})
    (tmp_path / "config.json").write_text('{"kind": "other"}')
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match="describes no SAM 2 of this project"):
        read_mini(tmp_path)
