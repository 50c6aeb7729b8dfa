"""The phantom's truth is the truth: ids, motion and labels agree with what is drawn."""

import numpy as np
import pytest
import torch

from hierasurg_core import taxonomy
from hierasurg_core.phantom import draw, motion
from hierasurg_core.phantom import scene as sc
from hierasurg_core.phantom.sheet import phantom_sheet

TRIPLET = {t.name: t.id for t in taxonomy.TRIPLETS}


def clips_of(*names: str, phase: int = 1, seed: int = 0, **options):
    options.setdefault("size_hw", (64, 96))
    phases = torch.full((len(names),), phase)
    return draw.draw_clips(phases, torch.tensor([TRIPLET[name] for name in names]), seed, **options)


def test_ids_run_without_gaps_and_end_with_background_and_border():
    clips = clips_of("grasper,retract,gallbladder", "hook,dissect,cystic_duct", "irrigator,aspirate,fluid")
    for index, count in enumerate(clips.num_entities_B.tolist()):
        assert torch.unique(clips.map_BFHW[index]).tolist() == list(range(count + 2))
        codes = clips.code_of_id_BN[index]
        assert codes[count] == draw.BACKGROUND_CODE
        assert codes[count + 1] == draw.BORDER_CODE
        assert (codes[count + 2 :] == -1).all()
        border = clips.map_BFHW[index] == count + 1
        assert clips.video_BFCHW[index].amax(1)[border].max() <= 0.5


def test_the_same_seed_draws_the_same_and_another_does_not():
    first, again, other = (clips_of("hook,dissect,gallbladder", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.video_BFCHW, again.video_BFCHW)
    assert torch.equal(first.map_BFHW, again.map_BFHW)
    assert not torch.equal(first.video_BFCHW, other.video_BFCHW)


def test_shuffled_ids_name_the_same_pixels():
    plain = clips_of("bipolar,coagulate,liver", seed=5)
    mixed = clips_of("bipolar,coagulate,liver", seed=5, shuffle_ids=1.0)
    assert not torch.equal(plain.map_BFHW, mixed.map_BFHW)
    codes = [c.code_of_id_BN[0][c.map_BFHW[0].long()] for c in (plain, mixed)]
    assert torch.equal(*codes)


@pytest.mark.parametrize(
    "name", ["hook,dissect,cystic_artery", "grasper,grasp,gut", "bipolar,coagulate,peritoneum"]
)
def test_the_tip_arrives_at_its_target(name: str):
    triplet = taxonomy.parse_triplet(name)
    scene = sc.draw_scenes(
        torch.tensor([1]), torch.tensor([triplet.target_id]), torch.Generator().manual_seed(1)
    )
    action = motion.draw_actions(scene, torch.tensor([triplet.id]), torch.Generator().manual_seed(2))
    late = motion.move(scene, action, torch.tensor([[9.0, 12.0, 15.0]]))
    away = torch.linalg.vector_norm(late.tip_BSF2[0, 0] - scene.anchor_BT2[0, triplet.target_id], dim=-1)
    assert away.max() < 0.12
    start = motion.move(scene, action, torch.zeros(1, 1)).tip_BSF2[0, 0, 0]
    assert torch.linalg.vector_norm(start - action.start_B2[0]) < 0.02


def test_motion_is_the_same_at_any_frame_rate():
    slow = clips_of("grasper,retract,gallbladder", num_frames=4, fps=1)
    scene, action = slow.scene, slow.action
    times = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    fine = motion.move(scene, action, torch.arange(0, 76).view(1, -1) / 25)
    coarse = motion.move(scene, action, times)
    torch.testing.assert_close(fine.tip_BSF2[:, :, ::25], coarse.tip_BSF2, atol=1e-5, rtol=0)
    steps = torch.linalg.vector_norm(fine.tip_BSF2[0, 0].diff(dim=0), dim=-1)
    assert steps.max() < 0.05


def test_what_the_verb_does_is_seen():
    def late_state(name: str) -> motion.State:
        clips = clips_of(name)
        return clips.state

    assert late_state("bipolar,coagulate,liver").spark_BF[0, -1] > 0.3
    assert late_state("grasper,retract,gallbladder").pull_BF2[0, -1].norm() > 0.08
    assert late_state("irrigator,aspirate,fluid").shrink_BF[0, -1] < 0.8
    assert late_state("irrigator,irrigate,liver").puff_BF[0, -1] > 0.9
    assert late_state("clipper,clip,cystic_duct").mark_BF[0, -1] == 1
    idle = late_state("hook,null_verb,null_target")
    assert idle.mark_BF.max() == idle.puff_BF.max() == idle.spark_BF.max() == 0


def test_phases_and_instruments_change_the_picture():
    hook = TRIPLET["hook,null_verb,null_target"]
    by_phase = draw.draw_clips(torch.arange(7), torch.full((7,), hook), 0, num_frames=1, size_hw=(64, 96))
    tools = torch.tensor([TRIPLET[f"{name},null_verb,null_target"] for name in taxonomy.INSTRUMENTS])
    by_tool = draw.draw_clips(torch.full((6,), 1), tools, 0, num_frames=1, size_hw=(64, 96))
    for video in (by_phase.video_BFCHW, by_tool.video_BFCHW):
        for a in range(len(video)):
            for b in range(a):
                assert (video[a] - video[b]).abs().max() > 0.2


def test_typical_targets_are_present_and_the_asked_one_always():
    phases = torch.arange(7).repeat(3)
    targets = torch.full((21,), sc.GUT)
    scene = sc.draw_scenes(phases, targets, torch.Generator().manual_seed(0), extras=0.0)
    for index, phase in enumerate(phases.tolist()):
        present = set(scene.present_BT[index].nonzero().squeeze(1).tolist())
        assert sc.typical_targets(phase) | {sc.GUT} == present


def test_the_sheet_shows_all_there_is():
    sheet = phantom_sheet(0)
    assert sheet.dtype == np.uint8
    # Rows: 7 phases, 6 instruments, 10 verbs, 14 targets, seven a row.
    assert sheet.shape == (6 * (144 + 18), 7 * 216, 3)
