"""All objects in one batch give what sam2's own predictor gives one at a time; memory stays constant."""

from typing import Any

import pytest
import torch
from labeling.sam_predictors import one_by_one, phantom_clip
from torch import nn

from hierasurg_core.errors import UsageError
from hierasurg_core.labeling.mini_sam import mini_config
from hierasurg_core.labeling.propagation import MaskPrompt, MemoryBank, bucket, padding
from hierasurg_core.labeling.sam_network import FrameFeatures
from hierasurg_core.labeling.segmenter import Segmenter, as_network, build_network

CPU = torch.device("cpu")
AS_PUBLISHED: dict[str, Any] = {
    "multimask_output_for_tracking": True,
    "multimask_min_pt_num": 0,
    "max_obj_ptrs_in_encoder": 16,
    "add_tpos_enc_to_obj_ptrs": True,
    "proj_tpos_enc_in_obj_ptrs": True,
    "use_signed_tpos_enc_to_obj_ptrs": True,
    "only_obj_ptrs_in_the_past_for_eval": True,
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
}
"""What SAM 2.1's own configurations have and the mini one has not."""


def random_network(tree: dict[str, Any]) -> nn.Module:
    """Random weights under which objects stay present and memories matter."""
    torch.manual_seed(0)
    module = build_network(tree)
    network = as_network(module)
    with torch.no_grad():
        nn.init.normal_(network.maskmem_tpos_enc, std=0.5)
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(10.0)
    return module


def a_segmenter(module: nn.Module) -> Segmenter:
    return Segmenter(module, name="mini", digest="random", device=CPU)


@pytest.mark.parametrize(
    ("extra", "num_frames", "starts", "reverse"),
    [
        pytest.param({}, 9, (0, 2, 0, 5), False, id="mini"),
        pytest.param({}, 5, (4, 4, 2), True, id="mini-reverse"),
        pytest.param(AS_PUBLISHED, 5, (0, 1), False, id="as-published"),
        pytest.param(AS_PUBLISHED, 20, (0, 3, 3), False, id="longer-than-memory", marks=pytest.mark.slow),
    ],
)
def test_a_batch_of_objects_equals_one_object_at_a_time(
    extra: dict[str, Any], num_frames: int, starts: tuple[int, ...], reverse: bool, monkeypatch
):
    tree = {**mini_config(), **extra}
    module = random_network(tree)
    frames_FHWC, ids_FHW, _ = phantom_clip(num_frames)
    prompts = [(frame, ids_FHW[frame] == number) for number, frame in enumerate(starts)]
    segmenter = a_segmenter(module)
    ours = dict(
        segmenter.propagate(
            segmenter.encode(frames_FHWC),
            [MaskPrompt(frame, n, torch.from_numpy(mask)) for n, (frame, mask) in enumerate(prompts)],
            reverse=reverse,
        )
    )
    theirs = one_by_one(module, tree, frames_FHWC, prompts, reverse=reverse, monkeypatch=monkeypatch)
    assert list(ours) == sorted(theirs, reverse=reverse)
    different = sum(int(((ours[frame] > 0) != (theirs[frame] > 0)).sum()) for frame in theirs)
    area = sum(int((theirs[frame] > 0).sum()) for frame in theirs)
    assert area > 1000
    assert different <= 0.005 * area
    for frame in theirs:
        torch.testing.assert_close(ours[frame], theirs[frame], atol=0.05, rtol=0.05)


def test_the_bank_has_the_same_size_at_any_length():
    network = as_network(build_network(mini_config()))
    bank = MemoryBank(network, 2, num_frames=400)
    memory, pointer = torch.zeros(2, 64, 16, 16), torch.zeros(2, 128)
    bank.start(None, memory, pointer)
    for _ in range(50):
        bank.add(None, memory, pointer)
    assert len(bank._recent) == 6
    assert len(bank._recent_pointers) == 7


def features_of(num_frames: int) -> FrameFeatures:
    shapes = ((num_frames, 16, 64, 64), (num_frames, 32, 32, 32), (num_frames, 128, 16, 16))
    fine, middle, coarse = (torch.zeros(shape) for shape in shapes)
    return FrameFeatures((fine, middle, coarse), (12, 20))


def prompt(frame: int = 0, number: int = 0, size_hw: tuple[int, int] = (12, 20)) -> MaskPrompt:
    return MaskPrompt(frame, number, torch.ones(size_hw, dtype=torch.bool))


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([prompt(), prompt()], "object 0 has two prompts"),
        ([prompt(frame=3)], "prompted in frame 3, but there are 3"),
        ([prompt(size_hw=(3, 4))], r"the mask of object 0 is \(3, 4\), the frames are \(12, 20\)"),
        ([MaskPrompt(0, 0, torch.ones(12, 20))], "not boolean"),
    ],
)
def test_a_wrong_prompt_is_named(prompts: list[MaskPrompt], words: str):
    with pytest.raises(UsageError, match=words):
        next(a_segmenter(build_network(mini_config())).propagate(features_of(3), prompts))


def test_frames_in_order_and_as_many_as_asked_for():
    segmenter = a_segmenter(random_network(mini_config()))
    features = features_of(5)
    prompts = [prompt(frame=1), prompt(frame=3, number=1)]
    forwards = list(segmenter.propagate(features, prompts))
    assert [frame for frame, _ in forwards] == [1, 2, 3, 4]
    assert [frame for frame, _ in segmenter.propagate(features, prompts, reverse=True)] == [3, 2, 1, 0]
    assert [frame for frame, _ in segmenter.propagate(features, prompts, max_frames=2)] == [1, 2]
    assert list(segmenter.propagate(features, [])) == []
    before_its_prompt = forwards[0][1][1]
    assert before_its_prompt.shape == (12, 20)
    assert (before_its_prompt < -1000).all()


def test_the_callers_modes_stay_the_callers():
    segmenter = a_segmenter(random_network(mini_config()))
    for _ in segmenter.propagate(features_of(2), [prompt()]):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")


def test_counts_are_padded_to_few_sizes():
    assert padding(5, torch.device("cuda")) == 1
    assert padding(5, CPU) == 0
    assert [bucket(count) for count in (1, 5, 7, 13, 17, 32, 33, 49)] == [1, 6, 8, 16, 24, 32, 48, 64]
