"""Figures of videos by hand."""

import numpy as np
import pytest
import torch

from hierasurg_core.maps import PanopticClip
from hierasurg_core.phantom.held_out import HeldOutClip, held_out_clips
from hierasurg_core.phantom.video_scores import (
    edges_of,
    moved_of,
    outline_of,
    psnr,
    psnr_where,
    score_video,
    triplets_seen,
    widened,
)


def grey(frames: int, value: int = 0) -> np.ndarray:
    return np.full((frames, 12, 16, 3), value, np.uint8)


def test_psnr_by_hand():
    a = np.zeros((1, 2, 2, 3), np.uint8)
    b = np.full((1, 2, 2, 3), 51, np.uint8)
    assert round(psnr(a, b), 3) == 13.979  # 20 log10(255 / 51)


def test_psnr_of_some_pixels():
    a, b = grey(1), grey(1)
    b[0, 0, 0] = 51
    where = np.zeros((1, 12, 16), bool)
    assert psnr_where(a, b, where) is None
    where[0, 0, 0] = True
    assert round(psnr_where(a, b, where) or 0, 3) == 13.979
    where[0, 0, 1:4] = True  # a quarter of the error: 6.02 dB more
    assert round(psnr_where(a, b, where) or 0, 2) == 20.0


def test_what_moved_differs_from_the_first_frame():
    map_FHW = np.array([[[0, 1, 2]], [[1, 1, 2]], [[0, 0, 2]]], np.uint8)
    assert moved_of(map_FHW).tolist() == [
        [[False] * 3],
        [[True, False, False]],
        [[False, True, False]],
    ]


def test_a_band_and_an_outline():
    mask = np.zeros((1, 12, 16), bool)
    mask[0, 4:8, 4:8] = True
    assert widened(mask, 2).sum() == 64  # 8x8
    outline = outline_of(mask)
    assert outline.sum() == 36 - 4  # 6x6 without the inner 2x2
    assert not outline[0, 5, 5]
    assert outline[0, 3, 3]


def test_edges_by_hand():
    true, made, mirrored = grey(1), grey(1), grey(1)
    true[:, :, 8:] = 100
    made[:, :, 8:] = 50
    mirrored[:, :, :8] = 100
    mask = np.zeros((1, 12, 16), bool)
    mask[:, :, 8:] = True
    outline = outline_of(mask)
    assert outline.sum() == 24  # both columns at the step
    assert edges_of(made, true, outline) == pytest.approx((0.5, 0.5))
    assert edges_of(mirrored, true, outline) == pytest.approx((1.0, -1.0))
    assert edges_of(true, grey(1), outline) == (None, None)
    assert edges_of(true, true, np.zeros_like(outline)) == (None, None)


def test_a_video_is_measured_without_its_first_frame():
    ids = np.full((3, 12, 16), 1, np.uint8)
    ids[1:, :4, :4] = 0  # an instrument that comes
    truth = grey(3, 100)
    truth[1:, :4, :4] = 200
    clip = HeldOutClip(truth, PanopticClip(ids, 1), 0, 0, (0,))
    made = truth.copy()
    made[0] = 0
    assert score_video(made, clip).db > 100
    made[1:, :4, :4] = 149  # 51 off in all 16 pixels of the instrument
    found = score_video(made, clip)
    assert round(found.moved_db or 0, 3) == 13.979
    assert round(found.instruments_db or 0, 2) == 17.5  # 16 of the 36 pixels of the band: 3.52 dB more
    assert round(found.db, 2) == 24.77  # 16 of 192: 10.79 dB more
    assert round(found.edges or 0, 2) == 0.49
    without = HeldOutClip(truth, PanopticClip(np.ones_like(ids), 1), 0, 0, ())
    nothing = score_video(made, without)
    assert (nothing.instruments_db, nothing.moved_db, nothing.edges) == (None, None, None)


def test_the_classifier_sees_what_is_done_and_not_in_a_grey_video():
    clips = held_out_clips(8)
    seen = triplets_seen([clip.video_FHWC for clip in clips], torch.device("cpu"), batch=3)
    assert sum(a == clip.triplet for a, clip in zip(seen, clips, strict=True)) >= 6
    blank = triplets_seen([np.full_like(clip.video_FHWC, 90) for clip in clips], torch.device("cpu"), 8)
    assert len(set(blank)) == 1
