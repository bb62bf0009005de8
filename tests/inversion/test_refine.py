"""Optimisation behind the encoder, on tiny random generators that drew the targets themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import randomize, relative_error

from e4e_jax.inversion.refine import (
    noise_correlation,
    optimize_w,
    optimize_w_plus,
    tune_generator,
)
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.toy.features import ToyFeatures, ToyFeaturesConfig

CONFIG = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)


@pytest.fixture(scope="module")
def problem():
    """A generator, a perceptual network, targets that it can draw, and codes near theirs."""
    generator = randomize(Generator(CONFIG, rngs=nnx.Rngs(0)))
    backbone = IRSEConfig(widths=(16, 16, 16, 16), depths=(1, 1, 1, 1))
    config = ToyFeaturesConfig(embedding_dim=8, image_size=16, backbone=backbone)
    perceptual = randomize(ToyFeatures(config, rngs=nnx.Rngs(1)))
    perceptual.eval()
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, CONFIG.num_styles, 8)).astype(np.float32)
    images = nnx.jit(lambda generator, codes: generator.synthesis(codes))(generator, truth)
    start = truth + 0.3 * rng.normal(size=truth.shape).astype(np.float32)
    return generator, perceptual, images, jnp.asarray(start)


def test_w_plus_takes_the_steps_of_a_plain_loop(problem):
    generator, perceptual, images, start = problem
    codes, losses = optimize_w_plus(
        generator, perceptual, images, start, steps=4, learning_rate=0.05
    )

    @jax.jit
    def value_and_gradient(codes):
        def loss(codes):
            inverted = generator.synthesis(codes)
            distance = perceptual.distance(
                perceptual.features(inverted), perceptual.features(images)
            )
            values = jnp.mean((inverted - images) ** 2, axis=(1, 2, 3)) + distance
            return jnp.sum(values), values

        return jax.value_and_grad(loss, has_aux=True)(codes)

    optimizer = optax.adam(0.05)
    expected, state = start, optimizer.init(start)
    for i in range(4):
        (_, values), gradient = value_and_gradient(expected)
        assert relative_error(losses[i], values) < 1e-4
        updates, state = optimizer.update(gradient, state)
        expected = expected + updates
    assert relative_error(codes, expected) < 1e-4


def test_w_plus_gets_closer_with_pixels_alone(problem):
    generator, _, images, start = problem
    _, losses = optimize_w_plus(generator, None, images, start, steps=40, learning_rate=0.02)
    assert losses.shape == (40, 3)
    assert np.all(losses[-1] < 0.7 * losses[0])


def test_w_gives_one_code_per_image_and_white_noise(problem):
    generator, perceptual, images, start = problem
    codes, noises, losses = optimize_w(
        generator, perceptual, images, start, jax.random.key(0), steps=20
    )
    assert codes.shape == start.shape
    np.testing.assert_array_equal(codes, np.broadcast_to(codes[:, :1], codes.shape))
    assert [noise.shape for noise in noises] == [(3, r, r) for r in (4, 8, 8, 16, 16)]
    for noise in noises:
        np.testing.assert_allclose(np.mean(noise, axis=(1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(np.std(noise, axis=(1, 2)), 1, rtol=1e-5)
    assert np.all(losses[-1] < losses[0])
    again = generator.synthesis(codes, noise=noises)
    other = generator.synthesis(codes, noise=[-noise for noise in noises])
    assert relative_error(again, other) > 1e-3  # the noise images are used


def test_tuning_moves_the_synthesis_network_alone(problem):
    generator, perceptual, images, start = problem
    before = nnx.to_pure_dict(nnx.state(generator))
    tuned, losses = tune_generator(generator, perceptual, images, start, steps=15)
    after = nnx.to_pure_dict(nnx.state(tuned))
    unchanged = jax.tree.map(np.array_equal, before, after)
    assert all(jax.tree.leaves((unchanged["mapping"], unchanged["latent_avg"])))
    # Neither the stored noise nor the last style's share: all that is trained has moved.
    assert not unchanged["synthesis"]["constant"]
    assert unchanged["synthesis"]["convs"][0]["noise"]
    assert not unchanged["synthesis"]["convs"][0]["kernel"]
    assert np.all(losses[-1] < losses[0])
    assert all(
        jax.tree.leaves(
            jax.tree.map(np.array_equal, before, nnx.to_pure_dict(nnx.state(generator)))
        )
    )


def test_noise_correlation_matches_a_plain_form():
    noise = np.random.default_rng(0).normal(size=(2, 32, 32)).astype(np.float32)
    noise = 0.5 * noise + 0.5 * np.roll(noise, 1, axis=2)  # not white
    expected = []
    for image in noise.astype(np.float64):
        total, side = 0.0, 32
        while side >= 8:
            for dy, dx in ((0, 1), (1, 0)):
                total += np.mean(image * np.roll(image, (dy, dx), axis=(0, 1))) ** 2
            side //= 2
            image = image.reshape(side, 2, side, 2).mean(axis=(1, 3))
        expected.append(total)
    assert relative_error(noise_correlation(jnp.asarray(noise)), expected) < 1e-5
