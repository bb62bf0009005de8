"""A discriminator that looks through a frozen feature network as well as at pixels."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.layers import EqualConv, leaky_relu

_HEAD_CHANNELS = 64


class FeatureHead(nnx.Module):
    """One level of features [B, size, size, C] -> logits [B], the mean over places."""

    def __init__(self, size: int, channels: int, *, rngs: nnx.Rngs):
        self.conv1 = EqualConv(channels, _HEAD_CHANNELS, 3, down=size >= 4, rngs=rngs)
        self.conv2 = EqualConv(_HEAD_CHANNELS, 1, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.mean(self.conv2(leaky_relu(self.conv1(x))), axis=(1, 2, 3))


class FeatureDiscriminator(nnx.Module):
    """Images [B, R, R, 3] in [-1, 1] -> logits [B, 1 + levels] float32.

    Features of a trained network tell which things are in an image long before a discriminator
    has learned it from pixels, so that a small set or a short run comes much further (Projected
    GANs, Sauer et al. 2021, arXiv 2111.01007; here without random projections). The StyleGAN2
    discriminator beside the heads keeps watch over what features do not hold.

    Args:
      pixels: the StyleGAN2 discriminator.
      features: images -> levels [B, h, w, C] of unit vectors, such as the method `features` of
        LPIPS for instance. Its weights are constants: they are neither trained nor saved.
    """

    def __init__(
        self,
        pixels: Discriminator,
        features: Callable[[jax.Array], Sequence[jax.Array]],
        *,
        rngs: nnx.Rngs,
    ):
        resolution = pixels.config.resolution
        image = jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)
        self.pixels = pixels
        self.features = features
        self.heads = nnx.List(
            FeatureHead(*level.shape[2:], rngs=rngs) for level in jax.eval_shape(features, image)
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        logits = [self.pixels(images)]
        for head, level in zip(self.heads, self.features(images), strict=True):
            level = level.astype(jnp.float32)
            logits.append(head(level * math.sqrt(level.shape[-1])))  # to unit variance
        return jnp.stack(logits, axis=-1)
