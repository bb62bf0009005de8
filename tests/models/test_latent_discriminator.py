import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, gradient_error, to_torch

from benchmarks.torch_reference import networks
from e4e_jax.models.latent_discriminator import LatentDiscriminator


def test_logits_and_gradients_match_torch():
    ours = randomize(LatentDiscriminator(16, 4, rngs=nnx.Rngs(0)))
    reference = networks.copy_weights(ours, networks.LatentDiscriminator(16, 4)).double()
    w = np.random.default_rng(0).normal(size=(5, 3, 16)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)

    tensor = to_torch(w)
    with Corners() as corners:
        expected = reference(tensor)[..., 0]
    assert corners.are_far
    (expected * torch.from_numpy(weights)).sum().backward()
    of_weights, of_w = nnx.grad(lambda m, w: jnp.vdot(m(w), weights), argnums=(0, 1))(ours, w)

    assert relative_error(ours(w), expected.detach()) < 1e-5
    assert relative_error(of_w, tensor.grad) < 1e-5
    assert gradient_error(of_weights, reference) < 1e-5


def test_published_size_has_the_published_weights():
    discriminator = nnx.eval_shape(lambda: LatentDiscriminator(rngs=nnx.Rngs(0)))
    shapes = [layer.kernel.shape for layer in discriminator.layers]
    assert shapes == [(512, 512)] * 3 + [(512, 1)]
