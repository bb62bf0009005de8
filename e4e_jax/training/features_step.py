"""One training step of a feature network that reads known factors, as one device sees it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct

from e4e_jax.runtime.parallel import mean_over_devices


@struct.dataclass
class FeaturesState:
    """Everything that a run of the feature network has to save."""

    step: jax.Array
    params: nnx.State
    batch_stats: nnx.State
    optimizer: optax.OptState


def make_features_step(
    network: nnx.Module,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str = "data",
) -> tuple[Callable, Callable]:
    """Returns `init(key) -> state` and `step(state, batch, frozen) -> (state, metrics)`.

    Nothing in it is random or frozen: the key is not used, and `frozen` is `()`.

    The loss is the mean squared error of `network(images)` [b, K] against the factors. The batch
    holds "image" [b, H, W, 3] in [-1, 1] and "factors" [b, K].
    """
    graph, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)

    def init(key):
        del key
        return FeaturesState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            optimizer=optimizer.init(params),
        )

    def step(state: FeaturesState, batch, frozen):
        del frozen

        def loss(params):
            # A copy, because the network writes its batch statistics inside this trace.
            network = nnx.merge(graph, params, state.batch_stats, copy=True)
            predicted = network(batch["image"])
            return optax.losses.squared_error(predicted, batch["factors"]).mean(), nnx.state(
                network, nnx.BatchStat
            )

        (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        gradients, value = mean_over_devices((gradients, value), axis_name)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            optimizer=optimizer_state,
        )
        return state, {"factor_error": value}

    return init, step
