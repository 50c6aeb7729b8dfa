import numpy as np
import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.kernel import KernelName, kernel_distance, median_bandwidth, mmd2


def by_loops(x_MD, y_ND, kernel: KernelName, bandwidth: float) -> float:
    def k(a_D, b_D) -> float:
        if kernel == "cubic":
            return (float(a_D @ b_D) / len(a_D) + 1) ** 3
        return float(np.exp(-((a_D - b_D) ** 2).sum() / (2 * bandwidth**2)))

    def others(z_ND) -> float:
        values = [k(a, b) for i, a in enumerate(z_ND) for j, b in enumerate(z_ND) if i != j]
        return float(np.mean(values))

    return others(x_MD) + others(y_ND) - 2 * float(np.mean([k(a, b) for a in x_MD for b in y_ND]))


@pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_as_a_double_loop_says(kernel: KernelName, offset: float):
    random = np.random.default_rng(0)
    x_MD, y_ND = random.normal(size=(13, 4)) + offset, random.normal(size=(9, 4)) * 1.5 + 0.3 + offset
    expected = by_loops(x_MD, y_ND, kernel, 1.7)
    found = mmd2(x_MD, y_ND, kernel=kernel, bandwidth=1.7)
    assert found == pytest.approx(expected, rel=1e-6)
    assert mmd2(y_ND, x_MD, kernel=kernel, bandwidth=1.7) == pytest.approx(expected, rel=1e-6)


def test_by_hand():
    x_MD, y_ND = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    # k(0,1) = 1, k(1,2) = 27; k(0,1) = k(0,2) = 1, k(1,1) = 8, k(1,2) = 27
    assert mmd2(x_MD, y_ND) == 1 + 27 - 2 * (1 + 1 + 8 + 27) / 4
    assert median_bandwidth(np.array([[0.0], [3.0], [4.0]])) == 3
    assert median_bandwidth(np.zeros((3, 2))) == 1


@pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
def test_it_is_unbiased_and_sees_a_difference(kernel: KernelName):
    random = np.random.default_rng(1)
    same = [
        mmd2(random.normal(size=(20, 3)), random.normal(size=(20, 3)), kernel=kernel, bandwidth=2.0)
        for _ in range(400)
    ]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20
    assert min(same) < 0
    moved = mmd2(random.normal(size=(200, 3)), random.normal(size=(200, 3)) + 1, kernel=kernel, bandwidth=2.0)
    assert moved > 5 * np.std(same)


@pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
def test_the_order_of_samples_changes_nothing(kernel: KernelName):
    random = np.random.default_rng(2)
    real_MD, generated_ND = random.normal(size=(60, 5)), random.normal(size=(50, 5)) + 0.2
    first = kernel_distance(real_MD, generated_ND, kernel=kernel, subset_size=20, subsets=10)
    again = kernel_distance(real_MD[::-1], generated_ND[::-1], kernel=kernel, subset_size=20, subsets=10)
    assert again == first
    assert (first.subsets, first.subset_size, first.notes) == (10, 20, ())
    assert first.std > 0
    other = kernel_distance(real_MD, generated_ND, kernel=kernel, subset_size=20, subsets=10, seed=1)
    assert other.mean != first.mean


def test_the_bandwidth_is_that_of_the_real_samples():
    random = np.random.default_rng(3)
    real_MD, generated_ND = random.normal(size=(30, 2)), random.normal(size=(30, 2)) * 9
    result = kernel_distance(real_MD, generated_ND, kernel="gaussian", subsets=2, subset_size=20)
    assert result.bandwidth == median_bandwidth(real_MD)
    assert kernel_distance(real_MD, generated_ND, subsets=2, subset_size=20).bandwidth is None


def test_small_sides_are_noted():
    features_ND = np.random.default_rng(4).normal(size=(10, 2))
    result = kernel_distance(features_ND, features_ND + 1, subsets=5)
    assert result.mean == pytest.approx(mmd2(features_ND, features_ND + 1))
    assert result.std == pytest.approx(0, abs=1e-12)
    assert result.subset_size == 10
    assert "subsets hold 10 samples, not 1000" in result.notes[0]
    assert "spread says nothing" in result.notes[1]


def test_some_rows_are_as_a_smaller_array():
    features_ND = np.random.default_rng(4).normal(size=(30, 3))
    first, second = np.arange(0, 12), np.arange(15, 30)
    of_rows = kernel_distance(
        features_ND, features_ND, subset_size=8, subsets=6, real_rows=first, generated_rows=second
    )
    alone = kernel_distance(features_ND[first], features_ND[second], subset_size=8, subsets=6)
    assert of_rows.mean == pytest.approx(alone.mean, rel=1e-12)
    assert of_rows.notes == alone.notes


def test_what_cannot_be_compared_is_refused():
    features_ND = np.zeros((4, 2))
    with pytest.raises(DataError, match="two samples a side, not 1"):
        kernel_distance(features_ND, features_ND[:1])
    with pytest.raises(DataError, match="NaN"):
        kernel_distance(features_ND, features_ND + np.nan)
    with pytest.raises(ValueError, match="both sides"):
        mmd2(features_ND, features_ND[:, :1])
    with pytest.raises(ValueError, match="bandwidth above 0"):
        mmd2(features_ND, features_ND, kernel="gaussian")
