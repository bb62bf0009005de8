"""Figures of pairs of images: each function maps two batches [B, H, W, 3] in [-1, 1] to [B]."""

from typing import Any

import jax
import jax.numpy as jnp

from e4e_jax.metrics.metric import PairMetric


def l2(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared difference of all elements, as the published tables have it."""
    return jnp.mean(jnp.square(a - b), axis=(1, 2, 3))


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, 10·log₁₀(2² / l2); infinite for equal images."""
    return 10 * jnp.log10(4 / l2(a, b))


def perceptual_distance(network: Any, a: jax.Array, b: jax.Array) -> jax.Array:
    """Distance in a network's feature maps, such as LPIPS.

    Args:
      network: has `features(images)` and `distance(features, features) -> [B]`.
      a, b: images.
    """
    return network.distance(network.features(a), network.features(b))


def identity_similarity(network: Any, a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosine of two faces' identity vectors, −1 to 1; more is better.

    Args:
      network: has `embed(images) -> unit vectors [B, D]`, of images of any size.
      a, b: images, aligned as the network expects them.
    """
    return jnp.sum(network.embed(a) * network.embed(b), axis=-1)


L2 = PairMetric(l2)
PSNR = PairMetric(psnr)
LPIPS = PairMetric(perceptual_distance, "lpips_alex", "distance")
PERCEPTUAL = PairMetric(perceptual_distance, method="distance")
ID = PairMetric(identity_similarity, "arcface", "embed")
