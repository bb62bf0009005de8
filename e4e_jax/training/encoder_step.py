"""One training step of the encoder on a frozen generator, as one device sees it.

The published objective (Tov et al. 2021, arXiv 2102.02766, section 4): reconstruction, perceptual
and identity losses of the inversion, an adversarial loss on the codes of the active layers, and
the norm of the deltas that are open at this progressive stage. Where the published loop encodes a
batch twice, once for each player, one forward pass here serves both.

An iterative encoder (ReStyle; Alaluf et al. 2021, arXiv 2104.02699) passes over a batch several
times before it takes one step: each pass reads the image that the last one came to, has losses of
its own, and no gradient flows from pass to pass. The latent discriminator learns from the codes of
the first pass. (The published loop shows it the offsets of that pass without the average code,
where the encoder's own adversarial loss sees codes.)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import Mesh

from e4e_jax.inversion.invert import synthesize_like
from e4e_jax.models.encoder import Encoder
from e4e_jax.models.latent_discriminator import LatentDiscriminator
from e4e_jax.models.stylegan2 import Generator
from e4e_jax.runtime.parallel import (
    PER_DEVICE,
    REPLICATED,
    example_keys,
    mean_over_devices,
    replicate,
    stack_per_device,
)
from e4e_jax.runtime.registry import call
from e4e_jax.training import losses
from e4e_jax.training.objective import EncoderOptions
from e4e_jax.training.registry import LOSSES
from e4e_jax.training.w_pool import WPool, init_w_pool, pick_layer, query_w_pool

REMAT = ("none", "encoder", "generator", "all")


@struct.dataclass
class EncoderState:
    """Everything that an encoder run has to save."""

    step: Any
    key: Any
    encoder: Any
    batch_stats: Any
    optimizer: Any
    discriminator: Any
    discriminator_optimizer: Any
    real_pool: WPool
    fake_pool: WPool


# W pools belong to a device; the rest of the state is the same everywhere.
_POOLS: dict[str, Any] = {"real_pool": PER_DEVICE, "fake_pool": PER_DEVICE}
STATE_SPECS = EncoderState(
    **{f.name: REPLICATED for f in dataclasses.fields(EncoderState)} | _POOLS
)


def place_state(state: EncoderState, mesh: Mesh) -> EncoderState:
    """Copies a first state to the devices, as `STATE_SPECS` says."""
    pools = {"real_pool": state.real_pool, "fake_pool": state.fake_pool}
    none: dict[str, Any] = dict.fromkeys(pools)
    shared = dataclasses.replace(state, **none)
    return dataclasses.replace(replicate(shared, mesh), **stack_per_device(pools, mesh))


@dataclasses.dataclass(frozen=True)
class FrozenNetworks:
    """The networks that are used and not trained.

    Attributes:
      generator: its `latent_avg` is the code that the encoder's offsets start from.
      others: name -> what losses look through (see `objective.Term.network`).
    """

    generator: Generator
    others: Mapping[str, nnx.Module] = dataclasses.field(default_factory=dict)

    def split(self) -> tuple[nnx.GraphDef, nnx.State]:
        """The graph (static) and the arrays (an argument of the compiled step)."""
        return nnx.split(nnx.Dict(generator=self.generator, **self.others))


def make_encoder_step(
    encoder: Encoder,
    discriminator: LatentDiscriminator,
    networks: FrozenNetworks,
    optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    options: EncoderOptions,
    *,
    remat: str = "none",
    axis_name: str = "data",
) -> tuple[Callable, Callable]:
    """Returns `init(key) -> state` and `step(state, batch, frozen) -> (state, metrics)`.

    The batch holds "image" [b, H, W, 3] in [-1, 1] of this device and "index" [b], the position of
    each example in the global batch, and may hold "target", what an encoder is to give back in
    place of "image"; `frozen` are the arrays of `networks.split()`. `step` runs per
    device over the named axis and averages its gradients and
    metrics over it. `state.step` decides the progressive stage, so one compiled program serves
    the whole run.

    Args:
      encoder, discriminator: to train; their weights are the first of the run.
      networks: what the losses look through.
      optimizer, discriminator_optimizer: of the two.
      options: the objective.
      remat: of `REMAT`, whose activations the backward pass computes again (`jax.checkpoint`)
        instead of keeping them: less memory for more time, the same gradients.
      axis_name: of the devices.

    Raises:
      ValueError: another `remat`, or a loss that there is not. Options that a loss does not take
        are told by the first step.
    """
    if remat not in REMAT:
        raise ValueError(f"remat is {remat!r}; expected one of {', '.join(REMAT)}.")
    config = encoder.config
    graph, params, batch_stats = nnx.split(encoder, nnx.Param, nnx.BatchStat)
    discriminator_graph, discriminator_params = nnx.split(discriminator)
    frozen_graph, _ = networks.split()
    terms = [(term, LOSSES.find(term.loss)) for term in options.terms]
    last_stage = config.num_styles - 1

    def init(key):
        return EncoderState(
            step=jnp.zeros((), jnp.int32),
            key=key,
            encoder=params,
            batch_stats=batch_stats,
            optimizer=optimizer.init(params),
            discriminator=discriminator_params,
            discriminator_optimizer=discriminator_optimizer.init(discriminator_params),
            real_pool=init_w_pool(options.w_pool_size, (config.style_dim,)),
            fake_pool=init_w_pool(options.w_pool_size, (config.style_dim,)),
        )

    def discriminate(params, codes):
        return nnx.merge(discriminator_graph, params)(codes)

    def train_discriminator(state: EncoderState, generator, codes, stage, keys):
        """A step of the latent discriminator on real and fake w, R1 as a step of its own."""
        z_keys, layer_keys = keys
        z_shape = (generator.config.z_dim,)
        real = generator.mapping(jax.vmap(lambda k: jax.random.normal(k, z_shape))(z_keys))
        fake = pick_layer(codes, stage, layer_keys) if options.w_pool_size else codes[:, 0]
        pool_key = jax.random.fold_in(
            jax.random.fold_in(state.key, state.step), jax.lax.axis_index(axis_name)
        )
        real_key, fake_key = jax.random.split(pool_key)
        real_pool, real = query_w_pool(state.real_pool, real, real_key)
        fake_pool, fake = query_w_pool(state.fake_pool, fake, fake_key)

        def apply(gradients, params, optimizer_state):
            gradients = mean_over_devices(gradients, axis_name)
            updates, optimizer_state = discriminator_optimizer.update(
                gradients, optimizer_state, params
            )
            return optax.apply_updates(params, updates), optimizer_state

        def logistic(params):
            return losses.discriminator_logistic(
                discriminate(params, real), discriminate(params, fake)
            )

        def r1(params):
            penalty = losses.r1_penalty(lambda w: discriminate(params, w), real)
            return 0.5 * options.r1_gamma * options.r1_every * penalty

        loss, gradients = jax.value_and_grad(logistic)(state.discriminator)
        trained = apply(gradients, state.discriminator, state.discriminator_optimizer)
        trained = jax.lax.cond(
            state.step % options.r1_every == 0,
            lambda params, optimizer_state: apply(jax.grad(r1)(params), params, optimizer_state),
            lambda *unchanged: unchanged,
            *trained,
        )
        state = dataclasses.replace(
            state,
            discriminator=trained[0],
            discriminator_optimizer=trained[1],
            real_pool=real_pool,
            fake_pool=fake_pool,
        )
        return state, loss

    def encode(params, batch_stats, images, start, seen, stage):
        """Codes [B, L, D] and new batch statistics.

        Args:
          start: codes that the encoder's offsets are added to.
          seen: their image, which an iterative encoder reads beside the batch's; else None.
        """
        # A copy, because the encoder writes its batch statistics inside this trace.
        encoder = nnx.merge(graph, params, batch_stats, copy=True)
        inputs = images if seen is None else jnp.concatenate([images, seen], axis=-1)
        codes = start + encoder(inputs, stage, remat=remat in ("encoder", "all"))
        return codes, nnx.state(encoder, nnx.BatchStat)

    def objective(codes, targets, networks, stage, noise_keys):
        """The weighted sum of all terms; each of them, and the inversion [B, H, W, 3]."""
        inversion = synthesize_like(
            networks["generator"],
            codes,
            config.image_size,
            noise="random",
            keys=noise_keys,
            remat=remat in ("generator", "all"),
        )
        values = {}
        for term, loss in terms:
            what = f"config.objective.{term.name}: {term.loss}"
            seen = targets, inversion, codes, stage, networks
            values[term.name] = value = call(what, loss, *seen, **term.options)
            if jnp.shape(value):
                raise ValueError(f"{what} gives {list(jnp.shape(value))}; expected a scalar.")
        total = sum(term.weight * values[term.name] for term, _ in terms)
        return total, (values, inversion)

    def step(state: EncoderState, batch, frozen):
        networks = nnx.merge(frozen_graph, frozen)
        generator = networks["generator"]
        images = batch["image"]
        targets = batch.get("target", images)
        keys = example_keys(state.key, state.step, batch["index"])
        z_keys, layer_keys, noise_keys = jax.vmap(lambda k: jax.random.split(k, 3))(keys).T
        if options.progressive_start is None:
            stage = jnp.asarray(last_stage)
        else:
            stage = losses.progressive_stage(
                state.step, options.progressive_start, options.progressive_every, config.num_styles
            )

        def one_pass(state: EncoderState, start, seen, number, noise_keys):
            """Encodes once: new state, the encoder's gradients, metrics, codes and their image.

            Args:
              state: without the encoder and its optimiser, which stay until the last pass.
              start, seen: as in `encode`.
              number: of the pass; the discriminator learns from the first.
              noise_keys: of this pass [B].
            """
            codes, pull_encoder, batch_stats = jax.vjp(
                lambda params: encode(params, state.batch_stats, images, start, seen, stage),
                encoder_params,
                has_aux=True,
            )
            state = dataclasses.replace(state, batch_stats=batch_stats)
            metrics = {}
            if options.is_adversarial:
                fakes = jax.lax.stop_gradient(codes)

                def learn(state):
                    return train_discriminator(state, generator, fakes, stage, (z_keys, layer_keys))

                if seen is None:
                    state, metrics["discriminator"] = learn(state)
                else:
                    state, metrics["discriminator"] = jax.lax.cond(
                        number == 0, learn, lambda state: (state, jnp.zeros(())), state
                    )
            discriminator = nnx.merge(discriminator_graph, state.discriminator)
            others = dict(networks) | {"discriminator": discriminator}
            (total, (values, inversion)), cotangent = jax.value_and_grad(
                lambda codes: objective(codes, targets, others, stage, noise_keys), has_aux=True
            )(codes)
            (gradients,) = pull_encoder(cotangent)
            return state, gradients, {"loss": total, **values, **metrics}, codes, inversion

        def all_passes(state: EncoderState):
            """Those of an iterative encoder, from the average code on; their gradients add up."""
            average = generator.broadcast(generator.latent_avg[...][None])
            image = synthesize_like(generator, average, config.image_size)
            start, seen = (jnp.repeat(x, images.shape[0], axis=0) for x in (average, image))

            def next_pass(carry, number):
                state, total, start, seen = carry
                keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(noise_keys)
                state, gradients, metrics, *reached = one_pass(state, start, seen, number, keys)
                return (state, jax.tree.map(jnp.add, total, gradients), *reached), metrics

            zeros = jax.tree.map(jnp.zeros_like, encoder_params)
            (state, gradients, *_), metrics = jax.lax.scan(
                next_pass, (state, zeros, start, seen), jnp.arange(config.iterations)
            )
            of_last = {name: values[-1] for name, values in metrics.items()}
            if options.is_adversarial:
                of_last["discriminator"] = metrics["discriminator"][0]
            return state, gradients, of_last

        encoder_params = state.encoder
        moving = dataclasses.replace(state, encoder=(), optimizer=())
        if config.iterative:
            moving, gradients, metrics = all_passes(moving)
        else:
            start = generator.latent_avg[...]
            moving, gradients, metrics, *_ = one_pass(moving, start, None, 0, noise_keys)
        gradients, metrics = mean_over_devices((gradients, metrics), axis_name)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.encoder)
        state = dataclasses.replace(
            moving,
            step=state.step + 1,
            encoder=optax.apply_updates(state.encoder, updates),
            optimizer=optimizer_state,
        )
        return state, {**metrics, "stage": stage}

    return init, step
