"""SeFa's directions against the definition, by power iteration in plain NumPy."""

import numpy as np
from flax import nnx
from helpers import randomize

from e4e_jax.editing.sefa import sefa_directions
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig


def test_directions_are_the_leading_eigenvectors():
    config = GeneratorConfig(16, z_dim=8, w_dim=6, mapping_layers=2, channel_base=64, channel_max=8)
    generator = randomize(Generator(config, rngs=nnx.Rngs(0)))
    found = sefa_directions(generator, 3)

    columns = []
    for layer in [*generator.synthesis.convs, *generator.synthesis.to_rgbs]:
        for column in np.asarray(layer.modulation.weight[...], np.float64).T:
            columns.append(column / np.sqrt(np.sum(column**2)))
    gram = sum(np.outer(c, c) for c in columns)
    for direction in found:
        vector = np.random.default_rng(0).normal(size=6)
        for _ in range(3000):
            vector = gram @ vector
            vector /= np.linalg.norm(vector)
        assert abs(vector @ direction) > 1 - 1e-6
        gram -= (vector @ gram @ vector) * np.outer(vector, vector)  # on to the next one
