"""A step of ReStyle's training: several passes over a batch, then one update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from helpers import randomize, relative_error
from torch_comparison import Corners, gradient_error, state_error, to_torch, torch_parameters

from benchmarks.torch_reference import networks, stylegan2
from configs import restyle_ffhq
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.latent_discriminator import LatentDiscriminator
from e4e_jax.models.resnet import ResNetConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.runtime import parallel
from e4e_jax.training import config_table
from e4e_jax.training.encoder_step import (
    STATE_SPECS,
    FrozenNetworks,
    make_encoder_step,
    place_state,
)
from e4e_jax.training.objective import read_objective

SIZE, STYLES, PASSES, BATCH, STAGE = 32, 8, 3, 4, 2
RATE = 0.1  # of the discriminator's gradient descent
SHAPE = {"widths": (8, 8, 8, 16), "depths": (1, 1, 1, 1), "in_channels": 6}
IR_SE = IRSEConfig(**SHAPE, squeeze_reduction=4)
RESNET = ResNetConfig(**SHAPE, stem_size=5)
WEIGHTS = {"l2": 1.0, "adversarial": 0.3, "delta_norm": 0.02, "w_norm": 0.05}
SECTION = {
    **WEIGHTS, "progressive_start": 3, "progressive_every": 2, "r1_gamma": 10.0, "r1_every": 2,
    "w_pool_size": 0,
}  # fmt: skip
STEP = 6  # of stage 2, and with R1


def build(kind, backbone):
    config = GeneratorConfig(
        SIZE, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8
    )
    generator = randomize(Generator(config, rngs=nnx.Rngs(1)), 1)
    for conv in generator.synthesis.convs:  # each side would draw noise of its own
        conv.noise_strength[...] = jnp.zeros(())
    encoder = Encoder(
        EncoderConfig(
            kind, STYLES, 8, (SIZE, SIZE), backbone, coarse=STYLES, middle=STYLES,
            iterative=True, iterations=PASSES,
        ),
        axis_name="data",
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    encoder = randomize(encoder, 0)
    encoder.train()
    return encoder, generator, randomize(LatentDiscriminator(8, rngs=nnx.Rngs(3)), 3)


def reference_step(encoder, generator, config, discriminator, images, real, last_open):
    """The passes in PyTorch: gradients stay in the encoder; terms of each pass, and its codes."""

    def gradient_descent(loss):
        parameters = [*discriminator.parameters()]
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= RATE * g

    average = generator["latent_avg"].detach()
    codes = average.expand(len(images), STYLES, -1)
    seen = stylegan2.synthesis(generator, config, codes, noise="none").detach()
    history = []
    for number in range(PASSES):
        codes = codes.detach() + encoder(torch.cat([images, seen.detach()], 1), last_open)
        if number == 0:
            logits, fake = discriminator(real), discriminator(codes[:, 0].detach())
            discriminator_loss = F.softplus(-logits).mean() + F.softplus(fake).mean()
            gradient_descent(discriminator_loss)
            x = real.clone().requires_grad_()
            (slope,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
            gamma, every = SECTION["r1_gamma"], SECTION["r1_every"]
            gradient_descent(gamma / 2 * every * slope.square().sum(1).mean())
        seen = stylegan2.synthesis(generator, config, codes, noise="none")
        deltas = codes[:, 1 : last_open + 1] - codes[:, :1]
        terms = {
            "l2": F.mse_loss(seen, images),
            "adversarial": F.softplus(-discriminator(codes[:, : last_open + 1])).mean(),
            "delta_norm": deltas.norm(dim=2).mean(0).sum(),
            "w_norm": (codes - average).norm(2, dim=(1, 2)).mean(),
        }
        sum(WEIGHTS[name] * term for name, term in terms.items()).backward()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    return history, float(discriminator_loss.detach())


# With another seed an activation may be at a corner.
@pytest.mark.parametrize(
    ("kind", "backbone", "seed"), [("e4e", IR_SE, 13), ("psp", RESNET, 27)], ids=["e4e", "psp"]
)
def test_a_step_is_that_of_pytorch(kind, backbone, seed):
    encoder, generator, discriminator = build(kind, backbone)
    rng = np.random.default_rng(seed)
    batch = {
        "image": rng.uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype(np.float32),
        "index": np.arange(BATCH, dtype=np.int32),
    }
    form = networks.copy_weights(encoder, networks.Encoder(encoder.config, [1])).double().train()
    judge = networks.copy_weights(discriminator, networks.LatentDiscriminator(8, 4)).double()
    parameters = torch_parameters(generator)

    frozen = FrozenNetworks(generator)
    keep = optax.trace(0.0)  # its state is the gradient
    init, step = make_encoder_step(
        encoder, discriminator, frozen, keep, optax.sgd(RATE), read_objective(SECTION)
    )
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    first = init(jax.random.key(0)).replace(step=jnp.asarray(STEP))
    compiled = parallel.parallelize(step, mesh, state_specs=STATE_SPECS)
    state, metrics = compiled(
        place_state(first, mesh), parallel.put_batch(batch, mesh), frozen.split()[1]
    )

    keys = parallel.example_keys(jax.random.key(0), STEP, jnp.arange(BATCH))
    z_keys = jax.vmap(lambda k: jax.random.split(k, 3))(keys)[:, 0]
    z = jax.vmap(lambda k: jax.random.normal(k, (8,)))(z_keys)
    real = to_torch(generator.mapping(z)).detach()
    with Corners() as corners:
        history, discriminator_loss = reference_step(
            form,
            parameters,
            generator.config,
            judge,
            to_torch(batch["image"]).detach(),
            real,
            STAGE,
        )
    assert corners.are_far
    for p in form.parameters():
        if p.grad is None:  # of closed heads
            p.grad = torch.zeros_like(p)
    assert int(metrics["stage"]) == STAGE
    for name, value in history[-1].items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name
        assert value != pytest.approx(history[0][name], rel=1e-3)  # the passes do differ
    assert float(metrics["discriminator"]) == pytest.approx(discriminator_loss, rel=1e-5)
    assert gradient_error(state.optimizer.trace, form) < 1e-5
    assert state_error(state.batch_stats, form) < 1e-5
    for path, variable in nnx.to_flat_state(state.discriminator):
        for name, array in networks.torch_arrays(path, variable[...]):
            assert relative_error(array, judge.state_dict()[name].numpy()) < 1e-5, name


def test_the_published_config_is_e4e_without_pyramid_and_with_five_passes():
    config = restyle_ffhq.get_config()
    config_table.check_run(config)
    options = read_objective(config.objective)
    assert options.weights == {
        "l2": 1.0, "perceptual": 0.8, "identity": 0.1, "adversarial": 0.1, "delta_norm": 2e-4,
    }  # fmt: skip
    assert (config.encoder.iterations, config.encoder.coarse, config.encoder.middle) == (5, 18, 18)
    assert (config.batch_size, config.optimizer.name, config.optimizer.learning_rate) == (
        8, "ranger", 1e-4,
    )  # fmt: skip
