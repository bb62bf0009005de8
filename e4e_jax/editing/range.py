"""How far codes lie from those that a generator has learned to draw."""

import jax
import numpy as np
from flax import nnx

from e4e_jax.models.stylegan2 import Generator

# Codes of inverted images and of strong edits lie at 1 to 5 times the distance that w has from its
# mean, and ten standard deviations along the widest direction at 17.
FAR = 20.0
FAR_CHANNEL = 100.0  # standard deviations of a channel of StyleSpace
_SAMPLES = 256


def distances(generator: Generator, w_plus: np.ndarray) -> np.ndarray:
    """Distances of codes w_plus [N, L, D] from the average code, that of their farthest layer.

    The unit is the mean distance (root of the mean square) of w from its mean, over random z.

    Returns:
      [N].
    """
    w = np.asarray(_sample(generator, jax.random.key(0)), np.float64)
    unit = np.sqrt(np.mean(np.sum((w - w.mean(axis=0)) ** 2, axis=-1)))
    offsets = np.asarray(w_plus, np.float64) - np.asarray(generator.latent_avg[...], np.float64)
    return np.sqrt(np.max(np.sum(offsets**2, axis=-1), axis=-1)) / max(unit, 1e-30)


@nnx.jit
def _sample(generator, key):
    z = jax.random.normal(key, (_SAMPLES, generator.config.z_dim))
    classes = generator.config.num_classes
    label = jax.nn.one_hot(np.arange(_SAMPLES) % classes, classes) if classes else None
    return generator.mapping(z, label)
