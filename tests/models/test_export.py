import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models.tiny_models import m2v_inputs, s2m_inputs, tiny_m2v, tiny_s2m

from hierasurg_core.errors import UsageError
from hierasurg_core.models import CogVideoXStack, load_transformer
from hierasurg_core.models.compat import PUBLIC_CLASSES
from hierasurg_core.models.export import Card, public_config, write_public


def vectors(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    words = {name: torch.randn(1, 4, 9, generator=draw) for name in ("phase_BF", "triplet_BF")}
    return {**inputs, **words}


CASES = {
    "s2m": (tiny_s2m, {}, s2m_inputs, "CogVideoXTransformer3DModel_SegPred_I2V"),
    "s2m-vectors": (
        tiny_s2m,
        {"text_cond": "vectors", "text_vector_dim": 9},
        lambda: vectors(s2m_inputs()),
        "CogVideoXTransformer3DModel_SegPred_I2V",
    ),
    "m2v": (tiny_m2v, {}, m2v_inputs, "CogVideoXTransformer3DModel_SegCond_I2V"),
    "m2v-positions": (
        tiny_m2v,
        {"use_segmap_posenc": True},
        m2v_inputs,
        "CogVideoXTransformer3DModel_SegCond_I2V",
    ),
    "hierarchical": (
        tiny_m2v,
        {"hierarchical": True},
        m2v_inputs,
        "CogVideoXTransformer3DModel_SegCond_Hierarchical_I2V",
    ),
    "hierarchical-vectors": (
        tiny_m2v,
        {"hierarchical": True, "text_cond": "vectors", "text_vector_dim": 9},
        lambda: vectors(m2v_inputs()),
        "CogVideoXTransformer3DModel_SegCond_Hierarchical_I2V",
    ),
}


def randomised(model: CogVideoXStack) -> CogVideoXStack:
    """Running statistics of a trained model are no zeros and ones."""
    draw = torch.Generator().manual_seed(3)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=draw) + 0.5)
    return model


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_public_form_and_back_gives_the_same_output(case: str, tmp_path: Path) -> None:
    make, changes, inputs, public_class = CASES[case]
    model = randomised(make(**changes))
    write_public(model, tmp_path / "transformer")
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())
    assert config["_class_name"] == public_class
    assert public_class in PUBLIC_CLASSES
    back = load_transformer(tmp_path)
    assert type(back) is type(model)
    given: dict[str, Any] = inputs()
    assert torch.equal(back(**given), model(**given))


def test_words_are_named_as_the_public_code_does() -> None:
    assert public_config(tiny_s2m())["text_cond"] == "labels"
    assert public_config(tiny_s2m(text_cond="vectors"))["text_cond"] == "SurgVLP"
    assert "text_cond" not in public_config(tiny_m2v())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repeat_first_frame": True}, "the public code has no repeat_first_frame = True"),
        ({"map_downscale": 1}, "the public code has no map_downscale = 1"),
        (
            {"use_segmap_posenc": True, "segmap_posenc_spatial_scale": 1.0},
            "the public code has no segmap_posenc_spatial_scale = 1.0",
        ),
    ],
)
def test_what_the_public_code_lacks_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        write_public(tiny_m2v(**changes), tmp_path / "transformer")
    assert list(tmp_path.iterdir()) == []


def test_frame_labels_are_refused_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the public code has no frame_labels = True"):
        write_public(tiny_s2m(frame_labels=True), tmp_path / "transformer")


def test_card_carries_notice_and_facts() -> None:
    notice = {"data": "Made from X.", "license": "CC BY-NC-SA 4.0", "terms": "Cite.", "papers": ["A paper."]}
    text = Card("A pipeline", notice, {"S2M: data": {"clips": "3 train", "rate": "1 fps"}}).text()
    assert text.startswith("---\nlicense: cc-by-nc-sa-4.0\n")
    for said in (
        "# A pipeline",
        "## S2M: data",
        "- clips: 3 train",
        "- rate: 1 fps",
        "Made from X.",
        "- A paper.",
    ):
        assert said in text
    assert "license: other" in Card("A pipeline", None, {}).text()
