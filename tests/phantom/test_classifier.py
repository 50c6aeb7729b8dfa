"""The training of the mini network: its damage, its schedule, its state, and the folder that it leaves."""

from pathlib import Path

import pytest
import torch

from hierasurg_core.evaluation.mini import DAMAGES, load_mini
from hierasurg_core.phantom.classifier import (
    damaged,
    learning_rate,
    main,
    measure_classifier,
    train_classifier,
)
from hierasurg_core.progress import SilentProgress
from hierasurg_core.runtime import make_generator


class Notes(SilentProgress):
    def __init__(self):
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def train(out: Path, steps: int, seconds: float = 1e9) -> tuple[bool, list[str]]:
    notes = Notes()
    done = train_classifier(
        out,
        steps=steps,
        batch=1,
        seed=0,
        device=torch.device("cpu"),
        max_seconds=seconds,
        progress=notes,
        held_out=1,
    )
    return done, notes.lines


@pytest.mark.slow
def test_a_training_that_was_cut_off_goes_on_and_leaves_a_small_folder(tmp_path: Path):
    assert train(tmp_path, 2, seconds=1e-9) == (False, [])
    assert not (tmp_path / "classifier-mini").exists()
    done, lines = train(tmp_path, 2)
    assert done
    assert "step 2" in lines[0]
    assert "held-out clips (mini)" in lines[-1]
    folder = tmp_path / "classifier-mini"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3e6
    found = measure_classifier(load_mini(folder), 1, torch.device("cpu"))
    assert found.clips == 1
    assert 0 <= found.damage_error <= 1
    assert train(tmp_path, 2) == (True, [])


def test_damage_is_what_it_says():
    video = torch.rand(24, 8, 3, 32, 48, generator=make_generator(0)) * 0.5 + 0.25
    before = video.clone()
    worse, strength = damaged(video, make_generator(3))
    assert torch.equal(video, before)
    assert strength.shape == (24, len(DAMAGES))
    clean = (strength == 0).all(1)
    assert 0 < clean.sum() < 24
    assert torch.equal(worse[clean], video[clean])
    harmed = strength[:, :3].sum(1) > 0.2
    assert (worse[harmed] - video[harmed]).abs().flatten(1).mean(1).min() > 0
    only_shuffled = (strength[:, :3].sum(1) == 0) & (strength[:, 3] > 0.5)
    for one, other in zip(worse[only_shuffled], video[only_shuffled], strict=True):
        assert torch.equal(one.flatten(1).sum(1).sort().values, other.flatten(1).sum(1).sort().values)


def test_the_same_seed_does_the_same_damage():
    video = torch.rand(4, 8, 3, 32, 48, generator=make_generator(0))
    first, again = (damaged(video, make_generator(1))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, damaged(video, make_generator(2))[0])


def test_the_rate_rises_and_ends_at_nothing():
    rates = [learning_rate(step, 200) for step in range(201)]
    assert max(rates) == pytest.approx(2e-3)
    assert rates[0] == pytest.approx(2e-4)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[200] == pytest.approx(0, abs=1e-12)


def test_impossible_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sys.argv", ["classifier", str(tmp_path / "out"), "--steps", "0"])
    assert main() == 2
    assert "--steps" in capsys.readouterr().err
