"""Automatic masks: sam2's own generator on features that are there already."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from labeling.sam_predictors import phantom_clip
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

from hierasurg_core.labeling.automatic import (
    AutomaticThresholds,
    _apart,
    automatic_masks,
    boxes_of,
    grid_points,
    without_specks,
)
from hierasurg_core.labeling.segmenter import Segmenter, as_network, build_mini_network

CPU = torch.device("cpu")

EVERYTHING = AutomaticThresholds(
    points_per_side=2,
    crop_layers=0,
    predicted_iou=0.0,
    stability=0.0,
    refine_above=0.0,
    refine_area_px=(0, math.inf),
    refine_duplicates=True,
    box_nms=1.0,
)


def test_masks_are_those_of_sam2s_own_generator():
    torch.manual_seed(1)
    module: Any = build_mini_network()
    frames_FHWC, _, _ = phantom_clip(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script of its transforms
        generator = SAM2AutomaticMaskGenerator(
            module,
            points_per_side=4,
            pred_iou_thresh=0.1,
            stability_score_thresh=0.05,
            stability_score_offset=0.02,
            box_nms_thresh=1.0,  # random masks all have the whole frame's box
            use_m2m=True,
        )
        generator.predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]
        theirs = generator.generate(frames_FHWC[0])
    segmenter = Segmenter(module, name="mini", digest="random", device=CPU)
    thresholds = replace(
        EVERYTHING,
        points_per_side=4,
        predicted_iou=0.1,
        stability=0.05,
        stability_offset=0.02,
        min_region_px=0,
    )
    ours = segmenter.automatic(segmenter.encode(frames_FHWC), frames_FHWC, thresholds)[0]
    assert len(ours) == len(theirs) > 10
    expected_NHW = np.stack([one["segmentation"] for one in theirs])
    for mask_HW in ours.mask_NHW.numpy():
        assert (expected_NHW ^ mask_HW).mean((1, 2)).min() < 1e-3
    expected_N = sorted((float(one["predicted_iou"]) for one in theirs), reverse=True)
    np.testing.assert_allclose(ours.score_N.numpy(), expected_N, atol=1e-4)
    assert (ours.score_N.diff() <= 0).all()


def test_candidates_below_the_score_are_dropped_and_no_mask_is_no_error():
    module = build_mini_network()
    segmenter = Segmenter(module, name="mini", digest="random", device=CPU)
    features = segmenter.encode(np.zeros((2, 24, 36, 3), np.uint8))
    for thresholds in (AutomaticThresholds(refine_above=1.1), AutomaticThresholds(predicted_iou=1.1)):
        found = automatic_masks(as_network(module), features, thresholds, device=CPU)
        assert [frame.mask_NHW.shape for frame in found] == [(0, 24, 36)] * 2
        assert [len(frame) for frame in found] == [0, 0]


def test_points_lie_on_the_frame_and_denser_in_the_crops():
    points = grid_points(AutomaticThresholds(), (480, 854))
    assert points.shape == (64 + 4 * 16, 2)
    assert points.min() > 0
    assert points.max() < 1
    torch.testing.assert_close(points[0], torch.tensor([1 / 16, 1 / 16]))
    # sam2's crops at 480x854: 509 x 322 pixels, the second one begins at 345.
    torch.testing.assert_close(points[64], torch.tensor([509 / 8 / 854, 322 / 8 / 480]), atol=1e-3, rtol=0)
    torch.testing.assert_close(points[-1], 1 - points[64], atol=1e-6, rtol=0)
    assert len(grid_points(AutomaticThresholds(crop_layers=0), (480, 854))) == 64


def test_specks_and_holes_go_and_the_largest_island_stays():
    mask = np.zeros((9, 12), bool)
    mask[1:7, 1:7] = True
    mask[3, 3] = False  # a hole of one pixel
    mask[8, 11] = True  # an island of one pixel
    cleaned = without_specks(mask, 4)
    expected = np.zeros((9, 12), bool)
    expected[1:7, 1:7] = True
    np.testing.assert_array_equal(cleaned, expected)
    np.testing.assert_array_equal(without_specks(mask, 0.5), mask)
    low = np.zeros((9, 12), bool)
    low[3:9, 2:9] = True
    low[8, 4] = False  # a hole at the frame's edge is ground that goes nowhere
    assert without_specks(low, 4)[8, 4]
    small = np.zeros((9, 12), bool)
    small[2, 2:4] = True
    small[6, 6] = True
    kept = without_specks(small, 10)
    assert kept.sum() == 2
    assert kept[2, 2]
    empty = np.zeros((9, 12), bool)
    np.testing.assert_array_equal(without_specks(empty, 10), empty)


def test_candidates_no_object_could_come_from_are_not_refined():
    segmenter = Segmenter(build_mini_network(), name="mini", digest="random", device=CPU)
    features = segmenter.encode(np.zeros((1, 24, 36, 3), np.uint8))
    assert len(segmenter.automatic(features, thresholds=EVERYTHING)[0]) > 4
    for other in ({"refine_area_px": (0, 1)}, {"refine_area_px": (480 * 854, math.inf)}):
        assert len(segmenter.automatic(features, thresholds=replace(EVERYTHING, **other))[0]) == 0


def test_of_boxes_that_overlap_the_better_one_stays():
    box = torch.tensor([[0, 0, 8, 4], [0, 0, 8, 3], [0, 5, 8, 8], [0, 0, 8, 4]]).float()
    rank = torch.tensor([0.5, 0.9, 0.1, 0.4])
    assert _apart(box, rank, 0.7).tolist() == [1, 2]
    assert _apart(box, rank, 0.75).tolist() == [1, 0, 2]  # as much is not more
    assert _apart(box[:0], rank[:0], 0.7).tolist() == []


def test_boxes_end_behind_the_last_pixel():
    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    assert boxes_of(masks).tolist() == [[2, 1, 6, 3], [0, 0, 0, 0]]
