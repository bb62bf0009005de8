import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, to_jax, to_torch, torch_parameters

from benchmarks.torch_reference import stylegan2 as reference
from e4e_jax.models.discriminator import Discriminator, append_minibatch_stddev
from e4e_jax.models.stylegan2 import GeneratorConfig
from e4e_jax.training.losses import r1_penalty


def pair(resolution):
    """Widths 8, 8, 6, 3 from 4x4 to 32x32."""
    config = GeneratorConfig(resolution, channel_base=96, channel_max=8)
    ours = randomize(Discriminator(config, rngs=nnx.Rngs(0)))
    return ours, torch_parameters(ours)


def random_images(batch, resolution):
    shape = (batch, resolution, resolution, 3)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("resolution, batch", [(8, 4), (16, 8), (32, 4), (8, 3)])
def test_logits_and_gradients_match_torch(resolution, batch):
    ours, p = pair(resolution)
    images = random_images(batch, resolution)
    pixels = to_torch(images)
    with Corners() as corners:
        expected = reference.discriminator(p, ours.config, pixels)
    assert corners.are_far
    weights = np.random.default_rng(2).normal(size=batch).astype(np.float32)
    (expected * torch.from_numpy(weights)).sum().backward()

    def loss(model, images):
        logits = model(images)
        return jnp.vdot(logits, weights), logits

    grad = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
    (gradients, image_gradient), logits = grad(ours, images)
    assert relative_error(logits, expected.detach()) < 1e-5
    assert relative_error(image_gradient, to_jax(pixels.grad)) < 1e-5
    for name, gradient in reference.named_arrays(gradients).items():
        assert relative_error(gradient, p[name].grad) < 1e-5, name


def test_r1_gradients_match_torch_double_backward():
    ours, p = pair(16)
    images = random_images(8, 16)
    pixels = to_torch(images)
    with Corners() as corners:
        logits = reference.discriminator(p, ours.config, pixels)
    assert corners.are_far
    (slopes,) = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
    expected = slopes.square().sum((1, 2, 3)).mean()
    expected.backward()

    value_and_grad = nnx.jit(nnx.value_and_grad(lambda model: r1_penalty(model, images)))
    value, gradients = value_and_grad(ours)
    assert relative_error(value, expected.detach()) < 1e-5
    for name, gradient in reference.named_arrays(gradients).items():
        if name in ("final_conv.bias", "final_linear.bias", "logit.bias"):
            assert not np.any(gradient)  # behind the statistics a shift leaves all slopes alone
        else:
            assert relative_error(gradient, p[name].grad) < 1e-5, name


def test_minibatch_stddev_is_the_mean_over_groups_a_quarter_batch_apart():
    x = np.random.default_rng(0).normal(size=(8, 2, 2, 5)).astype(np.float32)
    appended = append_minibatch_stddev(x)
    np.testing.assert_array_equal(appended[..., :5], x)
    for i in range(8):
        expected = np.sqrt(np.var(x[i % 2 :: 2], axis=0) + 1e-8).mean()
        assert relative_error(appended[i, ..., 5], np.full((2, 2), expected)) < 1e-5


def test_a_batch_that_does_not_fall_into_groups_is_an_error():
    with pytest.raises(ValueError, match="batch is 6; expected a multiple of 4"):
        append_minibatch_stddev(jnp.zeros((6, 4, 4, 2)))


def test_bfloat16_stays_close_and_returns_float32():
    config = GeneratorConfig(16, channel_base=96, channel_max=8)
    exact, half = (
        randomize(Discriminator(config, dtype=dtype, rngs=nnx.Rngs(0)))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    images = random_images(4, 16)
    run = nnx.jit(lambda discriminator, images: discriminator(images))
    logits = run(half, images)
    assert logits.dtype == jnp.float32
    assert relative_error(logits, run(exact, images)) < 0.05
