"""Networks of others, through the real code that loads and calls them, with small modules in their place."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.tiny_networks import (
    BrightBox,
    BrightBoxOfList,
    NoClassifier,
    TinyClassifier,
    TinyI3D,
    TinyVgg,
    phase_labels,
    script,
    write_tiny_mini,
    write_videomae,
)

from hierasurg_core import taxonomy
from hierasurg_core.artifacts import sha256_file
from hierasurg_core.errors import WeightsError
from hierasurg_core.evaluation.classifier import load_classifier
from hierasurg_core.evaluation.conditional import LpipsMeasurer, PairMeasurer
from hierasurg_core.evaluation.detecting import COUNTS, DetectorMeasurer, load_detector
from hierasurg_core.evaluation.extractors import (
    I3D,
    INCEPTION,
    LPIPS,
    VIDEOMAE,
    I3DExtractor,
    InceptionExtractor,
    MiniExtractor,
    Published,
    VideoMAEExtractor,
    checked_digest,
    find_weights,
)
from hierasurg_core.evaluation.measuring import Measured, Measurer
from hierasurg_core.evaluation.preparing import Preparation, preparation_of, prepared_BFCHW
from hierasurg_core.evaluation.protocol import PRESETS, Protocol

CPU = torch.device("cpu")


def clip(value: int = 100, frames: int = 6, size_hw: tuple[int, int] = (24, 40)) -> Measured:
    random = np.random.default_rng(value)
    return Measured(random.integers(0, value + 1, (frames, *size_hw, 3), dtype=np.uint8))


# Preparation


def test_the_shorter_side_is_resized_and_the_centre_kept():
    frame_HWC = np.zeros((20, 40, 3), np.uint8)
    frame_HWC[:, 10:30] = 200
    pixels = prepared_BFCHW([frame_HWC[None]], Preparation("shorter-side", (10, 10), 10), CPU)
    assert pixels.shape == (1, 1, 3, 10, 10)
    assert pixels.min() > 0.5
    stretched = prepared_BFCHW([frame_HWC[None]], Preparation("stretch", (10, 10)), CPU)
    assert stretched[..., 0].max() < 0.1
    assert stretched[..., 5].min() > 0.7


def test_the_ways_of_resizing_differ_and_keep_a_flat_picture():
    noisy = clip(255).video_FHWC
    flat = np.full((1, 24, 40, 3), 120, np.uint8)
    seen = []
    for how in ("bilinear", "bicubic", "lanczos", "nearest"):
        preparation = Preparation("stretch", (16, 16), None, how)
        torch.testing.assert_close(
            prepared_BFCHW([flat], preparation, CPU),
            torch.full((1, 1, 3, 16, 16), 120 / 255),
            atol=1e-5,
            rtol=0,
        )
        seen.append(prepared_BFCHW([noisy], preparation, CPU))
    for index, one in enumerate(seen):
        for other in seen[index + 1 :]:
            assert (one - other).abs().max() > 0.01


def test_presets_say_how_frames_are_prepared():
    assert preparation_of(PRESETS["hierasurg"], 224) == Preparation("shorter-side", (224, 224), 224)
    assert preparation_of(PRESETS["cd-fvd"], 224).resize_px == 256
    assert preparation_of(PRESETS["styleganv"], 224).resize == "none"


# Extractors


def test_i3d_is_called_as_the_protocol_says(tmp_path: Path):
    path = script(TinyI3D(), tmp_path / "i3d.pt")
    own = Protocol(extractor_sha256=sha256_file(path))
    outside = I3DExtractor(path, own, CPU)
    assert outside.measure([clip(), clip(50)])["clip"].shape == (2, 400)
    inside = I3DExtractor(path, Protocol(resize="extractor", extractor_sha256=sha256_file(path)), CPU)
    assert inside.measure([clip()])["clip"].shape == (1, 400)
    assert inside.key != outside.key


def test_another_file_than_the_published_one_is_refused(tmp_path: Path):
    path = script(TinyI3D(), tmp_path / "i3d_torchscript.pt")
    with pytest.raises(
        WeightsError, match="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
    ):
        I3DExtractor(path, PRESETS["hierasurg"], CPU)
    assert checked_digest(path, I3D, sha256_file(path)) == sha256_file(path)
    text = tmp_path / "text.pt"
    text.write_text("no program")
    with pytest.raises(WeightsError, match=r"text\.pt is no TorchScript"):
        I3DExtractor(text, Protocol(extractor_sha256=sha256_file(text)), CPU)


def test_weights_are_looked_for_where_the_user_said(tmp_path: Path):
    assert find_weights(I3D, None, None) is None
    assert find_weights(I3D, None, tmp_path) is None
    (tmp_path / I3D.file).write_bytes(b"")
    assert find_weights(I3D, None, tmp_path) == tmp_path / I3D.file
    with pytest.raises(WeightsError, match=r"no \S*other\.pt; i3d_torchscript\.pt is published at https"):
        find_weights(I3D, tmp_path / "other.pt", None)
    with pytest.raises(WeightsError, match="--weights-dir"):
        find_weights(I3D, None, tmp_path / "nowhere")


def test_videomae_gives_features_of_its_own_number_of_frames(tmp_path: Path):
    encoder = VideoMAEExtractor(write_videomae(tmp_path / "encoder"), PRESETS["hierasurg"], CPU)
    assert encoder.measure([clip(), clip(50)])["clip"].shape == (2, 32)
    classifier = VideoMAEExtractor(write_videomae(tmp_path / "head", phase_labels()), PRESETS["cd-fvd"], CPU)
    features = classifier.measure([clip(frames=3)])["clip"]
    assert features.shape == (1, 32)
    assert np.isfinite(features).all()
    with pytest.raises(WeightsError, match=r"no config\.json"):
        VideoMAEExtractor(tmp_path, PRESETS["hierasurg"], CPU)


def test_the_mini_network_measures_clips_of_any_size_alike_in_any_batch(tmp_path: Path):
    mini = MiniExtractor(CPU, write_tiny_mini(tmp_path / "mini"))
    both = mini.measure([clip(), clip(50)])
    alone = mini.measure([clip(50)])
    np.testing.assert_allclose(both["clip"][1], alone["clip"][0], atol=1e-5)
    assert both["frame"].shape == (2, 6, 8)
    assert mini.measure([clip(size_hw=(48, 80))])["triplet"].shape == (1, 100)


def test_inception_needs_the_published_file(tmp_path: Path):
    pytest.importorskip("torch_fidelity")
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"6726825d\.\.\."):
        InceptionExtractor(path, CPU)


# Classifiers


def test_a_scripted_classifier_names_phases_and_triplets(tmp_path: Path):
    classifier = load_classifier(str(script(TinyClassifier(), tmp_path / "c.pt")), CPU)
    dark, bright = (Measured(np.full((4, 20, 20, 3), value, np.uint8)) for value in (0, 255))
    found = classifier.measure([dark, bright])
    assert found["phase"].argmax(1).tolist() == [0, 6]
    assert found["triplet"].argmax(1).tolist() == [0, 99]
    with pytest.raises(WeightsError, match="neither 7 logits of phases nor 100 of triplets"):
        load_classifier(str(script(NoClassifier(), tmp_path / "n.pt")), CPU).measure([dark])
    with pytest.raises(WeightsError, match="there is no classifier"):
        load_classifier(str(tmp_path / "missing"), CPU)


def test_a_folders_labels_are_put_in_the_vocabularys_order(tmp_path: Path):
    classifier = load_classifier(str(write_videomae(tmp_path / "phases", phase_labels())), CPU)
    backwards = load_classifier(
        str(write_videomae(tmp_path / "ids", [str(index) for index in range(7)])), CPU
    )
    ours, theirs = (c.measure([clip()])["phase"] for c in (classifier, backwards))
    np.testing.assert_allclose(ours, theirs[:, ::-1])
    triplets = [triplet.name for triplet in taxonomy.TRIPLETS]
    assert set(load_classifier(str(write_videomae(tmp_path / "t", triplets)), CPU).measure([clip()])) == {
        "triplet"
    }
    with pytest.raises(WeightsError, match="neither the 7 phases nor the 100 triplets"):
        load_classifier(str(write_videomae(tmp_path / "x", ["cat", "dog"])), CPU)


# Detectors, LPIPS and comparisons


def boxed(left: int) -> np.ndarray:
    frames = np.zeros((3, 20, 40, 3), np.uint8)
    frames[:, 5:15, left : left + 10] = 255
    return frames


@pytest.mark.parametrize("module", [BrightBox, BrightBoxOfList])
def test_detectors_of_either_signature_agree_by_hand(tmp_path: Path, module: type[torch.nn.Module]):
    measurer = DetectorMeasurer(script(module(), tmp_path / "d.pt"), CPU)
    same = Measured(boxed(4), boxed(4))
    half = Measured(boxed(9), boxed(4))  # 5 of 15 columns are shared: IoU 1/3
    dark = Measured(np.zeros_like(boxed(0)), boxed(4))
    counts = measurer.measure([same, half, dark, Measured(boxed(4))])["boxes"]
    assert dict(zip(COUNTS, counts[0], strict=True)) == {
        "iou_sum": pytest.approx(3),
        "pairs": 3,
        "hits": 3,
        "real_boxes": 3,
        "generated_boxes": 3,
    }
    assert counts[1].tolist() == pytest.approx([1, 3, 0, 3, 3])
    assert counts[2].tolist() == pytest.approx([0, 0, 0, 3, 0])
    assert np.isnan(counts[3]).all()


def test_what_is_no_detector_is_named(tmp_path: Path):
    with pytest.raises(WeightsError, match="there is no detector"):
        load_detector(tmp_path / "none.pt", CPU)
    other = tmp_path / "yolo.pt"
    torch.save({"model": torch.zeros(1)}, other)
    with pytest.raises(WeightsError, match=r"ultralytics"):
        load_detector(other, CPU)
    wrong = load_detector(script(NoClassifier(), tmp_path / "wrong.pt"), CPU)
    with pytest.raises(WeightsError, match=r"does not take a frame|returns no boxes"):
        wrong.boxes(boxed(1))


def test_lpips_is_the_squared_distance_of_features(tmp_path: Path):
    measurer = LpipsMeasurer(script(TinyVgg(), tmp_path / "vgg16.pt"), CPU)
    white, black = (np.full((2, 16, 16, 3), value, np.uint8) for value in (255, 0))
    rows = [Measured(white, given_HWC=white[0]), Measured(white, given_HWC=black[0]), Measured(white)]
    values = measurer.measure(rows)["first_lpips"]
    assert values[:2].tolist() == pytest.approx([0, 12])
    assert np.isnan(values[2])


def test_comparisons_leave_open_what_has_nothing_to_compare_with():
    moving = clip(200, size_hw=(32, 32)).video_FHWC
    still = np.ascontiguousarray(np.broadcast_to(moving[:1], moving.shape))
    rows = PairMeasurer().measure([Measured(moving, moving, moving[0]), Measured(still)])
    assert (rows["psnr"][0] == 100).all()
    assert rows["first_ssim"][0] == pytest.approx(1)
    assert np.isnan(rows["psnr"][1]).all()
    assert np.isnan(rows["first_psnr"][1])
    assert rows["warp"][1] == 0 < rows["warp"][0]
    assert rows["motion_px"][1] == 0


# The published files themselves, in the folder that HIERASURG_WEIGHTS names


@pytest.mark.weights
@pytest.mark.parametrize(
    ("published", "load", "shapes"),
    [
        (I3D, lambda path: I3DExtractor(path, PRESETS["hierasurg"], CPU), {"clip": (1, 400)}),
        (VIDEOMAE, lambda path: VideoMAEExtractor(path, PRESETS["cd-fvd"], CPU), {"clip": (1, 768)}),
        (
            INCEPTION,
            lambda path: InceptionExtractor(path, CPU),
            {"frame": (1, 16, 2048), "logits": (1, 16, 1008)},
        ),
        (LPIPS, lambda path: LpipsMeasurer(path, CPU), {"first_lpips": (1,)}),
    ],
    ids=["i3d", "videomae", "inception", "lpips"],
)
def test_published_networks_give_finite_numbers(
    published: Published, load: Callable[[Path], Measurer], shapes: dict[str, tuple[int, ...]]
):
    folder = Path(os.environ["HIERASURG_WEIGHTS"])
    path = find_weights(published, None, folder)
    if path is None:
        pytest.skip(f"no {published.file} in {folder}")
    video_FHWC = np.random.default_rng(0).integers(0, 255, (16, 64, 96, 3), dtype=np.uint8)
    rows = load(path).measure([Measured(video_FHWC, given_HWC=video_FHWC[1])])
    assert {name: values.shape for name, values in rows.items()} == shapes
    assert all(np.isfinite(values).all() for values in rows.values())
