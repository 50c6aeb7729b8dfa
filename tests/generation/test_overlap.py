"""The end of a clip beside the next one's beginning: the same files, in the same order, and no error lost."""

import threading
from pathlib import Path

import pytest
import torch
from generation.test_generate import Told, run
from generation.test_memory import parts
from generation.test_requests import NO_WORDS, files
from generation.tiny_assets import tiny_pipeline

from hierasurg_core.artifacts import read_json
from hierasurg_core.config import GenerateConfig
from hierasurg_core.errors import DataError, UsageError
from hierasurg_core.generation.making import Order, make_samples
from hierasurg_core.generation.memory import choose, estimate
from hierasurg_core.generation.overlap import Overlap
from hierasurg_core.generation.records import Run
from hierasurg_core.generation.requests import plan_jobs
from hierasurg_core.generation.sources import plan_models
from hierasurg_core.generation.storyboard import plan_stories
from hierasurg_core.generation.telling import tell

CPU = torch.device("cpu")
STORY = """segments:
  - {phase: calot, triplet: 17, seconds: 18}
  - {phase: packaging, triplet: 17, seconds: 3, cut: true}
"""


def begun(config: GenerateConfig, assets: Path, working: Path) -> Run:
    config.out.mkdir()
    plan = plan_models(config, assets, working)
    return Run(config, plan, plan.describe(), 1, CPU, torch.float32)


def test_samples_made_with_a_thread_are_those_made_without(assets: Path, tmp_path: Path):
    run(assets, tmp_path, num=3, steps=1)
    config = GenerateConfig(phase="calot", triplet="17", num=3, steps=1, out=tmp_path / "beside")
    beside = begun(config, assets, tmp_path)
    pipeline, told = beside.plan.load(CPU, torch.float32, Told()), Told()
    with Overlap() as overlap:
        overlap.begin()
        for job in plan_jobs(config, 16, 1, assets / "scenes", told):
            make_samples(beside, pipeline, [Order(job, job.read(), job.name)], overlap, told)
            later = [f"{number:04d}.json" for number in range(job.seed + 1, 3)]
            assert not any((config.out / name).exists() for name in later)
    assert files(config.out) == files(tmp_path / "samples")
    records = [read_json(config.out / f"{number:04d}.json") for number in range(3)]
    assert [record["fingerprint"] for record in records] == ["0000", "0001", "0002"]
    assert all(set(record["seconds"]) == {"maps", "video", "write"} for record in records)
    assert not any("write" in stage for stage in told.stages)


def test_a_story_told_with_a_thread_is_the_same(assets: Path, tmp_path: Path):
    script = tmp_path / "story.yaml"
    script.write_text(STORY)
    run(assets, tmp_path, **NO_WORDS, script=script, steps=1)
    config = GenerateConfig(script=script, steps=1, out=tmp_path / "beside")
    beside = begun(config, assets, tmp_path)
    (story,) = plan_stories(config, 16, 1, assets / "scenes")
    assert [bool(clip.known) for clip in story.clips] == [False, True, False]
    with Overlap() as overlap:
        overlap.begin()
        seconds = tell(beside, story, beside.plan.load(CPU, torch.float32, Told()), "x", overlap, Told())
    assert files(config.out) == files(tmp_path / "samples")
    assert set(seconds) == {"maps", "video", "save", "write"}


def test_work_runs_beside_the_block_one_at_a_time_and_in_order():
    may_end, done = threading.Event(), []
    with Overlap() as overlap:
        overlap.hand(lambda: done.append("at once"))
        assert done == ["at once"]
        overlap.begin()
        overlap.hand(lambda: done.append(may_end.wait(60)))
        assert done == ["at once"]
        may_end.set()
        overlap.hand(lambda: done.append("third"))
        assert done[:2] == ["at once", True]
    assert done == ["at once", True, "third"]


def test_an_error_of_the_thread_comes_out_and_one_of_the_block_first():
    def fail() -> None:
        raise DataError("of the thread")

    with pytest.raises(DataError, match="of the thread"), Overlap() as overlap:
        overlap.begin()
        overlap.hand(fail)
    with pytest.raises(DataError, match="of the thread"), Overlap() as overlap:
        overlap.begin()
        overlap.hand(fail)
        overlap.hand(lambda: pytest.fail("nothing follows an error"))
    with pytest.raises(UsageError, match="of the block"), Overlap() as overlap:
        overlap.begin()
        overlap.hand(fail)
        raise UsageError("of the block")


def test_memory_counts_both_and_overlaps_only_where_they_fit():
    given = parts(tiny_pipeline())
    plain, beside = (estimate("fast", False, *given, overlapped=both) for both in (False, True))
    assert beside.total > plain.total
    assert choose("auto", beside.total, *given, several=True).overlapped
    assert not choose("auto", beside.total, *given).overlapped
    assert not choose("auto", beside.total - 1, *given, several=True).overlapped
    assert choose("auto", beside.total - 1, *given, several=True).way == "fast"
    assert not choose("offload", beside.total, *given, several=True).overlapped
