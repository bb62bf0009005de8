"""Latent codes of known faces, for a generator that is told which face a code stands for."""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from e4e_jax.toy.faces import FACTORS, GLASSES_PROBABILITY, HIGHEST, LOWEST

_EDGE = 1e-3  # keeps quantiles finite: |z| < 3.1


def face_latents(factors: jax.Array, z: jax.Array) -> jax.Array:
    """Writes the factors of faces into random codes, which stay standard normal.

    The first K coordinates become the normal quantiles of the factors; glasses, which are there
    or not, become a random coordinate beyond or before the quantile of their probability. The
    other coordinates are scaled so that the length is that of the mapping network's normalised
    input, sqrt(D): normalisation then leaves the factors as they are. (Not where the factors alone
    are longer, which happens to one face in 57 for D = 24 and hardly ever for D > 40.)

    Args:
      factors: [B, K], as `sample_factors` draws them.
      z: standard normal [B, D], D greater than K.

    Returns:
      [B, D].
    """
    count, dimensions = len(FACTORS), z.shape[1]
    uniform = (jnp.asarray(factors) - LOWEST) / (HIGHEST - LOWEST)
    glasses = FACTORS.index("glasses")
    without = 1.0 - GLASSES_PROBABILITY
    chance = ndtr(z[:, glasses])
    uniform = uniform.at[:, glasses].set(
        jnp.where(
            factors[:, glasses] > 0.5, without + GLASSES_PROBABILITY * chance, without * chance
        )
    )
    known = ndtri(jnp.clip(uniform, _EDGE, 1 - _EDGE))
    rest = z[:, count:]
    room = jnp.maximum(dimensions - jnp.sum(known**2, axis=1), 1.0)
    rest *= jnp.sqrt(room / jnp.sum(rest**2, axis=1))[:, None]
    return jnp.concatenate([known, rest], axis=1)
