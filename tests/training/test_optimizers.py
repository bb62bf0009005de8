"""Optimisers and schedules by name: ours, all of optax that the registry has, and others'."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import common
from e4e_jax.training.registry import OPTIMIZERS, SCHEDULES
from e4e_jax.training.run import build_optimizer
from e4e_jax.training.schedules import make_schedule

NEEDED = {
    "step": {"boundaries": (3,)},
    "exponential": {"decay_rate": 0.5, "decay_steps": 2},
    "warmup_constant": {"warmup_steps": 2},
    "warmup_cosine": {"warmup_steps": 2},
    "cosine_decay_schedule": {"decay_steps": 10},
    "cosine_onecycle_schedule": {"transition_steps": 10},
    "exponential_decay": {"transition_steps": 2, "decay_rate": 0.5},
    "linear_onecycle_schedule": {"transition_steps": 10},
    "linear_schedule": {"end_value": 0.0, "transition_steps": 10},
    "piecewise_interpolate_schedule": {
        "interpolate_type": "linear", "boundaries_and_scales": {4: 0.5}
    },
    "polynomial_schedule": {"end_value": 0.0, "power": 2, "transition_steps": 10},
    "sgdr_schedule": {
        "cosine_kwargs": [
            {"init_value": 0.0, "peak_value": 1.0, "decay_steps": 10, "warmup_steps": 2}
        ]
    },
    "warmup_constant_schedule": {"init_value": 0.0, "warmup_steps": 2},
    "warmup_cosine_decay_schedule": {"init_value": 0.0, "warmup_steps": 2, "decay_steps": 9},
    "warmup_exponential_decay_schedule": {
        "init_value": 0.0, "warmup_steps": 2, "transition_steps": 3, "decay_rate": 0.5
    },
}  # fmt: skip


def section(name, options=(), schedule="constant"):
    return common.optimizer(
        name, 0.5, options=dict(options), schedule=schedule,
        schedule_options=NEEDED.get(schedule, {}),
    )  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_name_makes_an_optimiser_whose_state_keeps_its_shape(name):
    """It needs gradients and parameters alone, and a compiled step takes its state again."""
    optimizer = build_optimizer(section(name), 10)
    linear = nnx.eval_shape(lambda: nnx.Linear(130, 129, rngs=nnx.Rngs(0)))  # adafactor's size
    params = nnx.state(linear)

    def step(params):
        state = optimizer.init(params)
        updates, after = optimizer.update(params, state, params)
        return state, after, optax.apply_updates(params, updates)

    before, after, updated = jax.eval_shape(step, params)
    for a, b in ((before, after), (params, updated)):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        shapes = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (a, b)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_name_makes_a_schedule_up_to_the_learning_rate(name):
    schedule = make_schedule(name, 0.5, 10, **NEEDED.get(name, {}))
    values = [float(schedule(step)) for step in range(10)]
    assert all(map(math.isfinite, values)) and max(values) == pytest.approx(0.5, rel=1e-6)


def test_options_of_optax_reach_it():
    params, gradient = jnp.float32(2.0), jnp.float32(1.0)
    built = build_optimizer(section("sgd", {"momentum": 0.5, "nesterov": True}), 10)
    expected = optax.sgd(0.5, momentum=0.5, nesterov=True)
    updates = []
    for optimizer in (built, expected):
        state = optimizer.init(params)
        _, state = optimizer.update(gradient, state, params)
        updates.append(float(optimizer.update(gradient, state, params)[0]))
    assert updates[0] == updates[1] == -0.5 * (1 + 0.5 * (1 + 0.5))
    newer = build_optimizer(section("optax:lion", {"b1": 0.8}), 10)
    assert float(newer.update(gradient, newer.init(params), params)[0]) == pytest.approx(-0.501)
    muon = build_optimizer(section("optax.contrib:muon"), 10)
    assert hasattr(muon, "update")


@pytest.mark.parametrize(
    "name, options, schedule, words",
    [
        (
            "adan",
            {"wight_decay": 1},
            "constant",
            "adan takes no 'wight_decay' (is it weight_decay?)",
        ),
        ("sgd", {"learning_rate": 1.0}, "constant", "sgd takes no 'learning_rate'"),
        ("adamw", {"weight_decay": "much"}, "constant", "adamw does not take {'weight_decay': 'm"),
        ("math:sqrt", {}, "constant", "the optimiser math:sqrt does not take {}"),
        ("builtins:list", {}, "constant", "the optimiser builtins:list "),
        ("builtins:id", {}, "constant", "id gives int; expected an optax.GradientTransformation"),
        ("no_module:x", {}, "constant", "the optimiser no_module:x cannot be imported: ModuleNot"),
        ("optax:adammm", {}, "constant", "optax:adammm cannot be imported: AttributeError"),
        ("adam", {}, "math:hypot", "math:hypot gives float; expected a function of the step"),
    ],
)
def test_what_makes_no_optimiser_is_one_sentence(name, options, schedule, words):
    with pytest.raises(ValueError) as caught:
        build_optimizer(section(name, options, schedule), 10)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_learning_rate_of_optax_schedules_stands_in_one_place():
    with pytest.raises(ValueError, match="is given peak_value, which is the learning rate"):
        make_schedule("cosine_onecycle_schedule", 0.5, 10, transition_steps=9, peak_value=1.0)
    with pytest.raises(ValueError, match="takes no 'decay_step' .is it decay_steps"):
        make_schedule("cosine_decay_schedule", 0.5, 10, decay_step=9)
    ours = make_schedule("warmup_cosine", 0.5, 9, warmup_steps=2)
    its = make_schedule(
        "warmup_cosine_decay_schedule", 0.5, 9, **NEEDED["warmup_cosine_decay_schedule"]
    )
    np.testing.assert_array_equal([ours(i) for i in range(9)], [its(i) for i in range(9)])
