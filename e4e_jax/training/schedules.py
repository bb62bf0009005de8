"""Learning-rate schedules by name, from optax."""

import inspect

import optax


def _constant(learning_rate, total_steps):
    return optax.constant_schedule(learning_rate)


def _linear(learning_rate, total_steps, *, final_fraction=0.0, begin=0):
    if begin >= total_steps:  # a trial of a few steps
        return optax.constant_schedule(learning_rate)
    return optax.linear_schedule(
        learning_rate, learning_rate * final_fraction, total_steps - begin, begin
    )


def _cosine(learning_rate, total_steps, *, final_fraction=0.0):
    return optax.cosine_decay_schedule(learning_rate, total_steps, alpha=final_fraction)


def _warmup_constant(learning_rate, total_steps, *, warmup_steps):
    if warmup_steps == 0:  # optax would stay at the schedule's first value, 0
        return optax.constant_schedule(learning_rate)
    return optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)


def _warmup_cosine(learning_rate, total_steps, *, warmup_steps, final_fraction=0.0):
    if warmup_steps >= total_steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps} of {total_steps} steps in all; expected fewer."
        )
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, total_steps, learning_rate * final_fraction
    )


def _step(learning_rate, total_steps, *, boundaries, factor=0.1):
    return optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, factor))


def _exponential(learning_rate, total_steps, *, decay_rate, decay_steps):
    return optax.exponential_decay(learning_rate, decay_steps, decay_rate)


_SCHEDULES = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "warmup_constant": _warmup_constant,
    "warmup_cosine": _warmup_cosine,
    "step": _step,
    "exponential": _exponential,
}


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
        "exponential": multiplied by `decay_rate` over every `decay_steps`, smoothly.
      learning_rate: the highest value.
      total_steps: length of the training, where "linear" and the cosines end.
      **options: the named schedule's own options, as above.

    Raises:
      ValueError: an unknown name, an unknown option, or a missing one.
    """
    if name not in _SCHEDULES:
        known = ", ".join(_SCHEDULES)
        raise ValueError(f"Unknown learning-rate schedule {name!r}; known are {known}.")
    build = _SCHEDULES[name]
    known = {
        key: p.default is p.empty
        for key, p in inspect.signature(build).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    for key in options.keys() - known.keys():
        takes = ", ".join(known) or "no options"
        raise ValueError(
            f"Learning-rate schedule {name!r} has no option {key!r}; it takes {takes}."
        )
    for key, required in known.items():
        if required and key not in options:
            raise ValueError(f"Learning-rate schedule {name!r} needs the option {key!r}.")
    return build(learning_rate, total_steps, **options)
