import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import to_jax, to_torch

from benchmarks.torch_reference import inception
from benchmarks.torch_reference.networks import copy_weights
from e4e_jax.models.inception import Inception, InceptionConfig, resize_bilinear


def test_features_match_torch():
    """In full width, on the smallest images that the network takes."""
    network = randomize(Inception(InceptionConfig(75, num_classes=10), rngs=nnx.Rngs(0)))
    classes = np.asarray(network.classes[...], np.float64)
    del network.classes  # which the reference does not have
    reference = copy_weights(network, inception.Inception(image_size=75)).eval().double()
    network.classes = nnx.Param(jnp.asarray(classes, jnp.float32))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 90, 70, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(to_torch(images))
    features, logits = nnx.jit(lambda n, x: (n.pooled(x), n.class_logits(x)))(network, images)
    assert features.dtype == logits.dtype == jnp.float32
    assert relative_error(features, expected) < 1e-5
    assert relative_error(logits, expected.numpy() @ classes) < 1e-4  # sums of both signs


def test_resize_matches_torch():
    for size in [(64, 64), (48, 299), (512, 300)]:
        x = np.random.default_rng(0).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
        expected = F.interpolate(to_torch(x), (299, 299), mode="bilinear")
        # Positions are float32, as PyTorch's are there: off by up to two roundings of the largest,
        # and with them by as much of the step from -1 to 1 between two pixels.
        bound = 2 * 2 * 2**-24 * max(size)
        assert np.abs(resize_bilinear(x, 299) - to_jax(expected)).max() < bound


def test_published_size_has_the_published_weights():
    network = nnx.eval_shape(lambda: Inception(InceptionConfig(), rngs=nnx.Rngs(0)))
    assert network.mixed_7c.branch3x3dbl_3b.kernel.shape == (3, 1, 384, 384)
    features = nnx.eval_shape(lambda m, x: m(x), network, jnp.zeros((2, 32, 32, 3)))
    assert features.shape == (2, 2048)
    with pytest.raises(ValueError, match="this Inception has no classes, as its bundle is of an"):
        nnx.eval_shape(lambda m, x: m.class_logits(x), network, jnp.zeros((2, 32, 32, 3)))
