"""Videos and frames through a tiny VAE."""

import pytest
import torch
from models.tiny_models import tiny_vae

from hierasurg_core.models import decode_frames, decode_video, encode_frames, encode_video, single_frame_vae


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_a_video_keeps_its_axes_and_its_scale():
    vae = tiny_vae(scaling_factor=0.5)
    latents = encode_video(vae, pixels(2, 3, 17, 16, 24))
    assert latents.shape == (2, 5, 16, 2, 3)
    posterior = vae.encode(pixels(2, 3, 17, 16, 24), return_dict=False)[0]
    torch.testing.assert_close(latents[:, :, 7], 0.5 * posterior.mean[:, 7])
    video = decode_video(vae, latents)
    assert video.shape == (2, 3, 17, 16, 24)
    torch.testing.assert_close(video, vae.decode(posterior.mean, return_dict=False)[0])


@torch.no_grad()
def test_a_draw_from_the_posterior_is_seeded():
    vae = tiny_vae()
    video = pixels(1, 3, 5, 16, 16)
    draws = [encode_video(vae, video, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@torch.no_grad()
@pytest.mark.parametrize("frames_at_once", [1, 2, None])
def test_frames_alone_do_not_see_each_other(frames_at_once: int | None):
    vae = tiny_vae()
    frames = pixels(2, 3, 3, 16, 24)
    latents = encode_frames(vae, frames, frames_at_once=frames_at_once)
    decoded = decode_frames(vae, latents, frames_at_once)
    assert latents.shape == (2, 3, 16, 2, 3)
    assert decoded.shape == frames.shape
    alone = encode_video(vae, frames[1, 2][None, :, None])
    torch.testing.assert_close(latents[1, 2], alone[0, 0])
    torch.testing.assert_close(decoded[1, 2], decode_video(vae, alone)[0, :, 0])


@torch.no_grad()
def test_the_flat_copy_codes_single_frames_alike():
    vae = tiny_vae()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    flat = single_frame_vae(vae)
    frames = pixels(1, 3, 3, 16, 24)
    latents = encode_frames(vae, frames)
    torch.testing.assert_close(encode_frames(flat, frames), latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        decode_frames(flat, latents), decode_frames(vae, latents), rtol=1e-4, atol=1e-4
    )
    assert sum(p.numel() for p in flat.parameters()) < 0.5 * sum(p.numel() for p in vae.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize("shape", [(1, 3, 16, 16, 16), (1, 3, 17, 16, 20)])
def test_sizes_that_do_not_divide_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"frames must be 4k \+ 1, sides divisible by 8"):
        encode_video(tiny_vae(), torch.zeros(shape))


def test_large_frames_are_coded_few_at_once():
    """The widths of CogVideoX-2b at 256x384: above 14 frames diffusers' convolution would split one frame."""
    from hierasurg_core.models.latents import _frames_that_fit

    with torch.device("meta"):
        vae = tiny_vae(block_out_channels=(128, 256, 256, 512), norm_num_groups=32)
    assert _frames_that_fit(vae, 256, 384) == 8
    assert _frames_that_fit(vae, 480, 720) == 4
    assert _frames_that_fit(vae, 1080, 1920) == 1
