import numpy as np
import pytest

from e4e_jax.editing.interfacegan import boundary, condition


def scored_codes(count=4000, size=12, noise=0.1):
    """Codes whose score is their coordinate along a known direction, somewhat blurred."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=size)
    truth /= np.linalg.norm(truth)
    codes = 3 + 5 * rng.normal(size=(count, size))
    return codes, codes @ truth + noise * rng.normal(size=count), truth


def test_boundary_finds_the_direction_of_the_scores():
    codes, scores, truth = scored_codes()
    normal, accuracy = boundary(codes, 100 * scores - 7)
    assert normal.dtype == np.float32 and abs(np.linalg.norm(normal) - 1) < 1e-5
    assert normal @ truth > 0.95 and accuracy == 1
    reverse, _ = boundary(codes, -scores)
    assert reverse @ truth < -0.95


def test_scores_that_have_nothing_to_do_with_the_codes_do_not_separate():
    codes, _, _ = scored_codes()
    _, accuracy = boundary(codes, np.random.default_rng(1).normal(size=len(codes)))
    assert accuracy < 0.75


def test_condition_takes_out_what_is_shared():
    rng = np.random.default_rng(0)
    direction, others = rng.normal(size=10), rng.normal(size=(3, 10))
    left = condition(direction, others)
    assert np.abs(others @ left).max() < 1e-5 and abs(np.linalg.norm(left) - 1) < 1e-5
    projection = others.T @ np.linalg.lstsq(others.T, direction)[0]
    expected = (direction - projection) / np.linalg.norm(direction - projection)
    np.testing.assert_allclose(left, expected, atol=1e-6)
    with pytest.raises(ValueError, match="a combination of those that are to stay"):
        condition(others[0] + others[1], others)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda codes, scores: (codes, scores[:-1]), "expected \\[N, D\\] and \\[N\\]"),
        (lambda codes, scores: (codes[:15], scores[:15]), "there are 15 codes; expected at least"),
        (lambda codes, scores: (codes, scores * 0 + 2), "lowest of 4000 scores meet at 2"),
        (lambda codes, scores: (codes * np.nan, scores), "NaN or infinity"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    codes, scores, _ = scored_codes()
    with pytest.raises(ValueError, match=sentence):
        boundary(*change(codes, scores))
