"""What is measured, when it is measured anew, and runs that stop in the middle."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_datasets
import torch
from evaluation.phantom_sides import drawn, write_samples, write_videos
from evaluation.tiny_networks import write_tiny_mini

from hierasurg_core.config import EvaluateConfig
from hierasurg_core.evaluation import collect as collecting
from hierasurg_core.evaluation.baselines import frozen_clip
from hierasurg_core.evaluation.cache import Store
from hierasurg_core.evaluation.collect import Role, Task, Work, collect, pair_up, unit_key
from hierasurg_core.evaluation.conditional import PairMeasurer
from hierasurg_core.evaluation.evaluate import EvaluateResult, evaluate
from hierasurg_core.evaluation.protocol import Protocol, save_protocol
from hierasurg_core.evaluation.recordings import Clip, Recording, cut
from hierasurg_core.evaluation.sides import open_side
from hierasurg_core.pictures import write_png
from hierasurg_core.progress import SilentProgress

COUNT, FRAMES, SIZE_HW = 5, 6, (32, 48)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    clips = drawn(COUNT, 4, frames=FRAMES, size_hw=SIZE_HW)
    write_videos(root / "real", clips)
    write_samples(root / "samples", clips, source=lambda index: {"clip": f"{index:04d}"})
    write_tiny_mini(root / "mini")
    tiny_datasets.write_vae(root / "model")
    return root


def run(world: Path, out: Path, progress: SilentProgress | None = None, **changes: object) -> EvaluateResult:
    cache = out / "cache"
    config = EvaluateConfig(world / "samples", world / "real", out, cache, vae="none", replicates=4, wall=1)
    config = dataclasses.replace(config, **changes)
    return evaluate(config, progress or SilentProgress(), CPU, mini=world / "mini")


class Stopping(SilentProgress):
    """Ctrl-C after some clips."""

    def __init__(self, after: int) -> None:
        self._left, self._measuring = after, False

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self._measuring = stage == "measure clips"

    def advance(self, n: int = 1) -> None:
        self._left -= n if self._measuring else 0
        if self._left < 0:
            raise KeyboardInterrupt


class Told(SilentProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_run_that_was_stopped_goes_on(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collecting, "UNIT_CLIPS", 2)
    out = tmp_path / "report"
    with pytest.raises(KeyboardInterrupt):
        run(world, out, Stopping(6))
    assert not (out / "report.json").exists()
    rest = run(world, out)
    whole = run(world, tmp_path / "other")
    assert (rest.measured, whole.measured) == (2, 6)
    assert rest.report is not None
    assert whole.report is not None
    assert rest.report.metrics == whole.report.metrics
    assert rest.report.plots == whole.report.plots
    names = [path.name for path in out.rglob("*") if path.is_file()]
    assert not [name for name in names if ".partial" in name or name.endswith(".npy")]


def test_damaged_numbers_are_measured_again_at_once(world: Path, tmp_path: Path):
    before = run(world, tmp_path)
    for file in sorted((tmp_path / "cache").rglob("*.safetensors"))[:2]:
        file.write_bytes(file.read_bytes()[:-8])
    told = Told()
    after = run(world, tmp_path, told)
    assert after.measured >= 1
    assert sum("is damaged (" in note and note.endswith("measured again") for note in told.notes) == 2
    assert before.report is not None
    assert after.report is not None
    assert after.report.metrics == before.report.metrics


def test_a_vae_that_cannot_be_read_costs_its_baseline_only(world: Path, tmp_path: Path):
    shutil.copytree(world / "model", tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    report = run(world, tmp_path / "report", vae=str(tmp_path / "model")).report
    assert report is not None
    assert [left.metric for left in report.left_out][-1] == "vae baseline"
    assert set(report.metrics["fvd-mini"].values) == {"real", "frozen", "model"}
    assert "vae" not in report.models


def test_a_protocols_counts_are_a_ceiling(world: Path, tmp_path: Path):
    save_protocol(tmp_path / "own.yaml", Protocol("own", num_generated=3, num_real=4))
    report = run(world, tmp_path / "report", protocol=str(tmp_path / "own.yaml")).report
    assert report is not None
    assert (report.generated.clips, report.real.clips) == (3, 4)
    assert not [note for note in report.notes if "num_" in note]


# A first frame that does not count


def recording(video_FHWC: np.ndarray) -> Recording:
    return Recording(
        "one", "one", "digest", len(video_FHWC), 1, SIZE_HW, lambda frames: video_FHWC[[*frames]]
    )


def test_the_first_frame_is_judged_and_held_still_also_where_it_does_not_count(tmp_path: Path):
    video_FHWC = np.random.default_rng(0).integers(0, 255, (FRAMES, *SIZE_HW, 3), dtype=np.uint8)
    clip = Clip("one", recording(video_FHWC), (1, 2, 3, 4), lead=1)
    task = Task(clip, given=lambda: video_FHWC[0], given_name="first")
    np.testing.assert_array_equal(task.read().video_FHWC, video_FHWC[1:5])
    measurer, store = PairMeasurer(), Store(tmp_path)
    work = Work((task,), (Role("model"), Role("frozen", "1", frozen_clip)))
    assert collect([work], [measurer], store, batch=1, progress=SilentProgress()).measured == 1
    model, frozen = (store.load(unit_key(work.tasks, role, measurer)) for role in work.roles)
    assert model is not None
    assert frozen is not None
    assert model.rows["first_psnr"].tolist() == [100]
    expected = [np.mean((frame.astype(float) - video_FHWC[0]) ** 2) for frame in video_FHWC[1:5]]
    np.testing.assert_allclose(frozen.rows["psnr"][0], 10 * np.log10(255**2 / np.array(expected)))


def test_clips_begin_where_their_stretch_does(tmp_path: Path):
    frames = np.random.default_rng(0).integers(30, 255, (12, *SIZE_HW, 3), dtype=np.uint8)
    for side in ("made", "real"):
        (tmp_path / side / "video01").mkdir(parents=True)
        for index, frame in enumerate(frames):
            write_png(tmp_path / side / "video01" / f"{index:06d}.png", frame)
    made, real = open_side(tmp_path / "made"), open_side(tmp_path / "real")
    clips, _ = cut(made, frames=4, stride=1, skip=1, num=None)
    assert [(clip.frames, clip.lead) for clip in clips] == [((1, 2, 3, 4), 1), ((6, 7, 8, 9), 1)]
    second = pair_up(clips, made, real)[1].read()
    assert second.given_HWC is not None
    np.testing.assert_array_equal(second.given_HWC, frames[5])
    np.testing.assert_array_equal(second.first_HWC, frames[5])


# What a measurement depends on


def test_other_pixels_are_another_clip():
    one = Clip("one", recording(np.zeros((FRAMES, *SIZE_HW, 3), np.uint8)), (1, 2, 3, 4), lead=1)
    others = [
        dataclasses.replace(one, lead=0),
        dataclasses.replace(one, frames=(1, 2, 3, 5)),
        dataclasses.replace(one, recording=dataclasses.replace(one.recording, digest="other")),
        dataclasses.replace(one, recording=dataclasses.replace(one.recording, size_hw=(16, 24))),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5
    assert dataclasses.replace(one, name="two").digest == one.digest


def test_another_given_frame_is_another_task(tmp_path: Path):
    clips = drawn(1, 1, frames=4, size_hw=SIZE_HW)
    picture = tmp_path / "first.png"
    folder = write_samples(
        tmp_path / "samples", clips, source=lambda index: {"frame": {"path": str(picture)}}
    )
    side = open_side(folder)
    digests = []
    for value in (10, 200):
        write_png(picture, np.full((*SIZE_HW, 3), value, np.uint8))
        (task,) = pair_up(cut(side, frames=4, stride=1, skip=0, num=None)[0], side, side)
        given = task.read().given_HWC
        assert given is not None
        assert given[0, 0, 0] == value
        digests.append(task.digest)
    assert digests[0] != digests[1]
