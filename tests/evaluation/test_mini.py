"""The mini network: what its features depend on, and its folder."""

from pathlib import Path

import pytest
import torch

from hierasurg_core.artifacts import read_json, write_json
from hierasurg_core.errors import WeightsError
from hierasurg_core.evaluation.mini import MiniConfig, MiniVideoNet, load_mini, save_mini

SMALL = MiniConfig(stem=4, trunk=(4, 8), clip=(8, 8), frame_features=8, clip_features=8)


@pytest.fixture
def net() -> MiniVideoNet:
    torch.manual_seed(0)
    return MiniVideoNet(SMALL).eval()


def clip(seed: int = 0, frames: int = 8) -> torch.Tensor:
    return torch.rand(2, frames, 3, 32, 48, generator=torch.Generator().manual_seed(seed))


def test_shapes(net: MiniVideoNet):
    output = net(clip())
    assert output.clip_BD.shape == (2, 8)
    assert output.frame_BFD.shape == (2, 8, 8)
    assert output.phase_BN.shape == (2, 7)
    assert output.triplet_BN.shape == (2, 100)
    assert output.frame_phase_BFN.shape == (2, 8, 7)


def test_a_frames_features_are_its_own_and_a_clips_are_of_all_in_their_order(net: MiniVideoNet):
    video = clip()
    changed = video.clone()
    changed[:, 3] = 1 - changed[:, 3]
    before, after = net(video), net(changed)
    same = [frame for frame in range(8) if frame != 3]
    torch.testing.assert_close(before.frame_BFD[:, same], after.frame_BFD[:, same])
    assert (before.frame_BFD[:, 3] - after.frame_BFD[:, 3]).abs().max() > 1e-4
    shuffled = net(video[:, [0, 5, 2, 7, 4, 1, 6, 3]])
    assert (shuffled.clip_BD - before.clip_BD).abs().max() > 1e-6
    torch.testing.assert_close(shuffled.frame_BFD[:, 1], before.frame_BFD[:, 5])


def test_the_published_widths_take_any_length(net: MiniVideoNet):
    assert sum(p.numel() for p in MiniVideoNet().parameters()) < 1.4e6
    for frames in (4, 7, 16):
        assert net(clip(frames=frames)).clip_BD.isfinite().all()


def test_a_still_clip_may_be_one_frame(net: MiniVideoNet):
    video = clip()[:, :1].expand(-1, 6, -1, -1, -1)
    whole, short = net(video), net(video[:, :1], still=6)
    for name in ("clip_BD", "frame_BFD", "phase_BN", "frame_phase_BFN"):
        torch.testing.assert_close(getattr(short, name), getattr(whole, name), atol=1e-5, rtol=1e-4)


def test_a_saved_network_comes_back_as_fp16_kept_it(net: MiniVideoNet, tmp_path: Path):
    save_mini(net, tmp_path / "mini")
    again = load_mini(tmp_path / "mini")
    assert again.config == SMALL
    torch.testing.assert_close(again(clip()).clip_BD, net(clip()).clip_BD, atol=2e-3, rtol=2e-2)
    half = {name: value.half().float() for name, value in net.state_dict().items()}
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value.float(), half[name].float(), atol=0, rtol=0)


def test_damaged_folders_are_named(net: MiniVideoNet, tmp_path: Path):
    folder = tmp_path / "mini"
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_mini(folder)
    save_mini(net, folder)
    said = read_json(folder / "config.json")
    write_json(folder / "config.json", {**said, "stem": 6})
    with pytest.raises(WeightsError, match="size mismatch"):
        load_mini(folder)
    write_json(folder / "config.json", {**said, "depth": 6})
    with pytest.raises(WeightsError, match="depth"):
        load_mini(folder)
    write_json(folder / "config.json", {**said, "_class_name": "Other"})
    with pytest.raises(WeightsError, match="MiniVideoNet"):
        load_mini(folder)
    write_json(folder / "config.json", said)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="no whole"):
        load_mini(folder)
