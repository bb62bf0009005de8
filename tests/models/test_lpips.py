import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, gradient_error, to_jax, to_torch

from benchmarks.torch_reference import networks
from e4e_jax.models.lpips import LPIPS, LPIPSConfig


def pair(net):
    ours = randomize(LPIPS(LPIPSConfig(net), rngs=nnx.Rngs(0)))
    return ours, networks.copy_weights(ours, networks.LPIPS(net)).double()


def random_images(seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


# Small images, and numbers that leave all activations away from corners: VGG has very many.
@pytest.mark.parametrize(
    "net, size, seed",
    [("alex", (2, 32, 40), 2), ("vgg", (1, 24, 20), 10), ("squeeze", (2, 32, 40), 4)],
)
def test_distances_and_gradients_match_torch(net, size, seed):
    ours, reference = pair(net)
    a, b = random_images(seed, *size, 3), random_images(seed + 1, *size, 3)
    tensor_a, tensor_b = to_torch(a), to_torch(b)
    with Corners() as corners:
        expected = reference(tensor_a, tensor_b)
    assert corners.are_far
    expected.sum().backward()

    def loss(a, b, model):
        distance = model(a, b)
        return jnp.sum(distance), distance

    grad = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
    (of_a, of_b), distance = grad(a, b, ours)
    assert distance.shape == size[:1]
    assert relative_error(distance, expected.detach()) < 1e-5
    assert relative_error(of_a, to_jax(tensor_a.grad)) < 1e-5
    assert relative_error(of_b, to_jax(tensor_b.grad)) < 1e-5


@pytest.mark.parametrize("net, seed", [("alex", 0), ("vgg", 2), ("squeeze", 0)])
def test_features_and_their_gradients_match_torch(net, seed):
    ours, reference = pair(net)
    x = random_images(seed, 1, 32, 32, 3)
    with Corners() as corners:
        expected = reference.features(to_torch(x))
    assert corners.are_far
    weights = [random_images(i, *to_jax(e).shape) for i, e in enumerate(expected)]
    sum((e * to_torch(w).detach()).sum() for e, w in zip(expected, weights, strict=True)).backward()

    def loss(model, x):
        maps = model.features(x)
        return sum(jnp.vdot(y, w) for y, w in zip(maps, weights, strict=True)), maps

    of_weights, maps = nnx.jit(nnx.grad(loss, has_aux=True))(ours, x)
    for actual, e in zip(maps, expected, strict=True):
        assert relative_error(actual, to_jax(e)) < 1e-5
    del of_weights["linears"]  # they weigh distances, not features
    assert gradient_error(of_weights, reference) < 1e-5


def test_features_can_be_kept_for_many_distances():
    lpips = randomize(LPIPS(LPIPSConfig("alex"), rngs=nnx.Rngs(0)))
    a, b = random_images(0, 2, 64, 64, 3), random_images(1, 2, 64, 64, 3)
    kept = lpips.features(b)
    np.testing.assert_allclose(lpips.distance(lpips.features(a), kept), lpips(a, b), rtol=1e-6)
    np.testing.assert_array_equal(lpips(a, a), 0)


def test_pixels_without_any_feature_have_a_finite_gradient():
    lpips = LPIPS(LPIPSConfig("alex"), rngs=nnx.Rngs(0))
    lpips.trunk[0].bias[...] = jnp.full((64,), -100.0)  # the first ReLU lets nothing through
    a, b = random_images(0, 1, 64, 64, 3), random_images(1, 1, 64, 64, 3)
    grad = nnx.jit(nnx.grad(lambda a, b, model: model(a, b)[0]))
    assert jnp.all(jnp.isfinite(grad(a, b, lpips)))


def test_unknown_networks_are_named():
    with pytest.raises(ValueError, match="LPIPS network is 'resnet'; expected one of"):
        LPIPS(LPIPSConfig("resnet"), rngs=nnx.Rngs(0))
