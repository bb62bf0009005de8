import jax
import numpy as np
import pytest
from flax import nnx
from helpers import randomize, relative_error

from e4e_jax.editing.stylespace import attribute_channels, channel_deviations
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

CONFIG = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)


@pytest.fixture(scope="module")
def generator():
    return randomize(Generator(CONFIG, rngs=nnx.Rngs(0)))


def test_deviations_are_those_of_random_codes(generator):
    deviations = channel_deviations(generator, samples=200, seed=3)
    w = generator.mapping(jax.random.normal(jax.random.key(3), (200, 8)))
    expected = np.std(generator.synthesis.convs[1].modulation(w), axis=0)
    assert relative_error(deviations[1], expected) < 1e-5


def test_the_channel_that_makes_the_score_is_found(generator):
    w = np.asarray(generator.mapping(jax.random.normal(jax.random.key(0), (3000, 8))))
    styles = np.asarray(generator.synthesis.convs[2].modulation(w))
    for sign in (1, -1):
        layer, channel, mean = attribute_channels(generator, w, sign * styles[:, 4])[0]
        assert (layer, channel) == (2, 4) and sign * mean > 1.5


def test_too_few_codes(generator):
    with pytest.raises(ValueError, match="at least 20 codes"):
        attribute_channels(generator, np.zeros((5, 8)), np.zeros(5))
