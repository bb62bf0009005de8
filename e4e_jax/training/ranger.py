"""Ranger, the optimiser of the published e4e training, as an optax transformation.

Ranger is RAdam (Liu et al. 2019, arXiv 1908.03265) on centralised gradients (Yong et al. 2020,
arXiv 2004.01461) with Lookahead around it (Zhang et al. 2019, arXiv 1907.08610). The details
match `training/ranger.py` of omertov/encoder4editing.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class RangerState(NamedTuple):
    """Optimiser state, a pytree of arrays.

    Attributes:
      count: int32 scalar, the number of steps taken.
      momentum: running mean of the gradients, float32, shaped like the parameters.
      second_moment: running mean of the squared gradients, likewise.
      slow_weights: Lookahead's slow weights, likewise.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple has a method of that name
    momentum: Any
    second_moment: Any
    slow_weights: Any


def ranger(
    learning_rate: float | optax.Schedule,
    *,
    b1: float = 0.95,
    b2: float = 0.999,
    eps: float = 1e-5,
    threshold: float = 5.0,
    lookahead_steps: int = 6,
    lookahead_alpha: float = 0.5,
    stacked_axes: Callable[[str], int] | None = None,
) -> optax.GradientTransformation:
    """Builds Ranger: RAdam + gradient centralisation + Lookahead.

    The variance rectification starts where the length of the approximated moving average
    exceeds `threshold`; before that a step goes along the bias-corrected momentum. `eps` is
    added to the root of the raw second moment (its bias correction is part of the step size).
    Lookahead's slow weights start at the initial weights; after every `lookahead_steps`-th
    update the parameters are the interpolation of slow and fast weights.

    Args:
      learning_rate: step size, or an optax schedule of the step count (from 0).
      b1, b2: decay rates of the momentum and of the second moment.
      eps: added to the denominator.
      threshold: rectification threshold, in steps of the approximated moving average.
      lookahead_steps: steps between two interpolations.
      lookahead_alpha: share of the fast weights in the interpolation.
      stacked_axes: for a parameter's path such as "styles/0/kernel" (attribute names joined by
        "/"), how many of its leading axes only stack independent tensors, as [heads, in, out]
        does; each of them is centralised by itself. Default: none for every parameter.

    Returns:
      An `optax.GradientTransformation`; its `update` needs `params`.
    """
    step_sizes, first_rectified = _rectification(b1, b2, threshold)

    def init(params):
        # Each tree has buffers of its own: the training step donates parameters and state.
        zeros = lambda p: jnp.zeros(jnp.shape(p), jnp.float32)  # noqa: E731
        return RangerState(
            count=jnp.zeros((), jnp.int32),
            momentum=jax.tree.map(zeros, params),
            second_moment=jax.tree.map(zeros, params),
            slow_weights=jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params),
        )

    def update(gradients, state, params=None):
        if params is None:
            raise ValueError("ranger's update needs params: Lookahead interpolates weights.")
        count = state.count + 1
        lr = learning_rate(state.count) if callable(learning_rate) else learning_rate
        # Past the table's end the rectification has converged to its limit.
        step_size = lr * jnp.asarray(step_sizes)[jnp.minimum(count, len(step_sizes)) - 1]
        rectified = count >= first_rectified
        synchronise = count % lookahead_steps == 0

        gradients = jax.tree_util.tree_map_with_path(
            lambda path, g: _centralise(g.astype(jnp.float32), path, stacked_axes), gradients
        )
        momentum = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.momentum, gradients)
        second_moment = jax.tree.map(
            lambda v, g: b2 * v + (1 - b2) * g * g, state.second_moment, gradients
        )

        def fast_step(m, v):
            return -step_size * m / jnp.where(rectified, jnp.sqrt(v) + eps, 1.0)

        steps = jax.tree.map(fast_step, momentum, second_moment)
        slow_weights = jax.tree.map(
            lambda slow, p, step: jnp.where(
                synchronise, slow + lookahead_alpha * (p + step - slow), slow
            ),
            state.slow_weights,
            params,
            steps,
        )
        updates = jax.tree.map(
            lambda slow, p, step: jnp.where(synchronise, slow - p, step).astype(p.dtype),
            slow_weights,
            params,
            steps,
        )
        return updates, RangerState(count, momentum, second_moment, slow_weights)

    return optax.GradientTransformation(init, update)


def _centralise(gradient, path, stacked_axes):
    """Subtracts the mean over all axes but the last (the output channels) and the stacked ones."""
    name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
    stacked = stacked_axes(name) if stacked_axes else 0
    if gradient.ndim - stacked < 2:
        return gradient
    axes = tuple(range(stacked, gradient.ndim - 1))
    return gradient - jnp.mean(gradient, axis=axes, keepdims=True)


def _rectification(b1, b2, threshold):
    """Step sizes of RAdam at steps 1, 2, ... [T] float32, and the first rectified step.

    A table made in float64: in float32, 1 − b2^t has lost four digits at the first steps.
    Where it ends, b2^t has fallen to e^-20 and the step size no longer changes.
    """
    steps = np.arange(1, math.ceil(20 / (1 - b2)) + 1, dtype=np.float64)
    decay = b2**steps
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * steps * decay / (1 - decay)
    rectified = length > threshold
    numerator = (1 - decay) * (length - 4) * (length - 2) * longest
    denominator = (longest - 4) * (longest - 2) * length
    ratio = np.where(rectified, numerator / denominator, 1.0)
    step_sizes = np.sqrt(ratio) / (1 - b1**steps)
    first = int(np.argmax(rectified)) + 1 if rectified.any() else len(steps) + 1
    return step_sizes.astype(np.float32), first
