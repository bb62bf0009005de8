"""3x3 convolutions with half the multiplications, for processors.

Winograd's F(4, 3) along the height alone (Lavin and Gray 2015, arXiv 1509.09308): four rows of the
result come from six rows of the input by six products instead of twelve, each of them a 1x3
convolution. In two dimensions it would save more multiplications, and lose more to memory and
rounding; this way the rounding is about twice that of the plain form.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_TILE = 4  # rows of the result


def _transforms():
    """Matrices A [6, 4], G [6, 3], B [6, 6] for which rows = Aᵀ((G kernel) * (B input)).

    A product of polynomials is known from its values at enough points and its highest coefficient
    (Toom and Cook); a correlation is the transpose of that. Of the usual points these round least.
    """
    points = np.array([0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5)])
    others = [np.delete(points, i) for i in range(len(points))]
    scales = [np.prod(point - rest) for point, rest in zip(points, others, strict=True)]

    def values(count):  # of the monomials at each point, and at infinity
        return np.vstack([np.vander(points, count, increasing=True), np.eye(count)[-1]])

    kernel = values(3) / np.append(scales, 1.0)[:, None]
    numerators = [np.append(np.poly(rest)[::-1], 0.0) for rest in others]
    return values(4), kernel, np.vstack([*numerators, np.poly(points)[::-1]]).round(12)


_OUTPUT, _KERNEL, _INPUT = _transforms()


def pays(x_shape: Sequence[int], kernel_shape: Sequence[int]) -> bool:
    """Whether `conv3x3` is worth it on a processor, by measurement.

    Where channels are few, the transforms cost more than the products they save; and six
    convolutions take longer to compile than one, which only large ones make up for.
    """
    large = math.prod(x_shape[:3]) * math.prod(kernel_shape) >= 1e9  # multiplications
    wide = min(kernel_shape[2:]) >= 64
    return kernel_shape[:2] == (3, 3) and x_shape[1] >= 14 and wide and large


def weight_grad_pays(x_shape: Sequence[int], grad_shape: Sequence[int]) -> bool:
    """The same of `weight_grad3x3`."""
    channels = (x_shape[3], grad_shape[3])
    wide = min(channels) >= max(128, x_shape[2] // 2)
    return wide and pays(x_shape, (3, 3, *channels))


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Plain convolution with padding 1: x [B, H, W, I], kernel [3, 3, I, O] -> [B, H, W, O]."""
    products = [
        lax.conv_general_dilated(
            rows, row_kernel[None], (1, 1), ((0, 0), (1, 1)), dimension_numbers=_LAYOUT
        )
        for rows, row_kernel in zip(
            _input_rows(x), jnp.einsum("pk,kwio->pwio", np.float32(_KERNEL), kernel), strict=True
        )
    ]
    result = jnp.stack([_combine(row, products) for row in _OUTPUT.T], axis=2)  # [B, n, 4, W, O]
    return result.reshape(x.shape[0], -1, *result.shape[3:])[:, : x.shape[1]]


def weight_grad3x3(x: jax.Array, grad: jax.Array) -> jax.Array:
    """Gradient of `conv3x3` by its kernel: x [B, H, W, I], grad [B, H, W, O] -> [3, 3, I, O]."""
    width = x.shape[2]
    groups = _groups(grad, 0, _TILE)
    gradients = []
    for rows, column in zip(_input_rows(x), _OUTPUT, strict=True):
        rows = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)))
        product_grad = _combine(column, groups)
        gradients.append(
            jnp.stack([
                jnp.einsum("bhwi,bhwo->io", rows[:, :, k : k + width], product_grad)
                for k in range(3)
            ])
        )  # fmt: skip
    return jnp.einsum("pk,pwio->kwio", np.float32(_KERNEL), jnp.stack(gradients))


def _input_rows(x):
    """The six operands of the products, each [B, ceil(H / 4), W, I]."""
    groups = _groups(x, 1, _TILE + 2)
    return [_combine(row, groups) for row in _INPUT]


def _groups(x, before, count):
    """Rows i, i + 4, i + 8 and so on of x under `before` rows of zeros, for i below `count`."""
    tiles = math.ceil(x.shape[1] / _TILE)
    after = _TILE * tiles + count - _TILE - before - x.shape[1]
    x = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))
    last = _TILE * (tiles - 1) + 1
    return [lax.slice_in_dim(x, i, i + last, _TILE, axis=1) for i in range(count)]


def _combine(coefficients, arrays):
    """The sum of coefficient times array, over the coefficients that are not 0."""
    return sum(float(c) * a for c, a in zip(coefficients, arrays, strict=True) if c)
