"""Whole sets of features: halves, floor and trivial, places, curves and scores, by hand where that can be."""

import numpy as np
import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.distances import (
    FeatureSet,
    by_second,
    frechet_of_roles,
    halves,
    inception_score,
    kernel_of_roles,
    place_between,
)
from hierasurg_core.evaluation.frechet import frechet_distance
from hierasurg_core.evaluation.moments import Moments
from hierasurg_core.evaluation.recordings import Labels
from hierasurg_core.evaluation.scalars import (
    ClipValues,
    by_phase,
    mean_of,
    phase_hits,
    places_of,
    triplet_hits,
)
from hierasurg_core.evaluation.scalars import by_second as mean_by_second


def features(count: int, shift: float, seed: int, dimensions: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, dimensions)).astype(np.float32)


def roles(shift: float = 0.5, count: int = 120) -> dict[str, FeatureSet]:
    operations = [f"video{index // 10:02d}" for index in range(count)]
    return {
        "real": FeatureSet(features(count, 0, 0), operations),
        "vae": FeatureSet(features(count, 0.2, 1), operations),
        "frozen": FeatureSet(features(count, 2, 2), operations),
        "model": FeatureSet(features(count, shift, 3), [str(index) for index in range(count)]),
    }


def moments(features_ND: np.ndarray) -> Moments:
    result = Moments(features_ND.shape[1])
    result.update(features_ND)
    return result


def test_halves_are_of_whole_operations_and_alike_in_size():
    names = ["a"] * 5 + ["b"] * 3 + ["c"] * 3
    first, second = halves(names)
    assert sorted([*first, *second]) == list(range(11))
    assert {len(first), len(second)} == {5, 6}
    assert not {names[i] for i in first} & {names[i] for i in second}
    first, second = halves(["a"] * 5)
    assert (first.tolist(), second.tolist()) == ([0, 1, 2], [3, 4])


def test_distances_are_those_of_all_clips_and_their_order_is_right():
    sets = roles()
    found = frechet_of_roles(sets, ddof=1, replicates=20, seed=0)
    for role in ("vae", "frozen", "model"):
        by_hand = frechet_distance(moments(sets["real"].features_ND), moments(sets[role].features_ND)).value
        assert found.values[role].value == pytest.approx(by_hand, rel=1e-9)
    first, second = (moments(sets["real"].features_ND[half]) for half in halves(sets["real"].operations))
    assert found.values["real"].value == pytest.approx(frechet_distance(first, second).value, rel=1e-9)
    assert found.values["model"].interval is not None
    low, high = found.values["model"].interval
    assert low < found.values["model"].value < high
    assert 0 < found.places["vae"] < found.places["model"] < 1
    assert [count for count, _ in found.against_samples] == [7, 15, 30, 60, 120]
    assert found.against_samples[-1][1] == pytest.approx(found.values["model"].value, rel=1e-6)


def test_a_worse_model_lies_further_on_the_way():
    places = [
        (
            frechet_of_roles(roles(shift), ddof=1, replicates=0, seed=0).places["model"],
            kernel_of_roles(roles(shift), kernel="cubic", subsets=4, subset_size=60, seed=0).places["model"],
        )
        for shift in (0.0, 0.7, 1.4, 2.0)
    ]
    for kind in zip(*places, strict=True):
        assert list(kind) == sorted(kind)
        assert abs(kind[0]) < 0.2
        assert kind[-1] == pytest.approx(1, abs=0.5)


def test_copies_of_real_clips_are_no_better_than_real_ones():
    """Against all real clips they are at no distance; their place is that of clips of other operations."""
    sets = {**roles(), "model": roles()["real"]}
    for found in (
        frechet_of_roles(sets, ddof=1, replicates=0, seed=0),
        kernel_of_roles(sets, kernel="cubic", subsets=1, subset_size=120, seed=0),
    ):
        assert found.values["model"].value < found.values["real"].value
        assert found.places["model"] == pytest.approx(0, abs=1e-9)
    other = [f"other {name}" for name in sets["real"].operations]
    apart = {**sets, "model": FeatureSet(sets["real"].features_ND, other)}
    assert frechet_of_roles(apart, ddof=1, replicates=0, seed=0).places["model"] < 0


def test_places_of_one_operation_alone_are_of_its_later_half():
    sets = {name: FeatureSet(one.features_ND, ["a"] * 120) for name, one in roles().items()}
    found = frechet_of_roles({**sets, "model": sets["real"]}, ddof=1, replicates=0, seed=0)
    assert found.places["model"] == pytest.approx(0, abs=1e-9)
    none_left = {**roles(), "model": FeatureSet(sets["model"].features_ND[:5], ["video00"] * 5)}
    places = frechet_of_roles(none_left, ddof=1, replicates=0, seed=0).places
    assert "vae" in places
    assert ("model" in places) == (0 not in halves(roles()["real"].operations)[0])


def test_one_clip_is_no_distribution():
    sets = roles()
    alone = {**sets, "model": FeatureSet(sets["model"].features_ND[:1], ["0"])}
    with pytest.raises(DataError, match="1 clips on the side 'model'"):
        frechet_of_roles(alone, ddof=1, replicates=0, seed=0)
    few = {**sets, "model": FeatureSet(sets["model"].features_ND[:4], list("abcd"))}
    assert "biased" in " ".join(frechet_of_roles(few, ddof=1, replicates=0, seed=0).warnings)


def test_frames_of_a_clip_are_samples_and_moments_stand_alone():
    real = features(40, 0, 0).reshape(10, 4, 6)
    model = real.copy()
    model[:, 2] += 3
    sets = {
        name: FeatureSet(rows.reshape(40, 6), [str(i) for i in range(10)], per_clip=4)
        for name, rows in (("real", real), ("model", model))
    }
    curve = by_second(sets, ddof=1, fps=2)
    assert [second for second, _ in curve] == [0, 0.5, 1, 1.5]
    assert [round(value, 4) for _, value in curve] == [0, 0, 54, 0]
    found = frechet_of_roles(sets, ddof=1, replicates=0, seed=0)
    assert found.values["model"].count == 10
    assert found.places == {}


def test_the_inception_score_by_hand():
    certain = FeatureSet(np.eye(4).repeat(3, axis=0) * 50, [str(index) for index in range(6)], per_clip=2)
    assert inception_score(certain).value == pytest.approx(4, rel=1e-6)
    assert inception_score(certain).count == 6
    flat = inception_score(FeatureSet(np.zeros((5, 4)), list("abcde")), replicates=20)
    assert flat.value == pytest.approx(1)
    assert flat.interval == pytest.approx((1, 1))


def test_places():
    assert place_between(1, 3, 2) == 0.5
    assert place_between(0.9, 0.1, 0.9, better="higher") == 0
    assert place_between(2, 2, 5) is None
    assert place_between(3, 1, 2) is None
    assert place_between(1, 3, 2, better="higher") is None


# Means over clips


def values(numbers: list[float], operations: str = "aabbc") -> ClipValues:
    labels = [Labels(phase, 0, frozenset((0,))) for phase in (0, 0, 1, 1, None)]
    return ClipValues(np.array(numbers), list(operations), labels, list("vwxyz"))


def test_means_leave_out_what_is_unknown():
    mean = mean_of(values([1, 3, np.nan, 5, 7]), replicates=50, seed=0)
    assert mean is not None
    assert (mean.value, mean.count) == (4, 4)
    assert mean.interval is not None
    assert 2 <= mean.interval[0] < 4 < mean.interval[1] <= 7
    assert mean_of(values([np.nan] * 5), replicates=50, seed=0) is None
    alone = mean_of(values([1, 3, 5, 7, 9], "aaaaa"), replicates=0, seed=0)
    assert alone is not None
    assert alone.interval is None
    assert by_phase(values([1, 3, np.nan, 5, 7])) == {
        "preparation": (2.0, 2),
        "carlot-triangle-dissection": (5.0, 1),
    }
    by_time = mean_by_second(np.array([[np.nan, 2.0], [np.nan, 4.0]]), 2)
    assert by_time == ((0.5, 3.0),)


def test_hits_by_hand():
    labels = [Labels(1, 3, frozenset((3, 4))), Labels(None, None)]
    logits = np.array([[0.0, 2, 1, 0, 5], [0, 0, 0, 0, 1]])
    assert phase_hits(logits[:, :3], labels)[0] == 1
    assert triplet_hits(logits, labels)[0] == 1
    assert triplet_hits(logits[:, :3], labels)[0] == 0
    assert np.isnan(phase_hits(logits, labels)[1])
    assert np.isnan(triplet_hits(logits, labels)[1])


def test_the_place_of_a_mean_needs_both_ends():
    means = {
        role: mean_of(values([x] * 5), replicates=0, seed=0)
        for role, x in (("real", 1.0), ("frozen", 0.0), ("model", 0.25))
    }
    known = {role: mean for role, mean in means.items() if mean is not None}
    assert places_of(known, better="higher") == {"model": 0.75}
    assert places_of(known, better="lower") == {}
    assert places_of({**known, "vae": known["real"]}, better="higher") == {"vae": 0, "model": 0.75}
    assert places_of({role: mean for role, mean in known.items() if role != "real"}, better="higher") == {}
