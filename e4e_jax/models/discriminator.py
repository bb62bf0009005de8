"""The residual StyleGAN2 discriminator (Karras et al. 2020, arXiv 1912.04958)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.layers import EqualConv, EqualLinear, leaky_relu
from e4e_jax.models.stylegan2 import GeneratorConfig

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as Pillow's mode L


class ResidualBlock(nnx.Module):
    """[B, H, W, I] -> [B, H/2, W/2, O]."""

    def __init__(self, in_channels: int, out_channels: int, *, clamp: float | None, rngs: nnx.Rngs):
        self.conv1 = EqualConv(in_channels, in_channels, 3, rngs=rngs)
        self.conv2 = EqualConv(in_channels, out_channels, 3, down=True, rngs=rngs)
        self.skip = EqualConv(in_channels, out_channels, 1, bias=False, down=True, rngs=rngs)
        self.clamp = clamp

    def __call__(self, x: jax.Array) -> jax.Array:
        residual = _clamped(leaky_relu(self.conv1(x)), self.clamp)
        residual = _clamped(leaky_relu(self.conv2(residual)), self.clamp)
        return (residual + _clamped(self.skip(x), self.clamp)) * math.sqrt(0.5)


class Discriminator(nnx.Module):
    """Images [B, R, R, 3] in [-1, 1] -> logits [B] float32.

    Takes the generator's configuration: its resolution, its channels, `conv_clamp` and
    `image_channels`. With 1 of these it looks at the images' luma, of grey ones at themselves.
    """

    def __init__(self, config: GeneratorConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        resolutions = config.block_resolutions[::-1]
        last = config.channels(4)
        self.from_rgb = EqualConv(
            config.image_channels, config.channels(config.resolution), 1, rngs=rngs
        )
        self.blocks = nnx.List(
            ResidualBlock(
                config.channels(r), config.channels(r // 2), clamp=config.conv_clamp, rngs=rngs
            )
            for r in resolutions[:-1]
        )
        self.final_conv = EqualConv(last + 1, last, 3, rngs=rngs)
        self.final_linear = EqualLinear(last * 16, last, rngs=rngs)
        self.logit = EqualLinear(last, 1, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        clamp = self.config.conv_clamp
        if self.config.image_channels == 1:
            images = jnp.sum(images * jnp.array(_LUMA), axis=-1, keepdims=True)
        x = _clamped(leaky_relu(self.from_rgb(images.astype(self.dtype))), clamp)
        for block in self.blocks:
            x = block(x)
        x = append_minibatch_stddev(x.astype(jnp.float32))
        x = _clamped(leaky_relu(self.final_conv(x)), clamp)
        # PyTorch's flatten is channel-major: [B, C, 4, 4] -> [B, C·16].
        x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
        return self.logit(leaky_relu(self.final_linear(x)))[:, 0]


def _clamped(x, clamp):
    return x if clamp is None else jnp.clip(x, -clamp, clamp)


def append_minibatch_stddev(x: jax.Array, group_size: int = 4) -> jax.Array:
    """Appends one channel holding the mean standard deviation over groups of examples.

    x [B, H, W, C] -> [B, H, W, C + 1]. Examples n, n + B/4, n + 2B/4, ... form a group, as in the
    published code; the batch must be a multiple of the group or smaller than it.
    """
    batch, height, width, _ = x.shape
    group = min(group_size, batch)
    if batch % group:
        raise ValueError(
            f"the discriminator's batch is {batch}; expected a multiple of {group_size} "
            "or fewer, because minibatch standard deviation works on groups."
        )
    groups = x.reshape(group, batch // group, *x.shape[1:])
    variance = jnp.mean(jnp.square(groups - jnp.mean(groups, axis=0)), axis=0)  # [M, H, W, C]
    stddev = jnp.mean(jnp.sqrt(variance + 1e-8), axis=(1, 2, 3))  # [M]
    stddev = jnp.tile(stddev, group)[:, None, None, None]
    return jnp.concatenate([x, jnp.broadcast_to(stddev, (batch, height, width, 1))], axis=-1)
