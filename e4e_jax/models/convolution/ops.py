"""Convolutions and FIR resampling in the forms that XLA compiles well.

Everything here is algebraically the operation of StyleGAN2's CUDA code; the tests hold each one
against its plain form. The choices (activations scaled instead of per-sample weights, the FIR as
shifted adds, the gradients of convolutions spelled out, `winograd`, `polyphase` and `im2col` on a
CPU) are the measured ones.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from e4e_jax.models.convolution import im2col, polyphase, space_to_depth, winograd

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0) -> jax.Array:
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


def upsample_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride-2 transposed 3x3 convolution and the [1, 3, 3, 1] FIR behind it (StyleGAN2, app. B).

    Args:
      x: [B, H, W, I].
      kernel: [3, 3, I, O], in the orientation of PyTorch's `conv_transpose2d`.

    Returns:
      [B, 2H, 2W, O].
    """
    # PyTorch's transposed convolution is the input gradient of a convolution from O to I channels.
    size = (2 * x.shape[1] + 1, 2 * x.shape[2] + 1)
    x = _input_grad(x, _swap_channels(kernel.astype(x.dtype)), 2, 0, size)
    return _blur(x, 1, 4.0)


def downsample_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The [1, 3, 3, 1] FIR and a stride-2 convolution behind it, as in the discriminator.

    Args:
      x: [B, H, W, I], H and W even.
      kernel: [k, k, I, O], k 1 or 3.

    Returns:
      [B, H/2, W/2, O].
    """
    if kernel.shape[0] == 1:
        return conv2d(downsample(x), kernel)  # a 1x1 kernel only reads the points that are kept
    return conv2d(_blur(x, 2, 1.0), kernel, stride=2)


def modulated_conv2d(
    x: jax.Array, kernel: jax.Array, style: jax.Array, *, up: bool = False, in_blocks: bool = False
) -> jax.Array:
    """Convolution whose input channels are scaled per example (StyleGAN2, section 2.2).

    Scaling the activations by the style, convolving once with the shared weights and scaling the
    result by the demodulation factor equals convolving with per-example weights, and keeps the
    convolution dense.

    Args:
      x: [B, H, W, I].
      kernel: [3, 3, I, O], already equalised.
      style: [B, I] float32.
      up: double the resolution.
      in_blocks: the result is in blocks, see `space_to_depth`, and so is `x` without `up`.

    Returns:
      [B, H, W, O], or [B, 2H, 2W, O] with `up`, in the type of `x`.
    """
    x = _scale(x, style)
    if in_blocks:
        make = space_to_depth.upsample_kernel if up else space_to_depth.conv_kernel
        x = conv2d(x, make(kernel), padding=1)
    else:
        x = upsample_conv2d(x, kernel) if up else conv2d(x, kernel, padding=1)
    # Tap by tap, [I, O]: a sum over the leading axes takes XLA 40 times as long on a CPU.
    power = sum(jnp.square(tap) for row in kernel for tap in row)
    return _scale(x, lax.rsqrt(jnp.square(style) @ power + 1e-8))


def _scale(x, factors):
    """x [B, H, W, n C] times factors [B, C]; n is 1, or the positions of a block."""
    factors = jnp.tile(factors, x.shape[3] // factors.shape[1])
    return x * factors[:, None, None, :].astype(x.dtype)


def upsample(x: jax.Array) -> jax.Array:
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


def downsample(x: jax.Array) -> jax.Array:
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _blur(x, pad, gain):
    """[1, 3, 3, 1] FIR at full resolution, separable, as shifted adds that XLA fuses.

    x [B, H, W, C] -> [B, H + 2 pad - 3, W + 2 pad - 3, C], with `pad` zeros on each side, 0 to 3.
    """
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    taps = [gain**0.5 * tap / 8.0 for tap in (1.0, 3.0, 3.0, 1.0)]
    for axis in (1, 2):
        size = x.shape[axis] - 3
        x = sum(tap * lax.slice_in_dim(x, i, i + size, axis=axis) for i, tap in enumerate(taps))
    return x


def _blur_backward(pad, gain, _, cotangent):
    # The FIR is symmetric, so its gradient is the FIR with the rest of the padding. JAX's own rule
    # turns each shifted slice into a padded array of its own: up to three times the memory traffic.
    return (_blur(cotangent, 3 - pad, gain),)


_blur.defvjp(lambda x, pad, gain: (_blur(x, pad, gain), None), _blur_backward)


# A convolution and its two gradients. Each of the three is bilinear and its gradients are the other
# two, so that these carry derivatives of every order. JAX's own rules give the same numbers, but
# express gradients through permuted dimensions, which XLA:CPU brings into its fast form only at
# the top level of a program: inside `lax.cond` or `lax.scan` they took 4 to 40 times as long.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, stride, padding):
    """x [B, H, W, I], kernel [k, k, I, O] -> [B, h, w, O]."""

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=_LAYOUT
        )

    size = kernel.shape[0]
    height, width = ((n + 2 * padding - size) // stride + 1 for n in x.shape[1:3])
    same = x.dtype == jnp.float32 and stride == padding == 1
    cpu: Callable
    if im2col.pays(x.shape[0] * height * width, x.shape[3]):
        cpu = functools.partial(im2col.conv, stride=stride, padding=padding)
    elif same and winograd.pays(x.shape, kernel.shape):
        cpu = winograd.conv3x3
    else:
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _input_grad(grad, kernel, stride, padding, size):
    """grad [B, h, w, O], kernel [k, k, I, O] -> [B, *size, I]: a transposed convolution."""

    def plain(grad, kernel):
        before = kernel.shape[0] - 1 - padding
        kernel = _swap_channels(kernel[::-1, ::-1])
        if stride == 1:
            return _conv(grad, kernel, 1, before)
        return lax.conv_general_dilated(
            grad,
            kernel,
            (1, 1),
            [
                (before, n + padding - 1 - (n_out - 1) * stride)
                for n, n_out in zip(size, grad.shape[1:3], strict=True)
            ],
            lhs_dilation=(stride, stride),
            dimension_numbers=_LAYOUT,
        )

    if im2col.pays(math.prod(grad.shape[:3]), kernel.shape[2]):
        form = im2col.input_grad
    elif stride > 1 and polyphase.pays(grad.shape, kernel.shape):
        form = polyphase.input_grad
    else:
        return plain(grad, kernel)
    cpu = functools.partial(form, stride=stride, padding=padding, size=size)
    return lax.platform_dependent(grad, kernel, cpu=cpu, default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _weight_grad(x, grad, stride, padding, size):
    """x [B, H, W, I], grad [B, h, w, O] -> [size, size, I, O]: `grad` slides over `x`."""
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding=[
            (padding, size + (n_out - 1) * stride - n - padding)
            for n, n_out in zip(x.shape[1:3], grad.shape[1:3], strict=True)
        ],
        rhs_dilation=(stride, stride),
    )

    def cpu(x, grad):
        if im2col.pays(math.prod(grad.shape[:3]), x.shape[3]):
            return im2col.weight_grad(x, grad, stride, padding, size)
        same = x.dtype == jnp.float32 and size == 3 and stride == padding == 1
        if same and winograd.weight_grad_pays(x.shape, grad.shape):
            return winograd.weight_grad3x3(x, grad)
        x, grad = jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(grad, (1, 2, 0, 3))
        return jnp.transpose(convolve(x, grad, dimension_numbers=_LAYOUT), (1, 2, 0, 3))

    def default(x, grad):
        return convolve(x, grad, dimension_numbers=("CHWN", "IHWO", "HWNC"))

    return lax.platform_dependent(x, grad, cpu=cpu, default=default)


def _with_operands(function):
    """The forward pass of `function`: its result, and its two arrays for the backward pass."""
    return lambda a, b, *static: (function(a, b, *static), (a, b))


def _conv_backward(stride, padding, operands, cotangent):
    x, kernel = operands
    return (
        _input_grad(cotangent, kernel, stride, padding, x.shape[1:3]),
        _weight_grad(x, cotangent, stride, padding, kernel.shape[0]),
    )


def _input_grad_backward(stride, padding, _, operands, cotangent):
    grad, kernel = operands
    return (
        _conv(cotangent, kernel, stride, padding),
        _weight_grad(cotangent, grad, stride, padding, kernel.shape[0]),
    )


def _weight_grad_backward(stride, padding, _, operands, cotangent):
    x, grad = operands
    return (
        _input_grad(grad, cotangent, stride, padding, x.shape[1:3]),
        _conv(x, cotangent, stride, padding),
    )


_conv.defvjp(_with_operands(_conv), _conv_backward)
_input_grad.defvjp(_with_operands(_input_grad), _input_grad_backward)
_weight_grad.defvjp(_with_operands(_weight_grad), _weight_grad_backward)


def _swap_channels(kernel):
    return jnp.swapaxes(kernel, 2, 3)
