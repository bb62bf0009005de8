"""What a config of training names by name or import path: tasks, losses, optimisers, schedules."""

from collections.abc import Callable
from typing import Any, Protocol

from e4e_jax.runtime.registry import Registry


class Task(Protocol):
    """Builds the run that a config describes, on the devices of a mesh.

    Called once everything that can be told without JAX has been looked at; mistakes of the config
    are ValueErrors of one sentence.
    """

    def __call__(self, config: Any, mesh: Any) -> Any:
        """config, mesh -> `e4e_jax.training.run.Run`."""


TASKS = Registry("task", {
    "encoder": "e4e_jax.training.encoder_run:build_encoder_run",
    "generator": "e4e_jax.training.generator_run:build_generator_run",
    "features": "e4e_jax.training.features_run:build_features_run",
})  # fmt: skip


class BundleOfTask(Protocol):
    """Rebuilds the networks that a bundle of a task's runs holds, from a checkpoint."""

    def __call__(self, config: Any, about: Any, read: Callable[[Any], Any]) -> Any:
        """config, `Run.about`, read -> `e4e_jax.bundle.Bundle`, its metadata left to others.

        The first two lie in a work directory, and no import path in them may be followed. `read`
        takes a tree of arrays or shapes whose names are those of the state, and gives their arrays.
        """


# By the names of `TASKS`; runs of others' tasks are not looked into.
BUNDLES = Registry("task whose networks can be read from a checkpoint", {
    "encoder": "e4e_jax.training.encoder_run:encoder_bundle",
    "generator": "e4e_jax.training.generator_run:generator_bundle",
    "features": "e4e_jax.training.features_run:features_bundle",
})  # fmt: skip


_LOSSES = "e4e_jax.training.encoder_losses"

# Terms of the encoder's objective, in the order in which they are added up. Their contract is
# `encoder_losses.Loss`; `objective.read_objective` says how a config gives weights and options.
LOSSES = Registry("loss", {
    "l2": f"{_LOSSES}:l2",
    "perceptual": f"{_LOSSES}:perceptual",
    "identity": f"{_LOSSES}:identity",
    "adversarial": f"{_LOSSES}:adversarial",
    "delta_norm": f"{_LOSSES}:delta_norm",
    "w_norm": f"{_LOSSES}:w_norm",
})  # fmt: skip


class Optimizer(Protocol):
    """Makes an `optax.GradientTransformation`, as the optimisers of optax do.

    One that has the argument `stacked_axes` is told which axes of the parameters only stack
    others, see `ranger`.
    """

    def __call__(self, learning_rate: Any, **options: Any) -> Any:
        """learning_rate (step -> float), options of its own -> `optax.GradientTransformation`."""


_OPTAX = (
    "adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan",
    "amsgrad", "fromage", "lamb", "lars", "lion", "novograd", "optimistic_adam_v2",
    "optimistic_gradient_descent", "radam", "rmsprop", "sgd", "sign_sgd", "signum", "yogi",
)  # fmt: skip

# Of optax's those that take a schedule (not rprop and sm3) and need no more than gradients and
# parameters (as lbfgs does); newer ones are optax:NAME, and others optax.contrib:NAME.
OPTIMIZERS = Registry("optimiser", {
    "ranger": "e4e_jax.training.ranger:ranger",
} | {name: f"optax:{name}" for name in _OPTAX})  # fmt: skip


class Schedule(Protocol):
    """Makes a learning-rate schedule: step (from 0) -> learning rate.

    (Those of optax take their own arguments, see `schedules.make_schedule`.)
    """

    def __call__(self, learning_rate: float, total_steps: int, **options: Any) -> Any:
        """The highest rate, the length of the training, options of its own -> `optax.Schedule`."""


SCHEDULES_OF_OPTAX = (
    "constant_schedule", "cosine_decay_schedule", "cosine_onecycle_schedule", "exponential_decay",
    "linear_onecycle_schedule", "linear_schedule", "piecewise_constant_schedule",
    "piecewise_interpolate_schedule", "polynomial_schedule", "sgdr_schedule",
    "warmup_constant_schedule", "warmup_cosine_decay_schedule", "warmup_exponential_decay_schedule",
)  # fmt: skip

SCHEDULES = Registry("learning-rate schedule", {
    name: f"e4e_jax.training.schedules:{name}"
    for name in (
        "constant", "linear", "cosine", "warmup_constant", "warmup_cosine", "step", "exponential",
    )
} | {name: f"optax:{name}" for name in SCHEDULES_OF_OPTAX})  # fmt: skip
