"""The work of one device's training step of configs/ffhq.py, from its program; nothing runs."""

import contextlib
import dataclasses
import math
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from benchmarks import cost
from benchmarks.encode import encoder_config
from benchmarks.sides import abstract_module
from benchmarks.synthesis import generator_config
from benchmarks.train_step import make_networks, make_step
from e4e_jax.inversion.invert import synthesize_like
from e4e_jax.models.convolution import space_to_depth
from e4e_jax.models.encoder import Encoder
from e4e_jax.runtime import parallel
from e4e_jax.training import losses
from e4e_jax.training.encoder_step import STATE_SPECS

RESOLUTION, IMAGE_SIZE = 1024, 256
# All-gathers, which batch normalisation alone has.
_EXCHANGES = ("all_gather",)


@dataclasses.dataclass(frozen=True)
class Step:
    """Work of one device's step.

    Attributes:
      flops: of convolutions and products.
      bytes: least traffic of convolutions, products and the optimiser.
      parameters: trained numbers.
      gradient_bytes: what is all-reduced, in float32.
      head_parameters: those of the map-to-style heads, whose gradients are there first.
      backbone_backward: FLOPs that are left when the heads' gradients are there.
      small_reductions: exchanges of batch statistics, which wait for one another.
      state_bytes: trained parameters, optimiser and gradients.
      frozen_bytes: parameters that are not trained.
      residual_bytes: what the backward pass keeps of the forward pass.
    """

    flops: float
    bytes: float
    parameters: int
    gradient_bytes: float
    head_parameters: int
    backbone_backward: float
    small_reductions: int
    state_bytes: float
    frozen_bytes: float
    residual_bytes: float


def measure(batch: int, dtype=jnp.bfloat16, *, small=False, remat="none") -> Step:
    """Counts the work of one device's step with `batch` images."""
    program, arguments = abstract_step(batch, dtype, small=small, remat=remat)
    work = cost.count(program, *arguments)
    state, _, frozen = arguments
    encoder = _size(state.encoder)
    # Ranger reads gradient, momentum, second moment, slow weights and weights, and writes all but
    # the gradient.
    optimizer_bytes = 9 * 4 * encoder
    backbone_backward, residuals = _encoder_and_loss(batch, dtype, small, remat)
    return Step(
        flops=work["flops"],
        bytes=work["bytes"] + optimizer_bytes,
        parameters=encoder,
        gradient_bytes=4 * encoder,
        head_parameters=_size(state.encoder["heads"]),
        backbone_backward=backbone_backward,
        small_reductions=cost.count_primitives(_EXCHANGES, program, *arguments),
        state_bytes=5 * 4 * encoder,
        frozen_bytes=4 * _size(frozen),
        residual_bytes=residuals,
    )


def abstract_step(batch: int, dtype, *, resolution=None, small=False, remat="none", devices=None):
    """The step over `devices`, by default one, and its arguments as shapes.

    `batch` are the images of each device, `resolution` is the generator's.
    """
    devices = jax.devices()[:1] if devices is None else devices
    resolution = resolution or (IMAGE_SIZE if small else RESOLUTION)

    def init(key):
        networks = make_networks(resolution, small, dtype, lambda make: make(nnx.Rngs(0)))
        return make_step(*networks)[0](key)

    encoder, discriminator, frozen = make_networks(resolution, small, dtype, abstract_module)
    state = jax.eval_shape(init, jax.random.key(0))
    # The W pools have a leading axis of the devices.
    pools = {"real_pool": state.real_pool, "fake_pool": state.fake_pool}
    stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), pools)
    shape = (batch * len(devices), IMAGE_SIZE, IMAGE_SIZE, 3)
    images = {
        "image": jax.ShapeDtypeStruct(shape, jnp.float32),
        "index": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
    }
    mesh = Mesh(np.array(devices), (parallel.AXIS,))
    _, step = make_step(encoder, discriminator, frozen, remat=remat)
    program = parallel.parallelize(step, mesh, state_specs=STATE_SPECS)
    return program, (state.replace(**stacked), images, frozen.split()[1])


def _encoder_and_loss(batch, dtype, small, remat):
    """FLOPs of the backbone's backward pass, and bytes that both backward passes keep.

    What JAX keeps of the encoder's forward pass lives while the generator and the losses have
    their turn; the compiler may keep less, by computing some of it again.
    """
    resolution = IMAGE_SIZE if small else RESOLUTION
    config = generator_config(resolution, small)
    shape = encoder_config(IMAGE_SIZE, config.num_styles, small)
    encoder = abstract_module(lambda rngs: Encoder(shape, dtype=dtype, rngs=rngs))
    encoder.train()
    graph, params, rest = nnx.split(encoder, nnx.Param, ...)
    frozen = make_networks(resolution, small, dtype, abstract_module)[2]
    frozen_graph, arrays = frozen.split()
    images = jax.ShapeDtypeStruct((batch, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
    codes = jax.ShapeDtypeStruct((batch, shape.num_styles, shape.style_dim), jnp.float32)

    def encode(params, rest, images):
        encoder = nnx.merge(graph, params, rest, copy=True)
        return encoder(images, remat=remat in ("encoder", "all"))

    def backbone(params, rest, images):
        return nnx.merge(graph, params, rest, copy=True).backbone(images)

    def loss(codes, arrays, images):
        networks = nnx.merge(frozen_graph, arrays)
        inverted = synthesize_like(
            networks["generator"], codes, images.shape[1:3], remat=remat in ("generator", "all")
        )
        perceptual, identity = networks["perceptual"], networks["identity"]
        features = perceptual.features(images), identity.embed(images)
        distance = perceptual.distance(perceptual.features(inverted), features[0])
        likeness = losses.cosine_identity(identity.embed(inverted), features[1])
        return losses.l2(inverted, images) + jnp.mean(distance) + likeness

    forward = cost.count(backbone, params, rest, images)["flops"]
    # Of a choice by platform JAX keeps what any of its forms needs, a compiler that of one.
    with mock.patch.object(space_to_depth, "pays", lambda *sizes: False):
        kept = _kept(encode, params, rest, images) + _kept(loss, codes, arrays, images)
    return 2 * forward, kept


def _kept(function, first, *others):
    """Bytes that the backward pass of `function` with respect to `first` holds, arguments aside."""

    def residuals(first, *others):
        _, pull = jax.vjp(lambda first: function(first, *others), first)
        arguments = {id(leaf) for leaf in jax.tree.leaves((first, others))}
        return [leaf for leaf in jax.tree.leaves(pull) if id(leaf) not in arguments]

    leaves = jax.eval_shape(residuals, first, *others)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def compile_on_cpu(batch: int, *, small=False, remat="none", unrolled=False) -> dict[str, float]:
    """The compiler's count of the step on this machine's CPU, in float32; nothing runs.

    Args:
      batch: images of the device.
      small: tiny networks.
      remat: as `make_encoder_step` takes it.
      unrolled: traces and compiles the map-to-style heads and the backbones' units one by one, as
        they would be without the scans over them; to say what these save.
    """
    program, arguments = abstract_step(batch, jnp.float32, small=small, remat=remat)
    scan = mock.patch("jax.lax.scan", _one_by_one) if unrolled else contextlib.nullcontext()
    start = time.perf_counter()
    with scan:
        lowered = program.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return cost.compiled_cost(compiled) | {
        "trace_seconds": traced - start,
        "compile_seconds": time.perf_counter() - traced,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def _one_by_one(function, carry, inputs):
    """`jax.lax.scan` as a Python loop."""
    outputs = []
    for i in range(len(jax.tree.leaves(inputs)[0])):
        carry, output = function(carry, jax.tree.map(lambda x, i=i: x[i], inputs))
        outputs.append(output)
    return carry, jax.tree.map(lambda *x: jnp.stack(x), *outputs)
