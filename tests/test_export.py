"""The networks at their published sizes compile down to StableHLO for accelerators.

Nothing runs and nothing big is allocated: the parameters are shapes, and lowering for a platform
needs none of its devices.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import export

from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

CONVOLUTION = re.compile(r"stablehlo\.convolution.* -> tensor<(?:\d+x)*(\w+)>")
PLATFORMS = pytest.mark.parametrize("platform", ["tpu", "cuda"])
DTYPES = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])


def lower(make_module, call, shape, platform):
    """Lowers `call(module, array)` for a platform.

    Returns:
      The abstract output and the set of element types of the program's convolutions.
    """
    graph, state = nnx.split(nnx.eval_shape(make_module))
    program = jax.jit(lambda state, x: call(nnx.merge(graph, state), x))
    exported = export.export(program, platforms=[platform])(
        state, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    (output,) = exported.out_avals
    return output, set(CONVOLUTION.findall(exported.mlir_module()))


def convolution_type(dtype):
    return {"f32"} if dtype == jnp.float32 else {"bf16"}


@PLATFORMS
@DTYPES
def test_synthesis_at_1024(platform, dtype):
    config = GeneratorConfig(1024)
    output, types = lower(
        lambda: Generator(config, dtype=dtype, rngs=nnx.Rngs(0)),
        lambda generator, w_plus: generator.synthesis(w_plus),
        (2, 18, 512),
        platform,
    )
    assert output.shape == (2, 1024, 1024, 3) and output.dtype == jnp.float32
    assert types == convolution_type(dtype)


@PLATFORMS
@DTYPES
def test_encoder_at_256(platform, dtype):
    def make():
        encoder = Encoder(EncoderConfig(), dtype=dtype, rngs=nnx.Rngs(0))
        encoder.eval()
        return encoder

    output, types = lower(make, lambda encoder, images: encoder(images), (2, 256, 256, 3), platform)
    assert output.shape == (2, 18, 512) and output.dtype == jnp.float32
    assert types == convolution_type(dtype)
