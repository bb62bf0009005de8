"""Losses and regularisers as pure functions of arrays.

Means are over the examples at hand, which inside a data-parallel step are one device's; the step
averages gradients and metrics over devices.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Reconstruction


def l2(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared error over all elements of two equally shaped batches."""
    return jnp.mean(jnp.square(a - b))


def cosine_identity(embedding_a: jax.Array, embedding_b: jax.Array) -> jax.Array:
    """1 − cosine similarity of embeddings [B, D], mean over the batch: 0 (same) to 2.

    The identity loss of e4e, with ArcFace for faces and MoCo v2 for other domains.
    """
    return jnp.mean(1 - jnp.sum(_unit(embedding_a) * _unit(embedding_b), axis=-1))


def _unit(x):
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))


# Progressive training of the encoder (Tov et al. 2021, arXiv 2102.02766)


def progressive_stage(step: jax.Array | int, start: int, every: int, num_styles: int) -> jax.Array:
    """The stage at which a step is trained: int32, 0 (w alone) to num_styles − 1 (all deltas).

    Steps count from 0. The step numbered `start` is the first to train with one delta, and every
    `every` steps from there one more opens, as in the published training.

    Args:
      step: step number, possibly traced.
      start: first step with a delta; 20,000 as published.
      every: steps between two openings; 2,000 as published.
      num_styles: L.
    """
    stage = 1 + (jnp.asarray(step, jnp.int32) - start) // every
    return jnp.clip(stage, 0, num_styles - 1)


def delta_norm(w_plus: jax.Array, stage: jax.Array | int) -> jax.Array:
    """L2 norms of the active deltas, mean over the batch, summed over deltas.

    Args:
      w_plus: [B, L, D]; delta i is w_plus[:, i] − w_plus[:, 0].
      stage: progressive stage, possibly traced; deltas 1 to `stage` are active.

    Returns:
      A scalar. The gradient at a delta of zero is zero.
    """
    deltas = w_plus[:, 1:] - w_plus[:, :1]  # [B, L - 1, D]
    norms = _root(jnp.sum(jnp.square(deltas), axis=-1))
    active = jnp.arange(1, w_plus.shape[1]) <= stage
    return jnp.sum(jnp.where(active, jnp.mean(norms, axis=0), 0.0))


def w_norm(offsets: jax.Array) -> jax.Array:
    """L2 norm of all styles' offsets [B, L, D] together, mean over the batch.

    Of pSp (Richardson et al. 2021, arXiv 2008.00951, section 3.2), where offsets are those from the
    average code. The gradient at an offset of zero is zero.
    """
    return jnp.mean(_root(jnp.sum(jnp.square(offsets), axis=(1, 2))))


def _root(squares):
    """Square roots whose gradient at zero is zero."""
    # The derivative there is infinite; `where` inside as well as outside keeps it out of the
    # backward pass.
    zero = squares == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def active_layers_mean(values: jax.Array, stage: jax.Array | int) -> jax.Array:
    """Mean of values [B, L] over the batch and the layers 0 to `stage` (possibly traced)."""
    active = jnp.arange(values.shape[1]) <= stage
    return jnp.sum(jnp.where(active, jnp.mean(values, axis=0), 0.0)) / (stage + 1)


# Adversarial training


def generator_logistic(fake_logits: jax.Array) -> jax.Array:
    """Non-saturating logistic loss of the generating player, of logits of any shape."""
    return jnp.mean(jax.nn.softplus(-fake_logits))


def discriminator_logistic(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Logistic loss of the discriminator: mean over real logits plus mean over fake ones."""
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))


def r1_penalty(discriminate_fn: Callable[[jax.Array], jax.Array], inputs: jax.Array) -> jax.Array:
    """R1 (Mescheder et al. 2018, arXiv 1801.04406): E‖∇D(x)‖² on real inputs, without γ/2.

    Args:
      discriminate_fn: inputs [B, ...] -> logits [B] or [B, 1].
      inputs: real images or codes [B, ...].
    """
    gradients = jax.grad(lambda x: jnp.sum(discriminate_fn(x)))(inputs)
    return jnp.mean(jnp.sum(jnp.square(gradients), axis=tuple(range(1, inputs.ndim))))


def path_length_penalty(
    synthesize_fn: Callable[[jax.Array], jax.Array],
    w_plus: jax.Array,
    noise_image: jax.Array,
    mean_so_far: jax.Array,
    *,
    decay: float = 0.01,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Path length regularisation (Karras et al. 2020, arXiv 1912.04958, section 3.2).

    An example's path length is the norm of the gradient of Σ image·noise/√(H·W) with respect to
    its codes: root of the sum over D, averaged over L before the root. The penalty is the mean
    squared distance of the lengths from their running mean, which takes part in the gradient;
    both as in NVlabs/stylegan2-ada-pytorch and rosinality/stylegan2-pytorch.

    Args:
      synthesize_fn: w_plus [B, L, D] -> images [B, H, W, 3].
      w_plus: codes [B, L, D].
      noise_image: standard normal [B, H, W, 3].
      mean_so_far: scalar running mean of the lengths; 0 at the start of training.
      decay: share of this batch in the running mean.
      axis_name: mapped axis over which the running mean is shared, or None.

    Returns:
      The penalty (this device's mean), the new running mean (without gradient), and the
      lengths [B].
    """
    height, width = noise_image.shape[1:3]
    noise = noise_image / math.sqrt(height * width)
    gradients = jax.grad(lambda w: jnp.sum(synthesize_fn(w) * noise))(w_plus)  # [B, L, D]
    lengths = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(gradients), axis=2), axis=1))
    batch_mean = jnp.mean(lengths)
    if axis_name is not None:
        batch_mean = jax.lax.pmean(batch_mean, axis_name)
    mean = mean_so_far + decay * (batch_mean - mean_so_far)
    return jnp.mean(jnp.square(lengths - mean)), jax.lax.stop_gradient(mean), lengths
