"""Finders of directions: from scored codes, the spread of w, or the generator's own weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from e4e_jax.editing.ganspace import ganspace_directions
from e4e_jax.editing.interfacegan import boundary
from e4e_jax.editing.interfacegan import condition as without
from e4e_jax.editing.registry import FINDERS
from e4e_jax.editing.sefa import sefa_directions
from e4e_jax.editing.stylespace import attribute_channels
from e4e_jax.models.stylegan2 import Generator
from e4e_jax.runtime.options import failures_of, part_name
from e4e_jax.runtime.registry import check_call

_BATCH = 100
_OF_CODES = "a standard deviation of the codes along it"


@dataclasses.dataclass(frozen=True)
class Scored:
    """Codes and what is known of their images.

    Attributes:
      codes: w [N, D].
      scores: attribute -> numbers [N], NaN where nothing is known; any scale.
    """

    codes: np.ndarray
    scores: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Direction:
    """A direction of codes.

    Attributes:
      step: what an edit of strength 1 adds to codes, [D] or [L, D].
      unit: what that is, such as "a standard deviation of w".
      how: how it was found and how well, for people; "" if there is nothing to say.
    """

    step: np.ndarray
    unit: str
    how: str = ""


@dataclasses.dataclass(frozen=True)
class Channels:
    """The channels of StyleSpace that an attribute shows in, which are no direction of codes.

    Attributes:
      channels: (layer, channel, mean of those that have the attribute, in standard deviations),
        the clearest first.
    """

    channels: tuple[tuple[int, int, float], ...]
    unit: str = "a standard deviation of the channel"

    @property
    def how(self) -> str:
        """The channels as edits that move them by their means."""
        edits = (f"style:{layer}:{channel}={mean:.2g}" for layer, channel, mean in self.channels)
        return " ".join(edits)


Found = dict[str, Direction | Channels]


class Model(Protocol):
    """What a finder is given: a generator, as `e4e_jax.load` gives it; see `api.GeneratorModel`."""

    generator: Generator


class Finder(Protocol):
    """A way to directions."""

    def __call__(self, model: Model, scored: Scored | None, **options: Any) -> Found:
        """Directions by name.

        Args:
          model: whose directions.
          scored: codes with scores of attributes; None where there are none.
          **options: parameters by name, each with a default; `count` is how many directions.
        """


def find_directions(
    model: Model, method: str | Finder, scored: Scored | None = None, **options: Any
) -> Found:
    """Finds directions by a finder of `FINDERS`, by one of others' by import path, or a function.

    Raises:
      ValueError: there is no such finder or option, it needs scores, or fails; in one sentence.
    """
    what = f"the finder {part_name(method)}"
    function = FINDERS.find(method) if isinstance(method, str) else method
    check_call(what, function, model, scored, **options)
    with failures_of(what):
        found = function(model, scored, **options)
    if not (isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, Direction | Channels)
        for name, value in found.items()
    )):  # fmt: skip
        raise ValueError(f"{what} gives no directions by name; expected a dict of Direction.")
    return found


def score_samples(
    generator: Generator, network: nnx.Module, samples: int = 20_000, seed: int = 0
) -> Scored:
    """Random codes, scored by a network that reads attributes of images.

    Args:
      generator: whose codes.
      network: images [B, H, W, 3] in [-1, 1] -> [B, K], with `factor_names`, K names.
      samples: how many, rounded up to whole batches of 100.
      seed: of the draws.

    Raises:
      ValueError: the network names no attributes.
    """
    names = getattr(network, "factor_names", None)
    if not names:
        raise ValueError(
            f"{type(network).__name__} gives no scores of attributes; expected a network that "
            "reads some and names them (factor_names)."
        )

    @nnx.jit
    def draw(generator, network, key):
        w = generator.mapping(jax.random.normal(key, (_BATCH, generator.config.z_dim)))
        return w, network(generator.synthesis(generator.broadcast(w)))

    drawn = [
        jax.device_get(draw(generator, network, jax.random.fold_in(jax.random.key(seed), i)))
        for i in range(-(-samples // _BATCH))
    ]
    codes, factors = (np.concatenate(part) for part in zip(*drawn, strict=True))
    return Scored(codes, dict(zip(names, factors.T, strict=True)))


def interfacegan(
    model: Model,
    scored: Scored | None,
    *,
    condition: bool = False,
    share: float = 0.02,
    held_out: float = 0.3,
    seed: int = 0,
) -> Found:
    """Normals of the boundaries between codes with and without an attribute; see `interfacegan`.

    Args:
      condition: whether every direction keeps the other attributes.
      share, held_out, seed: as of `interfacegan.boundary`.
    """
    scored = _scored("interfacegan", scored)
    found, how = {}, {}
    for name, values in scored.scores.items():
        known = np.isfinite(values)
        try:
            found[name], accuracy = boundary(
                scored.codes[known], values[known], share=share, held_out=held_out, seed=seed
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        how[name] = f"{accuracy:.1%} of held-out codes on their side of the boundary"
    if condition and len(found) > 1:
        found = {
            name: without(direction, [other for key, other in found.items() if key != name])
            for name, direction in found.items()
        }
    # A unit is one standard deviation of the codes along the direction, as GANSpace counts.
    return {
        name: Direction(d * np.std(scored.codes @ d).astype(np.float32), _OF_CODES, how[name])
        for name, d in found.items()
    }


def ganspace(
    model: Model,
    scored: Scored | None = None,
    *,
    count: int = 10,
    samples: int = 1_000_000,
    seed: int = 0,
) -> Found:
    """Principal components of w, and its mean as "ganspace_mean"; see `ganspace_directions`.

    Args:
      count: how many components.
      samples: draws of w.
      seed: of the draws.
    """
    size = _check_count(model, count)
    # All of them, for their shares of the whole variance.
    mean, components, deviations = ganspace_directions(
        model.generator, size, samples=samples, seed=seed
    )
    share = deviations**2 / np.sum(deviations**2)
    found: Found = {"ganspace_mean": Direction(mean, "the mean of w")}
    for i, deviation in enumerate(deviations[:count]):
        how = f"standard deviation {deviation:.3g}, {share[i]:.1%} of the variance"
        unit = "a standard deviation of w along it"
        found[f"ganspace_{i}"] = Direction(components[i] * deviation, unit, how)
    return found


def sefa(model: Model, scored: Scored | None = None, *, count: int = 10) -> Found:
    """Directions that move the modulation the most; see `sefa_directions`.

    Args:
      count: how many, the strongest first.
    """
    _check_count(model, count)
    found = sefa_directions(model.generator, count)
    return {f"sefa_{i}": Direction(step, "a unit vector") for i, step in enumerate(found)}


def stylespace(
    model: Model, scored: Scored | None, *, count: int = 10, share: float = 0.02
) -> Found:
    """The channels of StyleSpace that single out an attribute; see `attribute_channels`.

    Args:
      count: how many channels for each attribute.
      share: of all images that count as having it.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1.")
    scored = _scored("stylespace", scored)
    found: Found = {}
    for name, values in scored.scores.items():
        known = np.isfinite(values)
        channels = attribute_channels(
            model.generator, scored.codes[known], values[known], count, share=share
        )
        found[name] = Channels(tuple(channels))
    return found


def _scored(name, scored) -> Scored:
    if scored is None:
        raise ValueError(f"{name} needs scores of attributes, and there are none.")
    return scored


def _check_count(model, count) -> int:
    size = model.generator.config.w_dim
    if not 0 < count <= size:
        raise ValueError(f"count is {count}; expected 1 to {size}.")
    return size
