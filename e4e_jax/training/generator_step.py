"""One adversarial training step of the StyleGAN2 generator, as one device sees it.

Non-saturating logistic loss, lazy R1 and path length regularisation, style mixing and an
exponential moving average of the generator (Karras et al. 2020, arXiv 1912.04958), with
differentiable augmentation for small sets (Zhao et al. 2020, arXiv 2006.10738).

Both players move at once, from the same pass: the fakes go through generator and discriminator
forwards only once, and the one vector-Jacobian product is pulled twice, with the discriminator's
cotangent for its weights and with the generator's for the images.

Where the source knows what its images show, a code can be tied to an image: see `Supervision`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct

from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.feature_discriminator import FeatureDiscriminator
from e4e_jax.models.stylegan2 import Generator
from e4e_jax.runtime.parallel import example_keys, mean_over_devices
from e4e_jax.training import losses
from e4e_jax.training.augment import diff_augment


@dataclasses.dataclass(frozen=True)
class GeneratorOptions:
    """What the adversarial game is played for. configs/common.py has the defaults.

    Attributes:
      r1_gamma, r1_every: weight of the gradient penalty γ/2·|∇|², and how often it is taken.
      path_length_weight, path_length_every: the same for path length regularisation.
      style_mixing: probability that an image takes its styles from two latent codes.
      random_noise: train with noise; without it the noise strengths stay at zero.
      augment: names of `diff_augment` policies; empty for none.
      ema_halflife_images: images until the average generator has forgotten half.
    """

    r1_gamma: float
    r1_every: int
    path_length_weight: float
    path_length_every: int
    style_mixing: float
    random_noise: bool
    augment: tuple[str, ...]
    ema_halflife_images: float


@dataclasses.dataclass(frozen=True)
class Supervision:
    """Draws the code of an image from what the image shows, and compares the two images.

    Attributes:
      l2, perceptual: weights of the mean squared error and of the perceptual distance; that of
        the adversarial loss is 1.
      latents: (factors [B, K], z [B, z_dim]) -> z [B, z_dim], standard normal over the data.
      network: the perceptual one, with `features` and `distance`; its weights are constants.
    """

    l2: float
    perceptual: float
    latents: Callable[[jax.Array, jax.Array], jax.Array]
    network: Any

    def split(self) -> tuple[nnx.GraphDef, nnx.State]:
        """The network's graph (static) and its arrays (an argument of the compiled step)."""
        return nnx.split(self.network)


@struct.dataclass
class GeneratorState:
    """Everything that a generator run has to save."""

    step: jax.Array
    key: jax.Array
    generator: nnx.State
    generator_average: nnx.State
    discriminator: nnx.State
    generator_optimizer: optax.OptState
    discriminator_optimizer: optax.OptState
    path_length: jax.Array


def make_generator_step(
    generator: Generator,
    discriminator: Discriminator | FeatureDiscriminator,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    options: GeneratorOptions,
    *,
    average: Generator | None = None,
    supervision: Supervision | None = None,
    global_batch: int,
    axis_name: str = "data",
) -> tuple[Callable, Callable]:
    """Returns `init(key) -> state` and `step(state, batch, frozen) -> (state, metrics)`.

    The batch holds "image" [b, R, R, 3] in [-1, 1] and "index" [b], the position of each example
    in the global batch; under supervision also "factors" [b, K]. `frozen` are the arrays of its
    network (see `Supervision.split`), or `()`. `step` runs per device over the named axis and
    averages its gradients and metrics over it. `average` is the moving average of
    a training that goes on; a new one starts at the generator and forgets that start quickly.

    Raises:
      ValueError: supervision with style mixing, which would draw another image.
    """
    if supervision and options.style_mixing:
        raise ValueError(
            f"Style mixing is {options.style_mixing:g}; expected 0 where codes stand for images."
        )
    generator_graph, generator_params, constants = nnx.split(generator, nnx.Param, ...)
    discriminator_graph, discriminator_params = nnx.split(discriminator)
    z_dim = generator.config.z_dim
    ema_decay = 0.5 ** (global_batch / options.ema_halflife_images)

    def init(key):
        return GeneratorState(
            step=jnp.zeros((), jnp.int32),
            key=key,
            generator=generator_params,
            generator_average=jax.tree.map(
                jnp.copy, nnx.state(average, nnx.Param) if average else generator_params
            ),
            discriminator=discriminator_params,
            generator_optimizer=generator_optimizer.init(generator_params),
            discriminator_optimizer=discriminator_optimizer.init(discriminator_params),
            path_length=jnp.zeros(()),
        )

    def map_styles(params, keys, factors=None):
        """One w_plus per key, some of them mixed from two codes."""
        model = nnx.merge(generator_graph, params, constants)
        num_styles = model.config.num_styles
        z_keys, mix_keys, cut_keys = _split(keys, 3)
        z = jax.vmap(lambda k: jax.random.normal(k, (2, z_dim)))(z_keys)
        if supervision is not None and factors is not None:
            z = z.at[:, 0].set(supervision.latents(factors, z[:, 0]))
        w = model.mapping(z)
        mixed = jax.vmap(jax.random.uniform)(mix_keys) < options.style_mixing
        cut = jax.vmap(lambda k: jax.random.randint(k, (), 1, num_styles))(cut_keys)
        cut = jnp.where(mixed, cut, num_styles)
        second = jnp.arange(num_styles)[None] >= cut[:, None]  # [B, L]
        return jnp.where(second[..., None], w[:, 1:], w[:, :1])

    def synthesize(params, w_plus, keys):
        model = nnx.merge(generator_graph, params, constants)
        noise = "random" if options.random_noise else "none"
        return model.synthesis(w_plus, noise=noise, keys=keys)

    def discriminate(params, images, keys):
        if options.augment:
            images = diff_augment(images, keys, options.augment)
        return nnx.merge(discriminator_graph, params)(images)

    def supervised_loss(images, targets, frozen):
        assert supervision is not None
        network = nnx.merge(supervision.split()[0], frozen)
        distances = network.distance(network.features(images), network.features(targets))
        terms = {"l2": losses.l2(images, targets), "perceptual": jnp.mean(distances)}
        total = supervision.l2 * terms["l2"] + supervision.perceptual * terms["perceptual"]
        return total, terms

    def r1_gradients(params, images, keys):
        def logit(params, images):
            logits = discriminate(params, images, keys)
            return jnp.mean(logits.reshape(images.shape[0], -1), axis=-1)  # over the heads

        def penalty(params):
            return losses.r1_penalty(lambda x: logit(params, x), images)

        value, gradients = jax.value_and_grad(penalty)(params)
        weight = 0.5 * options.r1_gamma * options.r1_every
        return value, jax.tree.map(lambda g: weight * g, gradients)

    def path_length_gradients(params, mean, keys):
        """On half of the batch, as the published code does to save time."""
        keys = keys[: max(keys.shape[0] // 2, 1)]
        colours = generator.config.image_channels

        def drawn(images):  # of grey RGB the channel that the generator draws
            return images[..., :1] if colours == 1 else images

        style_keys, noise_keys, probe_keys = _split(keys, 3)

        def penalty(params):
            w_plus = map_styles(params, style_keys)
            shape = (*(generator.config.resolution,) * 2, colours)
            probe = jax.vmap(lambda k: jax.random.normal(k, shape))(probe_keys)
            value, new_mean, _ = losses.path_length_penalty(
                lambda codes: drawn(synthesize(params, codes, noise_keys)),
                w_plus,
                probe,
                mean,
                axis_name=axis_name,
            )
            return value, new_mean

        (value, mean), gradients = jax.value_and_grad(penalty, has_aux=True)(params)
        weight = options.path_length_weight * options.path_length_every
        return value, mean, jax.tree.map(lambda g: weight * g, gradients)

    def step(state: GeneratorState, batch, frozen):
        keys = example_keys(state.key, state.step, batch["index"])
        style_keys, noise_keys, fake_keys, real_keys, path_keys = _split(keys, 5)
        real = batch["image"]
        factors = batch["factors"] if supervision else None

        # One pass of the fakes for both players.
        fakes, pull_generator = jax.vjp(
            lambda p: synthesize(p, map_styles(p, style_keys, factors), noise_keys), state.generator
        )
        fake_logits, pull_discriminator = jax.vjp(
            lambda p, x: discriminate(p, x, fake_keys), state.discriminator, fakes
        )
        generator_loss, generator_cotangent = jax.value_and_grad(losses.generator_logistic)(
            fake_logits
        )
        image_cotangent = pull_discriminator(generator_cotangent)[1]
        metrics = {}
        if supervision:
            towards_real, metrics = jax.grad(supervised_loss, has_aux=True)(fakes, real, frozen)
            image_cotangent += towards_real
        (generator_gradients,) = pull_generator(image_cotangent)

        def real_loss(params):
            logits = discriminate(params, real, real_keys)
            return losses.discriminator_logistic(logits, jax.lax.stop_gradient(fake_logits)), logits

        (discriminator_loss, real_logits), real_gradients = jax.value_and_grad(
            real_loss, has_aux=True
        )(state.discriminator)
        fake_cotangent = jax.grad(losses.discriminator_logistic, argnums=1)(
            real_logits, fake_logits
        )
        fake_gradients = pull_discriminator(fake_cotangent)[0]
        discriminator_gradients = _add(real_gradients, fake_gradients)

        metrics |= {
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
            "real_logits": jnp.mean(real_logits),
            "fake_logits": jnp.mean(fake_logits),
        }
        path_length = state.path_length
        if options.r1_gamma:
            metrics["r1"], penalty_gradients = jax.lax.cond(
                state.step % options.r1_every == 0,
                lambda: r1_gradients(state.discriminator, real, real_keys),
                lambda: (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.discriminator)),
            )
            discriminator_gradients = _add(discriminator_gradients, penalty_gradients)
        if options.path_length_weight:
            metrics["path_length_penalty"], path_length, penalty_gradients = jax.lax.cond(
                state.step % options.path_length_every == 0,
                lambda: path_length_gradients(state.generator, state.path_length, path_keys),
                lambda: (
                    jnp.zeros(()),
                    state.path_length,
                    jax.tree.map(jnp.zeros_like, state.generator),
                ),
            )
            metrics["path_length"] = path_length
            generator_gradients = _add(generator_gradients, penalty_gradients)

        generator_gradients, discriminator_gradients, metrics = mean_over_devices(
            (generator_gradients, discriminator_gradients, metrics), axis_name
        )
        generator_updates, generator_optimizer_state = generator_optimizer.update(
            generator_gradients, state.generator_optimizer, state.generator
        )
        discriminator_updates, discriminator_optimizer_state = discriminator_optimizer.update(
            discriminator_gradients, state.discriminator_optimizer, state.discriminator
        )
        new_generator = optax.apply_updates(state.generator, generator_updates)
        # Short runs would otherwise average in the random start: ramp the decay up.
        ramp = 1.0 if average else (1.0 + state.step) / (10.0 + state.step)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            generator=new_generator,
            generator_average=optax.incremental_update(
                new_generator, state.generator_average, 1.0 - jnp.minimum(ema_decay, ramp)
            ),
            discriminator=optax.apply_updates(state.discriminator, discriminator_updates),
            generator_optimizer=generator_optimizer_state,
            discriminator_optimizer=discriminator_optimizer_state,
            path_length=path_length,
        )
        return state, metrics

    return init, step


def _split(keys, count):
    """[B] keys -> `count` arrays of [B] keys."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, count))(keys), 1, 0)


def _add(a, b):
    return jax.tree.map(jnp.add, a, b)
