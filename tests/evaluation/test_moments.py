import numpy as np
import pytest

from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.moments import Moments


def moments_of(features_ND, batch: int = 1000) -> Moments:
    moments = Moments(features_ND.shape[1])
    for start in range(0, len(features_ND), batch):
        moments.update(features_ND[start : start + batch])
    return moments


def assert_same(a: Moments, b: Moments) -> None:
    assert a.count == b.count
    np.testing.assert_allclose(a.mean_D, b.mean_D, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(a.scatter_DD, b.scatter_DD, rtol=1e-10, atol=1e-9)


def test_two_samples_by_hand():
    moments = moments_of(np.array([[1.0, 0.0], [3.0, 4.0]]))
    assert moments.mean_D.tolist() == [2.0, 2.0]
    assert moments.scatter_DD.tolist() == [[2.0, 4.0], [4.0, 8.0]]
    assert moments.covariance_DD(ddof=0).tolist() == [[1.0, 2.0], [2.0, 4.0]]


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_order_and_a_large_mean_change_nothing(batch: int):
    random = np.random.default_rng(0)
    features_ND = random.normal(size=(300, 5)) @ random.normal(size=(5, 5)) + 1e6
    moments = moments_of(random.permutation(features_ND), batch)
    np.testing.assert_allclose(moments.covariance_DD(), np.cov(features_ND.T), rtol=1e-8)
    np.testing.assert_allclose(moments.mean_D, features_ND.mean(axis=0), rtol=1e-14)


def test_merged_parts_are_the_whole_and_stay_as_they_are():
    features_ND = np.random.default_rng(1).normal(size=(50, 4))
    parts = [moments_of(features_ND[:3]), Moments(4), moments_of(features_ND[3:])]
    for order in (parts, parts[::-1]):
        whole = Moments(4)
        for part in order:
            whole.merge(part)
        assert_same(whole, moments_of(features_ND))
    assert parts[0].count == 3
    with pytest.raises(ValueError, match="cannot merge 3 dimensions into 4"):
        Moments(4).merge(Moments(3))


def test_float32_features_are_summed_in_float64():
    features_ND = (np.random.default_rng(3).normal(size=(100, 3)) + 1000).astype(np.float32)
    np.testing.assert_allclose(
        moments_of(features_ND).covariance_DD(), np.cov(features_ND.T.astype(np.float64)), rtol=1e-9
    )


def test_what_is_no_feature_is_refused_before_it_counts():
    moments = Moments(2)
    with pytest.raises(DataError, match="sample 1 of a batch"):
        moments.update(np.array([[0.0, 0.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match="samples, 2"):
        moments.update(np.zeros((3, 4)))
    moments.update(np.zeros((0, 2)))
    assert moments.count == 0
    with pytest.raises(DataError, match="at least 2 samples, not 0"):
        moments.covariance_DD()
