"""Low-rank updates through whole runs: what is trained, what is saved, what reads it."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_runs import m2v_config, s2m_config, train, write_dataset
from torch import Tensor

from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.models import load_transformer
from hierasurg_core.models.digest import weights_digest
from hierasurg_core.models.lora import LORA_WEIGHTS, TRAINED_WEIGHTS, undated

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    write_dataset(folder)
    return folder


def answer(folder: Path) -> Tensor:
    model = load_transformer(folder, torch.float32)
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, 12, 4, 6, generator=draw)
    labels = torch.full((1, 16), 3)
    with torch.no_grad():
        return model(latents, torch.tensor([400]), labels, labels)


def test_finished_run_is_a_plain_model_and_a_checkpoint_gives_the_same(root: Path) -> None:
    out = root / "runs" / "plain"
    result = train(s2m_config(root, "plain", lora_rank=4, lora_alpha=8.0))
    assert result.trained.finished
    torch.testing.assert_close(answer(out), answer(out / "checkpoint-2"), rtol=1e-4, atol=1e-5)
    said = json.loads((out / "train.json").read_text())
    assert said["lora"] == {"rank": 4, "alpha": 8.0}
    with safe_open(out / "transformer" / LORA_WEIGHTS, framework="pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
        names = list(file.keys())
    assert (told["transformer.r"], told["transformer.lora_alpha"]) == (4, 8.0)
    assert "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight" in names
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)


def test_only_updates_and_what_the_base_lacks_are_trained(root: Path) -> None:
    train(s2m_config(root, "trained", lora_rank=2, ema=0.9))
    checkpoint = root / "runs" / "trained" / "checkpoint-2"
    optimizer = load_file(checkpoint / "optimizer.safetensors")
    assert not any("base_layer" in name for name in optimizer)
    assert any("phase_emb" in name for name in optimizer)
    assert any("patch_embed.proj" in name for name in optimizer)
    trained = load_file(checkpoint / "transformer" / TRAINED_WEIGHTS)
    assert not any(name.startswith("transformer_blocks") for name in trained)
    assert (checkpoint / "ema" / LORA_WEIGHTS).is_file()
    base = load_file(root / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    merged = load_transformer(root / "runs" / "trained").state_dict()
    for name, moves in (("transformer_blocks.0.attn1.to_q.weight", True), ("norm_final.weight", False)):
        assert torch.equal(merged[name], base[name]) is not moves


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_equals_uninterrupted(root: Path, precision: str) -> None:
    settings = {"lora_rank": 2, "ema": 0.9, "hierarchical": True, "precision": precision}
    train(m2v_config(root, f"whole-{precision}", steps=4, **settings))
    train(m2v_config(root, f"parts-{precision}", steps=2, **settings))
    train(m2v_config(root, f"parts-{precision}", steps=4, **settings))
    for file in (LORA_WEIGHTS, TRAINED_WEIGHTS):
        ends = [
            load_file(root / "runs" / f"{part}-{precision}" / "checkpoint-4" / "transformer" / file)
            for part in ("whole", "parts")
        ]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_what_does_not_belong_together_is_refused(root: Path) -> None:
    train(s2m_config(root, "updates", lora_rank=2, steps=1))
    for rank in (0, 3):
        with pytest.raises(UsageError, match=f"asked for lora_rank {rank}, the run has 2; leave it out"):
            train(s2m_config(root, "updates", lora_rank=rank, steps=2))
    checkpoint = root / "runs" / "updates" / "checkpoint-1" / "transformer"
    with pytest.raises(WeightsError, match="holds low-rank updates alone"):
        train(s2m_config(root, "refused", base=str(checkpoint.parent)))
    file = checkpoint / "lora.json"
    file.write_text(file.read_text().replace(str(root / "model"), str(root / "gone")))
    with pytest.raises(WeightsError, match=r"gone.*, which is not there; bring it back"):
        load_transformer(checkpoint)


def test_updates_are_refused_on_a_base_that_has_changed(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    train(s2m_config(tmp_path, "own", lora_rank=2, steps=1))
    checkpoint = tmp_path / "runs" / "own" / "checkpoint-1" / "transformer"
    digest = json.loads((checkpoint / "lora.json").read_text())["base_digest"]
    assert digest == weights_digest(tmp_path / "model" / "transformer")
    weights = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["transformer_blocks.1.attn1.to_q.weight"][3, 4] += 1e-3
    save_file(tensors, weights)
    now = weights_digest(tmp_path / "model" / "transformer")
    said = f"weights have digest {now[:12]}, the updates were learned on {digest[:12]}; bring that base back"
    with pytest.raises(WeightsError, match=said):
        load_transformer(checkpoint)
    with pytest.raises(WeightsError, match=said):
        train(s2m_config(tmp_path, "own", lora_rank=2, steps=2))
    assert load_transformer(tmp_path / "runs" / "own") is not None
    file = checkpoint / "lora.json"
    older = {key: value for key, value in json.loads(file.read_text()).items() if key != "base_digest"}
    file.write_text(json.dumps(older))
    base = tmp_path / "model" / "transformer"
    note = f"{checkpoint} does not say which weights of {base} it belongs to: they are taken as they are"
    with pytest.warns(UserWarning, match=note):
        load_transformer(checkpoint)
    assert undated(checkpoint) == note
    assert undated(tmp_path / "runs" / "own" / "transformer") is None


def test_a_digest_sees_names_types_shapes_and_values(tmp_path: Path) -> None:
    large = torch.arange(1 << 19, dtype=torch.float32)  # 2 MiB: pieces of it count, the last bytes too
    first = {"a": torch.zeros(2, 3), "b": large}
    changed: list[dict[str, Tensor]] = [
        {"c": torch.zeros(2, 3), "b": large},
        {"a": torch.zeros(2, 3, dtype=torch.float64), "b": large},
        {"a": torch.zeros(3, 2), "b": large},
        {"a": torch.full((2, 3), -0.0), "b": large},
        {"a": torch.zeros(2, 3), "b": torch.cat([large[:-1], torch.tensor([0.5])])},
    ]
    digests: list[str] = []
    for number, tensors in enumerate([first, first, *changed]):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
        digests.append(weights_digest(folder))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 6
    assert all(len(digest) == 64 for digest in digests)
