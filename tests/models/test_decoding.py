import copy

import pytest
import torch
from models.tiny_models import tiny_vae
from torch import Tensor

from hierasurg_core.models import decode_video, lay_channels_last, single_frame_vae, take_tiles
from hierasurg_core.models.decoding import decode_latents, is_channels_last


def latents(frames: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, frames, 4, 6, generator=torch.Generator().manual_seed(frames))


@pytest.fixture(scope="module")
def vae():
    return tiny_vae().requires_grad_(False)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 13])
def test_the_shorter_way_gives_what_diffusers_gives(vae, frames: int):
    given = latents(frames, batch=2)
    expected = vae.decode(given, return_dict=False)[0]
    assert torch.allclose(decode_latents(vae, given), expected, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_channels_last_gives_the_same(vae, frames: int):
    other = copy.deepcopy(vae)
    lay_channels_last(other.decoder)
    assert is_channels_last(other)
    assert not is_channels_last(vae)
    given = latents(frames, batch=2)
    assert torch.allclose(decode_latents(other, given), decode_latents(vae, given), atol=3e-5)


def test_the_copy_for_single_frames_decodes_alike(vae):
    given = latents(1, batch=3)
    expected = vae.decode(given, return_dict=False)[0]
    assert torch.allclose(decode_latents(single_frame_vae(vae), given), expected, atol=1e-5)


@pytest.mark.slow
def test_compiled_passes_give_the_same(vae, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hierasurg_core.models.decoding._WORTH_COMPILING", 1)
    other = copy.deepcopy(vae)
    lay_channels_last(other.decoder)
    given = latents(1)
    assert torch.allclose(decode_latents(other, given, compiled=True), decode_latents(vae, given), atol=3e-5)


def test_tiles_are_taken_where_the_vae_was_told_to(vae):
    tiled = copy.deepcopy(vae)
    tiled.enable_tiling(tile_sample_min_height=48, tile_sample_min_width=80)
    given = torch.randn(1, 1, 16, 12, 18, generator=torch.Generator().manual_seed(0))
    whole = decode_video(vae, given)
    assert decode_video(tiled, given).shape == whole.shape
    assert not torch.allclose(decode_video(tiled, given), whole, atol=1e-4)


@torch.no_grad()
def test_tiles_of_a_vae_that_was_made_for_small_frames_fit_together():
    # Half of 128x192, diffusers' own tiles, would give 534x765 pixels.
    small = tiny_vae(block_out_channels=(4, 4, 4, 4), norm_num_groups=2, sample_height=128, sample_width=192)
    whole = torch.randn(1, 1, 16, 60, 90, generator=torch.Generator().manual_seed(0))
    expected = decode_video(small, whole)
    take_tiles(small)
    tiled = decode_video(small, whole)
    assert tiled.shape == expected.shape == (1, 3, 1, 480, 720)
    assert (tiled - expected).std() < 0.1 * expected.std()  # 1.3 where a tile lies 8 pixels beside its place
