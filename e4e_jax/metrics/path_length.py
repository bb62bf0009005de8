"""Perceptual path length (Karras et al. 2019, arXiv 1812.04948, section 4.1)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from e4e_jax.metrics.columns import Column, Rows
from e4e_jax.metrics.lec import mean_without_outliers
from e4e_jax.metrics.metric import Metric, Subject

_LARGEST = 256  # side of the images that are compared


@dataclasses.dataclass(frozen=True)
class PathLength(Metric):
    """How far images change, perceptually, on a short step between two random codes.

    LPIPS(G(at t), G(at t + ε)) / ε², where "at" interpolates two draws: spherically in z, linearly
    in w. As in the published code images above 256x256 are averaged to it, LPIPS is that of VGG16,
    and the mean is over the distances from the 1st to the 99th percentile. The generator's noise
    is its constant one.

    Attributes:
      space: "z" or "w".
      whole: whether t is anywhere from 0 to 1 (`full` in the published code), else 0 (`end`).
      crop: whether only a face in the middle is looked at: of height and width, the parts from 3/8
        to 7/8 and from 2/8 to 6/8, as published for FFHQ by StyleGAN, and given up by StyleGAN2.
      epsilon: ε.
    """

    space: str
    whole: bool = True
    crop: bool = False
    epsilon: float = 1e-4

    network = "lpips_vgg"
    method = "distance"
    counted = True

    def columns(self, subject: Subject) -> dict[str, Column]:
        del subject

        def compute(network, images):
            map_, synthesize, z = images["mapping"], images["synthesize w"], images["z"]
            keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, 1)))(images["key"])
            other = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))(keys[:, 0])
            t = jax.vmap(jax.random.uniform)(keys[:, 1]) if self.whole else jnp.zeros(len(z))
            times = jnp.concatenate([t, t + self.epsilon])[:, None]
            ends = jnp.tile(z, (2, 1)), jnp.tile(other, (2, 1))
            if self.space == "z":
                w = map_(slerp(*ends, times))
            else:
                first, second = (jnp.tile(map_(code), (2, 1)) for code in (z, other))
                w = first + (second - first) * times
            seen = prepare_images(synthesize(w), self.crop)
            before, after = _halves(network.features(seen))
            return network.distance(before, after) / self.epsilon**2

        key = dataclasses.asdict(self)
        return {"latents": Column("latents", compute, Rows, key=key)}

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        del subject
        return {"": mean_without_outliers(kept["latents"])}


def slerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """The point at t of the great circle from a to b, vectors [B, D] of any length; t [B, 1].

    Returns unit vectors.
    """
    a, b = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    cosine = jnp.sum(a * b, axis=-1, keepdims=True)
    angle = t * jnp.arccos(jnp.clip(cosine, -1, 1))
    beside = b - cosine * a
    beside /= jnp.linalg.norm(beside, axis=-1, keepdims=True)
    return a * jnp.cos(angle) + beside * jnp.sin(angle)


def prepare_images(images: jax.Array, crop: bool) -> jax.Array:
    """Images [B, R, R, 3] -> what the network looks at, of at most 256 pixels in height."""
    if crop:
        eighth = images.shape[1] // 8
        images = images[:, 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth]
    factor = images.shape[1] // _LARGEST
    if factor > 1:
        images = nnx.avg_pool(images, (factor, factor), strides=(factor, factor))
    return images


def _halves(tree):
    """The first and the second half of the batch of each array."""
    return (jax.tree.map(lambda x, i=i: jnp.split(x, 2)[i], tree) for i in (0, 1))


PPL_Z = PathLength("z")
PPL_W = PathLength("w")
PPL_WEND = PathLength("w", whole=False)
