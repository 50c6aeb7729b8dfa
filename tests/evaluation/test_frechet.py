"""Frechet distances against scipy's matrix root, closed forms and the bias of small sets."""

import numpy as np
import pytest
import scipy.linalg

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.frechet import frechet_distance, frechet_slopes
from hierasurg_core.evaluation.moments import Moments


def moments_of(features_ND) -> Moments:
    moments = Moments(features_ND.shape[1])
    moments.update(features_ND)
    return moments


def exact(mean_D, covariance_DD, count: int = 1001) -> Moments:
    """Moments whose covariance is exactly this one."""
    moments = Moments(len(mean_D))
    moments.count, moments.mean_D = count, np.asarray(mean_D, float)
    moments.scatter_DD = np.asarray(covariance_DD, float) * (count - 1)
    return moments


def by_scipy(a_ND, b_ND, ddof: int = 1) -> float:
    cov_a, cov_b = np.cov(a_ND.T, ddof=ddof), np.cov(b_ND.T, ddof=ddof)
    root = np.real(np.asarray(scipy.linalg.sqrtm(cov_a @ cov_b)))
    apart = a_ND.mean(axis=0) - b_ND.mean(axis=0)
    return float(apart @ apart + np.trace(cov_a + cov_b - 2 * root))


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("dimensions", [1, 3, 32])
def test_as_scipy_says(dimensions: int, ddof: int):
    random = np.random.default_rng(dimensions)
    a_ND = random.normal(size=(400, dimensions)) @ random.normal(size=(dimensions, dimensions)) + 2
    b_ND = random.normal(size=(300, dimensions)) @ random.normal(size=(dimensions, dimensions))
    if dimensions == 1:
        expected = (a_ND.mean() - b_ND.mean()) ** 2 + (a_ND.std(ddof=ddof) - b_ND.std(ddof=ddof)) ** 2
    else:
        expected = by_scipy(a_ND, b_ND, ddof)
    a, b = moments_of(a_ND), moments_of(b_ND)
    assert frechet_distance(a, b, ddof=ddof).value == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a, ddof=ddof).value == pytest.approx(expected, rel=1e-6)
    assert not frechet_distance(a, b).notes


def test_closed_forms():
    diagonal = frechet_distance(exact([0, 0, 3], np.diag([4, 9, 1])), exact([1, 0, 1], np.diag([1, 4, 0])))
    assert diagonal.mean_part == 5
    assert diagonal.covariance_part == pytest.approx(1 + 1 + 1, rel=1e-12)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6))).Q
    turned = [rotation @ np.diag(np.arange(1.0, 7) ** 2 * k) @ rotation.T for k in (1, 4)]
    result = frechet_distance(exact(np.zeros(6), turned[0]), exact(np.ones(6), turned[1]))
    assert result.value == pytest.approx(6 + (np.arange(1, 7) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize(("count", "dimensions"), [(500, 20), (30, 200), (2, 50)])
def test_a_set_is_at_no_distance_from_itself(count: int, dimensions: int):
    random = np.random.default_rng(count)
    features_ND = random.normal(size=(count, dimensions)) @ random.normal(size=(dimensions, dimensions)) * 10
    scale = moments_of(features_ND).covariance_DD().trace()
    forth, back = moments_of(features_ND), moments_of(features_ND[::-1])
    assert frechet_distance(forth, back).value < 1e-6
    assert frechet_distance(forth, back).value < 1e-12 * scale


def test_fewer_samples_than_dimensions_are_exact_and_noted():
    """Against the samples' own Gram matrix: tr (A B)^(1/2) is the nuclear norm of X Y^T / (n - 1)."""
    random = np.random.default_rng(5)
    a_ND, b_ND = random.normal(size=(20, 300)) + 0.5, random.normal(size=(25, 300)) * 1.5
    x_ND, y_ND = a_ND - a_ND.mean(axis=0), b_ND - b_ND.mean(axis=0)
    shared = np.linalg.norm(x_ND @ y_ND.T / np.sqrt(19 * 24), ord="nuc")
    apart_D = a_ND.mean(axis=0) - b_ND.mean(axis=0)
    expected = apart_D @ apart_D + (x_ND**2).sum() / 19 + (y_ND**2).sum() / 24 - 2 * shared
    result = frechet_distance(moments_of(a_ND), moments_of(b_ND))
    assert result.value == pytest.approx(expected, rel=1e-9)
    assert len(result.notes) == 1
    assert "20 and 25 samples are fewer than the 301" in result.notes[0]


def test_constant_features_have_a_distance_too():
    a, b = moments_of(np.zeros((5, 3))), moments_of(np.ones((5, 3)))
    assert frechet_distance(a, b).value == 3
    assert frechet_distance(a, a).value == 0


@pytest.mark.parametrize("smallest", [1e-4, 1e-8, 1e-10, 1e-13, 0])
def test_nearly_singular_covariances_are_exact(smallest: float):
    """Either factor serves: A and 4 A, of any condition, are tr A apart."""
    random = np.random.default_rng(8)
    rotation = np.linalg.qr(random.normal(size=(40, 40))).Q
    cov_DD = (rotation * np.append(np.linspace(1, 2, 39), smallest)) @ rotation.T
    result = frechet_distance(exact(np.zeros(40), cov_DD), exact(np.zeros(40), 4 * cov_DD))
    assert result.value == pytest.approx(cov_DD.trace(), rel=1e-9)


def test_too_few_samples_are_refused():
    with pytest.raises(DataError, match="at least 2 samples, not 1"):
        frechet_distance(moments_of(np.zeros((1, 2))), moments_of(np.zeros((5, 2))))
    with pytest.raises(ValueError, match="2 dimensions with 3"):
        frechet_distance(moments_of(np.zeros((5, 2))), moments_of(np.zeros((5, 3))))


def weighed(features_ND, weight_N, ddof: int) -> Moments:
    """Moments of samples that count more or less than once."""
    moments = Moments(features_ND.shape[1])
    share_N = weight_N / weight_N.sum()
    moments.count, moments.mean_D = len(features_ND), share_N @ features_ND
    apart_ND = features_ND - moments.mean_D
    moments.scatter_DD = len(features_ND) * apart_ND.T @ (share_N[:, None] * apart_ND)
    return moments


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("counts", "dimensions"), [((40, 50), 6), ((9, 12), 20), ((9, 60), 20)])
def test_slopes_are_the_derivatives_by_the_weights(counts: tuple[int, int], dimensions: int, ddof: int):
    """Against differences of distances, with full and with singular covariances."""
    random = np.random.default_rng(dimensions)
    sides = [random.normal(0.4 * index, 1 + index, (counts[index], dimensions)) for index in (0, 1)]
    whole = [moments_of(side) for side in sides]
    found, *slopes = frechet_slopes(*whole, ddof=ddof)
    assert found.value == pytest.approx(frechet_distance(*whole, ddof=ddof).value, rel=1e-12)
    assert found.notes == frechet_distance(*whole, ddof=ddof).notes
    for index, slope in enumerate(slopes):
        way_N = random.normal(size=counts[index])
        way_N -= way_N.mean()
        ends = []
        for step in (1e-4, -1e-4):
            pair = list(whole)
            pair[index] = weighed(sides[index], 1 + step * way_N, ddof)
            ends.append(frechet_distance(*pair, ddof=ddof).value)
        expected = (ends[0] - ends[1]) / 2e-4
        assert slope.of(sides[index]) @ way_N == pytest.approx(expected, rel=1e-5)


def test_slopes_of_constant_features_are_those_of_the_means():
    a, b = moments_of(np.zeros((5, 3))), moments_of(np.ones((5, 3)))
    found, of_a, _ = frechet_slopes(a, b)
    assert found.value == 3
    assert of_a.of(np.full((1, 3), 0.5)).tolist() == [(2 * -1.5 + 0.75 * 5 / 4) / 5]
