import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import relative_error

from e4e_jax.training.ranger import ranger

SHAPES = {
    "scalar": (),
    "bias": (7,),
    "linear": (5, 4),
    "conv": (3, 3, 2, 6),
    "head_kernel": (3, 3, 3, 2, 4),  # three heads, stacked
    "head_bias": (3, 4),
}
STACKED = {"head_kernel": 1, "head_bias": 1}
STEPS = 40


def numpy_ranger(params, gradients, learning_rates, stacked):
    """Ranger on one tensor in float64, step by step; returns the parameters after each."""
    b1, b2, eps = 0.95, 0.999, 1e-5
    p = slow = params.astype(np.float64)
    m = v = np.zeros_like(p)
    history = []
    for t, (g, lr) in enumerate(zip(gradients, learning_rates, strict=True), start=1):
        g = g.astype(np.float64)
        if g.ndim - stacked >= 2:
            g = g - g.mean(axis=tuple(range(stacked, g.ndim - 1)), keepdims=True)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        m_hat = m / (1 - b1**t)
        if rho > 5:
            r = ((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)
            p = p - lr * m_hat * math.sqrt(r * (1 - b2**t)) / (np.sqrt(v) + eps)
        else:
            p = p - lr * m_hat
        if t % 6 == 0:
            p = slow = slow + 0.5 * (p - slow)
        history.append(p)
    return history


def random_problem(seed):
    rng = np.random.default_rng(seed)
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    gradients = {k: rng.normal(size=(STEPS, *s)).astype(np.float32) for k, s in SHAPES.items()}
    return params, gradients


def run(optimizer, params, gradients):
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    history = []
    for i in range(STEPS):
        params, state = step(params, state, {k: g[i] for k, g in gradients.items()})
        history.append(params)
    return history, state


@pytest.mark.parametrize("scheduled", [False, True])
def test_forty_steps_match_the_numpy_form(scheduled):
    params, gradients = random_problem(0)
    rate = (lambda step: 0.05 / (1 + step)) if scheduled else 0.05
    rates = [rate(t) if scheduled else rate for t in range(STEPS)]
    optimizer = ranger(rate, stacked_axes=lambda path: STACKED.get(path, 0))
    history, _ = run(optimizer, params, gradients)
    for name in SHAPES:
        expected = numpy_ranger(params[name], gradients[name], rates, STACKED.get(name, 0))
        for step in range(STEPS):
            actual = np.asarray(history[step][name])
            assert relative_error(actual, expected[step]) < 1e-5, (name, step)
        # How far the parameters moved is the sharper measure: it leaves their start out. Each step
        # stores them with a rounding of up to 2⁻²⁴ of the largest, whatever it moves them by.
        way = expected[-1] - params[name]
        stored = STEPS * 2**-24 * np.abs(expected).max() / np.abs(way).max()
        assert relative_error(actual - params[name], way) < 1e-5 + stored, name


def test_rectification_holds_after_many_steps():
    # A constant gradient of rank 1: its moments are known in closed form at any step.
    optimizer = ranger(1.0, lookahead_steps=10**9)
    params = jnp.array([0.3])
    gradient = jnp.array([2.0])
    state = optimizer.init(params)
    for t in [7, 100, 1000, 19999, 30000, 300000]:
        second = 4.0 * (1 - 0.999**t)
        at_t = state._replace(
            count=jnp.int32(t - 1),
            momentum=jnp.array([2.0 * (1 - 0.95 ** (t - 1))]),
            second_moment=jnp.array([4.0 * (1 - 0.999 ** (t - 1))]),
        )
        update, _ = optimizer.update(gradient, at_t, params)
        rho_inf = 1999.0
        rho = rho_inf - 2 * t * 0.999**t / (1 - 0.999**t)
        r = ((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)
        expected = -2.0 * math.sqrt(r * (1 - 0.999**t)) / (math.sqrt(second) + 1e-5)
        assert relative_error(update, [expected]) < 1e-5, t


def test_state_is_a_pytree_without_shared_buffers():
    params = {"w": jnp.full((3, 2), 0.5)}
    optimizer = ranger(0.1)
    state = optimizer.init(params)
    assert len(jax.tree.leaves(state)) == 4

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    expected = step(params, state)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, donating(params, state), expected))


def test_paths_are_attribute_names():
    class Heads(nnx.Module):
        def __init__(self):
            self.styles = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0))])

    seen = []
    optimizer = ranger(0.1, stacked_axes=lambda path: seen.append(path) or 0)
    params = nnx.state(Heads(), nnx.Param)
    optimizer.update(params, optimizer.init(params), params)
    assert sorted(seen) == ["styles/0/bias", "styles/0/kernel"]


def test_update_without_params_is_an_error():
    optimizer = ranger(0.1)
    params = jnp.ones((2,))
    with pytest.raises(ValueError, match="params"):
        optimizer.update(params, optimizer.init(params))
