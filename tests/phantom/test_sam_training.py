"""The mini SAM 2's objective, by hand; its training, in pieces and resumed."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hierasurg_core.errors import UsageError
from hierasurg_core.labeling.segmenter import as_network, build_mini_network, load_segmenter
from hierasurg_core.phantom.sam import PEAK_LR, learning_rate, train_sam
from hierasurg_core.phantom.sam_measure import measure, measure_automatic, overlaps
from hierasurg_core.phantom.sam_objective import TrainingClips, boxes_of, judge, sam_loss
from hierasurg_core.progress import SilentProgress

CPU = torch.device("cpu")


def test_a_perfect_mask_costs_nothing_and_overlaps_are_counted():
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[0, :2] = True
    perfect = torch.where(truth[0], 30.0, -30.0)
    half = torch.where(torch.arange(4).view(4, 1) < 1, 30.0, -30.0).expand(4, 4)
    logits = torch.stack([torch.stack([perfect, half]), torch.full((2, 4, 4), -30.0)])
    loss, overlap = judge(logits, truth)
    torch.testing.assert_close(overlap, torch.tensor([[1.0, 0.5], [0.0, 0.0]]))
    assert loss[0, 0] < 1e-4
    # A quarter of the pixels wrong by 30 each, weighted 2; Dice 1 - (2 * 4 + 1) / (4 + 8 + 1).
    assert loss[0, 1].item() == pytest.approx(2 * 30 / 4 + 1 - 9 / 13, rel=1e-4)
    assert loss[1].max() < 1e-4


def test_boxes_are_fractions_of_the_frame():
    masks = torch.zeros(2, 4, 8, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    assert boxes_of(masks).tolist() == [[0.25, 0.25, 0.75, 0.75], [0, 0, 0, 0]]


def test_overlaps_of_nothing_with_nothing_are_whole():
    masks = torch.tensor([[[True, False]], [[False, False]], [[True, True]]])
    truth = torch.tensor([[[True, True]], [[False, False]], [[False, False]]])
    assert overlaps(masks, truth).tolist() == [0.5, 1.0, 0.0]


def test_the_rate_warms_up_and_ends_at_nothing():
    assert learning_rate(0.0) == pytest.approx(PEAK_LR / 100)
    assert learning_rate(0.05) == pytest.approx(PEAK_LR)
    assert learning_rate(0.525) == pytest.approx(PEAK_LR / 2)
    assert learning_rate(0.9999) < 1e-5 * PEAK_LR


def moving_squares() -> TrainingClips:
    """One clip of two frames: two squares before a background, a third one that leaves."""
    map_BFHW = torch.full((1, 2, 32, 48), 3, dtype=torch.uint8)
    for frame in range(2):
        map_BFHW[0, frame, 4:14, 4 + 3 * frame : 16 + 3 * frame] = 0
        map_BFHW[0, frame, 18:30, 20:34] = 1
    map_BFHW[0, 0, 2:8, 38:46] = 2
    video = torch.stack([map_BFHW.float() / 3] * 3, dim=2)
    return TrainingClips(video, map_BFHW, torch.tensor([3]))


@pytest.mark.slow
def test_every_part_learns_and_the_loss_falls():
    torch.manual_seed(0)
    module = build_mini_network().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses: list[float] = []
    touched: set[str] = set()
    for step in range(6):
        # Seeds of the draws under which prompts are a mask, a point and a box in turn.
        loss, parts = sam_loss(as_network(module), moving_squares(), torch.Generator().manual_seed(step))
        loss.backward()
        touched |= {
            name
            for name, parameter in module.named_parameters()
            if parameter.grad is not None and parameter.grad.abs().sum() > 0
        }
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        assert all(math.isfinite(value) for value in parts.values())
    assert losses[-1] < 0.8 * losses[0]
    wanted = {name for name, _ in module.named_parameters()}
    # A video begins with a prompt, so nothing is ever looked at without memory; no second frame follows an
    # object's absence here, and corners of boxes are drawn in some steps only.
    never = {"no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial"}
    left = {name for name in wanted - touched if not name.startswith("sam_prompt_encoder.point_embeddings")}
    assert left <= never


def test_no_steps_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="0 steps of 1 clips"):
        pieces(tmp_path, 0, 1.0)


def pieces(out: Path, steps: int | None, seconds: float) -> bool:
    return train_sam(
        out,
        steps=steps,
        batch=1,
        seed=0,
        device=CPU,
        max_seconds=seconds,
        progress=SilentProgress(),
        sizes_hw=((32, 48),),
        held_out=0,
    )


@pytest.mark.slow
def test_training_in_pieces_goes_on_where_it_was(tmp_path: Path):
    assert not pieces(tmp_path / "cut", 2, seconds=1e-6)
    assert not (tmp_path / "cut" / "sam2-mini").exists()
    assert pieces(tmp_path / "cut", 2, seconds=1e6)
    assert pieces(tmp_path / "whole", 2, seconds=1e6)
    cut, whole = (load_file(tmp_path / name / "sam2-mini" / "model.safetensors") for name in ("cut", "whole"))
    assert cut.keys() == whole.keys()
    assert json.loads((tmp_path / "cut" / "sam2-mini-training" / "sam_training.json").read_text()) == {
        "step": 2,
        "share": 1.0,
    }
    assert load_segmenter(str(tmp_path / "cut" / "sam2-mini"), device=CPU).size == 256
    score = measure(tmp_path / "cut" / "sam2-mini", device=CPU, clips=1, num_frames=3, size_hw=(32, 48))
    assert score.objects > 1
    assert 0 <= score.worst_tenth_j <= score.mean_j <= 1
    folder = tmp_path / "cut" / "sam2-mini"
    (found,) = measure_automatic(folder, device=CPU, clips=1, size_hw=(32, 48), grid=((0.0, 0.0),))
    assert 0 <= found.panoptic_quality <= found.recall <= 1


@pytest.mark.slow
def test_without_steps_the_schedule_ends_with_the_time(tmp_path: Path):
    assert pieces(tmp_path, None, seconds=1e-6)
    state = json.loads((tmp_path / "sam2-mini-training" / "sam_training.json").read_text())
    assert state == {"step": 1, "share": 1.0}
    assert (tmp_path / "sam2-mini").is_dir()
    assert pieces(tmp_path, None, seconds=1e6)  # at its end it trains no more


@pytest.mark.slow
def test_a_longer_schedule_goes_on_from_a_finished_one(tmp_path: Path):
    assert pieces(tmp_path, 1, seconds=1e6)
    assert pieces(tmp_path, 2, seconds=1e6)
    state = json.loads((tmp_path / "sam2-mini-training" / "sam_training.json").read_text())
    assert state == {"step": 2, "share": 1.0}
