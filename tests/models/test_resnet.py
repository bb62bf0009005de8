import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, gradient_error, state_error, to_jax, to_torch

from benchmarks.torch_reference.networks import copy_weights
from benchmarks.torch_reference.resnet import Backbone
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.resnet import ResNetBackbone, ResNetConfig

SMALL = ResNetConfig(widths=(8, 8, 12, 16), depths=(1, 2, 1, 1), stem_size=5)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(params=["train", "eval"])
def networks(request):
    ours = randomize(ResNetBackbone(SMALL, rngs=nnx.Rngs(0)))
    reference = copy_weights(ours, Backbone(SMALL)).double()
    getattr(ours, request.param)()
    getattr(reference, request.param)()
    return ours, reference


def test_outputs_and_running_statistics_match_torch(networks):
    ours, reference = networks
    x = images(3, 37, 32, 3)
    outputs = nnx.jit(lambda m, x: m(x))(ours, x)
    assert [y.shape[1:] for y in outputs] == [(19, 16, 8), (10, 8, 8), (5, 4, 12), (3, 2, 16)]
    for y, expected in zip(outputs, reference(to_torch(x)), strict=True):
        assert relative_error(y, to_jax(expected)) < 1e-5
    assert state_error(nnx.state(ours), reference) < 1e-5


def test_gradients_match_torch(networks):
    ours, reference = networks
    x = images(3, 32, 32, 3, seed=1)  # with another, an activation may be at a corner
    tensor = to_torch(x)
    with Corners() as corners:
        outputs = reference(tensor)
    assert corners.are_far
    weights = [images(*to_jax(y).shape, seed=i) for i, y in enumerate(outputs)]

    def loss(model, x):
        return sum(jnp.vdot(y, w) for y, w in zip(model(x), weights, strict=True))

    of_weights, of_images = nnx.jit(nnx.grad(loss, argnums=(0, 1)))(ours, x)
    sum(
        (y * torch.from_numpy(w).permute(0, 3, 1, 2)).sum()
        for y, w in zip(outputs, weights, strict=True)
    ).backward()
    assert relative_error(of_images, to_jax(tensor.grad)) < 1e-5
    assert gradient_error(of_weights, reference) < 1e-5


def test_the_default_is_resnet_34():
    backbone = nnx.eval_shape(lambda: ResNetBackbone(ResNetConfig(), rngs=nnx.Rngs(0)))
    sizes = [v.size for _, v in nnx.to_flat_state(nnx.state(backbone, nnx.Param))]
    # torchvision's resnet34 without its classifier of 513,000, and a slope for each of 64 channels.
    assert sum(sizes) == 21_797_672 - 513_000 + 64


def test_an_encoder_reads_it():
    config = EncoderConfig("e4e", 8, 16, (32, 32), SMALL, coarse=8, middle=8, iterative=False)
    encoder = randomize(Encoder(config, rngs=nnx.Rngs(0)))
    encoder.eval()
    assert isinstance(encoder.backbone, ResNetBackbone)
    assert encoder(images(2, 32, 32, 3)).shape == (2, 8, 16)
