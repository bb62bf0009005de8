import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import in_float64, relative_error, rounding

from e4e_jax.models.convolution import ops, winograd

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


def in_its_absolute_terms(function, *args):
    """The sums of the absolute values of what this form adds, in float64."""
    with pytest.MonkeyPatch.context() as patch:
        for matrix in ("_OUTPUT", "_KERNEL", "_INPUT"):
            patch.setattr(winograd, matrix, np.abs(getattr(winograd, matrix)))
        return in_float64(lambda *args: function(*args), *map(abs, args))  # compiled anew


# Heights that are and are not whole tiles of four rows, and fewer rows than one tile.
@pytest.mark.parametrize("height, width", [(16, 16), (14, 5), (7, 9), (13, 1), (3, 4), (1, 6)])
def test_convolution_and_weight_gradient_are_those_of_the_plain_form(height, width):
    x, kernel, grad = arrays(height, width, 5, 7)
    # Three sums behind one another: the input's, the products' and the result's.
    actual = jax.jit(winograd.conv3x3)(x, kernel)
    exact = in_float64(plain, x, kernel)
    assert rounding(actual, exact, in_its_absolute_terms(winograd.conv3x3, x, kernel)) < 16

    def plain_grad(x, grad):
        return jax.vjp(lambda kernel: plain(x, kernel), jnp.zeros_like(kernel, x.dtype))[1](grad)[0]

    actual = jax.jit(winograd.weight_grad3x3)(x, grad)
    absolute = in_its_absolute_terms(winograd.weight_grad3x3, x, grad)
    assert rounding(actual, in_float64(plain_grad, x, grad), absolute) < 16


def test_rounding_is_at_most_three_times_that_of_the_plain_form():
    """Both beside float64, with as many channels as StyleGAN2 has.

    The plain form of this test adds its 4,608 terms one after another, rounding each product: the
    same numbers on every processor, whose own forms add in blocks or fuse products into sums.
    """
    x, kernel, _ = arrays(16, 16, 512, 32)
    exact = in_float64(plain, x, kernel)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    one_by_one = np.zeros(exact.shape, np.float32)
    for i, j, channel in np.ndindex(3, 3, 512):
        pixels = padded[:, i : i + 16, j : j + 16, channel, None]
        one_by_one += pixels * np.asarray(kernel)[i, j, channel]
    rms = lambda a: np.sqrt(np.mean(np.square(np.float64(a) - exact))) / exact.std()  # noqa: E731
    assert rms(jax.jit(winograd.conv3x3)(x, kernel)) < 3 * rms(one_by_one)


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

    def results(form, x, kernel, grad):
        result, backward = jax.vjp(form, x, kernel)
        return result, *backward(grad)

    actual = jax.jit(functools.partial(results, conv))(x, kernel, grad)
    exact = in_float64(functools.partial(results, plain), x, kernel, grad)
    absolute = in_its_absolute_terms(functools.partial(results, conv), x, kernel, grad)
    for ours, *sums in zip(actual, exact, absolute, strict=True):
        assert rounding(ours, *sums) < 16


def test_gradients_of_gradients(always):
    x, kernel, _ = arrays(14, 8, 32, 32)

    def penalty(conv, x, kernel):
        def gradient_norm(kernel):
            return jnp.sum(jnp.square(jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, kernel))))(x)))

        return jax.grad(gradient_norm)(kernel / 10)

    ours = functools.partial(penalty, lambda x, kernel: ops.conv2d(x, kernel, padding=1))
    exact = in_float64(functools.partial(penalty, plain), x, kernel)
    # Four sums behind one another, each rounded to some 1e-7 of the whole.
    assert relative_error(jax.jit(ours)(x, kernel), exact) < 1e-5


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
