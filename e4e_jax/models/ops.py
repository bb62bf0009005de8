"""Convolutions and FIR resampling in the forms that XLA compiles well.

Everything here is algebraically the operation of StyleGAN2's CUDA code; the tests hold each one
against its plain form. The choices (activations scaled instead of per-sample weights, the FIR as
shifted adds, one weight gradient as matrix products on the CPU) are the measured ones.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv2d(x, kernel, *, stride=1, padding=0):
    """Plain convolution.

    Args:
      x: [B, H, W, I].
      kernel: [k, k, I, O].
      stride: step in both directions.
      padding: zeros added on each side.

    Returns:
      [B, H', W', O] in the type of `x`.
    """
    return _conv(x, kernel.astype(x.dtype), stride, padding)


def upsample_conv2d(x, kernel):
    """Stride-2 transposed 3x3 convolution and the [1, 3, 3, 1] FIR behind it (StyleGAN2, app. B).

    Args:
      x: [B, H, W, I].
      kernel: [3, 3, I, O], in the orientation of PyTorch's `conv_transpose2d`.

    Returns:
      [B, 2H, 2W, O].
    """
    return _blur(_transposed_conv(x, kernel.astype(x.dtype)), pad=(1, 1), gain=4.0)


def downsample_conv2d(x, kernel):
    """The [1, 3, 3, 1] FIR and a stride-2 convolution behind it, as in the discriminator.

    Args:
      x: [B, H, W, I], H and W even.
      kernel: [k, k, I, O], k 1 or 3.

    Returns:
      [B, H/2, W/2, O].
    """
    if kernel.shape[0] == 1:
        return conv2d(downsample(x), kernel)  # a 1x1 kernel only reads the points that are kept
    return conv2d(_blur(x, pad=(2, 2), gain=1.0), kernel, stride=2)


def modulated_conv2d(x, kernel, style, *, demodulate=True, up=False):
    """Convolution whose input channels are scaled per example (StyleGAN2, section 2.2).

    Scaling the activations by the style, convolving once with the shared weights and scaling the
    result by the demodulation factor equals convolving with per-example weights, and keeps the
    convolution dense.

    Args:
      x: [B, H, W, I].
      kernel: [k, k, I, O], already equalised.
      style: [B, I] float32.
      demodulate: normalise each output channel to unit expected variance.
      up: double the resolution.

    Returns:
      [B, H, W, O], or [B, 2H, 2W, O] with `up`, in the type of `x`.
    """
    x = x * style[:, None, None, :].astype(x.dtype)
    x = upsample_conv2d(x, kernel) if up else conv2d(x, kernel, padding=kernel.shape[0] // 2)
    if demodulate:
        power = jnp.sum(jnp.square(kernel), axis=(0, 1))  # [I, O]
        factor = lax.rsqrt(jnp.square(style) @ power + 1e-8)  # [B, O]
        x = x * factor[:, None, None, :].astype(x.dtype)
    return x


def upsample(x):
    """FIR upsampling by 2 with gain 4 (StyleGAN2's RGB skip): [B, H, W, C] -> [B, 2H, 2W, C].

    Inserting zeros and filtering with [1, 3, 3, 1] / 4 leaves two taps for each output phase.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)])
        before = lax.slice_in_dim(padded, 0, size, axis=axis)
        after = lax.slice_in_dim(padded, 2, size + 2, axis=axis)
        phases = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = phases.reshape(x.shape[:axis] + (2 * size,) + x.shape[axis + 1 :])
    return x


def downsample(x):
    """FIR downsampling by 2, evaluated only where it is kept: [B, H, W, C] -> [B, H/2, W/2, C]."""
    for axis in (1, 2):
        half = x.shape[axis] // 2
        padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)])
        pairs = padded.reshape(x.shape[:axis] + (half + 1, 2) + x.shape[axis + 1 :])
        even = lax.index_in_dim(pairs, 0, axis + 1, keepdims=False)
        odd = lax.index_in_dim(pairs, 1, axis + 1, keepdims=False)
        head = functools.partial(lax.slice_in_dim, start_index=0, limit_index=half, axis=axis)
        tail = functools.partial(lax.slice_in_dim, start_index=1, limit_index=half + 1, axis=axis)
        x = (head(even) + 3.0 * head(odd) + 3.0 * tail(even) + tail(odd)) * 0.125
    return x


def _blur(x, pad, gain):
    """[1, 3, 3, 1] FIR at full resolution, separable, as shifted adds that XLA fuses."""
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    taps = [gain**0.5 * tap / 8.0 for tap in (1.0, 3.0, 3.0, 1.0)]
    for axis in (1, 2):
        size = x.shape[axis] - 3
        x = sum(
            tap * lax.slice_in_dim(x, i, i + size, axis=axis) for i, tap in enumerate(taps)
        )
    return x


def _conv(x, kernel, stride, padding, lhs_dilation=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        lhs_dilation=(lhs_dilation, lhs_dilation),
        dimension_numbers=_LAYOUT,
    )


def _flip(kernel):
    return kernel[::-1, ::-1]


def _swap_channels(kernel):
    return jnp.swapaxes(kernel, 2, 3)


# The stride-2 transposed convolution: [B, H, W, I] -> [B, 2H + 1, 2W + 1, O]. XLA:CPU takes ten
# times as long for its weight gradient as for the nine matrix products that it amounts to.


@jax.custom_vjp
def _transposed_conv(x, kernel):
    return _conv(x, _flip(kernel), 1, 2, lhs_dilation=2)


def _transposed_conv_forward(x, kernel):
    return _transposed_conv(x, kernel), (x, kernel)


def _transposed_conv_backward(residuals, grad):
    x, kernel = residuals
    grad_x = _conv(grad, _swap_channels(kernel), 2, 0)
    grad_kernel = lax.platform_dependent(
        x, grad, cpu=_transposed_conv_weight_grad_cpu, default=_transposed_conv_weight_grad
    )
    return grad_x, grad_kernel


def _transposed_conv_weight_grad(x, grad):
    kernel = jnp.zeros((3, 3, x.shape[-1], grad.shape[-1]), x.dtype)
    return jax.vjp(lambda k: _conv(x, _flip(k), 1, 2, lhs_dilation=2), kernel)[1](grad)[0]


def _transposed_conv_weight_grad_cpu(x, grad):
    """Nine matrix products: tap (i, j) pairs each input with the output at (2h + i, 2w + j)."""
    _, height, width, channels = x.shape
    flat_x = x.reshape(-1, channels).T  # [I, B·H·W]
    taps = [
        flat_x @ grad[:, i : i + 2 * height : 2, j : j + 2 * width : 2].reshape(-1, grad.shape[-1])
        for i in range(3)
        for j in range(3)
    ]
    return jnp.stack(taps).reshape(3, 3, channels, -1)


_transposed_conv.defvjp(_transposed_conv_forward, _transposed_conv_backward)
