import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import in_float64, relative_error, rounding

from e4e_jax.models.convolution import ops, polyphase


def conv(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def transposed(grad, kernel, stride, padding, size):
    """The plain form: JAX's own gradient of a convolution by its input."""
    x = jnp.zeros((grad.shape[0], *size, kernel.shape[2]))
    return jax.vjp(lambda x: conv(x, kernel, stride, padding), x)[1](grad)[0]


def arrays(size, taps, stride, padding, channels=(5, 7)):
    """kernel, and a cotangent of its convolution with an image of `size`."""
    rng = np.random.default_rng(taps * 100 + size[0])
    out = [(n + 2 * padding - taps) // stride + 1 for n in size]
    shapes = (2, *out, channels[1]), (taps, taps, *channels)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("size", [(17, 9), (16, 13)])  # the last positions are read, and are not
@pytest.mark.parametrize(
    "taps, stride, padding", [(3, 2, 0), (3, 2, 1), (1, 2, 0), (4, 2, 2), (5, 4, 2), (11, 4, 2)]
)
def test_result_is_that_of_the_plain_form(taps, stride, padding, size):
    grad, kernel = arrays(size, taps, stride, padding)
    actual = jax.jit(lambda g, k: polyphase.input_grad(g, k, stride, padding, size))(grad, kernel)
    plain = lambda grad, kernel: transposed(grad, kernel, stride, padding, size)  # noqa: E731
    exact = in_float64(plain, grad, kernel)
    assert rounding(actual, exact, in_float64(plain, abs(grad), abs(kernel))) < 16


@pytest.fixture
def always(monkeypatch):
    """As if every transposed convolution were large enough."""
    monkeypatch.setattr(polyphase, "pays", lambda *shapes: True)


def test_upsampling_takes_this_form(always):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype("f") for s in ((2, 6, 5, 40), (3, 3, 40, 8)))
    lowered = jax.jit(ops.upsample_conv2d).lower(x, kernel).as_text()
    assert lowered.count("stablehlo.convolution") == 4
    assert "lhs_dilate = [2, 2]" not in lowered


def test_gradients_and_their_gradients(always):
    size, stride, padding = (13, 12), 2, 1
    grad, kernel = arrays(size, 3, stride, padding, channels=(6, 40))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, *size, 6)), jnp.float32)

    def penalty(conv, x, kernel):
        def gradient_norm(kernel):
            image_grad = jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, kernel)) * grad))(x)
            return jnp.sum(jnp.square(image_grad))

        return jax.grad(gradient_norm)(kernel / 10)

    ours = lambda x, k: ops.conv2d(x, k, stride=stride, padding=padding)  # noqa: E731
    plain = lambda x, k: conv(x, k, stride, padding)  # noqa: E731
    actual = jax.jit(lambda *args: penalty(ours, *args))(x, kernel)
    exact = in_float64(lambda *args: penalty(plain, *args), x, kernel)
    # Four sums behind one another, each rounded to about 1e-7 of the whole.
    assert relative_error(actual, exact) < 1e-5


def test_where_it_pays():
    assert polyphase.pays((8, 128, 128, 256), (3, 3, 128, 256))
    assert polyphase.pays((1, 512, 512, 64), (3, 3, 32, 64))
    assert not polyphase.pays((1, 8, 8, 512), (3, 3, 512, 512))  # too little work
    assert not polyphase.pays((4, 63, 63, 64), (11, 11, 3, 64))  # too few channels
