"""True maps in every form: ours, indexed PNGs, painted masks, and CholecSeg8k's folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hierasurg_core.errors import DataError
from hierasurg_core.labeling.truth import ColourTruth, FileTruth, find_truth, ids_of_colours
from hierasurg_core.maps import PanopticClip, save_clip, save_map_png
from hierasurg_core.pictures import write_png

LIVER, GRASPER, OUTSIDE, OUTLINE = (255, 114, 114), (170, 255, 0), (127, 127, 127), (255, 255, 255)


def painted(*colours: tuple[int, int, int]) -> np.ndarray:
    """A row of pixels."""
    return np.array([colours], np.uint8)


def test_a_colour_is_an_entity_and_grey_is_outside() -> None:
    clip = ids_of_colours(painted(LIVER, GRASPER, OUTSIDE, OUTLINE)[None], "mask")
    assert clip.num_entities == 2
    assert clip.map_FHW.tolist() == [[[1, 0, 3, 2]]]  # by their colours' order, background, border
    assert ids_of_colours(painted((0, 0, 0), LIVER)[None], "mask").map_FHW.tolist() == [[[2, 0]]]


def test_a_photograph_is_no_mask() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3)).astype(np.uint8)
    with pytest.raises(DataError, match="photo has 400 colours: it is no mask"):
        ids_of_colours(noise, "photo")


def test_maps_of_ours_in_both_forms(tmp_path: Path) -> None:
    map_HW = np.array([[0, 1], [2, 2]], np.uint8)
    for second in (0, 1, 4):
        (tmp_path / "video01_masks").mkdir(exist_ok=True)
        save_map_png(tmp_path / "video01_masks" / f"{second:06d}.png", map_HW, 1)
    truth = find_truth(tmp_path, "video01")
    assert isinstance(truth, FileTruth)
    assert truth.seconds == (0, 1, 4)
    assert truth.clip(0, 2).map_FHW.shape == (2, 2, 2)
    (tmp_path / "video02_masks").mkdir()
    save_clip(tmp_path / "video02_masks" / "000003.pkl", PanopticClip(np.stack([map_HW] * 16), 1))
    other = find_truth(tmp_path / "video02_masks", "video02")
    assert other is not None
    assert other.seconds == tuple(range(3, 19))
    assert find_truth(tmp_path, "video03") is None


def test_painted_masks_by_their_second(tmp_path: Path) -> None:
    (tmp_path / "video01_masks").mkdir()
    write_png(tmp_path / "video01_masks" / "000000.png", painted(LIVER, OUTSIDE))
    write_png(tmp_path / "video01_masks" / "000001.png", painted(GRASPER, LIVER))
    truth = find_truth(tmp_path, "video01")
    assert isinstance(truth, ColourTruth)
    assert truth.clip(0, 2).map_FHW.tolist() == [[[1, 3]], [[0, 1]]]
    write_png(tmp_path / "video01_masks" / "000001.png", painted(GRASPER))
    with pytest.raises(DataError, match=r"000001\.png is of another size than"):
        truth.clip(0, 2)


def test_cholecseg8k_counts_25_frames_a_second(tmp_path: Path) -> None:
    for first in (75, 160):
        folder = tmp_path / "video01" / f"video01_{first:05d}"
        folder.mkdir(parents=True)
        for frame in range(first, first + 80):
            for kind in ("color_mask", "watershed_mask"):
                Image.new("RGB", (4, 2), LIVER).save(folder / f"frame_{frame}_endo_{kind}.png")
    truth = find_truth(tmp_path, "video01")
    assert truth is not None
    assert truth.seconds == (3, 4, 5, 6, 7, 8, 9)
    assert truth.clip(3, 3).num_entities == 1


def test_a_damaged_truth_is_named(tmp_path: Path) -> None:
    (tmp_path / "video01_masks").mkdir()
    (tmp_path / "video01_masks" / "000000.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"cannot read the map .*000000\.png"):
        find_truth(tmp_path, "video01")
