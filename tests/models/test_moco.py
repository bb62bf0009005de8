import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, gradient_error, to_jax, to_torch

from benchmarks.torch_reference import networks
from e4e_jax.models.moco import MoCo, MoCoConfig, resize_nearest


def test_vectors_and_gradients_match_torch():
    ours = randomize(MoCo(MoCoConfig((1, 2, 1, 1), 8, 40), rngs=nnx.Rngs(0)))
    reference = networks.copy_weights(ours, networks.MoCo((1, 2, 1, 1), 8, 40)).eval().double()
    x = np.random.default_rng(0).uniform(-1, 1, (2, 48, 36, 3)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(2, 256)).astype(np.float32)

    tensor = to_torch(x)
    with Corners() as corners:
        expected = reference(tensor)
    assert corners.are_far
    (expected * torch.from_numpy(weights)).sum().backward()

    def loss(model, x):
        vectors = model(x)
        return jnp.vdot(vectors, weights), vectors

    grad = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
    (of_weights, of_images), vectors = grad(ours, x)
    assert relative_error(vectors, expected.detach()) < 1e-5
    assert relative_error(of_images, to_jax(tensor.grad)) < 1e-5
    assert gradient_error(of_weights, reference) < 1e-5


def test_nearest_resize_chooses_torch_s_pixels():
    for size in [192, 224, 256, 100, 1024, *range(30, 700, 37)]:
        x = torch.arange(size, dtype=torch.float32).expand(1, 1, size, size)
        expected = to_jax(F.interpolate(x, size=224))
        np.testing.assert_array_equal(resize_nearest(to_jax(x), 224), expected)


def test_published_size_has_the_published_weights():
    moco = nnx.eval_shape(lambda: MoCo(MoCoConfig(), rngs=nnx.Rngs(0)))
    assert [len(layer) for layer in moco.layers] == [3, 4, 6, 3]
    assert moco.layers[3][2].conv3.kernel.shape == (1, 1, 512, 2048)
    vectors = nnx.eval_shape(lambda m, x: m(x), moco, jnp.zeros((2, 256, 256, 3)))
    assert vectors.shape == (2, 2048)
