"""Inversion methods: an encoder alone, or optimisation of one kind or another behind it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from e4e_jax import bundle
from e4e_jax.inversion.contract import Inverted, Inverter, Method
from e4e_jax.inversion.domain import comparison
from e4e_jax.inversion.refine import optimize_w, optimize_w_plus, tune_generator
from e4e_jax.inversion.registry import METHODS
from e4e_jax.runtime.options import failures_of, part_name
from e4e_jax.runtime.registry import check_call, takes

STEPS = 100  # of optimisation, where a caller names no number


def invert(
    model: Inverter, images: jax.Array, method: str | Method = "encoder", **options: Any
) -> Inverted:
    """Inverts a batch by a method of `METHODS`, by one of others' by import path, or by a function.

    Returns:
      What the method gives, with its `images`.

    Raises:
      ValueError: there is no such method or option, or the method fails; in one sentence.
    """
    what = f"the inversion method {part_name(method)}"
    function = METHODS.find(method) if isinstance(method, str) else method
    check_call(what, function, model, images, **options)
    with failures_of(what):
        found = function(model, images, **options)
    if not isinstance(found, Inverted):
        raise ValueError(f"{what} gives {type(found).__name__}; expected Inverted.")
    if found.images is not None:
        return found
    drawn = model.drawn(model.synthesize(found.codes, noises=found.noises))
    return dataclasses.replace(found, images=drawn)


def inversion(
    model: Inverter, method: str | Method = "encoder", **options: Any
) -> Callable[[jax.Array], Inverted]:
    """The inversion of RGB images of a folder, [B, H, W, 3] in [-1, 1], see `folder`.

    Beside what the method gives stand the errors of the encoder's inversion, where the model notes
    what it was trained on: optimised, any image comes nearer.

    Raises:
      ValueError: there is no such method or option; in one sentence.
    """
    function = METHODS.find(method) if isinstance(method, str) else method
    check_call(f"the inversion method {part_name(method)}", function, model, None, **options)
    compare = comparison(model)
    passed_on = {k: v for k, v in options.items() if k == "iterations"}

    def inverted(images):
        inputs = model.to_input(images)
        if compare is None:
            return invert(model, inputs, method, **options)
        found = first = invert(model, inputs, "encoder", **passed_on)
        if function is not encoder:
            given = {"codes": first.codes} if takes(function, "codes") else {}
            found = invert(model, inputs, method, **given | options)
        return dataclasses.replace(found, errors=compare(images, first.images))

    return inverted


def encoder(model: Inverter, images: jax.Array, *, iterations: int | None = None) -> Inverted:
    """The codes of the encoder alone.

    Args:
      iterations: of an iterative encoder; None for its usual number.
    """
    return Inverted(model.encode(images, iterations))


def w_plus(
    model: Inverter,
    images: jax.Array,
    *,
    steps: int = STEPS,
    perceptual: str | nnx.Module | None = None,
    learning_rate: float = 0.01,
    iterations: int | None = None,
    codes: jax.Array | None = None,
) -> Inverted:
    """Optimises every style behind the encoder; see `refine.optimize_w_plus`.

    Args:
      steps: of Adam.
      perceptual: a bundle, or a network, with `features` and `distance`; None for L2 alone.
      learning_rate: of Adam.
      iterations: of an iterative encoder.
      codes: where to start, [B, L, D]; None for the encoder's.
    """
    images, codes = _start(model, images, codes, steps, iterations)
    codes, _ = optimize_w_plus(
        model.generator, _network(perceptual), images, codes,
        steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
    return Inverted(codes)


def w(
    model: Inverter,
    images: jax.Array,
    *,
    steps: int = STEPS,
    perceptual: str | nnx.Module | None = None,
    learning_rate: float = 0.1,
    iterations: int | None = None,
    codes: jax.Array | None = None,
    seed: int = 0,
) -> Inverted:
    """Optimises one w for each image and its noise images; see `refine.optimize_w`.

    Args:
      steps, perceptual, learning_rate, iterations, codes: as of `w_plus`.
      seed: of the noise.
    """
    images, codes = _start(model, images, codes, steps, iterations)
    codes, noises, _ = optimize_w(
        model.generator, _network(perceptual), images, codes, jax.random.key(seed),
        steps=steps, learning_rate=learning_rate,
    )  # fmt: skip
    return Inverted(codes, noises=noises)


def pti(
    model: Inverter,
    images: jax.Array,
    *,
    steps: int = STEPS,
    perceptual: str | nnx.Module | None = None,
    learning_rate: float = 3e-4,
    iterations: int | None = None,
    codes: jax.Array | None = None,
) -> Inverted:
    """Tunes a generator for each image at the encoder's codes; see `refine.tune_generator`.

    Args:
      steps, perceptual, learning_rate, iterations, codes: as of `w_plus`.
    """
    images, codes = _start(model, images, codes, steps, iterations)
    perceptual = _network(perceptual)
    drawn, generators = [], []
    for i in range(len(images)):
        one = slice(i, i + 1)
        tuned, _ = tune_generator(
            model.generator, perceptual, images[one], codes[one],
            steps=steps, learning_rate=learning_rate,
        )  # fmt: skip
        drawn.append(model.drawn(_synthesis(tuned, codes[one])))
        generators.append(tuned)
    return Inverted(codes, jnp.concatenate(drawn), generators=generators)


def _start(model, images, codes, steps, iterations):
    """Images and codes to start from, or a ValueError."""
    if model.reads != "rgb":
        raise ValueError(f"optimisation works on photographs, and the encoder reads {model.reads}.")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r:.40}; expected a whole number, at least 1.")
    return jnp.asarray(images), model.encode(images, iterations) if codes is None else codes


def _network(perceptual):
    return bundle.load_network(perceptual) if isinstance(perceptual, str) else perceptual


@nnx.jit
def _synthesis(generator, codes):
    """Compiled once for all tuned generators."""
    return generator.synthesis(codes)
