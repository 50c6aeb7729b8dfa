import numpy as np
import pytest

from hierasurg_core.datasets.augment import (
    Augmentation,
    clip_draws,
    draw_augmentation,
    first_frame_variants,
    inpaint_entity,
    without_entity,
)
from hierasurg_core.maps import PanopticClip

MAPS = PanopticClip(np.array([[[0, 1, 1], [3, 2, 3]]], np.uint8), num_entities=2)


def test_draws_depend_on_seed_clip_epoch_and_kind_alone() -> None:
    def draw(seed: int, clip: str, epoch: int, what: str) -> float:
        return float(clip_draws(seed, clip, epoch, what).random())

    base = (0, "video01/000003", 0, "noise")
    others = [
        (1, *base[1:]),
        (0, "video01/000004", 0, "noise"),
        (*base[:2], 1, "noise"),
        (*base[:3], "flips"),
    ]
    assert draw(*base) == draw(*base)
    assert len({draw(*base), *(draw(*other) for other in others)}) == 5


def test_flips_and_dropout_come_as_often_as_asked() -> None:
    drawn = [
        draw_augmentation(clip_draws(0, str(clip), 0, "augmentation"), MAPS, flip=0.3, dropout=0.2)
        for clip in range(2000)
    ]
    assert np.mean([change.left_right for change in drawn]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([change.up_down for change in drawn]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([change.dropped is not None for change in drawn]) == pytest.approx(0.2, abs=0.03)
    assert {change.dropped for change in drawn} == {None, 0, 1}  # never background 2 or border 3
    nothing = draw_augmentation(np.random.default_rng(0), MAPS, flip=0, dropout=0)
    assert nothing == Augmentation()


@pytest.mark.parametrize(
    ("change", "flipped"),
    [
        (Augmentation(), [[0, 1, 1], [3, 2, 3]]),
        (Augmentation(left_right=True), [[1, 1, 0], [3, 2, 3]]),
        (Augmentation(up_down=True), [[3, 2, 3], [0, 1, 1]]),
        (Augmentation(left_right=True, up_down=True), [[3, 2, 3], [1, 1, 0]]),
    ],
)
def test_frames_and_maps_flip_together(change: Augmentation, flipped: list[list[int]]) -> None:
    assert change.flip(MAPS.map_FHW).tolist() == [flipped]
    frames_FHWC = np.repeat(MAPS.map_FHW[..., None], 3, axis=-1)
    assert change.flip(frames_FHWC)[..., 1].tolist() == [flipped]


def test_dropped_object_becomes_background() -> None:
    without = without_entity(MAPS, 1)
    assert without.map_FHW.tolist() == [[[0, 2, 2], [3, 2, 3]]]
    assert without.max_id == MAPS.max_id


def test_inpainting_fills_from_the_surroundings() -> None:
    frame_HWC = np.full((32, 32, 3), 100, np.uint8)
    hole_HW = np.zeros((32, 32), bool)
    hole_HW[10:20, 10:20] = True
    frame_HWC[hole_HW] = 255
    filled_HWC = inpaint_entity(frame_HWC, hole_HW).astype(int)
    assert abs(filled_HWC - 100).max() <= 2
    assert (frame_HWC[hole_HW] == 255).all()
    assert inpaint_entity(frame_HWC, np.zeros((32, 32), bool)) is frame_HWC


def test_first_frames_are_clean_and_then_noisy() -> None:
    frame_HWC = np.full((40, 60, 3), 255, np.uint8)
    strengths = []
    for clip in range(200):
        frames = first_frame_variants(clip_draws(0, str(clip), 0, "noise"), frame_HWC, 2)
        assert frames.dtype == np.float32
        assert (frames[0] == 1).all()
        strengths.append(float(np.log(frames[1].std())))
    assert np.mean(strengths) == pytest.approx(-3, abs=0.1)
    assert np.std(strengths) == pytest.approx(0.5, abs=0.08)
