import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import randomize, relative_error
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from torch_comparison import Corners, gradient_error, state_error, to_jax, to_torch

from benchmarks.torch_reference.networks import Backbone, copy_weights
from e4e_jax.models.batch_norm import BatchNorm
from e4e_jax.models.irse import IRSEBackbone, IRSEConfig

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter")
SMALL = IRSEConfig(widths=(8, 8, 12, 16), depths=(1, 2, 4, 1), squeeze_reduction=4)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(params=["train", "eval"])
def networks(request):
    ours = randomize(IRSEBackbone(SMALL, rngs=nnx.Rngs(0)))
    reference = Backbone(SMALL.widths, SMALL.depths, SMALL.squeeze_reduction)
    copy_weights(ours, reference).double()
    getattr(ours, request.param)()
    getattr(reference, request.param)()
    return ours, reference


def test_outputs_and_running_statistics_match_torch(networks):
    ours, reference = networks
    x = images(3, 37, 32, 3)
    outputs = nnx.jit(lambda m, x: m(x))(ours, x)
    expected = reference(to_torch(x))
    assert [y.shape[1:] for y in outputs] == [(19, 16, 8), (10, 8, 8), (5, 4, 12), (3, 2, 16)]
    for y, e in zip(outputs, expected, strict=True):
        assert relative_error(y, to_jax(e)) < 1e-5
    # One step has moved the running averages, in evaluation it has not.
    assert state_error(nnx.state(ours), reference) < 1e-5


def test_gradients_match_torch(networks):
    ours, reference = networks
    x = images(3, 32, 32, 3)
    tensor = to_torch(x)
    weights = [images(*to_jax(y).shape, seed=i) for i, y in enumerate(reference(tensor))]

    def loss(model, x):
        return sum(jnp.vdot(y, w) for y, w in zip(model(x), weights, strict=True))

    of_weights, of_images = nnx.jit(nnx.grad(loss, argnums=(0, 1)))(ours, x)
    with Corners() as corners:
        outputs = reference(tensor)
    assert corners.are_far
    sum(
        (y * torch.from_numpy(w).permute(0, 3, 1, 2)).sum()
        for y, w in zip(outputs, weights, strict=True)
    ).backward()
    assert relative_error(of_images, to_jax(tensor.grad)) < 1e-5
    assert gradient_error(of_weights, reference) < 1e-5


# The values' own rounding, and that of their means, is 2⁻²⁴ of the offset each time: at 3000, 2e-4
# of a spread that is about 1. A variance from the difference of squares would be off by a tenth.
@pytest.mark.parametrize("offset, tolerance", [(30.0, 3e-5), (3000.0, 1e-3)])
def test_batch_norm_over_four_devices_equals_one_full_batch(offset, tolerance):
    full = randomize(BatchNorm(5), seed=1)
    graph, state = nnx.split(randomize(BatchNorm(5, axis_name="data"), seed=1))
    # Means far from zero: a variance from the difference of squares would lose digits, or all.
    x = images(8, 6, 7, 5) + np.float32(offset)
    x += np.arange(8, dtype=np.float32).reshape(-1, 1, 1, 1)  # devices whose means differ
    weights = images(8, 6, 7, 5, seed=1)

    def step(state, x, weights):
        def loss(module, x):
            y = module(x)
            return jnp.vdot(y, weights), y

        module = nnx.merge(graph, state)
        gradient, y = nnx.grad(loss, argnums=1, has_aux=True)(module, x)
        return y, gradient, nnx.state(module, nnx.BatchStat)

    mesh = jax.make_mesh((4,), ("data",))
    data = P("data")
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), data, data), out_specs=(data, data, P()), check_vma=False
    )
    shards = jax.device_put((x, weights), NamedSharding(mesh, data))
    program = jax.jit(mapped).lower(state, *shards).compile()
    y, gradient, stats = program(state, *shards)
    # One exchange of statistics forwards, one of their gradients backwards.
    hlo = program.as_text()
    exchanges = {name: len(re.findall(rf" {name}(-start)?\(", hlo)) for name in COLLECTIVES}
    assert sum(exchanges.values()) == 2, exchanges

    def full_loss(module, x):
        y = module(x)
        return jnp.vdot(y, weights), y

    expected_gradient, expected = nnx.grad(full_loss, argnums=1, has_aux=True)(full, x)
    assert relative_error(y, expected) < tolerance
    assert relative_error(gradient, expected_gradient) < tolerance
    assert relative_error(stats["mean"][...], full.mean[...]) < 1e-5
    assert relative_error(stats["var"][...], full.var[...]) < tolerance


def test_batch_norm_of_vectors_matches_torch():
    ours = randomize(BatchNorm(6))
    reference = copy_weights(ours, torch.nn.BatchNorm1d(6)).double()
    x = images(9, 6)
    assert relative_error(ours(x), reference(to_torch(x)).detach()) < 1e-5
    assert state_error(nnx.state(ours), reference) < 1e-5


def test_bfloat16_keeps_statistics_in_float32():
    ours = IRSEBackbone(SMALL, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert all(y.dtype == jnp.bfloat16 for y in ours(images(2, 32, 32, 3)))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(ours)))
