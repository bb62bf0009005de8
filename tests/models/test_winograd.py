import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e4e_jax.models import ops, winograd

LAYOUT = ("NHWC", "HWIO", "NHWC")


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=LAYOUT
    )


def arrays(height, width, channels, out):
    rng = np.random.default_rng(height * 100 + channels)
    x = rng.normal(size=(2, height, width, channels)) + 0.5
    kernel, grad = rng.normal(size=(3, 3, channels, out)), rng.normal(size=(2, height, width, out))
    return [jnp.asarray(a, jnp.float32) for a in (x, kernel, grad)]


def error(actual, expected):
    return float(jnp.max(jnp.abs(actual - expected)) / jnp.max(jnp.abs(expected)))


# Heights that are and are not whole tiles of four rows, and fewer rows than one tile.
@pytest.mark.parametrize("height, width", [(16, 16), (14, 5), (7, 9), (13, 1), (3, 4), (1, 6)])
def test_convolution_and_weight_gradient_are_those_of_the_plain_form(height, width):
    x, kernel, grad = arrays(height, width, 5, 7)
    assert error(winograd.conv3x3(x, kernel), plain(x, kernel)) < 2e-6
    _, backward = jax.vjp(lambda kernel: plain(x, kernel), kernel)
    assert error(winograd.weight_grad3x3(x, grad), backward(grad)[0]) < 2e-6


def test_rounding_is_at_most_three_times_that_of_the_plain_form():
    """Both beside float64, with as many channels as StyleGAN2 has."""
    x, kernel, _ = arrays(16, 16, 512, 32)
    exact = sum(
        np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))[:, i : i + 16, j : j + 16]
        @ np.float64(kernel[i, j])
        for i in range(3)
        for j in range(3)
    )
    rms = lambda a: np.sqrt(np.mean(np.square(np.float64(a) - exact))) / exact.std()  # noqa: E731
    assert rms(winograd.conv3x3(x, kernel)) < 3 * rms(plain(x, kernel)) < 2e-6


@pytest.fixture
def always(monkeypatch):
    """As if every convolution were large enough."""
    monkeypatch.setattr(winograd, "pays", lambda *shapes: True)
    monkeypatch.setattr(winograd, "weight_grad_pays", lambda *shapes: True)


@pytest.mark.parametrize("channels, out", [(40, 32), (128, 130)])
def test_convolutions_and_their_gradients_take_this_form(always, channels, out):
    x, kernel, grad = arrays(15, 16, channels, out)

    def conv(x, kernel):
        return ops.conv2d(x, kernel, padding=1)

    operands = str(jax.jit(conv).lower(x, kernel).as_text())
    assert operands.count("stablehlo.convolution") == 6
    result, backward = jax.vjp(conv, x, kernel)
    expected, plain_backward = jax.vjp(plain, x, kernel)
    assert error(result, expected) < 3e-6
    for actual, reference in zip(backward(grad), plain_backward(grad), strict=True):
        assert error(actual, reference) < 5e-6


def test_gradients_of_gradients(always):
    x, kernel, _ = arrays(14, 8, 32, 32)

    def penalty(conv):
        def gradient_norm(kernel):
            return jnp.sum(jnp.square(jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, kernel))))(x)))

        return jax.grad(gradient_norm)(kernel / 10)

    actual = penalty(lambda x, kernel: ops.conv2d(x, kernel, padding=1))
    assert error(actual, penalty(plain)) < 1e-5


def test_half_precision_stays_plain(always):
    x, kernel, _ = arrays(16, 16, 32, 32)
    lowered = jax.jit(lambda x, k: ops.conv2d(x, k, padding=1)).lower(x.astype("bfloat16"), kernel)
    assert lowered.as_text().count("stablehlo.convolution") == 1


def test_where_it_pays():
    assert winograd.pays((1, 64, 64, 512), (3, 3, 512, 512))
    assert winograd.pays((1, 512, 512, 64), (3, 3, 64, 64))
    assert winograd.weight_grad_pays((4, 32, 32, 256), (4, 32, 32, 256))
    for shape, kernel in [
        ((16, 32, 32, 64), (3, 3, 64, 64)),  # too little work
        ((1, 8, 8, 512), (3, 3, 512, 512)),  # too few rows
        ((1, 1024, 1024, 32), (3, 3, 32, 32)),  # too few channels
        ((1, 64, 64, 512), (1, 1, 512, 512)),
    ]:
        assert not winograd.pays(shape, kernel)
