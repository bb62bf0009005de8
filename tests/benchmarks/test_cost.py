import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks import cost
from e4e_jax.models.convolution import im2col, ops
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.stylegan2 import GeneratorConfig, SynthesisNetwork


def test_plain_convolution_by_hand():
    x, kernel = jnp.zeros((2, 5, 5, 3)), jnp.zeros((3, 3, 3, 4))
    counted = cost.count(lambda x, k: ops.conv2d(x, k, padding=1), x, kernel)
    # Of the nine taps, four meet the image in a corner and six at an edge.
    meetings = 4 * 4 + 12 * 6 + 9 * 9
    assert counted["flops"] == 2 * 2 * 3 * 4 * meetings
    assert counted["bytes"] == 4 * (x.size + kernel.size + 2 * 5 * 5 * 4)


def test_transposed_convolution_counts_no_inserted_zeros():
    x, kernel = jnp.zeros((1, 8, 8, 2)), jnp.zeros((3, 3, 2, 2))
    counted = cost.count(ops.upsample_conv2d, x, kernel)
    assert counted["flops"] == 2 * 2 * 2 * 9 * 8 * 8  # every tap meets every pixel once


def test_loops_count_as_often_as_they_run_and_choices_by_the_dearest():
    def heads(x, matrices, stage):
        def step(x, matrix):
            return jax.lax.cond(stage > 0, lambda x: x @ matrix, lambda x: x, x), None

        return jax.lax.scan(step, x, matrices)[0]

    counted = cost.count(heads, jnp.zeros((2, 4)), jnp.zeros((7, 4, 4)), 1)
    assert counted["flops"] == 7 * 2 * 2 * 4 * 4


def test_frozen_weights_take_no_gradient():
    config = GeneratorConfig(8, w_dim=8, channel_max=8)
    network = SynthesisNetwork(config, rngs=nnx.Rngs(0))
    graph, state = nnx.split(network)

    def image(state, w_plus):
        return nnx.merge(graph, state)(w_plus)

    def gradient(state, w_plus):
        return jax.grad(lambda w: jnp.sum(image(state, w) ** 2))(w_plus)

    w_plus = jnp.zeros((2, config.num_styles, config.w_dim))
    forward, both = (cost.count(f, state, w_plus)["flops"] for f in (image, gradient))
    assert both == pytest.approx(2 * forward, rel=0.1)


@pytest.mark.parametrize(
    "module, shape",
    [
        (
            lambda: SynthesisNetwork(GeneratorConfig(32, channel_max=64), rngs=nnx.Rngs(0)),
            (2, 8, 512),
        ),
        (
            lambda: Encoder(
                # One style for each level: the compiler counts a loop's body once.
                EncoderConfig(
                    num_styles=3,
                    style_dim=16,
                    image_size=(64, 64),
                    backbone=IRSEConfig.tiny(),
                    coarse=1,
                    middle=2,
                ),
                rngs=nnx.Rngs(0),
            ),
            (1, 64, 64, 3),
        ),
    ],
    ids=["synthesis", "encoder"],
)
def test_agrees_with_the_compiler(module, shape, monkeypatch):
    monkeypatch.setattr(im2col, "pays", lambda *_: False)  # their products count padding
    graph, state = nnx.split(nnx.eval_shape(module))

    def program(state, x):
        return nnx.merge(graph, state)(x)

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    compilers = jax.jit(program).lower(state, x).cost_analysis()["flops"]
    # The compiler's has the additions and products of all else as well.
    assert cost.count(program, state, x)["flops"] == pytest.approx(compilers, rel=0.03)
