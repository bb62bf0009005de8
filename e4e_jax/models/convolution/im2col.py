"""Convolutions of small images as one matrix product, for processors.

The taps of every position are gathered into a row and multiplied with the kernel as a matrix. Where
the kernel holds more numbers than the image, as in the last layers of the map-to-style heads, this
takes a third to a fiftieth of a convolution's time: a library spends that on arranging the kernel.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def pays(positions: int, channels: int) -> bool:
    """Whether these forms are worth it on a processor, by measurement.

    Args:
      positions: of the convolution's result, in all images of the batch.
      channels: of its input.
    """
    return 2 * positions <= channels


def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """x [B, H, W, I], kernel [k, k, I, O] -> [B, h, w, O]."""
    return _gather(x, kernel.shape[0], stride, padding) @ kernel.reshape(-1, kernel.shape[3])


def input_grad(
    grad: jax.Array, kernel: jax.Array, stride: int, padding: int, size: Sequence[int]
) -> jax.Array:
    """grad [B, h, w, O], kernel [k, k, I, O] -> [B, *size, I]: the transpose of `conv`."""
    taps = grad @ kernel.reshape(-1, kernel.shape[3]).T  # [B, h, w, k * k * I]
    k, channels = kernel.shape[0], kernel.shape[2]
    parts = []
    for i in range(k * k):
        places = [(0, 0, 0)]
        for tap, n, n_out in zip(divmod(i, k), size, grad.shape[1:3], strict=True):
            before = tap - padding
            places.append((before, n - before - stride * (n_out - 1) - 1, stride - 1))
        part = taps[..., i * channels : (i + 1) * channels]
        parts.append(lax.pad(part, jnp.zeros((), part.dtype), [*places, (0, 0, 0)]))
    return functools.reduce(operator.add, parts)


def weight_grad(x: jax.Array, grad: jax.Array, stride: int, padding: int, size: int) -> jax.Array:
    """x [B, H, W, I], grad [B, h, w, O] -> [size, size, I, O]."""
    rows = _gather(x, size, stride, padding)
    product = jnp.einsum("bhwp,bhwo->po", rows, grad)
    return product.reshape(size, size, x.shape[3], grad.shape[3])


def _gather(x, size, stride, padding):
    """[B, H, W, I] -> [B, h, w, size * size * I], the taps of each position."""
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = (n - size + 1 for n in x.shape[1:3])
    taps = [
        x[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(taps, axis=-1)
