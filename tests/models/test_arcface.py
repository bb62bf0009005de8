import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, gradient_error, to_jax, to_torch

from benchmarks.torch_reference import networks
from e4e_jax.models.arcface import ArcFace, ArcFaceConfig, crop_face
from e4e_jax.models.irse import IRSEConfig

SMALL = IRSEConfig(widths=(8, 8, 12, 16), depths=(1, 2, 1, 1), squeeze_reduction=4)


def random_images(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_vectors_and_gradients_match_torch():
    ours = randomize(ArcFace(ArcFaceConfig(SMALL, 10, 40), rngs=nnx.Rngs(0)))
    reference = networks.copy_weights(ours, networks.ArcFace(SMALL, 10, side=3)).eval().double()
    x = random_images(3, 40, 40, 3)
    weights = np.random.default_rng(1).normal(size=(3, 10)).astype(np.float32)

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


def test_crop_matches_torch():
    x = random_images(2, 256, 256, 3)
    expected = F.adaptive_avg_pool2d(to_torch(x)[:, :, 35:223, 32:220], 112)
    assert relative_error(crop_face(x), to_jax(expected)) < 1e-5


def test_published_size_has_the_published_weights():
    arcface = nnx.eval_shape(
        lambda: ArcFace(ArcFaceConfig(IRSEConfig.ir_se_50()), rngs=nnx.Rngs(0))
    )
    assert arcface.linear.kernel.shape == (25088, 512)
    assert len(arcface.backbone.body) == 24


def test_images_of_another_size_are_named():
    arcface = ArcFace(ArcFaceConfig(SMALL, 10, 40), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\(1, 64, 64, 3\); expected \[B, 40, 40, C\]"):
        arcface(jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(ValueError, match=r"\(1, 64, 64, 3\); expected \[B, 256, 256, 3\]"):
        crop_face(jnp.zeros((1, 64, 64, 3)))
