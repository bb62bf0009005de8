import numpy as np
import pytest

from e4e_jax.editing.directions import regress_directions


def correlated_codes(seed=0, count=400, size=12, rank=12):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, rank)) @ rng.normal(size=(rank, size)) + rng.normal(size=size)


def score_weights(size=12):
    """[D, K] for three scores in unlike units."""
    return np.random.default_rng(1).normal(size=(size, 3)) * [1, 10, 0.1]


def test_directions_change_their_own_score_and_no_other():
    codes, weights = correlated_codes(), score_weights()
    directions = regress_directions(codes, codes @ weights + [3, 0, -2])
    np.testing.assert_allclose(directions @ weights, np.eye(3), atol=1e-9)


def test_directions_are_recovered_where_codes_are_independent():
    # Scores that are single code dimensions of independent codes: each direction is that axis.
    codes = np.random.default_rng(2).normal(size=(500, 6))
    codes = np.linalg.qr(codes - codes.mean(axis=0))[0] * [1, 2, 3, 4, 5, 6]
    directions = regress_directions(codes, codes[:, [4, 1]] * 2)
    np.testing.assert_allclose(directions, np.eye(6)[[4, 1]] / 2, atol=1e-12)


def test_directions_with_noisy_scores_are_the_closed_form():
    codes, weights = correlated_codes(), score_weights()
    noise = np.random.default_rng(3).normal(size=(400, 3)) * [1, 10, 0.1]
    scores = codes @ weights + noise
    directions = regress_directions(codes, scores)

    design = np.c_[codes, np.ones(400)]
    fitted = (np.linalg.inv(design.T @ design) @ design.T @ scores)[:12]  # B
    sigma = np.cov(codes, rowvar=False)
    expected = sigma @ fitted @ np.linalg.inv(fitted.T @ sigma @ fitted)
    np.testing.assert_allclose(directions, expected.T, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(directions @ fitted, np.eye(3), atol=1e-9)

    def mahalanobis(steps):
        return np.einsum("kd,de,ke->k", steps, np.linalg.inv(sigma), steps)

    shortest = np.linalg.pinv(fitted)  # the same effect on the scores, the least Euclidean norm
    assert (mahalanobis(directions) < mahalanobis(shortest)).all()


def test_directions_stay_where_codes_vary():
    codes, weights = correlated_codes(rank=5), score_weights()
    directions = regress_directions(codes, codes @ weights)
    np.testing.assert_allclose(directions @ weights, np.eye(3), atol=1e-8)
    varied = np.linalg.svd(codes - codes.mean(axis=0))[2][:5]  # rows span the codes' subspace
    np.testing.assert_allclose(directions @ varied.T @ varied, directions, atol=1e-8)


def test_impossible_directions_are_named():
    codes, weights = correlated_codes(), score_weights()
    scores = codes @ weights
    with pytest.raises(ValueError, match="column 1 constant"):
        regress_directions(codes, np.c_[scores[:, 0], np.full(400, 0.3)])
    with pytest.raises(ValueError, match="independently of each other"):
        regress_directions(codes, np.c_[scores, scores.sum(axis=1)])
    with pytest.raises(ValueError, match="more codes than their 12 dimensions, found 12"):
        regress_directions(codes[:12], scores[:12])
    with pytest.raises(ValueError, match=r"found \(400, 12\) and \(399, 3\)"):
        regress_directions(codes, scores[1:])
    with pytest.raises(ValueError, match="scores: expected finite"):
        regress_directions(codes, np.where(scores > 1, np.nan, scores))
