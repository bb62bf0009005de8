import numpy as np
import pytest

from e4e_jax.metrics.regression import r2_score


def test_r2_score():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 4)) * [1, 10, 0.1, 1] + [0, 5, -1, 0]
    predicted = true + rng.normal(size=true.shape) * [0, 3, 0.05, 2]
    expected = [
        1 - np.mean((t - p) ** 2) / np.var(t) for t, p in zip(true.T, predicted.T, strict=True)
    ]
    np.testing.assert_allclose(r2_score(true, predicted), expected, rtol=1e-12)
    assert r2_score(true, predicted)[0] == 1
    mean = np.broadcast_to(true.mean(axis=0), true.shape)
    np.testing.assert_allclose(r2_score(true, mean), 0, atol=1e-12)


def test_r2_score_of_a_constant_is_undefined():
    true = np.stack([np.full(5, 0.1), np.arange(5.0)], axis=1)
    score = r2_score(true, true)
    assert np.isnan(score[0]) and score[1] == 1


def test_r2_score_names_the_shapes():
    with pytest.raises(ValueError, match=r"found \(5, 2\) and \(5, 1\)"):
        r2_score(np.zeros((5, 2)), np.zeros((5, 1)))
