"""The networks at their published sizes compile down to StableHLO for accelerators.

Nothing runs and nothing big is allocated: the parameters are shapes, and lowering for a platform
needs none of its devices.
"""

import re

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from helpers import generator_options
from jax import export

from configs import ffhq
from e4e_jax.models.arcface import ArcFace, ArcFaceConfig
from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.latent_discriminator import LatentDiscriminator
from e4e_jax.models.lpips import LPIPS, LPIPSConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.runtime.parallel import AXIS
from e4e_jax.training.encoder_step import FrozenNetworks, make_encoder_step
from e4e_jax.training.generator_step import make_generator_step
from e4e_jax.training.objective import read_objective
from e4e_jax.training.ranger import ranger

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


def lower_step(build, platform, *arguments):
    """Lowers a per-device training step, mapped over one device.

    Args:
      build: (make) -> (init, step); makes its modules by `make(constructor)`, so that they can be
        abstract.
      platform: to lower for.
      *arguments: of the step, behind the state.

    Returns:
      The set of element types of the program's convolutions.
    """
    state = jax.eval_shape(lambda key: build(lambda make: make())[0](key), jax.random.key(0))
    _, step = build(nnx.eval_shape)
    mesh = jax.sharding.AbstractMesh((1,), (AXIS,))
    specs = jax.sharding.PartitionSpec()
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
    exported = export.export(jax.jit(mapped), platforms=[platform])(state, *arguments)
    return set(CONVOLUTION.findall(exported.mlir_module()))


@pytest.mark.slow
@PLATFORMS
@DTYPES
def test_encoder_training_step_for_ffhq(platform, dtype):
    def frozen(make):
        face_config = ArcFaceConfig(IRSEConfig.ir_se_50())
        return FrozenNetworks(
            generator=make(lambda: Generator(GeneratorConfig(1024), dtype=dtype, rngs=nnx.Rngs(0))),
            others={
                "perceptual": make(lambda: LPIPS(LPIPSConfig(), dtype=dtype, rngs=nnx.Rngs(0))),
                "identity": make(lambda: ArcFace(face_config, dtype=dtype, rngs=nnx.Rngs(0))),
            },
        )

    def build(make):
        return make_encoder_step(
            make(lambda: Encoder(EncoderConfig(), axis_name=AXIS, dtype=dtype, rngs=nnx.Rngs(0))),
            make(lambda: LatentDiscriminator(rngs=nnx.Rngs(0))),
            frozen(make),
            ranger(1e-4),
            optax.adam(2e-5),
            read_objective(ffhq.get_config().objective),
        )

    batch = {
        "image": jax.ShapeDtypeStruct((8, 256, 256, 3), jnp.float32),
        "index": jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    _, arrays = frozen(nnx.eval_shape).split()
    assert lower_step(build, platform, batch, arrays) == convolution_type(dtype)


@pytest.mark.slow
@PLATFORMS
@DTYPES
def test_generator_training_step_at_1024(platform, dtype):
    config = GeneratorConfig(1024)

    def build(make):
        return make_generator_step(
            make(lambda: Generator(config, dtype=dtype, rngs=nnx.Rngs(0))),
            make(lambda: Discriminator(config, dtype=dtype, rngs=nnx.Rngs(1))),
            optax.adam(2e-3),
            optax.adam(2e-3),
            generator_options(augment=("color", "translation", "cutout")),
            global_batch=8,
        )

    batch = {
        "image": jax.ShapeDtypeStruct((8, 1024, 1024, 3), jnp.float32),
        "index": jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    types = lower_step(build, platform, batch, ())
    # The discriminator's last block works on statistics of the batch, in float32.
    assert convolution_type(dtype) <= types <= convolution_type(dtype) | {"f32"}
