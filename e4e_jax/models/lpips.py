"""LPIPS 0.1, the learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924).

Matches richzhang/PerceptualSimilarity with the AlexNet, VGG16 and SqueezeNet 1.1 trunks.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """Convolution to `features` channels."""

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1


@dataclasses.dataclass(frozen=True)
class FireLayer:
    """SqueezeNet's module: `squeeze` channels, then `expand` from a 1x1 and from a 3x3 kernel."""

    squeeze: int
    expand: int


class Fire(nnx.Module):
    """[B, H, W, I] -> [B, H, W, 2·expand] (Iandola et al. 2016)."""

    def __init__(self, in_features: int, layer: FireLayer, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.squeeze = nnx.Conv(in_features, layer.squeeze, (1, 1), dtype=dtype, rngs=rngs)
        self.expand1x1 = nnx.Conv(layer.squeeze, layer.expand, (1, 1), dtype=dtype, rngs=rngs)
        self.expand3x3 = nnx.Conv(
            layer.squeeze, layer.expand, (3, 3), padding=1, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.squeeze(x))
        return jax.nn.relu(jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1))


def _max_pool(x, size, ceil=False):
    """Stride-2 max pooling; `ceil` keeps a last window that reaches over the edge."""
    over = [(n - size) % 2 if ceil else 0 for n in x.shape[1:3]]
    return nnx.max_pool(x, (size, size), strides=(2, 2), padding=[(0, n) for n in over])


_RELU = jax.nn.relu
_POOL = functools.partial(_max_pool, size=3)
_VGG_POOL = functools.partial(_max_pool, size=2)
_CEIL_POOL = functools.partial(_max_pool, size=3, ceil=True)

# The `features` of torchvision's networks, entry by entry.
_TRUNKS = {
    "alex": (
        ConvLayer(64, size=11, stride=4, padding=2),
        _RELU,
        _POOL,
        ConvLayer(192, size=5, padding=2),
        _RELU,
        _POOL,
        ConvLayer(384),
        _RELU,
        ConvLayer(256),
        _RELU,
        ConvLayer(256),
        _RELU,
    ),
    "vgg": (
        *(ConvLayer(64), _RELU) * 2,
        _VGG_POOL,
        *(ConvLayer(128), _RELU) * 2,
        _VGG_POOL,
        *(ConvLayer(256), _RELU) * 3,
        _VGG_POOL,
        *(ConvLayer(512), _RELU) * 3,
        _VGG_POOL,
        *(ConvLayer(512), _RELU) * 3,
    ),
    "squeeze": (
        ConvLayer(64, stride=2, padding=0),
        _RELU,
        _CEIL_POOL,
        FireLayer(16, 64),
        FireLayer(16, 64),
        _CEIL_POOL,
        FireLayer(32, 128),
        FireLayer(32, 128),
        _CEIL_POOL,
        FireLayer(48, 192),
        FireLayer(48, 192),
        FireLayer(64, 256),
        FireLayer(64, 256),
    ),
}

# The entries of `features` whose outputs are compared.
_TAPS = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """Which network it is.

    Attributes:
      net: its trunk, "alex", "vgg" or "squeeze".

    Raises:
      ValueError: another name.
    """

    net: str = "alex"

    def __post_init__(self):
        if self.net not in _TRUNKS:
            raise ValueError(f"LPIPS network is {self.net!r}; expected one of {tuple(_TRUNKS)}")


class LPIPS(nnx.Module):
    """Perceptual distance of images a and b, [B, H, W, 3] in [-1, 1] -> [B] float32.

    Args:
      config: which trunk.
      dtype: compute type of the convolutions.
    """

    def __init__(self, config: LPIPSConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.trunk: nnx.List[Callable] = nnx.List()
        self.linears: nnx.List[nnx.Param] = nnx.List()  # a weight for each channel compared
        self.taps = _TAPS[config.net]
        channels = 3
        for i, layer in enumerate(_TRUNKS[config.net]):
            if isinstance(layer, ConvLayer):
                conv = nnx.Conv(
                    channels,
                    layer.features,
                    (layer.size, layer.size),
                    strides=layer.stride,
                    padding=layer.padding,
                    dtype=dtype,
                    rngs=rngs,
                )
                self.trunk.append(conv)
                channels = layer.features
            elif isinstance(layer, FireLayer):
                self.trunk.append(Fire(channels, layer, dtype=dtype, rngs=rngs))
                channels = 2 * layer.expand
            else:
                self.trunk.append(layer)
            if i in self.taps:
                self.linears.append(nnx.Param(jnp.full((channels,), 1 / channels)))

    def features(self, images: jax.Array) -> list[jax.Array]:
        """Images [B, H, W, 3] in [-1, 1] -> unit-normalised maps [B, h, w, C], one a layer."""
        x = (images - jnp.array(_SHIFT)) / jnp.array(_SCALE)
        maps = []
        for i, layer in enumerate(self.trunk):
            x = layer(x)
            if i in self.taps:
                maps.append(_normalize_channels(x.astype(jnp.float32)))
        return maps

    def distance(
        self, features_a: Sequence[jax.Array], features_b: Sequence[jax.Array]
    ) -> jax.Array:
        """Distance [B] of two results of `features`: weighted squares, mean over space."""
        levels = [
            jnp.mean(jnp.square(a - b) @ weight[...], axis=(1, 2))
            for a, b, weight in zip(features_a, features_b, self.linears, strict=True)
        ]
        return functools.reduce(operator.add, levels)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return self.distance(self.features(a), self.features(b))


def _normalize_channels(x, epsilon=1e-10):
    """Divides each pixel's vector by its norm; a vector of zeros stays zero, gradient too."""
    power = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    norm = jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)
    return x / (norm + epsilon)
