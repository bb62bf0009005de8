"""Large images of few channels as blocks of 2x2 positions, for TPUs.

A TPU computes with vectors of 128 channels: of an image with 32, three quarters of what it moves
and fifteen sixteenths of what it multiplies would be padding. Here the four positions of a block
are channels. A 3x3 convolution becomes one of 3x3 blocks, with a kernel that is zero for three
quarters, and the FIR behind an upsampling convolution becomes part of its kernel.
"""

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_CHANNELS = 128  # of a vector
_POSITIONS = tuple(itertools.product(range(2), repeat=2))


def pays(resolution: int, channels: int) -> bool:
    """Whether a generator's layers of this size are worth it on a TPU, as its compiler has it."""
    return resolution >= 256 and channels < _CHANNELS


def from_image(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H/2, W/2, 4 C]; positions row by row, each with its channels."""
    return jnp.concatenate([x[:, i::2, j::2] for i, j in _POSITIONS], axis=3)


def to_image(x: jax.Array) -> jax.Array:
    """[B, H/2, W/2, 4 C] -> [B, H, W, C]."""
    channels = x.shape[3] // 4
    if x.shape[3] >= _CHANNELS:
        # A transposed convolution that puts each position at its place: its gradient is one as
        # well, and both are quicker on a TPU than moving them. Every sum has one term.
        places = np.zeros((2, 2, 4, channels, channels), np.float32)
        for position, (i, j) in enumerate(_POSITIONS):
            places[1 - i, 1 - j, position] = np.eye(channels)
        return lax.conv_general_dilated(
            x,
            jnp.asarray(places.reshape(2, 2, 4 * channels, channels), x.dtype),
            window_strides=(1, 1),
            padding=((1, 1), (1, 1)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
    # A sum of images with zeros between their positions: a TPU moves single numbers slowly.
    zero = jnp.zeros((), x.dtype)
    parts = [
        lax.pad(part, zero, [(0, 0, 0), (i, 1 - i, 1), (j, 1 - j, 1), (0, 0, 0)])
        for part, (i, j) in zip(jnp.split(x, 4, axis=3), _POSITIONS, strict=True)
    ]
    return functools.reduce(operator.add, parts)


def spread(x: jax.Array, channels: int) -> jax.Array:
    """One number for each position, [B, H/2, W/2, 4], for all of its channels: [..., 4 C]."""
    # As a matrix product, since a TPU moves single numbers slowly; every sum has one term.
    copies = np.kron(np.eye(4), np.ones((1, channels))).astype(x.dtype)
    return jnp.matmul(x, copies, precision=lax.Precision.HIGHEST)


def conv_kernel(kernel: jax.Array) -> jax.Array:
    """The kernel [3, 3, 4 I, 4 O] between blocks that convolves images with [3, 3, I, O]."""
    i, o = kernel.shape[2:]
    blocks = jnp.einsum("aprk,bqsl,klio->abpqirso", _CONV, _CONV, kernel)
    return blocks.reshape(3, 3, 4 * i, 4 * o)


def upsample_kernel(kernel: jax.Array) -> jax.Array:
    """The kernel [3, 3, I, 4 O] from an image to blocks of its upsampling convolution.

    Convolving with it is `ops.upsample_conv2d` with [3, 3, I, O]: transposed convolution and FIR.
    """
    i, o = kernel.shape[2:]
    blocks = jnp.einsum("ark,bsl,klio->abirso", _UPSAMPLE, _UPSAMPLE, kernel)
    return blocks.reshape(3, 3, i, 4 * o)


def _conv_places():
    """[3, 2, 2, 3]: whether tap t of result r is position p of the block b - 1 places away."""
    places = np.zeros((3, 2, 2, 3), np.float32)
    for result in range(2):
        for tap in range(3):
            block, position = divmod(result + tap - 1, 2)
            places[block + 1, position, result, tap] = 1
    return places


def _upsample_places():
    """[3, 2, 3]: weight of tap t for result r from the position b - 1 places away.

    Tap t takes position i to 2 i + t; result n of the FIR takes m to n + 1 - m, of four taps.
    """
    places = np.zeros((3, 2, 3), np.float32)
    for block in range(3):
        for result in range(2):
            for tap in range(3):
                fir = 2 * (block - 1) + tap + 1 - result
                if 0 <= fir < 4:
                    places[block, result, tap] = (0.25, 0.75, 0.75, 0.25)[fir]
    return places


_CONV, _UPSAMPLE = _conv_places(), _upsample_places()
