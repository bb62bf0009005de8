import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, to_jax, to_torch, torch_parameters

from benchmarks.torch_reference import stylegan2 as reference
from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.feature_discriminator import FeatureDiscriminator
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.stylegan2 import GeneratorConfig
from e4e_jax.toy.features import ToyFeatures, ToyFeaturesConfig

CONFIG = GeneratorConfig(16, channel_base=96, channel_max=8)


def build(features):
    rngs = nnx.Rngs(0)
    return FeatureDiscriminator(Discriminator(CONFIG, rngs=rngs), features, rngs=rngs)


def unit_levels(images):
    """Stands in for a feature network: two levels of unit vectors, of 3 and 6 channels."""
    fine = images * jax.lax.rsqrt(jnp.sum(images**2, axis=-1, keepdims=True))
    coarse = jnp.concatenate([images, images[:, ::-1]], axis=-1)[:, ::2, ::2]
    return [fine, coarse * jax.lax.rsqrt(jnp.sum(coarse**2, axis=-1, keepdims=True))]


def torch_unit_levels(images):
    fine = images / images.square().sum(1, keepdim=True).sqrt()
    coarse = torch.cat([images, images.flip(2)], dim=1)[:, :, ::2, ::2]
    return [fine, coarse / coarse.square().sum(1, keepdim=True).sqrt()]


def torch_head(p, name, x):
    x = x * x.shape[1] ** 0.5
    weight = reference.equalised(p[f"{name}.conv1.kernel"])
    x = reference.downsample_conv2d(x, weight) + p[f"{name}.conv1.bias"][:, None, None]
    weight = reference.equalised(p[f"{name}.conv2.kernel"])
    x = torch.nn.functional.conv2d(reference.leaky_relu(x), weight, padding=1)
    return (x + p[f"{name}.conv2.bias"][:, None, None]).mean((1, 2, 3))


def test_logits_and_gradients_match_torch():
    ours = randomize(build(unit_levels))
    p = torch_parameters(ours)
    images = np.random.default_rng(1).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
    pixels = to_torch(images)
    pixel_parameters = {
        name.removeprefix("pixels."): value for name, value in p.items() if "pixels." in name
    }
    with Corners() as corners:
        expected = [reference.discriminator(pixel_parameters, CONFIG, pixels)]
        for i, level in enumerate(torch_unit_levels(pixels)):
            expected.append(torch_head(p, f"heads.{i}", level))
    assert corners.are_far
    expected = torch.stack(expected, dim=1)
    weights = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
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


def test_the_feature_network_is_no_part_of_the_state():
    backbone = IRSEConfig(widths=(16, 16, 16, 16), depths=(1, 1, 1, 1))
    network = ToyFeatures(
        ToyFeaturesConfig(embedding_dim=8, image_size=16, backbone=backbone), rngs=nnx.Rngs(0)
    )
    network.eval()
    ours = build(network.features)
    assert set(nnx.to_pure_dict(nnx.state(ours))) == {"pixels", "heads"}
    logits = nnx.jit(lambda discriminator, x: discriminator(x))(ours, jnp.ones((4, 16, 16, 3)))
    assert logits.shape == (4, 5)
