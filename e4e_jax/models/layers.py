"""Small pieces that several networks share: convolutions, linear layers and activations."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.convolution import ops

# PyTorch's default initialisation of convolutions and linear layers: U(−1/√fan_in, 1/√fan_in).
TORCH_INITIALIZER = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def leaky_relu(x: jax.Array) -> jax.Array:
    """StyleGAN2's activation: leaky ReLU of slope 0.2, scaled by √2 to keep the variance."""
    return jax.nn.leaky_relu(x, 0.2) * math.sqrt(2.0)


def normalize_second_moment(x: jax.Array, epsilon: float = 1e-8) -> jax.Array:
    """Divides each vector of the last axis by its root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)


class EqualLinear(nnx.Module):
    """Linear layer with an equalised learning rate (Karras et al. 2018, section 4.1).

    Weights are stored as N(0, 1) / lr_mul and scaled at run time by lr_mul / √in_features, so
    that every layer moves at the same relative speed under Adam.

    Args:
      in_features, out_features: sizes of the last axis of input and output.
      lr_mul: learning-rate multiplier; 0.01 in StyleGAN2's mapping network.
      bias_init: the bias as the layer sees it (1 for modulation, 0 elsewhere).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lr_mul: float = 1.0,
        bias_init: float = 0.0,
        rngs: nnx.Rngs,
    ):
        weight = jax.random.normal(rngs.params(), (in_features, out_features)) / lr_mul
        self.weight = nnx.Param(weight)  # [in, out]
        self.bias = nnx.Param(jnp.full((out_features,), bias_init / lr_mul))
        self.lr_mul = lr_mul

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., in] -> [..., out], in float32: styles and statistics keep full precision."""
        scale = self.lr_mul / math.sqrt(self.weight.shape[0])
        return x @ (self.weight[...] * scale) + self.bias[...] * self.lr_mul


class EqualConv(nnx.Module):
    """Convolution with an equalised learning rate; halves the resolution with `down`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        bias: bool = True,
        down: bool = False,
        rngs: nnx.Rngs,
    ):
        shape = (size, size, in_channels, out_channels)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros((out_channels,))) if bias else None
        self.down = down

    def __call__(self, x: jax.Array) -> jax.Array:
        size, _, in_channels, _ = self.kernel.shape
        kernel = self.kernel[...] / math.sqrt(size * size * in_channels)
        if self.down:
            x = ops.downsample_conv2d(x, kernel)
        else:
            x = ops.conv2d(x, kernel, padding=size // 2)
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


class Conv(nnx.Module):
    """Convolution with the zero padding that keeps the size at stride 1: [B, H, W, I] -> O."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shape = (size, size, in_channels, out_channels)
        self.kernel = nnx.Param(TORCH_INITIALIZER(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_channels,))) if bias else None
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        padding = self.kernel.shape[0] // 2
        x = ops.conv2d(x.astype(self.dtype), self.kernel[...], stride=self.stride, padding=padding)
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


class PReLU(nnx.Module):
    """Leaky ReLU with a learned slope for each channel (He et al. 2015)."""

    def __init__(self, features: int):
        self.slope = nnx.Param(jnp.full((features,), 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x >= 0, x, x * self.slope[...].astype(x.dtype))
