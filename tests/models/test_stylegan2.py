import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, sum_error, to_jax, to_torch, torch_parameters

from benchmarks.torch_reference import stylegan2 as reference
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig, mean_latent
from e4e_jax.training.losses import path_length_penalty


def small(resolution, **changes):
    """Widths 8, 8, 6, 3 from 4x4 to 32x32; z and w of different lengths."""
    widths = {"channel_base": 96, "channel_max": 8}
    return GeneratorConfig(resolution, z_dim=10, w_dim=12, mapping_layers=3, **widths | changes)


def pair(config):
    ours = randomize(Generator(config, rngs=nnx.Rngs(0)))
    return ours, torch_parameters(ours)


def random_codes(config, batch=3):
    shape = (batch, config.num_styles, config.w_dim)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def spread_noise_strengths(p, config, batch):
    """Gives every activation a strength of its own: their gradients are the terms of the one's.

    That is a sum over whole images, and what its terms leave of one another may be little.
    """
    for i in range(2 * len(config.block_resolutions) - 1):
        resolution = config.block_resolutions[(i + 1) // 2]
        shape = (batch, config.channels(resolution), resolution, resolution)
        name = f"synthesis.convs.{i}.noise_strength"
        p[name] = p[name].detach().expand(shape).contiguous().requires_grad_()


def test_channels_and_styles_of_the_published_generator():
    config = GeneratorConfig(1024)
    widths = [config.channels(r) for r in config.block_resolutions]
    assert widths == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    assert config.num_styles == 18
    with pytest.raises(ValueError, match="resolution is 48; expected a power of two"):
        GeneratorConfig(48)


def test_mapping_and_truncation_match_torch():
    config = small(8)
    ours, p = pair(config)
    z = 2 * np.random.default_rng(0).normal(size=(5, config.z_dim)).astype(np.float32)
    w = reference.mapping(p, config, to_torch(z))
    average = p["latent_avg"]
    run = nnx.jit(lambda generator, z, psi: generator.map(z, psi))
    assert relative_error(run(ours, z, 1.0), w.detach()) < 1e-5
    truncated = average + 0.7 * (w - average)
    assert relative_error(run(ours, z, 0.7), truncated.detach()) < 1e-5
    w_plus = ours.broadcast(run(ours, z, 1.0))
    assert w_plus.shape == (5, config.num_styles, config.w_dim)
    assert jnp.all(w_plus == w_plus[:, :1])


def test_mean_latent_is_the_mean_of_mapped_codes():
    ours, _ = pair(small(8))
    run = nnx.jit(mean_latent, static_argnames="samples")
    mean = run(ours, jax.random.key(0), samples=2000)
    again = run(ours, jax.random.key(1), samples=2000)
    w = nnx.jit(Generator.map)(ours, jax.random.normal(jax.random.key(2), (2000, 10)))
    assert mean.shape == (12,)
    # The means of two samples of 2,000 lie within a few √(2 / 2,000) of each other.
    assert np.max(np.abs(mean - again) / np.std(w, axis=0)) < 0.16
    assert np.max(np.abs(mean - np.mean(w, axis=0)) / np.std(w, axis=0)) < 0.16


@pytest.mark.parametrize(
    "config, noise",
    [
        (small(8), "constant"),
        (small(16), "none"),
        (small(32), "constant"),
        (small(16, channel_base=128, conv_clamp=0.8), "constant"),
    ],
    ids=["8", "16 without noise", "32", "16 clamped"],
)
def test_images_and_gradients_match_torch(config, noise):
    ours, p = pair(config)
    w_plus = random_codes(config)
    codes = to_torch(w_plus)
    spread_noise_strengths(p, config, batch=3)
    with Corners() as corners:
        expected = reference.synthesis(p, config, codes, noise=noise)
    assert corners.are_far
    target = np.random.default_rng(2).normal(size=(3, *[config.resolution] * 2, 3))
    (expected * to_torch(target)).sum().backward()

    def loss(model, w_plus):
        images = model.synthesis(w_plus, noise=noise)
        return jnp.vdot(images, target), images

    grad = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
    (gradients, code_gradient), images = grad(ours, w_plus)
    assert relative_error(images, to_jax(expected)) < 1e-5
    assert relative_error(code_gradient, codes.grad) < 1e-5
    for name, gradient in reference.named_arrays(gradients).items():
        if p[name].grad is None:  # the mapping network, the noise strengths without noise
            assert not np.any(gradient)
        elif "noise_strength" in name:
            assert sum_error(gradient, p[name].grad) < 1e-6, name
        else:
            assert relative_error(gradient, p[name].grad) < 1e-5, name


def test_clamp_bounds_activations_and_colours():
    ours, _ = pair(small(16, conv_clamp=0.8))
    codes = random_codes(ours.config)
    x = jnp.ones((3, 8, 8, 8))
    conv = ours.synthesis.convs[2]
    features = conv(x, conv.modulation(codes[:, 0]), None)
    assert jnp.max(jnp.abs(features)) == jnp.float32(0.8)  # behind the activation's gain of √2
    to_rgb = ours.synthesis.to_rgbs[1]
    rgb = to_rgb(10 * x, to_rgb.modulation(codes[:, 0]))
    assert jnp.max(jnp.abs(rgb)) == jnp.float32(0.8)


def test_path_length_gradients_match_torch_double_backward():
    config = small(16)
    ours, p = pair(config)
    w_plus = random_codes(config, batch=2)
    probe = np.random.default_rng(3).normal(size=(2, 16, 16, 3)).astype(np.float32)

    codes = to_torch(w_plus)
    spread_noise_strengths(p, config, batch=2)
    with Corners() as corners:
        images = reference.synthesis(p, config, codes)
    assert corners.are_far
    projection = (images * to_torch(probe)).sum() / 16
    (slopes,) = torch.autograd.grad(projection, codes, create_graph=True)
    lengths = slopes.square().sum(2).mean(1).sqrt()
    mean = 0.5 + 0.01 * (lengths.mean() - 0.5)
    expected = (lengths - mean).square().mean()
    expected.backward()

    def penalty(model, w_plus):
        return path_length_penalty(model.synthesis, w_plus, probe, jnp.float32(0.5))[0]

    value_and_grad = nnx.jit(nnx.value_and_grad(penalty, argnums=(0, 1)))
    value, (gradients, code_gradient) = value_and_grad(ours, w_plus)
    assert relative_error(value, expected.detach()) < 1e-5
    assert relative_error(code_gradient, codes.grad) < 1e-5
    for name, gradient in reference.named_arrays(gradients).items():
        if "noise_strength" in name:
            assert sum_error(gradient, p[name].grad) < 2e-6, name
        elif p[name].grad is not None:
            assert relative_error(gradient, p[name].grad) < 1e-5, name


def test_random_noise_belongs_to_the_key_of_its_example():
    ours, _ = pair(small(8))
    codes = jnp.broadcast_to(random_codes(ours.config, batch=1), (3, 4, 12))
    keys = jax.random.split(jax.random.key(0), 3)
    run = nnx.jit(lambda generator, keys: generator.synthesis(codes, noise="random", keys=keys))
    images = run(ours, keys)
    swapped = run(ours, keys[jnp.array([1, 0, 2])])
    assert relative_error(swapped, images[jnp.array([1, 0, 2])]) < 1e-5
    assert jnp.max(jnp.abs(images[0] - images[1])) > 0.01
    with pytest.raises(ValueError, match="noise is 'const'"):
        ours.synthesis(codes, noise="const")


def test_bfloat16_stays_close_and_returns_float32():
    config = small(32)
    exact, half = (
        randomize(Generator(config, dtype=dtype, rngs=nnx.Rngs(0)))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    codes = random_codes(config)
    run = nnx.jit(lambda generator, codes: generator.synthesis(codes))
    images = run(half, codes)
    assert images.dtype == jnp.float32
    assert relative_error(images, run(exact, codes)) < 0.05
