"""The command's core from folders to report: what is in it, what is kept, what is said of bad input."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_datasets
import torch
from evaluation.phantom_sides import drawn, write_samples, write_softer_sides, write_videos
from evaluation.tiny_networks import BrightBox, TinyClassifier, TinyI3D, TinyVgg, script, write_tiny_mini

from hierasurg_core.artifacts import read_json, sha256_file
from hierasurg_core.config import EvaluateConfig, load_config
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.evaluation.conditional import MapMeasurer
from hierasurg_core.evaluation.evaluate import EvaluateResult, evaluate
from hierasurg_core.evaluation.measuring import Measured
from hierasurg_core.evaluation.protocol import Protocol, load_protocol, save_protocol
from hierasurg_core.evaluation.report.schema import read_report
from hierasurg_core.maps import PanopticClip
from hierasurg_core.progress import SilentProgress
from hierasurg_core.video import read_video, write_mp4

COUNT, FRAMES, SIZE_HW = 6, 8, (32, 48)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real videos, samples that are softer copies, tiny networks, and a protocol for the scripted I3D."""
    root = tmp_path_factory.mktemp("world")
    write_softer_sides(root, COUNT, FRAMES, SIZE_HW)
    write_tiny_mini(root / "mini")
    tiny_datasets.write_vae(root / "model")
    weights = root / "weights"
    weights.mkdir()
    i3d = script(TinyI3D(), weights / "i3d_torchscript.pt")
    script(TinyVgg(), weights / "vgg16.pt")
    script(BrightBox(), root / "detector.pt")
    script(TinyClassifier(), root / "classifier.pt")
    own = Protocol("own", extractor="i3d-kinetics400-logits", extractor_sha256=sha256_file(i3d))
    save_protocol(root / "protocol.yaml", own)
    return root


def settings(world: Path, out: Path, **changes: Any) -> EvaluateConfig:
    values: dict[str, Any] = {
        "generated": world / "samples",
        "real": world / "real",
        "out": out,
        "cache": out / "cache",
        "vae": "none",
        "replicates": 10,
        "wall": 2,
        "device": "cpu",
    }
    return EvaluateConfig(**{**values, **changes})


def run(world: Path, config: EvaluateConfig) -> EvaluateResult:
    return evaluate(config, SilentProgress(), CPU, mini=world / "mini")


@pytest.fixture(scope="module")
def everything(
    world: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluateConfig, EvaluateResult]:
    """One evaluation with all that can be had offline."""
    config = settings(
        world,
        tmp_path_factory.mktemp("report"),
        protocol=str(world / "protocol.yaml"),
        weights_dir=world / "weights",
        detector=world / "detector.pt",
        classifier=str(world / "classifier.pt"),
        vae=str(world / "model"),
        vae_clips=4,
    )
    return config, run(world, config)


def test_the_report_is_whole(everything: tuple[EvaluateConfig, EvaluateResult]):
    config, result = everything
    report = read_report(config.out)
    assert report == result.report
    assert set(report.metrics) == {
        *("fvd-mini", "kvd-mini", "fid-mini", "fvd", "kvd", "kvd-gaussian"),
        *("phase-agreement", "triplet-agreement", "psnr", "ssim", "first-frame-psnr", "first-frame-ssim"),
        *("first-frame-lpips", "warp-error", "box-iou", "box-real-hit", "box-generated-hit"),
    }
    for name in ("fvd-mini", "kvd-mini", "fid-mini", "fvd", "kvd", "warp-error"):
        assert set(report.metrics[name].values) == {"real", "vae", "frozen", "model"}, name
    assert report.metrics["fvd"].values["vae"].count == 4
    assert report.metrics["fvd"].values["model"].count == COUNT
    assert report.metrics["fvd"].mini is False
    assert report.metrics["fvd-mini"].mini is True
    assert report.metrics["psnr"].values["model"].value > report.metrics["psnr"].values["frozen"].value
    assert report.metrics["warp-error"].values["frozen"].value == 0
    assert report.generated.clips == report.real.clips == COUNT
    assert report.generated.frames == FRAMES
    assert set(report.models) == {"mini", "i3d", "lpips", "classifier", "detector", "vae"}
    assert all(metric.place is None and metric.vae_place is None for metric in report.metrics.values())
    assert "6 generated and 6 real clips: no metric has a place, which takes 20" in report.warnings
    assert set(report.warnings) < set(report.notes)
    left = {entry.metric for entry in report.left_out}
    assert left == {"fvd-videomae", "fid", "kid", "is", "map-iou", "map-boundary-f"}
    assert report.plots.per_second["psnr"][1][0] == 1
    assert set(report.plots.against_samples) >= {"fvd", "fvd-mini", "fid-mini"}
    assert "preparation" in report.plots.per_phase["psnr"]


def test_the_protocol_leaves_nothing_open(everything: tuple[EvaluateConfig, EvaluateResult]):
    config, _ = everything
    said = read_json(config.out / "report.json")["protocol"]
    assert len(said["digest"]) == 64
    assert all(value is not None for value in said.values())
    assert said["extractor_sha256"] == sha256_file(config.weights_dir / "i3d_torchscript.pt")  # type: ignore[operator]
    assert (said["clip_frames"], said["fps"], said["num_real"], said["resize_px"]) == (FRAMES, 1, COUNT, 224)


def test_the_shown_samples_play(everything: tuple[EvaluateConfig, EvaluateResult]):
    config, result = everything
    assert result.report is not None
    assert len(result.report.samples) == 2
    for sample in result.report.samples:
        for file in (sample.generated, sample.real):
            assert file is not None
            video, fps = read_video(config.out / file)
            assert (video.shape, fps) == ((FRAMES, *SIZE_HW, 3), 1)
        assert sample.maps is not None
        assert (config.out / sample.maps).is_file()
        assert {"psnr", "warp-error", "phase-agreement"} <= set(sample.values)
        assert sample.phase is not None


def test_the_config_beside_the_report_repeats_it(everything: tuple[EvaluateConfig, EvaluateResult]):
    config, _ = everything
    again = load_config(
        EvaluateConfig, "evaluate", files=[config.out / "evaluate.yaml"], overrides={}, sets=[]
    )
    assert again == config


def test_a_second_run_measures_nothing_and_says_the_same(
    world: Path, everything: tuple[EvaluateConfig, EvaluateResult]
):
    config, first = everything
    again = run(world, config)
    assert (first.measured, again.measured) == (3, 0)
    assert first.report is not None
    assert again.report is not None
    assert dataclasses.replace(again.report, timing={}) == dataclasses.replace(first.report, timing={})


def test_lost_and_damaged_numbers_are_measured_again(world: Path, tmp_path: Path):
    config = settings(world, tmp_path / "report")
    before = run(world, config)
    files = sorted((tmp_path / "report" / "cache").rglob("*.safetensors"))
    files[0].unlink()
    after = run(world, config)
    assert after.measured == 1
    assert before.report is not None
    assert after.report is not None
    assert after.report.metrics == before.report.metrics


def test_other_samples_are_measured_anew(world: Path, tmp_path: Path):
    config = settings(world, tmp_path / "report")
    run(world, config)
    shutil.copytree(world / "samples", tmp_path / "samples")
    video, _ = read_video(tmp_path / "samples" / "0003.mp4")
    write_mp4(tmp_path / "samples" / "0003.mp4", 255 - video, 1)
    other = run(world, settings(world, tmp_path / "report", generated=tmp_path / "samples"))
    assert other.measured == 1


def test_a_report_of_others_is_replaced_with_a_word(world: Path, tmp_path: Path):
    class Noted(SilentProgress):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, message: str) -> None:
            self.notes.append(message)

    def notes(**changes: Any) -> list[str]:
        told = Noted()
        evaluate(settings(world, tmp_path / "report", **changes), told, CPU, mini=world / "mini")
        return [note for note in told.notes if "report.json" in note]

    replaced = (
        f"{tmp_path}/report/report.json: the report of other samples or settings that was there is replaced"
    )
    assert notes() == []
    assert notes(batch=2) == []
    assert notes(num=4) == [replaced]
    (tmp_path / "report" / "evaluate.yaml").unlink()
    assert notes(num=4) == [replaced]


def test_a_video_that_breaks_while_it_is_read_is_named_and_left_out(world: Path, tmp_path: Path):
    shutil.copytree(world / "samples", tmp_path / "samples")
    whole = (tmp_path / "samples" / "0002.mp4").read_bytes()
    (tmp_path / "samples" / "0002.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "samples" / "0004.mp4").write_bytes(b"no video")
    result = run(world, settings(world, tmp_path / "report", generated=tmp_path / "samples"))
    assert result.report is not None
    side = result.report.generated
    named = {entry.file.removesuffix(".mp4") for entry in side.unreadable}
    assert named == {"0002", "0004"}
    assert side.clips == COUNT - 2
    assert result.report.metrics["fvd-mini"].values["model"].count == COUNT - 2


def test_a_single_sample_has_no_distribution_but_all_else(world: Path, tmp_path: Path):
    shutil.copytree(world / "samples", tmp_path / "samples")
    for index in range(1, COUNT):
        for file in (tmp_path / "samples").glob(f"{index:04d}*"):
            file.unlink()
    result = run(world, settings(world, tmp_path / "report", generated=tmp_path / "samples"))
    assert result.report is not None
    assert {"psnr", "phase-agreement-mini", "first-frame-ssim"} <= set(result.report.metrics)
    assert "fvd-mini" not in result.report.metrics
    (why,) = {entry.why for entry in result.report.left_out if entry.metric == "fvd-mini"}
    assert "two clips a side, and one generated clip" in why


def test_one_coloured_videos_count_and_are_told(world: Path, tmp_path: Path):
    shutil.copytree(world / "samples", tmp_path / "samples")
    write_mp4(tmp_path / "samples" / "0001.mp4", np.full((FRAMES, *SIZE_HW, 3), 90, np.uint8), 1)
    result = run(world, settings(world, tmp_path / "report", generated=tmp_path / "samples"))
    assert result.report is not None
    assert any("1 generated clips are of one colour (first 0001)" in note for note in result.report.notes)
    assert result.report.generated.clips == COUNT


def test_videos_without_records_leave_out_what_nobody_asked_for(world: Path, tmp_path: Path):
    folder = write_videos(tmp_path / "made", drawn(3, 9, frames=FRAMES, size_hw=SIZE_HW))
    for file in folder.iterdir():
        file.rename(file.with_name(f"made-{file.name}"))
    result = run(world, settings(world, tmp_path / "report", generated=folder))
    assert result.report is not None
    assert set(result.report.metrics) == {"fvd-mini", "kvd-mini", "fid-mini", "warp-error"}
    reasons = {entry.metric: entry.why for entry in result.report.left_out}
    assert "which phase" in reasons["phase-agreement-mini"]
    assert "--from-dataset" in reasons["psnr"]


@pytest.mark.parametrize(
    ("model", "judged"),
    [
        ({"name": "S2M of runs/s2m and M2V of runs/m2v", "vae": {"mini": True}}, True),
        ({"name": "M2V of a folder called bundled mini models", "vae": {"mini": False}}, False),
        ({"name": "the bundled mini models with M2V of runs/m2v", "vae": {"folder": "vae"}}, True),  # old
        ({"name": "S2M of runs/s2m and M2V of runs/m2v", "vae": {"folder": "vae"}}, False),
    ],
)
def test_the_mini_sam_judges_what_mini_models_made(
    world: Path, tmp_path: Path, model: dict[str, Any], judged: bool
):
    clips = drawn(2, 4, frames=4, size_hw=SIZE_HW)
    write_samples(tmp_path / "samples", clips, model=model)
    write_videos(tmp_path / "real", clips)
    sides = {"generated": tmp_path / "samples", "real": tmp_path / "real"}
    result = run(world, settings(world, tmp_path / "report", **sides))
    assert result.report is not None
    assert ("map-iou" in result.report.metrics) == judged
    assert ("map-iou" in {left.metric for left in result.report.left_out}) == (not judged)


def test_wrong_weights_cost_their_own_metrics_only(world: Path, tmp_path: Path):
    result = run(world, settings(world, tmp_path / "report", weights_dir=world / "weights"))
    assert result.report is not None
    reasons = {entry.metric: entry.why for entry in result.report.left_out}
    assert "bec6519f" in reasons["fvd"]
    assert "fvd-mini" in result.report.metrics
    assert "first-frame-lpips" in result.report.metrics


def test_the_protocols_kernel_is_what_is_computed(world: Path, tmp_path: Path):
    found = {}
    for kernel in ("cubic", "gaussian", "none"):
        own = dataclasses.replace(load_protocol(str(world / "protocol.yaml")), kernel=kernel)
        save_protocol(tmp_path / f"{kernel}.yaml", own)
        config = settings(
            world,
            tmp_path / kernel,
            protocol=str(tmp_path / f"{kernel}.yaml"),
            weights_dir=world / "weights",
            cache=tmp_path / "cache",
            classifier="none",
            replicates=0,
        )
        found[kernel] = run(world, config).report
    cubic, gaussian, none = (found[kernel] for kernel in ("cubic", "gaussian", "none"))
    assert cubic is not None
    assert gaussian is not None
    assert none is not None
    assert cubic.metrics["kvd"].title == "KVD"
    assert gaussian.metrics["kvd"].title == "KVD (gaussian kernel)"
    assert gaussian.metrics["kvd-mini"].title == "KVD (mini) (gaussian kernel)"
    # The row that is gaussian under any protocol is what the gaussian protocol computes.
    both = ((cubic, "kvd-gaussian"), (gaussian, "kvd"))
    values = [report.metrics[name].values["model"].value for report, name in both]
    assert values[0] == values[1]
    assert cubic.metrics["kvd"].values["model"].value != values[0]
    assert "kvd-gaussian" not in gaussian.metrics
    left = {entry.metric: entry.why for entry in none.left_out}
    for name in ("kvd", "kvd-gaussian", "kvd-mini"):
        assert name not in none.metrics
        assert left[name] == "the protocol 'own' has no kernel distance (kernel none)"


def test_refused_runs_leave_nothing(world: Path, tmp_path: Path):
    out = tmp_path / "report"
    with pytest.raises(UsageError, match="protocol 'other'"):
        run(world, settings(world, out, protocol="other"))
    with pytest.raises(DataError, match="there is no folder"):
        run(world, settings(world, out, real=tmp_path / "none"))
    with pytest.raises(DataError, match=r"no clip of .* is long enough"):
        run(world, settings(world, out, clip_frames=9))
    assert not out.exists()


def test_the_result_is_plain_json(everything: tuple[EvaluateConfig, EvaluateResult]):
    said = json.loads(json.dumps(everything[1].to_dict(), allow_nan=False))
    assert {"report", "html", "clips", "protocol", "metrics", "left_out", "notes", "seconds"} <= set(said)
    assert said["metrics"]["fvd"]["baselines"].keys() == {"real", "vae", "frozen"}
    assert Path(said["html"]).stat().st_size > 1000


# Map adherence, with a tracker that knows the answer


@dataclasses.dataclass
class Knowing:
    """Follows entities by the maps that it was given, some pixels off."""

    maps: PanopticClip
    off_px: int
    name: str = "knowing"
    digest: str = ""

    def encode(self, frames_FHWC: Any) -> int:
        return len(frames_FHWC)

    def propagate(self, features: int, prompts: Any, *, reverse: bool = False, max_frames: int | None = None):
        ids = [int(self.maps.map_FHW[0][prompt["mask_HW"].numpy()][0]) for prompt in prompts]
        for frame in range(features):
            shown = np.roll(self.maps.map_FHW[frame], self.off_px if frame else 0, axis=1)
            yield frame, torch.stack([torch.from_numpy(shown == entity).float() * 2 - 1 for entity in ids])


def test_map_adherence_is_one_for_a_perfect_follower_and_falls():
    clips = drawn(1, 2, frames=4, size_hw=(64, 96))
    maps = PanopticClip(clips.map_BFHW[0].numpy(), int(clips.num_entities_B[0]))
    video = np.zeros((4, 64, 96, 3), np.uint8)
    found = [
        MapMeasurer(Knowing(maps, off), dict).measure([Measured(video, maps=maps), Measured(video)])
        for off in (0, 2, 6)
    ]
    ious = [rows["map_iou"][0] for rows in found]
    entities_later = {int(e) for e in np.unique(maps.map_FHW[1:]) if e < maps.num_entities}
    entities_first = {int(e) for e in np.unique(maps.map_FHW[0])}
    assert ious[0] == pytest.approx(len(entities_later & entities_first) / len(entities_later))
    assert ious == sorted(ious, reverse=True)
    assert ious[2] < ious[0] - 0.1
    assert found[0]["boundary_f"][0] > found[2]["boundary_f"][0]
    assert np.isnan(found[0]["map_iou"][1])
