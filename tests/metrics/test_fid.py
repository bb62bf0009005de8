import numpy as np
import pytest
import scipy.linalg

from e4e_jax.metrics.fid import frechet_distance
from e4e_jax.metrics.moments import FeatureStatistics


def features(seed, count, size):
    """Correlated features of unequal scales, away from zero."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(size, size)) * np.linspace(0.1, 3, size)
    return rng.normal(size=(count, size)) @ mixing + rng.normal(size=size)


def gaussian(x):
    return x.mean(axis=0), np.cov(x, rowvar=False)


def test_statistics_of_batches_are_those_of_the_whole():
    x = features(0, 100, 7).astype(np.float32)
    first, second = FeatureStatistics(7), FeatureStatistics(7)
    first.update(x[:13])
    first.update(x[13:60])
    second.update(x[60:])
    first.merge(second)
    mean, covariance = gaussian(x.astype(np.float64))
    assert first.count == 100
    np.testing.assert_allclose(first.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(first.covariance, covariance, rtol=1e-10, atol=1e-12)


def test_statistics_name_what_is_wrong():
    statistics = FeatureStatistics(3)
    with pytest.raises(ValueError, match=r"expected \[N, 3\], found \(2, 4\)"):
        statistics.update(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        statistics.update(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="at least 1 vector"):
        _ = statistics.mean
    statistics.update(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least 2 vectors, found 1"):
        _ = statistics.covariance
    with pytest.raises(ValueError, match="expected 3 features, found 4"):
        statistics.merge(FeatureStatistics(4))


def test_distance_is_the_formula():
    mean1, cov1 = gaussian(features(1, 200, 9))
    # Regular enough that the root of the product is exact: seed 2 has an eigenvalue of 1e-8.
    mean2, cov2 = gaussian(features(3, 150, 9))
    root = scipy.linalg.sqrtm(cov1 @ cov2).real
    expected = np.sum((mean1 - mean2) ** 2) + np.trace(cov1 + cov2 - 2 * root)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [10, 300])
def test_distance_of_a_set_to_itself_is_zero(count):
    mean, covariance = gaussian(features(3, count, 64))  # 10 vectors: singular
    assert frechet_distance(mean, covariance, mean, covariance) < 1e-6


def test_distance_of_singular_covariances():
    # In a common basis the distance is that of the standard deviations, zeros included.
    rotation = np.linalg.qr(features(4, 40, 40))[0]
    deviations1 = np.r_[np.linspace(1, 3, 10), np.zeros(30)]
    deviations2 = np.r_[np.zeros(5), np.linspace(0.5, 2, 10), np.zeros(25)]
    cov1, cov2 = (rotation * d**2 @ rotation.T for d in (deviations1, deviations2))
    mean = np.zeros(40)
    expected = np.sum((deviations1 - deviations2) ** 2)
    assert frechet_distance(mean, cov1, mean, cov2) == pytest.approx(expected, abs=1e-9)
    zero = np.zeros((40, 40))
    assert frechet_distance(mean, cov1, mean + 1, zero) == pytest.approx(40 + np.trace(cov1))


def test_distance_names_the_wrong_shape():
    with pytest.raises(ValueError, match=r"cov2: expected shape \(3, 3\), found \(4, 4\)"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.eye(4))
