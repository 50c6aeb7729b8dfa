from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.pairs import first_frame_fidelity, psnr_F, ssim_F, warp_error


def noise(frames: int = 1, height: int = 13, width: int = 12, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


def texture(height: int = 64, width: int = 96):
    """Smooth random colours, whose motion optical flow can see."""
    blurred = cv2.GaussianBlur(noise(1, height, width)[0].astype(np.float32), (0, 0), 3)
    return np.clip((blurred - 127) * 6 + 127, 0, 255).astype(np.uint8)


def test_psnr_by_hand():
    a_FHWC = np.zeros((3, 2, 2, 3), np.uint8)
    b_FHWC = a_FHWC.copy()
    b_FHWC[1] = 51
    b_FHWC[2, 0, 0] = 255
    # 0 -> capped; 20 log10(255 / 51); a quarter of the pixels off by all: 10 log10(4)
    assert psnr_F(a_FHWC, b_FHWC).round(4).tolist() == [100.0, 13.9794, 6.0206]


def ssim_by_loops(a_HW, b_HW) -> float:
    x = np.arange(11) - 5
    weight = np.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for row in range(a_HW.shape[0] - 10):
        for column in range(a_HW.shape[1] - 10):
            a, b = (z[row : row + 11, column : column + 11].astype(float) for z in (a_HW, b_HW))
            ma, mb = (weight * a).sum(), (weight * b).sum()
            va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
            cov = (weight * (a - ma) * (b - mb)).sum()
            top = (2 * ma * mb + 6.5025) * (2 * cov + 58.5225)
            values.append(top / ((ma**2 + mb**2 + 6.5025) * (va + vb + 58.5225)))
    return float(np.mean(values))


def test_ssim_as_loops_say():
    a_FHWC, b_FHWC = noise(2), noise(2, seed=1) // 2
    expected = [
        np.mean([ssim_by_loops(a[..., c], b[..., c]) for c in range(3)])
        for a, b in zip(a_FHWC, b_FHWC, strict=True)
    ]
    np.testing.assert_allclose(ssim_F(a_FHWC, b_FHWC), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim_F(a_FHWC, a_FHWC), 1, rtol=1e-12)


def test_ssim_of_flat_pictures_by_hand():
    a_FHWC, b_FHWC = np.full((1, 11, 11, 3), 100, np.uint8), np.full((1, 11, 11, 3), 200, np.uint8)
    assert ssim_F(a_FHWC, b_FHWC)[0] == pytest.approx((2 * 100 * 200 + 6.5025) / (100**2 + 200**2 + 6.5025))


def test_only_the_first_frame_counts_for_its_fidelity():
    video_FHWC = noise(3)
    assert first_frame_fidelity(video_FHWC, video_FHWC[0]).psnr_db == 100
    assert first_frame_fidelity(video_FHWC, video_FHWC[0]).ssim == pytest.approx(1)
    assert first_frame_fidelity(video_FHWC, video_FHWC[1]).psnr_db < 15


def test_a_moving_picture_has_hardly_any_warp_error():
    big_HWC = texture(64, 120)
    moving_FHWC = np.stack([big_HWC[:, 2 * index : 2 * index + 96] for index in range(5)])
    result = warp_error(moving_FHWC)
    unmoved = np.mean((moving_FHWC[1:] / 255 - moving_FHWC[:-1] / 255) ** 2)
    assert result.error < 0.02 * unmoved
    assert result.visible > 0.9
    assert result.motion_px == pytest.approx(2, abs=0.2)


def test_a_still_picture_has_no_motion_and_flicker_has_error():
    still_FHWC = np.repeat(texture()[None], 4, axis=0)
    still = warp_error(still_FHWC)
    assert still.error < 1e-6
    assert still.motion_px < 0.01
    assert still.visible > 0.99
    flicker_FHWC = still_FHWC.copy()
    flicker_FHWC[1::2] //= 2
    assert warp_error(flicker_FHWC).error > 0.01


def test_noise_is_no_perfect_video():
    assert warp_error(noise(4, 48, 64)).error > 0.01


@pytest.mark.parametrize(
    ("a_FHWC", "b_FHWC", "message"),
    [
        (noise(2), noise(3), "2 frames of 13x12 with 3 frames of 13x12"),
        (noise(), noise(1, 12, 12), "1 frames of 13x12 with 1 frames of 12x12"),
        (noise().astype(np.float32), noise(), "not float32"),
        (noise()[0], noise()[0], "frames, rows, columns, 3"),
        (noise(1, 10, 20), noise(1, 10, 20), "11 x 11 px"),
    ],
)
def test_what_cannot_be_compared_is_refused(a_FHWC, b_FHWC, message: str):
    with pytest.raises(DataError, match=message):
        ssim_F(a_FHWC, b_FHWC)


def test_threads_change_no_number():
    video_FHWC = np.stack([np.roll(texture(), step, axis=1) for step in (0, 2, 3, 5)])
    with ThreadPoolExecutor(3) as pool:
        assert warp_error(video_FHWC, each=pool.map) == warp_error(video_FHWC)
        threaded = ssim_F(video_FHWC, video_FHWC[::-1], each=pool.map)
    np.testing.assert_array_equal(threaded, ssim_F(video_FHWC, video_FHWC[::-1]))


def test_warp_error_needs_two_frames():
    with pytest.raises(DataError, match="two frames of 16 x 16"):
        warp_error(noise(1, 32, 32))
