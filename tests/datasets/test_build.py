import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import start
from numpy.typing import NDArray
from PIL import Image
from tiny_datasets import build, build_aloud, config, encoder, map_of, write_operation, write_vae

from hierasurg_cli.app import run
from hierasurg_core.artifacts import sha256_file
from hierasurg_core.config import BuildDatasetConfig
from hierasurg_core.datasets.dataset import ClipSample, open_dataset
from hierasurg_core.datasets.manifest import read_dataset_manifest
from hierasurg_core.errors import DataError
from hierasurg_core.maps import colour_map, save_map_png
from hierasurg_core.pictures import read_image
from hierasurg_core.progress import SilentProgress

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def ids(clip: ClipSample) -> NDArray[np.uint8]:
    assert clip.map_SHW is not None
    return clip.map_SHW


def test_what_is_read_is_what_was_encoded(built: Path) -> None:
    clips = open_dataset(built / "dataset", "train")
    vae = encoder(built / "model")
    for index in range(len(clips)):
        clip = clips.get(index)
        video, start = clip.id.split("/")
        assert clip.second == int(start)
        maps = np.stack([map_of(second) for second in range(int(start), int(start) + 16)])
        flips = [slice(None, None, step) for step in (1, -1)]
        way = next((r, c) for r in flips for c in flips if np.array_equal(ids(clip), maps[:, r, c]))
        assert clip.max_id == 4
        frames = np.stack([_frame(built, video, int(start) + k) for k in range(16)])[:, way[0], way[1]]
        padded = np.concatenate([frames, np.zeros_like(frames[:1])])
        mean, logvar = vae.encode_video(torch.from_numpy(np.ascontiguousarray(padded))[None])
        assert np.array_equal(clip.video_mean_TChw, mean[0])
        assert np.array_equal(clip.video_logvar_TChw, logvar[0])
        coloured = colour_map(np.ascontiguousarray(maps[:, way[0], way[1]]), range(5))
        assert clip.coloured_SCij is not None
        _nearly(clip.coloured_SCij, vae.encode_frames(torch.from_numpy(coloured)))
        first = vae.encode_frames(torch.from_numpy(np.ascontiguousarray(frames[:1])))
        _nearly(clip.first_frame_KChw[0], first[0])
        _nearly(clip.photo_Cij, first[0])
        assert not np.array_equal(clip.first_frame_KChw[1], first[0])
        assert clip.phase_S.tolist() == [(int(start) + k) // 8 for k in range(16)]
        expected = [(17, 19) if (int(start) + k) % 2 else (17,) for k in range(16)]
        expected = [() if (int(start) + k) % 5 == 0 else those for k, those in enumerate(expected)]
        assert list(clip.triplets_S) == expected
        assert clip.triplet_S.tolist() == [those[0] if those else -1 for those in expected]


def _frame(root: Path, video: str, index: int) -> NDArray[np.uint8]:
    return read_image(root / "videos" / video / f"{index:06d}.png")


def _nearly(found: NDArray[np.float16], expected: NDArray[np.float16]) -> None:
    """Equal but for the last bit of half precision: batches of another size add up in another order."""
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=2e-3, atol=2e-3)


def test_manifest_tells_what_there_is(built: Path) -> None:
    said = json.loads((built / "dataset" / "manifest.json").read_text())
    assert sum(said["clips"].values()) == 3 + 3 + 2
    assert said["splits"].keys() == said["clips"].keys() == {"train", "val"}
    assert said["videos"]["video02"]["dropped_black"] == 4
    assert said["notice"]["license"] == "CC BY-NC-SA 4.0"
    assert len(said["vocabularies"]["triplet"]) == 100
    assert str(built) not in json.dumps(
        {key: value for key, value in said.items() if key not in ("sources", "vae")}
    )
    manifest = read_dataset_manifest(built / "dataset")
    assert manifest.form.size_hw == (32, 48)
    assert manifest.vae.scaling_factor == 0.7


def test_the_manifest_keeps_what_extract_did_to_pixels(operations: Path) -> None:
    folder = operations / "videos" / "video01"
    count = len(list(folder.glob("*.png")))
    for path in folder.glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
    with Image.open(folder / "000000.jpg") as image:
        size_hw = [image.height, image.width]
    said = {"schema": 1, "complete": True, "name": "video01", "fps": 1, "num_frames": count, "black": []}
    more = {"size_hw": size_hw, "digest": "0", "settings": {"start": 0}, "pixels": ["deinterlaced (bwdif)"]}
    (folder / "extract.json").write_text(json.dumps({**said, **more}))
    wanted = config(operations, on_the_fly=True)
    build(wanted)
    videos = json.loads((wanted.out / "manifest.json").read_text())["videos"]
    assert videos["video01"]["pixels"] == ["deinterlaced (bwdif)"]
    assert "pixels" not in videos["video02"]


def test_frames_alone_are_encoded_once(operations: Path) -> None:
    result = build(config(operations, flip=0.0))
    # Clips of 18, 22 (from 4 on) and 17 frames; every second of a video is one picture.
    assert (sum(result.clips.values()), result.pictures) == (3 + 3 + 2, 18 + 18 + 17)
    assert result.black == 4
    assert result.built == 8
    assert result.to_dict()["bytes_a_clip"] == result.bytes / 8


def test_a_second_call_makes_nothing_and_no_resume_everything(operations: Path) -> None:
    build(config(operations))
    before = contents(operations / "dataset")
    assert build(config(operations)).built == 0
    assert contents(operations / "dataset") == before
    assert build(config(operations, resume=False)).built == 8
    assert {k: v for k, v in contents(operations / "dataset").items() if k.endswith("s")} == {
        k: v for k, v in before.items() if k.endswith("s")
    }


def test_shards_are_cut_by_size_and_never_span_videos(operations: Path) -> None:
    build(config(operations, shard_mb=0.006))
    names = sorted(path.name for path in (operations / "dataset").glob("*.safetensors"))
    assert names == [
        f"{name}.safetensors"
        for name in ("video01-00000", "video01-00001", "video02-00000", "video02-00001", "video03-00000")
    ]
    whole = operations / "whole"
    build(config(operations, out=whole))
    for split in ("train", "val"):
        ours, theirs = (open_dataset(folder, split) for folder in (operations / "dataset", whole))
        assert [ours.get(i).id for i in range(len(ours))] == [theirs.get(i).id for i in range(len(theirs))]
        for index in range(len(ours)):
            assert np.array_equal(ours.get(index).video_mean_TChw, theirs.get(index).video_mean_TChw)


def _other_vae(root: Path) -> None:
    shutil.rmtree(root / "model")
    write_vae(root / "model", seed=1)


def _other_frame(root: Path) -> None:
    shutil.copy(root / "videos" / "video01" / "000001.png", root / "videos" / "video01" / "000000.png")


def _other_map(root: Path) -> None:
    shutil.copy(
        root / "videos" / "video01_masks" / "000003.png", root / "videos" / "video01_masks" / "000000.png"
    )


def _other_labels(root: Path) -> None:
    path = root / "labels" / "VID01.json"
    path.write_text(path.read_text().replace("[17,", "[18,"))


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (_other_vae, {}, r"the VAE's weights \(was [0-9a-f]{8}, now [0-9a-f]{8}\) differs"),
        (_other_frame, {}, "the video's frames"),
        (_other_map, {}, "the video's maps"),
        (_other_labels, {}, "the video's labels"),
        (None, {"size": "48x64"}, r"the size of video and maps \(was 32x48, now 48x64\)"),
        (None, {"step": 2}, r"the step between clips \(was 1, now 2\) and the clips in this shard"),
        (None, {"flip": 0.1}, "the probability of flips, or the split"),
        (None, {"seed": 3}, "the seed"),
        (None, {"first_frames": 3}, "the number of first frames"),
        (None, {"on_the_fly": True}, r"what is stored \(was latents, now index\)"),
    ],
)
def test_a_stale_shard_says_what_changed(
    change: Callable[[Path], None] | None, settings: dict[str, object], said: str, operations: Path
) -> None:
    lists = {"train": operations / "train.txt"}
    lists["train"].write_text("video01\nvideo02\n")
    build(config(operations, **lists))
    if change is not None:
        change(operations)
    with pytest.raises(DataError, match=rf"video01-00000.safetensors is stale: .*{said}.*--no-resume"):
        build(config(operations, **lists, **settings))


def test_training_refuses_what_is_unfinished_stale_or_foreign(operations: Path) -> None:
    out = operations / "dataset"
    with pytest.raises(DataError, match=r"is no data set: there is no manifest\.json"):
        open_dataset(operations)
    build(config(operations, val_fraction=0.0))
    with pytest.raises(DataError, match="has no clip in its split 'val'"):
        open_dataset(out, "val")
    other = write_vae(operations / "other", seed=1)
    with pytest.raises(DataError, match=r"was made for the VAE of .*, not that of"):
        open_dataset(out, encoder=encoder(other))
    build(config(operations, seed=1, out=operations / "seeded", val_fraction=0.0))
    shutil.copy(operations / "seeded" / "video01-00000.safetensors", out)
    with pytest.raises(DataError, match=r"is stale: the seed \(was 1, now 0\)"):
        open_dataset(out)
    (out / "video01-00000.safetensors").unlink()
    with pytest.raises(DataError, match=r"video01-00000\.safetensors is missing"):
        open_dataset(out)
    (out / "manifest.json").unlink()
    with pytest.raises(DataError, match="is not finished"):
        open_dataset(out)


def test_an_index_gives_what_latents_give(operations: Path) -> None:
    lists = {"train": operations / "train.txt"}
    lists["train"].write_text("video01\nvideo02\n")
    build(config(operations, **lists, batch=1))
    assert build(config(operations, **lists, on_the_fly=True, out=operations / "index")).bytes < 10_000
    stored = open_dataset(operations / "dataset")
    with pytest.raises(DataError, match="it needs a VAE"):
        open_dataset(operations / "index")
    drawn = open_dataset(operations / "index", encoder=encoder(operations / "model"))
    assert len(drawn) == len(stored) == 6
    for index in range(len(stored)):
        ours, theirs = stored.get(index), drawn.get(index, epoch=0)
        assert ours.id == theirs.id
        assert np.array_equal(ours.video_mean_TChw, theirs.video_mean_TChw)
        assert np.array_equal(ids(ours), ids(theirs))
        assert ours.triplets_S == theirs.triplets_S
    noisy = [drawn.get(0, epoch).first_frame_KChw[1] for epoch in range(3)]
    assert not np.array_equal(noisy[0], noisy[1])
    _other_map(operations)
    with pytest.raises(DataError, match="the video's maps"):
        open_dataset(operations / "index", encoder=encoder(operations / "model"))


def test_8_fps_clips_have_13_latents_and_6_maps(tmp_path: Path) -> None:
    write_operation(tmp_path, 1, 7, fps=8)
    write_vae(tmp_path / "model")
    result = build(config(tmp_path, fps=8, flip=0.0))
    assert result.clips == {"train": 2, "val": 0}
    clip = open_dataset(tmp_path / "dataset").get(1)
    assert clip.id == "video01/000008"
    assert clip.second == 1
    assert clip.video_mean_TChw.shape == (13, 4, 4, 6)
    assert np.array_equal(ids(clip), np.stack([map_of(second) for second in range(1, 7)]))
    assert clip.phase_S.shape == (6,)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bytes(operations: Path) -> None:
    moments = random.Random(7)
    for _ in range(3):
        process, advances = start(build_aloud, operations)
        # Three videos are looked at, then clips are built.
        for _ in range(3 + moments.randint(1, 4)):
            next(advances)
        process.kill()
        process.join()
    out = operations / "dataset"
    assert not (out / "manifest.json").exists()
    (out / ".video01-00000.1-00.partial.safetensors").touch()  # killed while a shard is put together
    process, _ = start(build_aloud, operations)
    process.join()
    assert process.exitcode == 0
    ended = contents(out)
    shutil.rmtree(out)
    build(config(operations, shard_mb=0.006))
    assert contents(out) == ended


def refusal(capsys: pytest.CaptureFixture[str], wanted: BuildDatasetConfig, *more: str) -> tuple[int, str]:
    labels = [] if wanted.labels is None else ["--labels", str(wanted.labels)]
    command = [
        "build-dataset",
        str(wanted.videos),
        str(wanted.out),
        *labels,
        "--base",
        wanted.base,
        "-q",
        *more,
    ]
    code = run(command)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return code, err.removeprefix("hierasurg: ").rstrip()


def _break(path: str, text: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / path).write_text(text)

    return write


@pytest.mark.parametrize(
    ("damage", "more", "code", "said"),
    [
        (_break("labels/VID02.json", "{"), (), 3, "VID02.json is no JSON: line 1"),
        (_break("labels/VID02.json", "[]"), (), 3, "VID02.json"),
        (lambda root: (root / "labels/VID03.json").unlink(), (), 3, "has no labels of video03: add them"),
        (lambda root: (root / "videos/video01/000004.png").unlink(), (), 3, "lacks frame 000004"),
        (lambda root: shutil.rmtree(root / "videos/video03_masks"), (), 3, "video03_masks: make them with"),
        (lambda root: shutil.rmtree(root / "videos"), (), 3, "there is no folder"),
        (lambda root: shutil.rmtree(root / "model/vae"), (), 4, "has no VAE"),
        (None, ("--fps", "8"), 3, "no clip of 48 frames without black frames was found in 3 videos"),
        (
            None,
            ("--size", "30x48"),
            2,
            "size 30x48 is not possible: sides must be divisible by 16; nearest is 32x48",
        ),
        (None, ("--size", "big"), 2, "size must be rows x columns, as 480x720, not 'big'"),
        (None, ("--fps", "8", "--step", "4"), 2, "step 4 is no whole number of seconds at 8 fps"),
        (None, ("--val-fraction", "1"), 2, "val_fraction must be at least 0 and less than 1"),
        (None, ("--set", "flip=2"), 2, "flip must lie between 0 and 1"),
        (None, ("--base", "nowhere"), 4, "there is no model folder nowhere"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    damage: Callable[[Path], None] | None,
    more: tuple[str, ...],
    code: int,
    said: str,
    operations: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if damage is not None:
        damage(operations)
    found = refusal(capsys, config(operations), *more)
    assert said in found[1]
    assert found[0] == code


def test_describe_only_tells(operations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = config(operations)
    videos, labels = str(wanted.videos), str(wanted.labels)
    assert run(["build-dataset", videos, str(wanted.out), "--labels", labels, "--describe"]) == 0
    assert "video02: 22 of 22 frames" in capsys.readouterr().out
    assert not wanted.out.exists()


def test_json_of_the_command(operations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = config(operations)
    arguments = ["build-dataset", str(wanted.videos), str(wanted.out), "--labels", str(wanted.labels)]
    assert (
        run([*arguments, "--base", str(wanted.base), "--device", "cpu", "--no-notice", "--json", "-q"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {
        *("out", "contents", "videos", "clips", "black", "unlabelled", "built", "pictures", "bytes"),
        *("seconds", "clips_per_second", "encoder_busy", "bytes_a_clip", "skipped", "passed_over"),
        *("s2m_unusable", "s2m_reason", "no_phase"),
    }
    assert said["built"] == 8
    assert said["s2m_unusable"] == {"train": 0, "val": 0}
    assert said["skipped"] == []
    assert "notice" not in json.loads((wanted.out / "manifest.json").read_text())
    assert run(["build-dataset", "--config", str(wanted.out / "build-dataset.yaml"), "-q"]) == 0
    assert "built 0 clips" in capsys.readouterr().out


def test_clips_that_s2m_cannot_use_are_counted(operations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many_HW = (np.arange(32 * 48) // 48).reshape(32, 48).astype(np.uint8)  # 32 ids
    save_map_png(operations / "videos" / "video01_masks" / "000000.png", many_HW, 40)
    wanted = config(operations, val_fraction=0.0)
    result = build(wanted)
    assert result.clips == {"train": 8, "val": 0}
    assert result.s2m_unusable == {"train": 1, "val": 0}
    manifest = json.loads((wanted.out / "manifest.json").read_text())
    assert manifest["s2m_unusable"] == {"train": 1, "val": 0}
    assert manifest["s2m_reason"] == "more than 20 ids, which S2M's colours cannot tell apart"
    assert [video["s2m_unusable"] for video in manifest["videos"].values()] == [1, 0, 0]
    arguments = [str(wanted.videos), str(wanted.out), "--labels", str(wanted.labels), "--base", wanted.base]
    assert run(["build-dataset", *arguments, "--val-fraction", "0", "--device", "cpu", "-q"]) == 0
    assert "S2M cannot learn from 1 of 8 clips: they have more than 20 ids" in capsys.readouterr().out
    index = build(config(operations, val_fraction=0.0, on_the_fly=True, out=operations / "index"))
    assert index.s2m_unusable == {"train": 1, "val": 0}


def test_operations_of_any_name_are_built(operations: Path) -> None:
    for kind in ("video03", "video03_masks"):
        folder = operations / "videos" / kind
        folder.rename(folder.with_name(kind.replace("video03", "seq_1")))
    (operations / "labels" / "VID03.json").rename(operations / "labels" / "seq_1.json")
    (operations / "videos" / "notes.txt").touch()
    (operations / "val.txt").write_text("seq_1\n")
    wanted = config(operations, val=operations / "val.txt")
    result = build(wanted)
    assert result.clips == {"train": 6, "val": 2}
    assert [one.path.name for one in result.skipped] == ["notes.txt"]
    assert {clip.split("/")[0] for clip in (open_dataset(wanted.out, "val").get(0).id,)} == {"seq_1"}
    assert build(config(operations, val=operations / "val.txt", resume=False)).built == 8


def test_two_folders_of_one_operation_are_refused_where_they_count(operations: Path) -> None:
    shutil.copytree(operations / "videos" / "video03", operations / "videos" / "VID03")
    with pytest.raises(DataError, match=r"VID03 and .*video03 are both video03: keep one"):
        build(config(operations))
    (operations / "train.txt").write_text("video01\n")
    (operations / "val.txt").write_text("video02\n")
    lists = {"train": operations / "train.txt", "val": operations / "val.txt"}
    assert build(config(operations, **lists)).videos == 2


def test_phases_without_a_name_and_their_rate_are_said(operations: Path) -> None:
    for name in ("VID01", "VID02", "VID03"):
        (operations / "labels" / f"{name}.json").unlink()
    for name, seconds in (("video01", 18), ("video02", 22), ("video03", 17)):
        rows = [f"{frame}\t{'-1' if frame < 5 else 'GallbladderRetraction'}" for frame in range(25 * seconds)]
        (operations / "labels" / f"{name}-phase.txt").write_text("\n".join(["Frame\tPhase", *rows]))
    said = Notes()
    result = build(config(operations), said)
    assert result.no_phase == 15
    assert "3 phase files: 25 labels a second (by the number of frames)" in said.notes
    assert "15 labels of 3 videos have no phase (-1): they count as unlabelled" in said.notes
    clip = open_dataset(operations / "dataset").get(0)
    assert set(clip.phase_S.tolist()) <= {-1, 6}


class Notes(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
