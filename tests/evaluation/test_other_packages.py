"""The same numbers by torchmetrics, and files of torch-fidelity and ultralytics through the loading code.

Each test is skipped where its package is not installed.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hierasurg_core.errors import WeightsError
from hierasurg_core.evaluation import extractors
from hierasurg_core.evaluation.detecting import COUNTS, DetectorMeasurer
from hierasurg_core.evaluation.distances import FeatureSet, inception_score
from hierasurg_core.evaluation.extractors import InceptionExtractor
from hierasurg_core.evaluation.frechet import frechet_distance
from hierasurg_core.evaluation.kernel import kernel_distance
from hierasurg_core.evaluation.measuring import Measured
from hierasurg_core.evaluation.moments import Moments

DIMENSIONS = 24
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")  # what these packages warn of is their affair


class AsTheyAre(torch.nn.Module):
    """Features in place of pictures."""

    num_features = DIMENSIONS

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        return features_ND


def both_sides() -> list[NDArray[np.float64]]:
    random = np.random.default_rng(0)
    mix = random.normal(size=(DIMENSIONS, DIMENSIONS))
    return [
        random.normal(size=(90, DIMENSIONS)) @ mix + 3,
        1.3 * random.normal(size=(70, DIMENSIONS)) @ mix + 3.4,
    ]


def fed(metric: Any) -> Any:
    metric.set_dtype(torch.float64)
    for features_ND, is_real in zip(both_sides(), (True, False), strict=True):
        metric.update(torch.from_numpy(features_ND), real=is_real)
    return metric.compute()


def test_the_frechet_distance_is_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    expected = float(fed(fid.FrechetInceptionDistance(feature=AsTheyAre())))
    sides = [Moments(DIMENSIONS), Moments(DIMENSIONS)]
    for moments, features_ND in zip(sides, both_sides(), strict=True):
        moments.update(features_ND)
    assert frechet_distance(*sides).value == pytest.approx(expected, rel=1e-6)


def test_the_cubic_kernel_distance_is_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    real_ND, generated_ND = both_sides()
    real_ND = real_ND[: len(generated_ND)]
    metric = kid.KernelInceptionDistance(feature=AsTheyAre(), subsets=3, subset_size=len(generated_ND))
    metric.set_dtype(torch.float64)
    for features_ND, is_real in ((real_ND, True), (generated_ND, False)):
        metric.update(torch.from_numpy(features_ND), real=is_real)
    expected, _ = metric.compute()
    assert kernel_distance(real_ND, generated_ND).mean == pytest.approx(float(expected), rel=1e-6)


def test_the_inception_score_is_torchmetrics():
    module = pytest.importorskip("torchmetrics.image.inception")
    logits_ND = both_sides()[0] / 5
    metric = module.InceptionScore(feature=AsTheyAre(), splits=1)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(logits_ND))
    expected, _ = metric.compute()
    found = inception_score(FeatureSet(logits_ND, [str(index) for index in range(len(logits_ND))]))
    assert found.value == pytest.approx(float(expected), rel=1e-6)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published form with random numbers."""
    package = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "nothing.pth")

    class Fresh(package.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keeps what it has."""

    torch.manual_seed(0)
    net = Fresh("fresh", ["2048"], feature_extractor_weights_path=str(folder / "nothing.pth"))
    torch.save(net.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def test_inception_gives_features_and_logits_of_each_frame(inception: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(WeightsError, match=r"6726825d\.\.\."):
        InceptionExtractor(inception, CPU)
    monkeypatch.setattr(extractors, "INCEPTION", dataclasses.replace(extractors.INCEPTION, sha256=""))
    video_FHWC = np.random.default_rng(0).integers(0, 255, (2, 40, 60, 3), dtype=np.uint8)
    found = InceptionExtractor(inception, CPU).measure([Measured(video_FHWC), Measured(video_FHWC[::-1])])
    assert found["frame"].shape == (2, 2, 2048)
    assert found["logits"].shape == (2, 2, 1008)
    np.testing.assert_allclose(found["frame"][0], found["frame"][1, ::-1], rtol=1e-4, atol=1e-5)
    assert np.ptp(found["frame"][0], axis=0).max() > 0


def test_a_file_of_ultralytics_finds_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_VERBOSE", "false")
    ultralytics = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    model = ultralytics.YOLO("yolov8n.yaml", task="detect")
    for branch in model.model.model[-1].cv3:  # of the classes; an untrained one is sure of nothing
        branch[-1].bias.data[:1] = 3.0
    model.save(str(tmp_path / "detector.pt"))
    video_FHWC = np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3), dtype=np.uint8)
    measurer = DetectorMeasurer(tmp_path / "detector.pt", CPU)
    counts = dict(zip(COUNTS, measurer.measure([Measured(video_FHWC, video_FHWC)])["boxes"][0], strict=True))
    assert counts["real_boxes"] == counts["generated_boxes"] == counts["hits"] == counts["pairs"] > 0
    assert counts["iou_sum"] == pytest.approx(counts["pairs"], rel=1e-5)
