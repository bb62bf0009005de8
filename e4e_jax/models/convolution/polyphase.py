"""Transposed convolutions phase by phase, for processors.

With stride s, every s-th position of the result sees the same taps of the kernel: each of these
phases is a plain convolution with a part of the kernel. XLA multiplies every position with the
whole kernel first and adds up afterwards, in a workspace of k * k products for each: twice the
memory, and up to three times the time where the result has few channels.
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def pays(grad_shape: Sequence[int], kernel_shape: Sequence[int]) -> bool:
    """Whether `input_grad` is worth it on a processor, by measurement; more to compile, too."""
    large = math.prod(grad_shape[:3]) * math.prod(kernel_shape) >= 1e9  # multiplications
    return large and kernel_shape[2] >= 32


def input_grad(
    grad: jax.Array, kernel: jax.Array, stride: int, padding: int, size: Sequence[int]
) -> jax.Array:
    """grad [B, h, w, O], kernel [k, k, I, O] -> [B, *size, I]: a transposed convolution."""
    axes = (
        _phases(stride, padding, kernel.shape[0], *lengths)
        for lengths in zip(size, grad.shape[1:3], strict=True)
    )
    parts = []
    for phase in itertools.product(*axes):
        taps, crop, zeros, places = zip(*phase, strict=True)
        products = lax.conv_general_dilated(
            _pad(grad, crop),
            jnp.swapaxes(kernel[taps][::-1, ::-1], 2, 3),
            (1, 1),
            zeros,
            dimension_numbers=_LAYOUT,
        )
        parts.append(_pad(products, places))
    return functools.reduce(operator.add, parts)


def _pad(x, places):
    """`lax.pad` of the two middle axes with zeros."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *places, (0, 0, 0)])


def _phases(stride, padding, taps, length, grad_length):
    """Along one axis, for each phase: its taps, how `grad` is cropped and padded, its places.

    Position i of the result takes tap t from position (i + padding - t) / stride of `grad`.
    """
    phases = []
    for phase in range(min(stride, length)):
        first = (phase + padding) % stride
        count = len(range(first, taps, stride))
        if not count:
            continue  # zeros, as between the results of a 1x1 kernel
        results = len(range(phase, length, stride))
        shift = (phase + padding) // stride  # of the first tap's position
        around = (count - 1 - shift, results + shift - grad_length)
        # Two steps: of a convolution with paddings -1 and 1, XLA:CPU read past the end.
        crop, zeros = (*(min(n, 0) for n in around), 0), tuple(max(n, 0) for n in around)
        after = length - 1 - phase - stride * (results - 1)
        phases.append((slice(first, None, stride), crop, zeros, (phase, after, stride - 1)))
    return phases
