import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from helpers import randomize, relative_error
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from torch_comparison import Corners, gradient_error, to_jax, to_torch

from benchmarks.torch_reference import networks
from e4e_jax.models.encoder import Encoder, EncoderConfig, upsample_bilinear
from e4e_jax.models.irse import IRSEConfig

SMALL = EncoderConfig(
    num_styles=6,
    style_dim=12,
    image_size=(32, 32),
    backbone=IRSEConfig(widths=(8, 8, 12, 16), depths=(1, 1, 3, 1), squeeze_reduction=4),
    coarse=2,
    middle=3,
)
NUM_CONVS = (1, 2, 3)  # levels of 2x2, 4x4 and 8x8


def images(config, batch=2, seed=0):
    shape = (batch, *config.image_size, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def random_codes(config, batch=2, seed=1):
    shape = (batch, config.num_styles, config.style_dim)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pair(config, seed=0):
    ours = randomize(Encoder(config, rngs=nnx.Rngs(0)), seed)
    reference = networks.copy_weights(ours, networks.Encoder(config, NUM_CONVS)).double()
    return ours, reference


@pytest.mark.parametrize(
    "config, mode",
    [
        (SMALL, "train"),
        (SMALL, "eval"),
        (dataclasses.replace(SMALL, image_size=(24, 32)), "eval"),  # cars are 192x256
        (dataclasses.replace(SMALL, kind="psp"), "eval"),
        (dataclasses.replace(SMALL, kind="single_w"), "eval"),
    ],
    ids=["e4e train", "e4e", "e4e wide", "psp", "single_w"],
)
def test_codes_and_gradients_match_torch(config, mode):
    ours, reference = pair(config)
    getattr(ours, mode)()
    getattr(reference, mode)()
    # With other images, an activation may be at a corner.
    x, weights = images(config, batch=3, seed=1), random_codes(config, batch=3)
    tensor = to_torch(x)
    with Corners() as corners:
        expected = reference(tensor)
    assert corners.are_far
    (expected * torch.from_numpy(weights)).sum().backward()

    def loss(model, x):
        codes = model(x)
        return jnp.vdot(codes, weights), codes

    grad = nnx.jit(nnx.grad(loss, argnums=(0, 1), has_aux=True))
    (of_weights, of_images), codes = grad(ours, x)
    assert codes.dtype == jnp.float32
    assert relative_error(codes, expected.detach()) < 1e-5
    assert relative_error(of_images, to_jax(tensor.grad)) < 1e-5
    assert gradient_error(of_weights, reference) < 1e-5


def test_one_compiled_program_serves_every_stage():
    ours, reference = pair(SMALL)
    ours.eval()
    reference.eval()
    x = images(SMALL)
    traces = []

    @nnx.jit
    def encode(model, x, stage):
        traces.append(stage)
        return model(x, stage)

    for stage in range(SMALL.num_styles):
        codes = encode(ours, x, jnp.int32(stage))
        assert relative_error(codes, reference(to_torch(x), stage).detach()) < 1e-5
        closed = codes[:, stage + 1 :]
        assert jnp.all(closed == codes[:, :1])
    assert len(traces) == 1
    assert relative_error(codes, ours(x)) < 1e-6  # the last stage is all of them


def test_closed_deltas_get_no_gradient():
    ours, _ = pair(SMALL)
    ours.eval()
    weights = random_codes(SMALL)
    grad = nnx.jit(nnx.grad(lambda m, stage: jnp.vdot(m(images(SMALL), stage), weights)))
    of_weights = grad(ours, jnp.int32(2))
    for (first, end), head in zip(SMALL.style_ranges, of_weights["heads"].values(), strict=True):
        for gradient in jax.tree.leaves(head):
            is_open = np.any(gradient != 0, axis=tuple(range(1, gradient.ndim)))
            np.testing.assert_array_equal(is_open, np.arange(first, end) <= 2)


def test_backward_pass_keeps_no_copies_of_what_the_heads_read():
    graph, params, rest = nnx.split(Encoder(SMALL, rngs=nnx.Rngs(0)), nnx.Param, ...)

    def kept(params, rest, x):
        def encode(params):
            return nnx.merge(graph, params, rest, copy=True)(x, jnp.int32(2))

        arguments = {id(leaf) for leaf in jax.tree.leaves((params, rest))}
        _, pull = jax.vjp(encode, params)
        return [leaf for leaf in jax.tree.leaves(pull) if id(leaf) not in arguments]

    shapes = [leaf.shape for leaf in jax.eval_shape(kept, params, rest, images(SMALL))]
    stacked = [shape for shape in shapes if len(shape) == 5]  # one for each head
    assert stacked  # the outputs of its convolutions
    width = SMALL.backbone.widths[-1]
    assert not [shape for shape in stacked if shape[-1] == width], "features of the pyramid"
    weights = {leaf.shape for leaf in jax.tree.leaves(params["heads"])}
    assert not weights & set(stacked), "weights of the heads"


def test_training_step_over_four_devices_equals_one_full_batch():
    x, weights = images(SMALL, batch=8), random_codes(SMALL, batch=8)

    def gradient_step(axis_name):
        encoder = randomize(Encoder(SMALL, axis_name=axis_name, rngs=nnx.Rngs(0)))
        graph, params, stats = nnx.split(encoder, nnx.Param, nnx.BatchStat)

        def step(params, stats, stage, x, weights):
            model = nnx.merge(graph, params, stats)
            grads = nnx.grad(lambda m: jnp.sum(m(x, stage) * weights) / x.shape[0])(model)
            if axis_name is not None:
                grads = jax.lax.pmean(grads, axis_name)
            return grads, nnx.state(model, nnx.BatchStat)

        return step, params, stats

    step, params, stats = gradient_step(None)
    expected = jax.jit(step)(params, stats, jnp.int32(3), x, weights)
    step, params, stats = gradient_step("data")
    mesh = jax.make_mesh((4,), ("data",))
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P(), P(), P(), P("data"), P("data")),
        out_specs=P(),
        check_vma=False,
    )
    shards = jax.device_put((x, weights), NamedSharding(mesh, P("data")))
    actual = jax.jit(mapped)(params, stats, jnp.int32(3), *shards)
    # Channels whose gradient cancels over the batch are measured against the largest of all.
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected[0]))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert float(jnp.abs(a - e).max()) < 1e-5 * max(scale, 1.0)


def test_upsampling_matches_torch():
    x = np.random.default_rng(0).normal(size=(2, 5, 1, 3)).astype(np.float32)
    for size in [(10, 4), (5, 1), (13, 7)]:
        expected = F.interpolate(to_torch(x), size, mode="bilinear", align_corners=True)
        assert relative_error(upsample_bilinear(x, size), to_jax(expected)) < 1e-5


def test_bfloat16_stays_close_and_returns_float32():
    encoder = Encoder(SMALL, rngs=nnx.Rngs(0))
    encoder.eval()
    half = Encoder(SMALL, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    half.eval()
    codes = half(images(SMALL))
    assert codes.dtype == jnp.float32
    assert relative_error(codes, encoder(images(SMALL))) < 0.05


def test_published_size_has_the_published_weights():
    config = EncoderConfig()
    encoder = nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))
    assert config.style_ranges == ((0, 3), (3, 7), (7, 18))
    assert [len(heads.convs) for heads in encoder.heads] == [4, 5, 6]
    assert encoder.heads[2].convs[0].kernel.shape == (11, 3, 3, 512, 512)
    assert encoder.backbone.body[23].conv2.kernel.shape == (3, 3, 512, 512)
    codes = nnx.eval_shape(lambda m, x: m(x), encoder, jnp.zeros((2, 256, 256, 3)))
    assert codes.shape == (2, 18, 512)


def test_the_toy_encoder_has_ten_styles():
    config = EncoderConfig.tiny()
    encoder = nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))
    codes = nnx.eval_shape(lambda m, x: m(x), encoder, jnp.zeros((2, 64, 64, 3)))
    assert codes.shape == (2, 10, config.style_dim)


def test_bad_configurations_and_images_are_named():
    with pytest.raises(ValueError, match="kind of encoder is 'e5e'"):
        EncoderConfig(kind="e5e")
    with pytest.raises(ValueError, match="coarse, middle and num_styles are 3, 7 and 6"):
        EncoderConfig(num_styles=6)
    encoder = Encoder(SMALL, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\(2, 64, 64, 3\).*expected height and width \(32, 32\)"):
        encoder(jnp.zeros((2, 64, 64, 3)))
