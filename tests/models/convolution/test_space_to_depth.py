import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import in_float64, randomize, relative_error

from e4e_jax.models.convolution import ops, space_to_depth
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("channels", [3, 32])  # moved; and convolved, being a vector's width
def test_blocks_hold_their_positions_row_by_row_and_come_back(channels):
    image = normal(2, 6, 4, channels)
    in_blocks = space_to_depth.from_image(image)
    assert in_blocks.shape == (2, 3, 2, 4 * channels)
    for position, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        part = in_blocks[:, 2, 1, channels * position : channels * (position + 1)]
        np.testing.assert_array_equal(part, image[:, 4 + i, 2 + j])
    back, pull = jax.vjp(space_to_depth.to_image, in_blocks)
    np.testing.assert_array_equal(back, image)
    np.testing.assert_array_equal(pull(image)[0], in_blocks)


@pytest.mark.parametrize("up", [False, True], ids=["plain", "up"])
def test_modulated_convolution_and_its_gradients_are_those_of_the_plain_form(up):
    x, kernel, style = normal(3, 6, 4, 5), normal(3, 3, 5, 7), normal(3, 5)
    weights = normal(3, *((12, 8) if up else (6, 4)), 7)

    # Beside float64; the results are sums of 45 terms and gradients of some 100 such sums.
    def plain(x, kernel, style):
        return ops.modulated_conv2d(x, kernel, style, up=up)

    def in_blocks(x, kernel, style):
        x = x if up else space_to_depth.from_image(x)
        return space_to_depth.to_image(
            ops.modulated_conv2d(x, kernel, style, up=up, in_blocks=True)
        )

    def results(form, *args):
        output, pull = jax.vjp(form, *args)
        return output, *pull(weights.astype(output.dtype))

    args = x, kernel, style
    actual = jax.jit(functools.partial(results, in_blocks))(*args)
    exact = in_float64(functools.partial(results, plain), *args)
    for ours, theirs in zip(actual, exact, strict=True):
        assert relative_error(ours, theirs) < 3e-6


@pytest.fixture
def chosen(monkeypatch):
    """As if every size were worth it, and this were a TPU."""
    monkeypatch.setattr(space_to_depth, "pays", lambda *sizes: True)
    monkeypatch.setattr(
        jax.lax,
        "platform_dependent",
        lambda *args, default, **forms: forms.get("tpu", default)(*args),
    )


@pytest.mark.parametrize("noise", ["constant", "random", "none"])
@pytest.mark.parametrize("clamp", [None, 0.8])
def test_synthesis_in_blocks_is_that_of_the_plain_form(noise, clamp, request):
    config = GeneratorConfig(
        32, z_dim=10, w_dim=12, mapping_layers=1, channel_base=96, channel_max=8, conv_clamp=clamp
    )
    generator = randomize(Generator(config, rngs=nnx.Rngs(0)))
    codes, keys = normal(2, config.num_styles, 12), jax.random.split(jax.random.key(0), 2)
    target = normal(2, 32, 32, 3)

    def synthesize(codes, remat):
        options = {"keys": keys} if noise == "random" else {}
        return generator.synthesis(codes, noise=noise, remat=remat, **options)

    def results(remat):
        def loss(codes):
            images = synthesize(codes, remat)
            return jnp.sum(images * target), images

        return jax.jit(jax.grad(loss, has_aux=True))(codes)

    expected = results(remat=False)
    request.getfixturevalue("chosen")
    for remat in (False, True):
        gradient, images = results(remat)
        # Two forms in float32, whose errors add up as in any network (see torch_comparison.py).
        assert relative_error(images, expected[1]) < 1e-5
        assert relative_error(gradient, expected[0]) < 1e-5


def test_a_tpu_gets_convolutions_of_full_vectors_and_a_processor_does_not():
    config = GeneratorConfig(256, mapping_layers=1, channel_base=16384)  # 64 channels at 256x256
    graph, state = nnx.split(nnx.eval_shape(lambda: Generator(config, rngs=nnx.Rngs(0))))

    def synthesize(state, codes):
        return nnx.merge(graph, state).synthesis(codes)

    codes = jax.ShapeDtypeStruct((1, config.num_styles, 512), jnp.float32)
    for platform in ("tpu", "cuda", "cpu"):
        program = jax.export.export(jax.jit(synthesize), platforms=[platform])(state, codes)
        results = re.findall(r"stablehlo.convolution.*-> tensor<(.*)xf32>", program.mlir_module())
        assert results.count("1x128x128x256") == (2 if platform == "tpu" else 0)


def test_where_it_pays():
    assert space_to_depth.pays(1024, 32) and space_to_depth.pays(512, 64)
    assert not space_to_depth.pays(256, 128)  # full vectors
    assert not space_to_depth.pays(64, 32)  # small
