"""Windows hold every clip, and no frame is gone through more than four times."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from true_segmenter import COLOURS, TrueMasks, TrueModels, TrueSegmenter, true_map, write_frames

from hierasurg_core.datasets.frames import read_manifest
from hierasurg_core.errors import ResourceError
from hierasurg_core.labeling.features import SegmenterBackbone
from hierasurg_core.labeling.frames import SecondFrames
from hierasurg_core.labeling.propagation import MaskPrompt
from hierasurg_core.labeling.sam_network import FrameFeatures
from hierasurg_core.labeling.single import map_by
from hierasurg_core.labeling.windows import CLIP_FRAMES, LENGTH, VideoLabeller, WindowPlan, is_out_of_memory
from hierasurg_core.progress import SilentProgress


@pytest.mark.parametrize("num_frames", [1, 15, 16, 46, 47, 48, 63, 64, 79, 80, 111, 1000])
def test_every_clip_lies_in_one_window_and_every_frame_has_one_owner(num_frames: int) -> None:
    plan = WindowPlan(num_frames)
    windows = range(plan.count)
    clips = [start for window in windows for start in plan.clips(window)]
    assert clips == list(range(max(0, num_frames - CLIP_FRAMES + 1)))
    assert all(
        start in plan.span(window) and start + CLIP_FRAMES - 1 in plan.span(window)
        for window in windows
        for start in plan.clips(window)
    )
    owned = [frame for window in windows for frame in plan.owned(window)]
    assert owned == list(range(num_frames))
    assert all(set(plan.owned(window)) <= set(plan.span(window)) for window in windows)
    times = Counter(frame for window in windows for frame in plan.span(window))
    assert sum(2 * count for count in times.values()) < 4 * num_frames or num_frames <= LENGTH


class Scarce(TrueSegmenter):
    """Has memory for so many frames only."""

    def __init__(self, frames: int, objects: int = 99) -> None:
        super().__init__()
        self.frames, self.objects = frames, objects

    def encode(self, frames_FHWC: torch.Tensor) -> FrameFeatures:
        if len(frames_FHWC) > self.frames:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(frames_FHWC)

    def propagate(
        self, features: FrameFeatures, prompts: Sequence[MaskPrompt], *, reverse: bool, max_frames: int | None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        if len(prompts) > self.objects:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().propagate(features, prompts, reverse=reverse, max_frames=max_frames)


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0

    def note(self, message: str) -> None:
        self.said.append(message)

    def advance(self, n: int = 1) -> None:
        self.done += n


def labeller(
    folder: Path, segmenter: TrueSegmenter, progress: SilentProgress, batch: int = 8, max_objects: int = 48
) -> VideoLabeller:
    return VideoLabeller(
        SecondFrames(read_manifest(folder)),
        segmenter,
        SegmenterBackbone("true", "0", cosine=0.9),
        same_below=None,
        batch=batch,
        max_objects=max_objects,
        progress=progress,
    )


def test_frames_are_seen_once_and_propagated_less_than_four_times(tmp_path: Path) -> None:
    write_frames(tmp_path / "video01", 100)
    segmenter, notes = TrueSegmenter(), Notes()
    video = labeller(tmp_path / "video01", segmenter, notes, batch=5)
    maps = [video.label(window) for window in range(video.plan.count)]
    assert segmenter.encoded == notes.done == 100
    assert segmenter.propagated == video.propagated < 400
    assert [m.span for m in maps] == [range(47), range(32, 79), range(64, 100)]
    assert [len(m.looks) for m in maps] == [4, 4, 3]  # entity 3 leaves after 40 s
    assert sorted(maps[1].occurs) == [(32, 39), (32, 78), (32, 78), (34, 78)]


def test_a_run_that_begins_in_the_middle_computes_the_same(tmp_path: Path) -> None:
    write_frames(tmp_path / "video01", 90)
    whole = labeller(tmp_path / "video01", TrueSegmenter(), SilentProgress(), batch=7)
    expected = [whole.label(window) for window in range(3)][2]
    notes = Notes()
    late = labeller(tmp_path / "video01", TrueSegmenter(), notes, batch=7)
    late.skip(2)
    found = late.label(2)
    assert (found.map_FHW == expected.map_FHW).all()
    assert all((a == b).all() for a, b in zip(found.looks, expected.looks, strict=True))
    assert notes.done == 90


def test_memory_that_is_too_small_halves_the_batch_once(tmp_path: Path) -> None:
    write_frames(tmp_path / "video01", 20)
    notes = Notes()
    video = labeller(tmp_path / "video01", Scarce(4), notes)
    assert video.label(0).map_FHW.shape[0] == 20
    assert notes.said == ["out of memory: going on with --batch 4"]
    with pytest.raises(ResourceError, match="too small for 4 frames at once: give a --batch below 4"):
        labeller(tmp_path / "video01", Scarce(3), SilentProgress()).label(0)
    with pytest.raises(ResourceError, match="too small for one frame"):
        labeller(tmp_path / "video01", Scarce(0), SilentProgress(), batch=1).label(0)


def test_objects_that_do_not_fit_name_the_option(tmp_path: Path) -> None:
    write_frames(tmp_path / "video01", 20)
    with pytest.raises(ResourceError, match="give a --max-objects below 3"):
        labeller(tmp_path / "video01", Scarce(8, objects=2), SilentProgress()).label(0)
    few = labeller(tmp_path / "video01", Scarce(8, objects=2), SilentProgress(), max_objects=2).label(0)
    assert len(few.looks) == 2


def test_other_errors_are_bugs() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))


class Nothing(TrueSegmenter):
    """Finds nothing, as random weights do."""

    def automatic(self, features: FrameFeatures, frames_FHWC: torch.Tensor) -> list[TrueMasks]:
        return [TrueMasks(torch.zeros(0, *features.size_hw, dtype=torch.bool)) for _ in range(len(features))]


def test_where_nothing_is_found_all_is_ground(tmp_path: Path) -> None:
    write_frames(tmp_path / "video01", 17)
    maps = labeller(tmp_path / "video01", Nothing(), SilentProgress()).label(0)
    assert maps.looks == ()
    assert set(np.unique(maps.map_FHW)) == {254, 255}


def test_a_photograph_gets_its_map() -> None:
    clip = map_by(TrueModels().true, COLOURS[true_map(22)])
    assert clip.num_entities == 4
    assert (clip.map_FHW[0] == true_map(22)).all()
