"""Learning-rate schedules."""

import inspect
from collections.abc import Sequence

import optax

from e4e_jax.runtime.registry import call
from e4e_jax.training.registry import SCHEDULES, SCHEDULES_OF_OPTAX

_HIGHEST = ("peak_value", "init_value", "value")  # what optax calls the learning rate


def constant(learning_rate: float, total_steps: int) -> optax.Schedule:
    return optax.constant_schedule(learning_rate)


def linear(
    learning_rate: float, total_steps: int, *, final_fraction: float = 0.0, begin: int = 0
) -> optax.Schedule:
    if begin >= total_steps:  # a trial of a few steps
        return optax.constant_schedule(learning_rate)
    return optax.linear_schedule(
        learning_rate, learning_rate * final_fraction, total_steps - begin, begin
    )


def cosine(
    learning_rate: float, total_steps: int, *, final_fraction: float = 0.0
) -> optax.Schedule:
    return optax.cosine_decay_schedule(learning_rate, total_steps, alpha=final_fraction)


def warmup_constant(learning_rate: float, total_steps: int, *, warmup_steps: int) -> optax.Schedule:
    if warmup_steps == 0:  # optax would stay at the schedule's first value, 0
        return optax.constant_schedule(learning_rate)
    return optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)


def warmup_cosine(
    learning_rate: float, total_steps: int, *, warmup_steps: int, final_fraction: float = 0.0
) -> optax.Schedule:
    if warmup_steps >= total_steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps} of {total_steps} steps in all; expected fewer."
        )
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, total_steps, learning_rate * final_fraction
    )


def step(
    learning_rate: float, total_steps: int, *, boundaries: Sequence[int], factor: float = 0.1
) -> optax.Schedule:
    return optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, factor))


def exponential(
    learning_rate: float, total_steps: int, *, decay_rate: float, decay_steps: int
) -> optax.Schedule:
    return optax.exponential_decay(learning_rate, decay_steps, decay_rate)


def make_schedule(name: str, learning_rate: float, total_steps: int, **options) -> optax.Schedule:
    """Builds a learning-rate schedule: step (from 0) -> learning rate.

    Args:
      name: one of
        "constant": as published for e4e;
        "linear": constant up to step `begin` (0), then straight to `final_fraction` (0) of it;
        "cosine": half a cosine down to `final_fraction` (0) of it;
        "warmup_constant": straight up from 0 over `warmup_steps`, then constant;
        "warmup_cosine": the same rise, then the cosine to `final_fraction` (0);
        "step": multiplied by `factor` (0.1) at every step in `boundaries`;
        "exponential": multiplied by `decay_rate` over every `decay_steps`, smoothly;
        or optax's own name, such as "cosine_decay_schedule", with optax's arguments, among which
        the learning rate is `peak_value`, or else `init_value` or `value` (what
        "sgdr_schedule" gives, which has none of them, is multiplied by it);
        or an import path of (learning_rate, total_steps, **options) -> schedule.
      learning_rate: the highest value.
      total_steps: length of the training, where "linear" and the cosines end.
      **options: the named schedule's own options, as above.

    Raises:
      ValueError: an unknown name, an unknown option, or a missing one.
    """
    build = SCHEDULES.find(name)
    what = f"the learning-rate schedule {name}"
    try:
        if name in SCHEDULES_OF_OPTAX:
            schedule = _of_optax(what, build, learning_rate, options)
        else:
            schedule = call(what, build, learning_rate, total_steps, **options)
    except TypeError as error:  # optax's, of an option of another type
        raise ValueError(f"{what} does not take {options}: {error}") from error
    if not callable(schedule):
        raise ValueError(
            f"{what} gives {type(schedule).__name__}; expected a function of the step."
        )
    return schedule


def _of_optax(what, build, learning_rate, options):
    parameters = inspect.signature(build).parameters
    highest = next((name for name in _HIGHEST if name in parameters), None)
    if highest is None:
        relative = call(what, build, **options)
        return lambda step: learning_rate * relative(step)
    if highest in options:
        raise ValueError(
            f"{what} is given {highest}, which is the learning rate; expected it there alone."
        )
    return call(what, build, **{highest: learning_rate}, **options)
