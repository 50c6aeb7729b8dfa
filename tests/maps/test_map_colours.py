import numpy as np
import pytest
from maps.moving_shapes import blur_and_noise, border_distance_px, moving_ids

from hierasurg_core.errors import DataError
from hierasurg_core.maps import colour_map, decode_colours, palette_rgb_N3


def test_palette_is_tab20_at_i_over_n():
    blue, light_blue, orange, green, purple, pink, olive = (
        (31, 119, 180), (174, 199, 232), (255, 127, 14), (44, 160, 44), (148, 103, 189), (227, 119, 194),
        (188, 189, 34),
    )  # fmt: skip
    assert [tuple(c) for c in palette_rgb_N3(1).tolist()] == [blue]
    assert [tuple(c) for c in palette_rgb_N3(5).tolist()] == [blue, green, purple, pink, olive]
    assert [tuple(c) for c in palette_rgb_N3(20)[:3].tolist()] == [blue, light_blue, orange]
    # 3 / 20 and 7 / 20 are not exact in binary; tab20 is asked for 2.9999... or 3, and takes 3
    assert len({tuple(c) for c in palette_rgb_N3(20).tolist()}) == 20


@pytest.mark.parametrize("count", [0, 21])
def test_palette_refuses_what_tab20_cannot_tell_apart(count: int):
    with pytest.raises(DataError, match=f"{count} levels"):
        palette_rgb_N3(count)


def test_colours_follow_the_rank_of_a_level_not_its_id():
    map_FHW = np.array([[[3, 7], [9, 3]]], np.uint8)
    painted = colour_map(map_FHW, (3, 7, 9))
    assert painted.tolist() == palette_rgb_N3(3)[[[[0, 1], [2, 0]]]].tolist()
    assert np.array_equal(decode_colours(painted, (3, 7, 9)), map_FHW)


def test_colour_map_names_an_id_that_is_no_level():
    with pytest.raises(DataError, match=r"ids \[4\]"):
        colour_map(np.array([[[3, 4]]], np.uint8), (3,))


def test_clean_colours_decode_exactly():
    map_FHW = moving_ids(num_entities=18, num_frames=2)
    levels = np.unique(map_FHW).tolist()
    assert np.array_equal(decode_colours(colour_map(map_FHW, levels), levels), map_FHW)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blurred_and_noisy_colours_decode_to_the_right_objects(seed: int):
    map_FHW = moving_ids(num_entities=10, num_frames=16, size_hw=(256, 384), seed=seed)
    levels = np.unique(map_FHW).tolist()
    video_FHWC = blur_and_noise(colour_map(map_FHW, levels), blur_px=1, noise=0.02, seed=seed)
    decoded_FHW = decode_colours(video_FHWC, levels)
    right_FHW = decoded_FHW == map_FHW
    assert right_FHW.mean() >= 0.995
    assert right_FHW[border_distance_px(map_FHW) > 2].mean() >= 0.9999
    assert np.unique(decoded_FHW).tolist() == levels
    for level in levels:
        either = (decoded_FHW == level) | (map_FHW == level)
        assert (right_FHW & either).sum() / either.sum() > 0.7, f"level {level} is not found"


def test_floating_point_colours_decode_as_their_bytes_do():
    map_FHW = moving_ids(num_frames=1)
    levels = np.unique(map_FHW).tolist()
    video_FHWC = blur_and_noise(colour_map(map_FHW, levels), blur_px=1, noise=0.02)
    fractions = video_FHWC.astype(np.float32) / 255
    assert np.array_equal(decode_colours(fractions, levels), decode_colours(video_FHWC, levels))


def test_a_mix_of_two_colours_never_becomes_a_third():
    levels = list(range(12))
    palette = palette_rgb_N3(12).astype(np.float32)
    pairs = [(left, right) for left in levels for right in levels]
    shares = np.array([1, 1, 1, 1, 0.8, 0.45, 0.1, 0, 0, 0, 0], np.float32)[:, None]
    rows = np.stack([shares * palette[left] + (1 - shares) * palette[right] for left, right in pairs])
    video = np.repeat(rows.round().astype(np.uint8)[:, None], 6, axis=1)
    for pair, map_HW in zip(pairs, decode_colours(video, levels), strict=True):
        assert set(np.unique(map_HW)) <= set(pair)


def test_the_known_first_map_is_kept():
    first = np.array([[0, 1], [1, 0]], np.uint8)
    video = colour_map(np.zeros((2, 2, 2), np.uint8), (0, 1))
    decoded = decode_colours(video, (0, 1), first)
    assert decoded.tolist() == [[[0, 1], [1, 0]], [[0, 0], [0, 0]]]
    with pytest.raises(DataError, match="first map"):
        decode_colours(video, (0, 1), first[:1])
