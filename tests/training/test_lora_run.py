"""Low-rank updates through whole runs: what is trained, what is saved, what reads it."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_runs import m2v_config, s2m_config, train, write_dataset
from torch import Tensor

from hierasurg_core.errors import UsageError, WeightsError
from hierasurg_core.models import load_transformer
from hierasurg_core.models.lora import LORA_WEIGHTS, TRAINED_WEIGHTS

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
