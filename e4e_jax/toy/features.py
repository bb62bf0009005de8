"""The feature network of the toy domain: an IR-SE trained to read the factors of a face.

It stands in for LPIPS, ArcFace and Inception where their weights are not at hand. Numbers that
it measures are always labelled "toy features".
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.irse import IRSEBackbone, IRSEConfig
from e4e_jax.models.layers import EqualLinear
from e4e_jax.toy.faces import FACTORS


@dataclasses.dataclass(frozen=True)
class ToyFeaturesConfig:
    """Shape of the network.

    Attributes:
      num_factors: K, the factors that it reads.
      factor_names: of these.
      embedding_dim: E, the length of the vector behind identity and FID.
      image_size: side of the square images.
      backbone: the IR-SE backbone, the toy encoder's own.
    """

    num_factors: int = len(FACTORS)
    factor_names: tuple[str, ...] = FACTORS
    embedding_dim: int = 128
    image_size: int = 64
    backbone: IRSEConfig = IRSEConfig.tiny()

    def __post_init__(self):
        if len(self.factor_names) != self.num_factors:
            raise ValueError(
                f"{len(self.factor_names)} factors are named; expected num_factors, "
                f"{self.num_factors}"
            )


class ToyFeatures(nnx.Module):
    """Images [B, S, S, 3] in [-1, 1] -> factors [B, K] float32.

    Args:
      config: the shape.
      axis_name: named axis of devices over which batch statistics are synchronised.
      dtype: compute type of the convolutions.
    """

    def __init__(
        self,
        config: ToyFeaturesConfig,
        *,
        axis_name: str | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        side = -(-config.image_size // 16)  # four halvings, rounded up
        self.config = config
        self.backbone = IRSEBackbone(config.backbone, axis_name=axis_name, dtype=dtype, rngs=rngs)
        self.embedding = EqualLinear(
            side * side * config.backbone.widths[-1], config.embedding_dim, rngs=rngs
        )
        self.factors = EqualLinear(config.embedding_dim, config.num_factors, rngs=rngs)

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Of the K factors that it reads."""
        return self.config.factor_names

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.factors(jax.nn.relu(self.pooled(images)))

    def pooled(self, images: jax.Array) -> jax.Array:
        """Features for FID: images [B, H, W, 3] -> [B, E] float32; other sizes are resized to S."""
        size = self.config.image_size
        if images.shape[1:3] != (size, size):
            shape = (images.shape[0], size, size, 3)
            images = jax.image.resize(images, shape, "linear")
        coarse = self.backbone(images)[-1]  # [B, S/16, S/16, C]
        return self.embedding(coarse.astype(jnp.float32).reshape(coarse.shape[0], -1))

    def embed(self, images: jax.Array) -> jax.Array:
        """Identity features: images [B, S, S, 3] -> unit vectors [B, E]."""
        x = self.pooled(images)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def features(self, images: jax.Array) -> list[jax.Array]:
        """Perceptual features: the backbone's levels, each pixel a unit vector."""
        levels = [x.astype(jnp.float32) for x in self.backbone(images)]
        return [x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-8) for x in levels]

    def distance(
        self, features_a: Sequence[jax.Array], features_b: Sequence[jax.Array]
    ) -> jax.Array:
        """Perceptual distance [B]: squared differences of `features`, as LPIPS without weights.

        Summed over channels, averaged over the pixels of a level and over the levels.
        """
        levels = [
            jnp.mean(jnp.sum(jnp.square(a - b), axis=-1), axis=(1, 2))
            for a, b in zip(features_a, features_b, strict=True)
        ]
        return functools.reduce(operator.add, levels) / len(levels)
