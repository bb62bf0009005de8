"""Per-image optimisation behind an encoder: in W, in W+, and of the generator itself.

All start from codes at hand, run a fixed number of Adam steps in one compiled loop, and compare
images as `synthesize_like` draws them by their mean squared error plus a perceptual distance.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from e4e_jax.inversion.invert import synthesize_like
from e4e_jax.models.stylegan2 import Generator

# Of the projector (stylegan2-ada-pytorch, projector.py), in shares of all steps.
_RAMP_UP, _RAMP_DOWN, _CODE_NOISE_ENDS = 0.05, 0.25, 0.75
_CODE_NOISE = 0.05  # of the standard deviation of w
_NOISE_WEIGHT = 1e5


@nnx.jit(static_argnames=("steps", "learning_rate"))
def optimize_w_plus(
    generator: Generator,
    perceptual: Any,
    images: jax.Array,
    codes: jax.Array,
    *,
    steps: int,
    learning_rate: float = 0.01,
) -> tuple[jax.Array, jax.Array]:
    """Optimises every style of every image (Image2StyleGAN, Abdal et al. 2019, arXiv 1904.03189).

    Args:
      generator: stays as it is; its noise is the constant one.
      perceptual: a network with `features` and `distance`, such as LPIPS; None for L2 alone.
      images: targets [B, H, W, 3] in [-1, 1].
      codes: where to start, w_plus [B, L, D].
      steps: Adam steps.
      learning_rate: of Adam.

    Returns:
      w_plus [B, L, D], and the losses [steps, B].
    """
    loss = _reconstruction_loss(perceptual, images)

    def objective(codes, _):
        inverted = synthesize_like(generator, codes, images.shape[1:3])
        return loss(inverted)

    return _minimize(objective, codes, optax.adam(learning_rate), steps)


@nnx.jit(static_argnames=("steps", "learning_rate"))
def optimize_w(
    generator: Generator,
    perceptual: Any,
    images: jax.Array,
    codes: jax.Array,
    key: jax.Array,
    *,
    steps: int,
    learning_rate: float = 0.1,
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """Optimises one w per image and its noise images (the projector of StyleGAN2).

    Karras et al. 2020 (arXiv 1912.04958, appendix D), with the schedule and the constants of
    stylegan2-ada-pytorch; it starts from the mean of the given styles instead of the average w.

    Args:
      generator, perceptual, images, steps: as in `optimize_w_plus`.
      codes: w_plus [B, L, D].
      key: for the noise on w that fades over the first three quarters, and the noise images.
      learning_rate: of Adam at the top of its ramp.

    Returns:
      w_plus [B, L, D] of equal styles; the noise images, a list of [B, r, r] for the synthesis
      network; and the losses [steps, B].
    """
    loss = _reconstruction_loss(perceptual, images)
    deviation_key, noise_key, walk_key = jax.random.split(key, 3)
    deviation = _w_deviation(generator, deviation_key)
    batch = codes.shape[0]
    noises = [
        jax.random.normal(jax.random.fold_in(noise_key, i), (batch, *conv.noise.shape))
        for i, conv in enumerate(generator.synthesis.convs)
    ]

    def objective(variables, step):
        w, noises = variables
        fading = jnp.maximum(0.0, 1 - step / steps / _CODE_NOISE_ENDS) ** 2
        walk = jax.random.normal(jax.random.fold_in(walk_key, step), w.shape)
        w_plus = generator.broadcast(w + deviation * _CODE_NOISE * fading * walk)
        inverted = synthesize_like(generator, w_plus, images.shape[1:3], noise=noises)
        return loss(inverted) + _NOISE_WEIGHT * sum(map(noise_correlation, noises))

    def normalize(variables):
        w, noises = variables
        return w, [_standardized(noise) for noise in noises]

    def schedule(step):
        progress = step / steps
        ramp = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.minimum(1.0, (1 - progress) / _RAMP_DOWN))
        return learning_rate * ramp * jnp.minimum(1.0, progress / _RAMP_UP)

    start = jnp.mean(codes, axis=1), noises
    (w, noises), losses = _minimize(objective, start, optax.adam(schedule), steps, normalize)
    return generator.broadcast(w), noises, losses


@nnx.jit(static_argnames=("steps", "learning_rate"))
def tune_generator(
    generator: Generator,
    perceptual: Any,
    images: jax.Array,
    codes: jax.Array,
    *,
    steps: int,
    learning_rate: float = 3e-4,
) -> tuple[Generator, jax.Array]:
    """Tunes the generator so that it draws the images at the given codes.

    Pivotal tuning (PTI, Roich et al. 2021, arXiv 2106.05744) without its optional locality
    regularisation; the codes, the pivots, stay. One generator serves all B images.

    Args:
      generator: where to start; it is not changed.
      perceptual, images, codes, steps: as in `optimize_w_plus`.
      learning_rate: of Adam.

    Returns:
      The tuned generator, and the losses [steps, B].
    """
    loss = _reconstruction_loss(perceptual, images)
    split: Any = nnx.split(generator, _of_synthesis, ...)
    graph, synthesis, rest = split

    def objective(synthesis, _):
        tuned = nnx.merge(graph, synthesis, rest)
        return loss(synthesize_like(tuned, codes, images.shape[1:3]))

    synthesis, losses = _minimize(objective, synthesis, optax.adam(learning_rate), steps)
    return nnx.merge(graph, synthesis, rest, copy=True), losses


def noise_correlation(noise: jax.Array) -> jax.Array:
    """How far a noise image is from white: noise [B, r, r] -> [B].

    The sum over a pyramid of scales of its squared autocorrelation at a shift of one pixel
    (Karras et al. 2020, appendix D).
    """
    total = jnp.zeros(noise.shape[0])
    while True:
        for axis in (1, 2):
            total += jnp.mean(noise * jnp.roll(noise, 1, axis), axis=(1, 2)) ** 2
        batch, side, _ = noise.shape
        if side <= 8:
            return total
        noise = noise.reshape(batch, side // 2, 2, side // 2, 2).mean(axis=(2, 4))


def _reconstruction_loss(perceptual, images):
    """inverted [B, H, W, 3] -> [B]; the features of the targets are computed once."""
    features = None if perceptual is None else perceptual.features(images)

    def loss(inverted):
        value = jnp.mean(jnp.square(inverted - images), axis=(1, 2, 3))
        if features is not None:
            value += perceptual.distance(perceptual.features(inverted), features)
        return value

    return loss


def _minimize(objective, start, optimizer, steps, project=lambda x: x):
    """Minimises the sum of `objective(variables, step)` [B]: variables and values [steps, B]."""

    def step(carry, index):
        variables, state = carry

        def total(variables):
            values = objective(variables, index)
            return jnp.sum(values), values

        gradients, values = jax.grad(total, has_aux=True)(variables)
        updates, state = optimizer.update(gradients, state, variables)
        return (project(optax.apply_updates(variables, updates)), state), values

    carry = start, optimizer.init(start)
    (variables, _), values = jax.lax.scan(step, carry, jnp.arange(steps))
    return variables, values


def _w_deviation(generator, key, samples=10_000):
    """Root mean squared distance of w from its mean: a scalar."""
    w = generator.mapping(jax.random.normal(key, (samples, generator.config.z_dim)))
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(w - jnp.mean(w, axis=0)), axis=1)))


def _standardized(noise):
    noise = noise - jnp.mean(noise, axis=(1, 2), keepdims=True)
    return noise * jax.lax.rsqrt(jnp.mean(noise**2, axis=(1, 2), keepdims=True))


def _of_synthesis(path, value):
    return path[0] == "synthesis" and isinstance(value, nnx.Param)
