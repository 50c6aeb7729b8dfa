from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_datasets import build, config, encoder, write_operation, write_vae
from tiny_training import ALPHA_BAR_T, m2v, s2m
from tiny_training import config as train_config

from hierasurg_core.config import TrainM2VConfig, TrainS2MConfig
from hierasurg_core.datasets.dataset import ClipDataset, open_dataset
from hierasurg_core.datasets.manifest import read_dataset_manifest
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.maps import PanopticClip, load_clip, save_clip, save_map_png
from hierasurg_core.progress import SilentProgress
from hierasurg_core.training import Batch, BatchSource, M2VStage, S2MStage, train
from hierasurg_core.training.from_dataset import DatasetSource
from hierasurg_core.training.plan import count_clips


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operations")
    write_operation(folder, 1, 18)
    write_operation(folder, 2, 17)
    write_vae(folder / "model")
    build(config(folder, val_fraction=0.0))
    build(config(folder, val_fraction=0.0, on_the_fly=True, out=folder / "index"))
    return folder


@pytest.fixture
def clips(root: Path) -> ClipDataset:
    return open_dataset(root / "dataset")


def drawn(source: BatchSource, batches: int) -> list[Batch]:
    return list(islice(source, batches))


def same(one: Batch, other: Batch) -> bool:
    return one.ids == other.ids and torch.equal(one.clean_latents, other.clean_latents)


def test_batches_of_either_stage(clips: ClipDataset) -> None:
    maps = drawn(DatasetSource(clips, "s2m", 3), 1)[0]
    assert maps.clean_latents.shape == (3, 16, 4, 4, 6)
    assert maps.first_map_B1CHW is not None
    assert torch.equal(maps.first_map_B1CHW, maps.clean_latents[:, :1])
    video = drawn(DatasetSource(clips, "m2v", 3), 1)[0]
    assert video.clean_latents.shape == (3, 5, 4, 4, 6)
    assert video.first_frame_B1CHW.shape == (3, 1, 4, 4, 6)
    assert video.maps_BFHW is not None
    assert video.maps_BFHW.shape == (3, 16, 32, 48)
    levels = video.levels_BFHW()
    assert levels is not None
    assert levels.max() == 1
    for batch in (maps, video):
        assert batch.phase_BF is not None
        assert batch.triplet_BF is not None
        clip = next(clips.get(i) for i in range(len(clips)) if clips.get(i).id == batch.ids[1])
        assert batch.phase_BF[1].tolist() == clip.phase_S.tolist()
        assert batch.triplet_BF[1].tolist() == clip.triplet_S.tolist()


@pytest.mark.parametrize("stage", ["s2m", "m2v"])
def test_maps_in_numbers(stage: str, clips: ClipDataset) -> None:
    source = DatasetSource(clips, "s2m" if stage == "s2m" else "m2v", 3, num_numbers=6)
    batch = drawn(source, 1)[0]
    assert batch.numbered_BFHW is not None
    assert batch.numbered_BFHW.shape == (3, 16, 32, 48)
    assert (batch.latents_BFCHW is None) == (stage == "s2m")
    clip = next(clips.get(i) for i in range(len(clips)) if clips.get(i).id == batch.ids[0])
    assert clip.map_SHW is not None
    numbers = batch.numbered_BFHW[0].numpy()
    assert np.array_equal(numbers == 5, clip.map_SHW == clip.max_id), "the border has the last number"
    assert np.array_equal(numbers == 4, clip.map_SHW == clip.max_id - 1), "the background the one before"
    pairs = set(zip(numbers.ravel().tolist(), clip.map_SHW.ravel().tolist(), strict=True))
    assert len(pairs) == len({number for number, _ in pairs}) == len({entity for _, entity in pairs})


def test_video_latents_are_drawn_from_their_posterior(clips: ClipDataset) -> None:
    by_id = {clips.get(index).id: clips.get(index) for index in range(len(clips))}
    scores, kinds = [], set()
    for batch in islice(DatasetSource(clips, "m2v", 4), 40):
        for name, latents, first in zip(batch.ids, batch.clean_latents, batch.first_frame_B1CHW, strict=True):
            clip = by_id[name]
            mean = torch.from_numpy(clip.video_mean_TChw.copy()).float()
            spread = torch.exp(0.5 * torch.from_numpy(clip.video_logvar_TChw.copy()).float())
            scores.append((latents - mean) / spread)
            first_frames = torch.from_numpy(clip.first_frame_KChw.copy())
            kinds.update(k for k, kind in enumerate(first_frames) if torch.equal(kind, first[0]))
    standard = torch.stack(scores)
    assert standard.mean().item() == pytest.approx(0, abs=0.02)
    assert standard.std().item() == pytest.approx(1, abs=0.02)
    assert kinds == {0, 1}


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_resumed_stream_gives_the_very_same_batches(after: int, clips: ClipDataset) -> None:
    source = DatasetSource(clips, "m2v", 2, seed=3)
    stream = iter(source)
    for _ in range(after):
        next(stream)
    resumed = DatasetSource(clips, "m2v", 2, seed=8)
    resumed.load_state_dict(source.state_dict())
    assert all(map(same, [next(stream) for _ in range(4)], drawn(resumed, 4)))


def test_an_epoch_holds_every_clip_once(clips: ClipDataset) -> None:
    names = [name for batch in drawn(DatasetSource(clips, "s2m", 2, seed=1), 10) for name in batch.ids]
    epochs = [names[start : start + 5] for start in range(0, 20, 5)]
    assert all(len(set(epoch)) == 5 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_two_ranks_get_what_one_would(clips: ClipDataset) -> None:
    alone = drawn(DatasetSource(clips, "m2v", 4), 3)
    ranks = [drawn(DatasetSource(clips, "m2v", 2, rank=rank, world_size=2), 3) for rank in (0, 1)]
    for whole, first, second in zip(alone, *ranks, strict=True):
        assert whole.ids == first.ids + second.ids
        assert torch.equal(whole.clean_latents, torch.cat([first.clean_latents, second.clean_latents]))


@pytest.mark.parametrize("stage", ["s2m", "m2v"])
def test_the_trainer_takes_it(stage: str, clips: ClipDataset, tmp_path: Path) -> None:
    def run(out: Path, steps: int) -> torch.Tensor:
        model, of = (
            (s2m(), S2MStage(ALPHA_BAR_T))
            if stage == "s2m"
            else (m2v(), M2VStage(ALPHA_BAR_T, hierarchical=True))
        )
        source = DatasetSource(clips, "s2m" if stage == "s2m" else "m2v", 2)
        train(model, of, source, train_config(steps=steps, checkpoint_every=2), out, SilentProgress())
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    assert torch.equal(run(tmp_path / "parts", 4), whole)


def test_clips_encoded_on_the_fly_train_as_well(root: Path) -> None:
    clips = open_dataset(root / "index", encoder=encoder(root / "model"))
    source = DatasetSource(clips, "m2v", 2, threads=1, ahead=1)
    stream = iter(source)
    first = next(stream)
    state = source.state_dict()
    again = DatasetSource(clips, "m2v", 2, threads=1, ahead=1)
    again.load_state_dict(state)
    assert same(next(stream), drawn(again, 1)[0])
    assert first.maps_BFHW is not None


@pytest.mark.parametrize("pickles", [False, True])
def test_an_index_knows_the_clips_that_have_too_many_ids_for_s2m(tmp_path: Path, pickles: bool) -> None:
    write_operation(tmp_path, 1, 19, pickles=pickles)
    write_vae(tmp_path / "model")
    many_HW = (np.arange(32 * 48) // 48).reshape(32, 48).astype(np.uint8)  # 32 ids
    masks = tmp_path / "videos" / "video01_masks"
    if pickles:
        clip = load_clip(masks / "000000.pkl")
        save_clip(masks / "000000.pkl", PanopticClip(np.stack([many_HW, *clip.map_FHW[1:]]), 40))
    else:
        save_map_png(masks / "000000.png", many_HW, 40)
    build(config(tmp_path, val_fraction=0.0, on_the_fly=True, out=tmp_path / "index"))
    clips = open_dataset(tmp_path / "index", encoder=encoder(tmp_path / "model"))
    assert len(clips) == 4
    source = DatasetSource(clips, "s2m", 2, threads=1, ahead=1)
    assert source.left_out == 1
    assert {name for batch in drawn(source, 3) for name in batch.ids} == {
        f"video01/{start:06d}" for start in (1, 2, 3)
    }
    assert DatasetSource(clips, "m2v", 2, threads=1, ahead=1).left_out == 0


def test_bad_sources_are_refused(clips: ClipDataset) -> None:
    with pytest.raises(UsageError, match="batch 0"):
        DatasetSource(clips, "m2v", 0)
    source = DatasetSource(clips, "m2v", 1)
    with pytest.raises(DataError, match=r"the run began with 9 clips and .* has 5 now"):
        source.load_state_dict({"clips": 9, "seed": 0, "epoch": 0, "offset": 0})


def test_training_says_why_nothing_is_left_to_learn_from(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 18)
    write_vae(tmp_path / "model")
    many_HW = (np.arange(32 * 48) // 48).reshape(32, 48).astype(np.uint8)  # 32 ids
    masks = tmp_path / "videos" / "video01_masks"
    save_map_png(masks / "000000.png", many_HW, 40)
    for out, settings in (("dataset", {}), ("index", {"on_the_fly": True})):
        build(config(tmp_path, val_fraction=0.0, out=tmp_path / out, **settings))
        wanted = TrainS2MConfig(dataset=tmp_path / out)
        manifest = read_dataset_manifest(tmp_path / out)
        assert count_clips(manifest, wanted, "s2m", 2) == 2
        with pytest.raises(
            DataError, match=r"has 2 clips .* 3 processes: give --gpus 2 or less, .*learn from 1 of 3"
        ):
            count_clips(manifest, wanted, "s2m", 3)
        assert count_clips(manifest, TrainM2VConfig(dataset=tmp_path / out), "m2v", 3) == 3
    for second in range(18):
        save_map_png(masks / f"{second:06d}.png", many_HW, 40)
    for out, settings in (("dataset", {}), ("index", {"on_the_fly": True})):
        build(config(tmp_path, val_fraction=0.0, out=tmp_path / out, resume=False, **settings))
        with pytest.raises(
            DataError, match="S2M cannot learn from 3 of 3 clips: they have more than 20 ids"
        ) as no:
            count_clips(
                read_dataset_manifest(tmp_path / out), TrainS2MConfig(dataset=tmp_path / out), "s2m", 1
            )
        assert "GPU" not in str(no.value)
