"""A whole e4e training step with all losses: python -m benchmarks.train_step [--cases 256x4].

The case is the generator's resolution and the batch; the encoder and the losses see 256x256. All
deltas are open, which is the dearest stage. With --remat generator, encoder or all (config.remat),
the step that keeps all activations stands beside steps that compute some of them again, and
PyTorch has no part in it.
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.train_step")

import argparse
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from benchmarks import common, cost, machine, sides
from benchmarks.encode import SMALL_BACKBONE, encoder_config, head_convolutions, random_images
from benchmarks.synthesis import generator_config
from configs import ffhq
from e4e_jax.models.arcface import ArcFace, ArcFaceConfig
from e4e_jax.models.encoder import Encoder
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.latent_discriminator import LatentDiscriminator
from e4e_jax.models.lpips import LPIPS, LPIPSConfig
from e4e_jax.models.stylegan2 import Generator
from e4e_jax.runtime import parallel
from e4e_jax.training.encoder_step import (
    REMAT,
    STATE_SPECS,
    FrozenNetworks,
    make_encoder_step,
    place_state,
)
from e4e_jax.training.objective import read_objective
from e4e_jax.training.ranger import ranger

IMAGE_SIZE = 256
OPTIONS = dataclasses.replace(read_objective(ffhq.get_config().objective), progressive_start=None)
_B1 = 0.95  # of Ranger: the momentum of the first step is (1 - _B1) times the gradient


def make_networks(resolution, small, dtype, make):
    """The trained encoder and discriminator, and the frozen networks.

    Args:
      resolution: of the generator.
      small: tiny networks.
      dtype: compute type.
      make: (constructor with `rngs`) -> module, real or abstract.
    """
    config = generator_config(resolution, small)
    encoder_shape = encoder_config(IMAGE_SIZE, config.num_styles, small)
    encoder = make(
        lambda rngs: Encoder(encoder_shape, axis_name=parallel.AXIS, dtype=dtype, rngs=rngs)
    )
    encoder.train()
    discriminator = make(lambda rngs: LatentDiscriminator(config.w_dim, rngs=rngs))
    frozen = FrozenNetworks(
        generator=make(lambda rngs: Generator(config, dtype=dtype, rngs=rngs)),
        others={
            "perceptual": make(lambda rngs: LPIPS(LPIPSConfig(), dtype=dtype, rngs=rngs)),
            "identity": make(
                lambda rngs: ArcFace(
                    ArcFaceConfig(identity_backbone(small)), dtype=dtype, rngs=rngs
                )
            ),
        },
    )
    return encoder, discriminator, frozen


def identity_backbone(small: bool) -> IRSEConfig:
    return SMALL_BACKBONE if small else IRSEConfig.ir_se_50()


def a_batch(images) -> dict[str, np.ndarray]:
    """What the step takes of images [B, 256, 256, 3]."""
    return {"image": images, "index": np.arange(len(images), dtype=np.int32)}


def make_step(encoder, discriminator, frozen, options=OPTIONS, *, remat="none"):
    """`init` and the per-device `step` with the published optimisers."""
    return make_encoder_step(
        encoder,
        discriminator,
        frozen,
        ranger(1e-4, stacked_axes=lambda path: 1 if path.startswith("heads/") else 0),
        optax.adam(2e-5),
        options,
        remat=remat,
    )


def make_case(case, flags, remat=()) -> common.Case:
    """A case as `common.run` wants it; `remat` are the choices of --remat."""
    resolution, batch = common.sizes(case)
    if resolution < IMAGE_SIZE:
        raise ValueError(f"case is {case!r}; expected a generator of at least {IMAGE_SIZE}.")
    images = random_images(IMAGE_SIZE, batch)
    dtype = sides.compute_dtype(flags.precision)

    def networks():
        made = make_networks(resolution, flags.small, dtype, sides.random_module)
        # Both sides draw noise of their own: at strength 0 it costs the same and changes nothing.
        for conv in made[2].generator.synthesis.convs:
            conv.noise_strength[...] = jnp.zeros(())
        return made

    def ours(remat="none"):
        # The step is made of shapes, so that nothing holds the first weights beside the state.
        shapes = make_networks(resolution, flags.small, dtype, sides.abstract_module)
        step = make_step(*shapes, remat=remat)[1]
        return _ours(step, *networks(), images)

    def pytorch(compiled):
        return _pytorch(*networks(), images, flags, compiled)

    def e4e(path):
        return _published(path, *networks(), images)

    if remat and flags.peer:
        raise ValueError("published code has no --remat; leave it or --peer out.")
    if remat:
        others = {sides.RECOMPUTING + choice: functools.partial(ours, choice) for choice in remat}
        return common.Case(case, batch, {sides.OURS: ours, **others})
    builders = common.with_torch(flags, {sides.OURS: ours}, pytorch, {"e4e": e4e})
    return common.Case(case, batch, builders)


def _ours(step, encoder, discriminator, frozen, images):
    mesh = Mesh(np.array(jax.devices()[:1]), (parallel.AXIS,))
    init, _ = make_step(encoder, discriminator, frozen)
    state = place_state(init(jax.random.key(0)), mesh)
    arrays = parallel.replicate(frozen.split()[1], mesh)
    batch = parallel.put_batch(a_batch(images), mesh)
    program = parallel.parallelize(step, mesh, state_specs=STATE_SPECS)
    counted = cost.count(program, state, batch, arrays)
    start = time.perf_counter()
    compiled = program.lower(state, batch, arrays).compile()
    seconds = time.perf_counter() - start
    state, terms = compiled(state, batch, arrays)
    results = {name: np.asarray(value) for name, value in terms.items() if name in _COMPARED}
    if machine.has_torch():
        momentum = _named(state.optimizer.momentum)
        results["gradient"], results["gradient norms"] = _flat(momentum), _norms(momentum)
    held = [state]

    def run():
        held[0], _ = jax.block_until_ready(compiled(held[0], batch, arrays))

    return sides.Side(run, results, seconds, cost.compiled_cost(compiled), counted)


# The discriminator's own loss is left out: each side draws its own z.
_COMPARED = ("l2", "perceptual", "identity", "adversarial", "delta_norm")


def _pytorch(encoder, discriminator, frozen, images, flags, compiled):
    from benchmarks.torch_reference import networks, stylegan2, training

    device = sides.torch_device()
    config = encoder.config
    forms = {
        "encoder": networks.Encoder(config, head_convolutions(config)).train(),
        "discriminator": networks.LatentDiscriminator(config.style_dim, 4),
        "perceptual": networks.LPIPS("alex").eval(),
        "identity": networks.ArcFace(identity_backbone(flags.small), 512, side=7).eval(),
    }
    sources = {"encoder": encoder, "discriminator": discriminator, **frozen.others}
    for name, form in forms.items():
        networks.copy_weights(sources[name], form).to(device)
    parameters = stylegan2.torch_parameters(frozen.generator, device)
    for tensor in [*parameters.values(), *_frozen_tensors(forms)]:
        tensor.requires_grad_(False)
    step = training.TrainStep(
        forms["encoder"],
        forms["discriminator"],
        parameters,
        frozen.generator.config,
        forms["perceptual"],
        forms["identity"],
        OPTIONS,
        compiled=compiled,
    )
    side = _torch_side(step, images, flags.precision)
    state = step.optimizer.state
    momentum = {name: state[p]["m"].cpu() for name, p in forms["encoder"].named_parameters()}
    side.results["gradient"] = _flat(momentum)
    side.results["gradient norms"] = _norms(momentum)
    return side


def _published(path, encoder, discriminator, frozen, images):
    from benchmarks.published_code.train_step import TrainStep

    step = TrainStep(path, encoder, discriminator, frozen, OPTIONS, len(images))
    side = _torch_side(step, images, "float32")
    coach = step.coach
    state = coach.optimizer.state
    momentum = {k: state[p]["exp_avg"].cpu() for k, p in coach.net.encoder.named_parameters()}
    side.results["gradient norms"] = _norms(momentum)
    return side


def _torch_side(step, images, precision):
    import torch

    batch = sides.to_torch(images)

    def run():
        with sides.autocast(precision):
            terms = step(batch)
        sides.synchronize()
        return terms

    torch.manual_seed(0)
    start = time.perf_counter()
    terms = run()
    seconds = time.perf_counter() - start
    results = {name: np.asarray(terms[name], np.float32) for name in _COMPARED}
    return sides.Side(run, results, seconds)


def _frozen_tensors(forms):
    return [p for name in ("perceptual", "identity") for p in forms[name].parameters()]


def _named(state):
    """An nnx state by PyTorch's names, in PyTorch's layout."""
    from benchmarks.torch_reference.networks import torch_arrays

    return {
        name: array
        for path, variable in nnx.to_flat_state(state)
        for name, array in torch_arrays(path, variable[...])
    }


def _flat(arrays):
    """The first gradient as one vector, from Ranger's momentum after one step.

    Every 16th number of it: the whole is a gigabyte, where sides need the memory to themselves.
    """
    sample = [np.asarray(arrays[name]).ravel()[::16] for name in sorted(arrays)]
    return np.concatenate(sample) / (1 - _B1)


def _norms(arrays):
    """Of each tensor's first gradient, in the order of size: names on two sides may differ."""
    norms = [np.linalg.norm(np.asarray(array, np.float64)) for array in arrays.values()]
    return np.sort(norms) / (1 - _B1)


def main(argv=None):
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--remat", nargs="+", choices=REMAT[1:], default=())
    own, rest = parser.parse_known_args(argv)
    make = functools.partial(make_case, remat=own.remat)
    return common.run("train_step", __doc__, ["256x4"], make, rest, peer=True, training=True)


if __name__ == "__main__":
    program.end(program.run("benchmarks.train_step", main))
