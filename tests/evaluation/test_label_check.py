"""`label --check` on maps whose scores can be told by hand."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hierasurg_core.config import LabelConfig
from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.label_check import check_labels, compare_clips, temporal_iou
from hierasurg_core.maps import PanopticClip, save_clip, save_map_png
from hierasurg_core.progress import SilentProgress


def square(column: int) -> NDArray[np.uint8]:
    """An entity of 4x4 on background, in 8x12."""
    map_HW = np.full((8, 12), 1, np.uint8)
    map_HW[2:6, column : column + 4] = 0
    return map_HW


def clip(*columns: int) -> PanopticClip:
    return PanopticClip(np.stack([square(column) for column in columns]), 1)


def checked(found: Path, truth: Path) -> dict[str, object]:
    return check_labels(LabelConfig(videos=found, check=truth), SilentProgress()).to_dict()


def test_an_entitys_overlap_with_itself_a_second_before() -> None:
    assert temporal_iou(clip(0, 0, 2)) == pytest.approx((1 + 8 / 24) / 2)
    assert temporal_iou(clip(0)) is None


def test_equal_maps_score_one_and_shifted_ones_by_their_overlap() -> None:
    same = compare_clips(clip(0, 1), clip(0, 1))
    assert (same.panoptic_quality, same.mean_iou, same.boundary_f, same.id_consistency) == (1, 1, 1, 1)
    shifted = compare_clips(clip(0, 0), clip(1, 1))
    assert shifted.panoptic_quality == shifted.mean_iou == pytest.approx(12 / 20)
    assert compare_clips(clip(0), clip(4)).panoptic_quality == 0


def test_true_maps_of_another_size_are_fitted() -> None:
    small = PanopticClip(clip(0).map_FHW[:, ::2, ::2], 1)
    assert compare_clips(small, clip(0)).panoptic_quality == 1


def test_a_folder_of_clips_against_pngs_with_gaps(tmp_path: Path) -> None:
    found, truth = tmp_path / "found", tmp_path / "truth"
    for name in ("video01", "video02", "video03"):
        (found / f"{name}_masks").mkdir(parents=True)
        for start in range(4):
            save_clip(found / f"{name}_masks" / f"{start:06d}.pkl", clip(*[0] * 16))
    for name, column in (("video01", 0), ("video02", 4)):
        (truth / f"{name}_masks").mkdir(parents=True)
        for second in (0, 1, 2, 9, 18, 30):
            save_map_png(truth / f"{name}_masks" / f"{second:06d}.png", square(column), 1)
    said = checked(found, truth)
    assert list(said) == ["maps", "truth", "videos", "mean", "failures", "skipped"]
    assert said["skipped"] == [
        {"path": str(found / "video03_masks"), "reason": f"{truth} holds no true maps of it"}
    ]
    videos, mean = said["videos"], said["mean"]
    assert isinstance(videos, list)
    assert isinstance(mean, dict)
    assert [video["name"] for video in videos] == ["video01", "video02"]
    assert [video["panoptic_quality"] for video in videos] == [1, 0]
    assert [video["frames"] for video in videos] == [5, 5]  # there is no map of second 30
    assert mean["panoptic_quality"] == 0.5
    assert mean["frames"] == 10


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    found, truth = tmp_path / "found", tmp_path / "truth"
    with pytest.raises(DataError, match="there is no folder"):
        checked(found, truth)
    truth.mkdir()
    with pytest.raises(DataError, match="found holds no maps"):
        checked(found, truth)
    (found / "video01_masks").mkdir(parents=True)
    save_clip(found / "video01_masks" / "000000.pkl", clip(*[0] * 16))
    with pytest.raises(DataError, match="holds no true maps of the 1 videos"):
        checked(found, truth)
    (truth / "video01_masks").mkdir()
    save_map_png(truth / "video01_masks" / "000099.png", square(0), 1)
    with pytest.raises(DataError, match="video01: no second has both"):
        checked(found, truth)
    (found / "video01_masks" / "000000.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    (truth / "video01_masks" / "000000.png").write_bytes(
        (truth / "video01_masks" / "000099.png").read_bytes()
    )
    with pytest.raises(DataError, match=r"asks for os\.system"):
        checked(found, truth)
