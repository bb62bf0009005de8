"""Generators of grey images, and of one of several classes, beside their PyTorch forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import to_jax, to_torch, torch_parameters

from benchmarks.torch_reference import stylegan2 as reference
from e4e_jax.api import GeneratorModel
from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig, class_generator


def config(**changes):
    """8x8 of 8 channels; z and w of different lengths."""
    sizes = {"z_dim": 10, "w_dim": 12, "mapping_layers": 3, "channel_base": 96, "channel_max": 8}
    return GeneratorConfig(8, **sizes | changes)


def random_batch(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def conditional():
    ours = randomize(Generator(config(num_classes=3), rngs=nnx.Rngs(0)))
    return ours, torch_parameters(ours)


def test_grey_images_and_gradients_match_torch():
    ours = randomize(Generator(config(image_channels=1), rngs=nnx.Rngs(0)))
    p = torch_parameters(ours)
    w_plus, target = random_batch(3, 4, 12), random_batch(3, 8, 8, 3)
    codes = to_torch(w_plus)
    expected = reference.synthesis(p, ours.config, codes)
    assert expected.shape == (3, 1, 8, 8)
    (expected * to_torch(target)).sum().backward()

    def loss(model, w_plus):
        images = model.synthesis(w_plus)
        return jnp.vdot(images, target), images

    grad = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
    (gradients, code_gradient), images = grad(ours, w_plus)
    assert jnp.all(images == images[..., :1])  # grey RGB, as all images are RGB
    assert relative_error(images[..., :1], to_jax(expected)) < 1e-5
    assert relative_error(code_gradient, codes.grad) < 1e-5
    for name, gradient in reference.named_arrays(gradients).items():
        if p[name].grad is not None:
            assert relative_error(gradient, p[name].grad) < 2e-5, name


def test_a_discriminator_of_grey_images_matches_torch():
    ours = randomize(Discriminator(config(image_channels=1), rngs=nnx.Rngs(0)))
    p = torch_parameters(ours)
    grey = np.random.default_rng(1).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)
    pixels = to_torch(grey)
    expected = reference.discriminator(p, ours.config, pixels)
    weights = random_batch(4)
    (expected * torch.from_numpy(weights)).sum().backward()

    def loss(model, grey):
        logits = model(jnp.repeat(grey, 3, axis=-1))
        return jnp.vdot(logits, weights), logits

    grad = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
    (gradients, image_gradient), logits = grad(ours, grey)
    assert relative_error(logits, expected.detach()) < 1e-5
    assert relative_error(image_gradient, to_jax(pixels.grad)) < 1e-5
    for name, gradient in reference.named_arrays(gradients).items():
        assert relative_error(gradient, p[name].grad) < 2e-5, name
    # Of colours it sees what Pillow's mode L holds.
    colours = np.random.default_rng(2).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    luma = (colours @ np.array([0.299, 0.587, 0.114])).astype(np.float32)[..., None]
    run = nnx.jit(Discriminator.__call__)
    assert relative_error(run(ours, colours), run(ours, np.repeat(luma, 3, -1))) < 1e-5


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="4 channels; expected 3, or 1 for grey"):
        config(image_channels=4)


def test_classes_and_their_gradients_match_torch(conditional):
    ours, p = conditional
    z, labels, target = random_batch(4, 10), np.array([2, 0, 1, 2]), random_batch(4, 12)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    codes = to_torch(z)
    expected = reference.mapping(p, ours.config, codes, to_torch(one_hot))
    (expected * torch.from_numpy(target)).sum().backward()

    def loss(model, z):
        w = model.mapping(z, one_hot)
        return jnp.vdot(w, target), w

    (gradients, z_gradient), w = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))(ours, z)
    assert relative_error(w, expected.detach()) < 1e-5
    assert relative_error(z_gradient, codes.grad) < 1e-5
    for name, gradient in reference.named_arrays(gradients).items():
        if name.startswith("mapping."):
            assert relative_error(gradient, p[name].grad) < 1e-5, name


def test_a_model_maps_z_with_its_labels(conditional):
    ours, p = conditional
    model, z = GeneratorModel(ours), random_batch(4, 10)
    assert model.num_classes == 3
    average = p["latent_avg"].detach()
    for label in (1, np.array([2, 0, 1, 2]), np.full((4, 3), 1 / 3, np.float32)):
        weights = np.eye(3)[label] if np.ndim(label) < 2 else label
        weights = np.broadcast_to(weights, (4, 3)).astype(np.float32)
        w = reference.mapping(p, ours.config, to_torch(z), to_torch(weights))
        assert relative_error(model.map(z, label), w.detach()) < 1e-5
        truncated = average + 0.7 * (w.detach() - average)
        assert relative_error(model.map(z, label, truncation_psi=0.7), truncated) < 1e-5


@pytest.mark.parametrize(
    "label, sentence",
    [
        (None, "there is no label and the generator has 3 classes; expected a label of 0 to 2"),
        (3, "label is 3 of shape .*; expected one class or .4. classes, 0 to 2"),
        (-1, "label is -1"),
        (np.array([0, 1]), "of shape"),
        (np.zeros((4, 2), np.float32), r"label has shape \(4, 2\); expected \[4, 3\]"),
        (0.7, r"label has shape \(\); expected \[4, 3\]"),
    ],
)
def test_labels_that_do_not_fit_are_one_sentence(conditional, label, sentence):
    with pytest.raises(ValueError, match=sentence):
        GeneratorModel(conditional[0]).map(random_batch(4, 10), label)


def test_a_generator_without_classes_takes_no_label(conditional):
    model = GeneratorModel(class_generator(conditional[0], 1))
    with pytest.raises(ValueError, match="label is 0.7 and the generator has 0 classes"):
        model.map(random_batch(4, 10), 0.7)
    with pytest.raises(ValueError, match="class 0 .* has 0 classes; expected none"):
        model.for_class(0)
    with pytest.raises(ValueError, match="3 classes; expected a label"):
        conditional[0].mapping(random_batch(4, 10))


def test_one_class_is_a_generator_without_classes(conditional):
    ours, _ = conditional
    model, z = GeneratorModel(ours), random_batch(4, 10)
    one = model.for_class(2)
    assert one.num_classes == 0
    assert relative_error(one.map(z), model.map(z, 2)) < 1e-5
    codes = random_batch(2, 4, 12)
    np.testing.assert_array_equal(one.synthesize(codes), model.synthesize(codes))
    # Its average is that of its class.
    many = jax.random.normal(jax.random.key(7), (5000, 10))
    w = np.asarray(model.map(many, 2))
    assert np.abs(one.latent_avg[0] - w.mean(axis=0)).max() < 0.1 * w.std(axis=0).max()
    with pytest.raises(ValueError, match="class 3 .* has 3 classes; expected 0 to 2"):
        model.for_class(3)
