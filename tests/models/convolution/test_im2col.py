import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import in_float64, relative_error, rounding

from e4e_jax.models.convolution import im2col, ops


def arrays(side, size, stride, padding, channels=(5, 7)):
    """x, kernel and a cotangent of their convolution."""
    rng = np.random.default_rng(side * 10 + size)
    height, width = side, side + 1
    out = [(n + 2 * padding - size) // stride + 1 for n in (height, width)]
    shapes = (2, height, width, channels[0]), (size, size, *channels), (2, *out, channels[1])
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def plain(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def exact_results(x, kernel, grad, stride, padding):
    """(value, sum of the terms' absolute values), both in float64, of the result of the plain form
    and of its gradients by x and kernel."""

    def results(x, kernel, grad):
        result, backward = jax.vjp(lambda x, k: plain(x, k, stride, padding), x, kernel)
        return result, *backward(grad)

    args = x, kernel, grad
    return zip(in_float64(results, *args), in_float64(results, *map(abs, args)), strict=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side, size, padding", [(2, 3, 1), (5, 3, 1), (9, 3, 0), (4, 1, 0)])
def test_all_three_are_those_of_the_plain_form(side, size, padding, stride):
    x, kernel, grad = arrays(side, size, stride, padding)
    sizes = (stride, padding)
    actual = (
        im2col.conv(x, kernel, *sizes),
        im2col.input_grad(grad, kernel, *sizes, x.shape[1:3]),
        im2col.weight_grad(x, grad, *sizes, size),
    )
    for ours, exact in zip(actual, exact_results(x, kernel, grad, *sizes), strict=True):
        assert rounding(ours, *exact) < 16


def test_small_images_of_many_channels_take_this_form():
    x, kernel, grad = arrays(4, 3, 2, 1, channels=(64, 32))

    def conv(x, kernel):
        return ops.conv2d(x, kernel, stride=2, padding=1)

    def both(x, kernel, grad):
        result, backward = jax.vjp(conv, x, kernel)
        return result, *backward(grad)

    assert "stablehlo.convolution" not in jax.jit(both).lower(x, kernel, grad).as_text()
    exact = exact_results(x, kernel, grad, 2, 1)
    for actual, expected in zip(both(x, kernel, grad), exact, strict=True):
        assert rounding(actual, *expected) < 16


def test_gradients_of_gradients():
    x, kernel, _ = arrays(3, 3, 2, 1, channels=(32, 6))

    def penalty(conv, x, kernel):
        def gradient_norm(kernel):
            return jnp.sum(jnp.square(jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, kernel))))(x)))

        return jax.grad(gradient_norm)(kernel / 10)

    ours = functools.partial(penalty, functools.partial(ops.conv2d, stride=2, padding=1))
    exact = in_float64(functools.partial(penalty, lambda x, k: plain(x, k, 2, 1)), x, kernel)
    # Four sums behind one another, each rounded to about 1e-7 of the whole.
    assert relative_error(jax.jit(ours)(x, kernel), exact) < 1e-5


def test_where_it_pays():
    assert im2col.pays(4 * 2 * 2, 512)
    assert im2col.pays(4 * 8 * 8, 512)
    assert not im2col.pays(4 * 16 * 16, 512)
    assert not im2col.pays(16 * 4 * 4, 256)
