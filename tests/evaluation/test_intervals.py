"""Bootstrap intervals: by hand, and against how far numbers of new sets really scatter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hierasurg_core.evaluation.distances import (
    Distances,
    FeatureSet,
    RoleValue,
    frechet_of_roles,
    inception_score,
    kernel_of_roles,
)
from hierasurg_core.evaluation.intervals import Slopes, drawn_names, linear_interval, ratio_interval

DIMENSIONS = 8
SPECTRUM = np.exp(-np.arange(DIMENSIONS) / 3)
Roles = dict[str, FeatureSet]


def test_an_interval_of_slopes_by_hand():
    """Two operations are drawn 2-0, 1-1 or 0-2 times, and sqrt(2) widens the step."""
    side = Slopes(np.array([1.0, 2.0, 5.0]), ["a", "a", "b"])  # centred: -1 2/3, -2/3, 2 1/3
    found = linear_interval(10.0, [side], replicates=400, seed=0)
    assert found == pytest.approx((10 - 14 / 3 * 2**0.5, 10 + 14 / 3 * 2**0.5))
    assert linear_interval(1.0, [side], replicates=400, seed=0, lowest=0.0) == pytest.approx(
        (0, 1 + 14 / 3 * 2**0.5)
    )


def test_the_ends_of_a_squared_distance_are_those_of_its_root():
    side = Slopes(np.array([-3.0, 3.0]), ["a", "b"])  # moves by 6 sqrt(2) at most
    found = linear_interval(9.0, [side], replicates=400, seed=0, squared=True)
    assert found == pytest.approx(((3 - 2**0.5) ** 2, (3 + 2**0.5) ** 2))
    assert linear_interval(0.25, [side], replicates=400, seed=0, squared=True) == pytest.approx(
        (0, (0.5 + 6 * 2**0.5) ** 2)
    )
    nothing = Slopes(np.zeros(2), ["a", "b"])
    assert linear_interval(0.0, [nothing], replicates=9, seed=0, squared=True) == (0, 0)


def test_an_operation_of_both_sides_is_drawn_for_both():
    there = Slopes(np.array([1.0, -1.0]), ["a", "b"])
    back = Slopes(np.array([-1.0, 1.0]), ["a", "b"])
    assert linear_interval(3.0, [there, back], replicates=50, seed=0) == (3, 3)
    apart = Slopes(back.value_N, ["c", "d"])
    found = linear_interval(3.0, [there, apart], replicates=200, seed=0)
    assert found is not None
    assert found[0] < 2 < 4 < found[1]


def test_an_interval_of_a_ratio_by_hand():
    top_N, bottom_N = np.array([1.0, 2.0, 9.0]), np.array([2.0, 2.0, 10.0])
    found = ratio_interval(top_N, bottom_N, ["a", "a", "b"], replicates=400, seed=0)
    assert found == (0.75, 0.9)
    assert ratio_interval(top_N, np.array([0.0, 0, 1]), ["a", "a", "b"], replicates=99, seed=0) is not None
    assert ratio_interval(top_N, np.zeros(3), ["a", "a", "b"], replicates=99, seed=0) is None


def test_there_is_no_interval_without_two_to_draw_from():
    assert linear_interval(1.0, [Slopes(np.zeros(1), ["a"])], replicates=9, seed=0) is None
    assert ratio_interval(np.ones(1), np.ones(1), ["a"], replicates=9, seed=0) is None
    assert ratio_interval(np.ones(2), np.ones(2), ["a", "b"], replicates=0, seed=0) is None
    assert drawn_names(["a", "b", "a"]) == ["a", "b", "a"]
    assert drawn_names(["a", "a"]) == ["a 0", "a 1"]


def test_memory_of_draws_does_not_change_them(monkeypatch: pytest.MonkeyPatch):
    side = Slopes(np.random.default_rng(0).normal(size=30), [str(index) for index in range(30)])
    whole = linear_interval(0.0, [side], replicates=100, seed=4)
    monkeypatch.setattr("hierasurg_core.evaluation.intervals._AT_ONCE", 70)
    assert linear_interval(0.0, [side], replicates=100, seed=4) == pytest.approx(whole, rel=1e-12)


# Distances


def side(random: np.random.Generator, clips: int, *, shift: float = 0.0, alike: float = 0.0) -> FeatureSet:
    """Gaussian features of operations of four clips, which share a part of them."""
    operations = [f"{random.integers(10**9)}" for _ in range(clips // 4)]
    own = random.normal(size=(clips, DIMENSIONS))
    shared = random.normal(size=(clips // 4, DIMENSIONS)).repeat(4, axis=0)
    mixed = np.sqrt(1 - alike) * own + np.sqrt(alike) * shared
    return FeatureSet((mixed + shift) * SPECTRUM, np.repeat(operations, 4).tolist())


def frechet(sets: Roles, replicates: int = 200, seed: int = 0) -> Distances:
    return frechet_of_roles(sets, ddof=1, replicates=replicates, seed=seed)


def cubic(sets: Roles, replicates: int = 200, seed: int = 0) -> Distances:
    return kernel_of_roles(
        sets, kernel="cubic", subsets=12, subset_size=120, seed=seed, replicates=replicates
    )


def gaussian(sets: Roles, replicates: int = 200, seed: int = 0) -> Distances:
    return kernel_of_roles(
        sets, kernel="gaussian", subsets=12, subset_size=120, seed=seed, replicates=replicates
    )


@pytest.mark.parametrize(
    ("measure", "alike"), [(frechet, 0.0), (frechet, 0.5), (cubic, 0.5), (gaussian, 0.0)]
)
def test_intervals_hold_what_new_sets_give_on_average(measure: Callable[..., Distances], alike: float):
    """Of 40 operations a side about 92 % do; 84 of 100 are three standard errors below."""
    found: list[RoleValue] = []
    for seed in range(100):
        random = np.random.default_rng(seed)
        sets = {"real": side(random, 160, alike=alike), "model": side(random, 160, shift=0.5, alike=alike)}
        found.append(measure(sets).values["model"])
    average = np.mean([value.value for value in found])
    held = [value.interval is not None and value.interval[0] < average < value.interval[1] for value in found]
    assert sum(held) >= 84, sum(held)
    wide = np.mean([value.interval[1] - value.interval[0] for value in found if value.interval is not None])
    assert 0.8 < wide / (2 * 1.96 * np.std([value.value for value in found])) < 1.35


def test_the_interval_of_many_samples_holds_the_closed_form():
    random = np.random.default_rng(6)
    sets = {"real": side(random, 8000), "model": side(random, 8000, shift=0.5)}
    found = frechet(sets).values["model"]
    assert found.interval is not None
    assert found.interval[0] < 0.25 * (SPECTRUM**2).sum() < found.interval[1]
    few = {name: FeatureSet(one.features_ND[:80], one.operations[:80]) for name, one in sets.items()}
    wide = frechet(few).values["model"].interval
    assert wide is not None
    assert found.interval[1] - found.interval[0] < 0.3 * (wide[1] - wide[0])


def roles(per_clip: int = 1) -> Roles:
    """Six operations of four clips, the frozen ones of the same operations."""
    random = np.random.default_rng(3)
    real, model = side(random, 24), side(random, 24, shift=1)

    def of(features_ND: NDArray[np.floating], operations: Any) -> FeatureSet:
        rows = features_ND.repeat(per_clip, axis=0) + 0.01 * random.normal(size=(24 * per_clip, DIMENSIONS))
        return FeatureSet(rows, operations, per_clip)

    return {
        "real": of(np.asarray(real.features_ND), real.operations),
        "vae": of(np.asarray(real.features_ND) * 0.9, real.operations),
        "frozen": of(np.asarray(real.features_ND) * 0.5, real.operations),
        "model": of(np.asarray(model.features_ND), model.operations),
    }


@pytest.mark.parametrize("measure", [frechet, cubic, gaussian])
@pytest.mark.parametrize("per_clip", [1, 3])
def test_every_role_has_one_that_depends_on_the_seed_and_not_on_order(
    measure: Callable[..., Distances], per_clip: int
):
    sets = roles(per_clip)
    found, again, other = measure(sets), measure(sets), measure(sets, seed=1)
    for role, value in found.values.items():
        assert value.interval is not None, role
        assert value.interval[0] <= value.value <= value.interval[1], role
    assert again == found
    assert other.values["model"].interval != found.values["model"].interval
    assert all(value.interval is None for value in measure(sets, replicates=0).values.values())
    turned = {
        name: FeatureSet(
            one.features_ND.reshape(24, -1)[::-1].reshape(one.features_ND.shape),
            one.operations[::-1],
            per_clip,
        )
        for name, one in sets.items()
    }
    for role in ("vae", "frozen", "model"):
        ends = measure(turned).values[role].interval
        assert ends == pytest.approx(found.values[role].interval, rel=1e-8, abs=1e-9)


def test_fewer_samples_than_dimensions_have_an_interval_and_a_warning():
    random = np.random.default_rng(9)
    sets = {
        name: FeatureSet(random.normal(shift, 1, (20, 300)), [f"{name}{index}" for index in range(20)])
        for name, shift in (("real", 0), ("frozen", 2), ("model", 1))
    }
    found = frechet(sets)
    low, high = found.values["model"].interval or (0, 0)
    assert 0 < low < found.values["model"].value < high
    (warning,) = found.warnings
    assert "20 and 20 samples are fewer than the 301" in warning
    assert not frechet(roles()).warnings or DIMENSIONS > 24


def test_the_inception_score_has_one_too():
    random = np.random.default_rng(2)
    logits = random.normal(size=(300, 5)) * 3
    scores = [
        inception_score(FeatureSet(random.permutation(logits)[:60], [str(i) for i in range(60)])).value
        for _ in range(200)
    ]
    one = FeatureSet(logits[:60], [str(index) for index in range(60)])
    found = inception_score(one, replicates=500)
    assert found.interval is not None
    assert found.interval[0] < np.mean(scores) < found.interval[1]
    wide = (found.interval[1] - found.interval[0]) / (2 * 1.96 * np.std(scores))
    assert 0.7 < wide < 1.5
