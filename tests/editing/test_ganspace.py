import jax
import numpy as np
import pytest
from flax import nnx
from helpers import randomize, relative_error

from e4e_jax.editing.ganspace import ganspace_directions
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

CONFIG = GeneratorConfig(8, z_dim=8, w_dim=6, mapping_layers=2, channel_base=64, channel_max=8)


def test_components_are_those_of_all_samples_at_once():
    generator = randomize(Generator(CONFIG, rngs=nnx.Rngs(0)))
    mean, components, deviations = ganspace_directions(generator, 4, samples=950, batch_size=100)
    z = np.concatenate(
        [jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (100, 8)) for i in range(10)]
    )
    w = np.asarray(generator.mapping(z), np.float64)
    assert relative_error(mean, w.mean(axis=0)) < 1e-5
    _, singular, vectors = np.linalg.svd(w - w.mean(axis=0), full_matrices=False)
    assert relative_error(deviations, singular[:4] / np.sqrt(1000)) < 1e-5
    for found, expected in zip(components, vectors, strict=False):
        assert abs(abs(found @ expected) - 1) < 1e-5
        assert found[np.abs(found).argmax()] > 0


def test_more_components_than_dimensions_is_an_error():
    generator = Generator(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="count is 7 and samples 1000000; expected 1 to 6"):
        ganspace_directions(generator, 7)
