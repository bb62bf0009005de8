"""The toy features as the losses use them."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import randomize

from e4e_jax.models.irse import IRSEConfig
from e4e_jax.toy.features import ToyFeatures, ToyFeaturesConfig


@pytest.fixture(scope="module")
def network():
    backbone = IRSEConfig(widths=(16, 16, 16, 16), depths=(1, 1, 1, 1))
    config = ToyFeaturesConfig(5, tuple("abcde"), embedding_dim=6, image_size=16, backbone=backbone)
    network = randomize(ToyFeatures(config, rngs=nnx.Rngs(0)))
    network.eval()
    return network


def images(seed):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (3, 16, 16, 3)), jnp.float32)


def test_shapes_and_unit_lengths(network):
    assert network(images(0)).shape == (3, 5)
    assert network.pooled(images(0)).shape == (3, 6)
    np.testing.assert_allclose(np.linalg.norm(network.embed(images(0)), axis=-1), 1.0, rtol=1e-5)
    for level in network.features(images(0)):
        lengths = np.linalg.norm(np.asarray(level), axis=-1)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-3)


def test_distance_is_the_mean_of_squared_differences(network):
    a, b = network.features(images(0)), network.features(images(1))
    levels = [
        np.square(np.asarray(x) - np.asarray(y)).sum(-1).mean((1, 2))
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(network.distance(a, b), np.mean(levels, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(network.distance(a, a), 0.0)


def test_images_of_another_size_are_resized(network):
    colours = images(0)[:, :1, :1]
    small, large = (jnp.broadcast_to(colours, (3, size, size, 3)) for size in (16, 40))
    np.testing.assert_allclose(network.pooled(large), network.pooled(small), rtol=1e-4, atol=1e-5)
