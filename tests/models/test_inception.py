import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from helpers import relative_error

from e4e_jax.models.inception import Inception, resize_bilinear

sys.path.append(str(pathlib.Path(__file__).parents[1] / "convert_weights"))
import published
import published_features


def test_features_match_torch():
    """In full width, on the smallest images that the network takes."""
    reference = published.randomize(published_features.Inception())
    network = nnx.eval_shape(lambda: Inception(image_size=75, rngs=nnx.Rngs(0)))
    copy_weights(network, reference.state_dict())
    images = np.random.default_rng(0).uniform(-1, 1, (2, 90, 70, 3)).astype(np.float32)
    with torch.no_grad():
        tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        expected = reference(tensor, 75)
    features = nnx.jit(Inception.__call__)(network, images)
    assert features.dtype == jnp.float32
    assert relative_error(features, expected) < 1e-5


def copy_weights(network, state):
    leaves = {
        "kernel": "conv.weight",
        "scale": "bn.weight",
        "bias": "bn.bias",
        "mean": "bn.running_mean",
        "var": "bn.running_var",
    }
    new = []
    for path, variable in nnx.to_flat_state(nnx.state(network)):
        *names, leaf = (str(part) for part in path if part != "norm")
        names[0] = names[0].capitalize()
        array = state[".".join([*names, leaves[leaf]])].numpy()
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        assert array.shape == variable.shape
        new.append((path, variable.replace(jnp.asarray(array))))
    nnx.update(network, nnx.from_flat_state(new))


def test_resize_matches_torch():
    for size in [(64, 64), (48, 299), (512, 300)]:
        x = np.random.default_rng(0).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
        tensor = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        expected = F.interpolate(tensor, (299, 299), mode="bilinear").permute(0, 2, 3, 1)
        assert relative_error(resize_bilinear(x, 299), expected) < 1e-5


def test_published_size_has_the_published_weights():
    network = nnx.eval_shape(lambda: Inception(rngs=nnx.Rngs(0)))
    assert network.mixed_7c.branch3x3dbl_3b.kernel.shape == (3, 1, 384, 384)
    features = nnx.eval_shape(lambda m, x: m(x), network, jnp.zeros((2, 32, 32, 3)))
    assert features.shape == (2, 2048)
