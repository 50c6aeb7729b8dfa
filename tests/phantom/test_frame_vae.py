from pathlib import Path

import pytest
import torch

from hierasurg_core.models import (
    AutoencoderKLCogVideoX,
    decode_video,
    encode_frames,
    encode_video,
    frames_a_latent,
    latent_frames,
    load_vae,
    single_frame_vae,
)
from hierasurg_core.phantom import frame_vae
from hierasurg_core.phantom.vae import unfinished_steps
from hierasurg_core.progress import SilentProgress


@pytest.fixture(scope="module")
def flat() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return frame_vae.without_time(AutoencoderKLCogVideoX(**frame_vae.FRAME_VAE_CONFIG)).eval()


def test_a_vae_that_got_its_time_axis_back_codes_a_frame_as_before(flat: AutoencoderKLCogVideoX):
    whole = frame_vae.with_time(flat).eval()
    frames = torch.rand(1, 3, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        expected = flat.encode(frames[0].unsqueeze(2), return_dict=False)[0].mode()[:, :, 0]
        scaled = expected * whole.config["scaling_factor"]
        torch.testing.assert_close(encode_frames(single_frame_vae(whole), frames)[0], scaled)
        # Also as a video: each frame alone, and as many latent frames as frames.
        latents = encode_video(whole, frames.transpose(1, 2))
        assert latents.shape == (1, 3, 16, 4, 6)
        torch.testing.assert_close(latents[0], scaled)
        back = decode_video(whole, latents)
        assert back.shape == (1, 3, 3, 32, 48)
        alone = flat.decode(expected[1:2].unsqueeze(2), return_dict=False)[0][:, :, 0]
        torch.testing.assert_close(back[:, :, 1], alone, atol=1e-4, rtol=1e-4)


def test_frames_of_a_clip_in_latent_frames():
    compressed = AutoencoderKLCogVideoX(**{**frame_vae.FRAME_VAE_CONFIG, "temporal_compression_ratio": 4})
    alone = AutoencoderKLCogVideoX(**frame_vae.FRAME_VAE_CONFIG)
    assert (frames_a_latent(compressed), latent_frames(compressed, 16), latent_frames(compressed, 48)) == (
        4,
        5,
        13,
    )
    assert (frames_a_latent(alone), latent_frames(alone, 16), latent_frames(alone, 48)) == (1, 16, 48)


def test_small_entities_and_what_lies_around_them_count_more():
    map_BFHW = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    map_BFHW[:, :, 20:24, 20:24] = 1
    weight = frame_vae.pixel_weights(map_BFHW, 3)[0, 0, 0]
    assert float(weight.mean()) == pytest.approx(1.0)
    assert weight[21, 21] == weight[18, 21] == weight.max()
    assert float(weight.max() / weight[0, 0]) == pytest.approx(min((0.05 / 0.01) ** 0.5, 4.0) / 0.25)


def test_training_goes_on_where_it_was(tmp_path: Path):
    def session(steps: int, seconds: float = 1e9) -> bool:
        return frame_vae.train_frame_vae(
            tmp_path,
            steps=steps,
            clips_per_step=1,
            seed=1,
            device=torch.device("cpu"),
            max_seconds=seconds,
            progress=SilentProgress(),
            size_hw=(32, 48),
        )

    assert not session(2, seconds=0.0)
    assert unfinished_steps(tmp_path) == 1
    assert session(2)
    assert unfinished_steps(tmp_path) == 0
    vae = load_vae(tmp_path / "vae", torch.float32, "cpu")
    assert frames_a_latent(vae) == 1
    with torch.no_grad():
        latents = encode_video(vae, torch.rand(1, 3, 2, 32, 48) * 2 - 1)
    assert bool(torch.isfinite(latents).all())
