import numpy as np
import pytest
from helpers import relative_error

from e4e_jax.editing.mixing import interpolate_codes, mix_styles


def codes(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8)])
def test_layers_come_from_the_source_and_the_rest_stays(shape):
    source, destination = codes(0, *shape), codes(1, *shape)
    mixed = mix_styles(source, destination, 2, 4)
    np.testing.assert_array_equal(mixed[..., 2:5, :], source[..., 2:5, :])
    np.testing.assert_array_equal(mixed[..., :2, :], destination[..., :2, :])
    np.testing.assert_array_equal(mixed[..., 5:, :], destination[..., 5:, :])


def test_interpolation_takes_equal_steps_between_both_ends():
    start, end = codes(0, 6, 8), codes(1, 6, 8)
    found = interpolate_codes(start, end, 5)
    np.testing.assert_array_equal(found[0], start)
    np.testing.assert_array_equal(found[4], end)
    expected = np.stack([start + i / 4 * (end - start) for i in range(5)])
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda a, b: mix_styles(a, b[:, :4], 0, 1), r"\[6, 8\] and \[6, 4\]; expected both"),
        (lambda a, b: mix_styles(a, b, 4, 6), "layers are 4 to 6; expected layers in order, 0 to"),
        (lambda a, b: mix_styles(a, b, 3, 2), "layers are 3 to 2"),
        (lambda a, b: interpolate_codes(a, b[:4], 2), r"\[6, 8\] and \[4, 8\]; expected both"),
        (lambda a, b: interpolate_codes(a, b, 1), "count is 1; expected 2 or more"),
    ],
)
def test_mistakes_are_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(codes(0, 6, 8), codes(1, 6, 8))
