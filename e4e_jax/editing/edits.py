"""Kinds of edits: what moves the latents of images, each with one `apply`."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from e4e_jax.models.stylegan2 import Generator, StyleCodes

# What a synthesis network draws images of: codes w_plus [B, L, D], or those of StyleSpace.
Latents = jax.Array | np.ndarray | StyleCodes


class Edit(Protocol):
    """An edit; one of others' is named by its import path, `package.module:object`."""

    def apply(
        self, generator: Generator, latents: Latents, strength: jax.typing.ArrayLike
    ) -> Latents:
        """The latents after the edit, as `Latents`.

        Args:
          generator: whose latents.
          latents: w_plus [B, L, D], or of StyleSpace what an edit before has given.
          strength: a number in units of the edit; in which direction 0 does nothing, if any.
        """


@dataclasses.dataclass(frozen=True)
class DirectionEdit:
    """Codes move by strength · direction.

    Attributes:
      direction: [D], the same in all layers, or [L, D].
    """

    direction: np.ndarray

    def apply(self, generator: Generator, latents: Latents, strength: ArrayLike) -> Latents:
        codes = apply_direction(_codes(latents), self.direction, strength)
        return _with_codes(generator, latents, codes)


@dataclasses.dataclass(frozen=True)
class ComponentEdit:
    """Codes move to a coordinate along a component of GANSpace; see `set_component`.

    Attributes:
      step, mean: [D], the component times its standard deviation, and the mean of w.
      first, last: the layers that move, both included.
    """

    step: np.ndarray
    mean: np.ndarray
    first: int
    last: int

    def apply(self, generator: Generator, latents: Latents, strength: ArrayLike) -> Latents:
        codes = set_component(
            _codes(latents), self.step, self.mean, strength, self.first, self.last
        )
        return _with_codes(generator, latents, codes)


@dataclasses.dataclass(frozen=True)
class ChannelEdit:
    """One channel of StyleSpace moves by strength · deviation, which no w_plus can express.

    Attributes:
      layer, channel: its place in the list of style vectors and in its vector.
      deviation: of the channel over random codes.
    """

    layer: int
    channel: int
    deviation: float

    def apply(self, generator: Generator, latents: Latents, strength: ArrayLike) -> StyleCodes:
        codes = _codes(latents)
        styles = list(
            latents.styles if isinstance(latents, StyleCodes) else generator.synthesis.styles(codes)
        )
        offset = jnp.asarray(strength) * self.deviation
        styles[self.layer] = styles[self.layer].at[:, self.channel].add(offset)
        return StyleCodes(codes, tuple(styles))


def apply_direction(w_plus: ArrayLike, direction: ArrayLike, strength: ArrayLike) -> jax.Array:
    """Moves codes along a direction: w_plus + strength · direction, traceable.

    Args:
      w_plus: [B, L, D].
      direction: [D], the same step in every layer, or [L, D], one step per layer (zeros where a
        layer is to stay).
      strength: scalar, or [B], one per image; in units of what the direction changes.

    Returns:
      [B, L, D] in the type of `w_plus`.

    Raises:
      ValueError: shapes do not fit.
    """
    w_plus = jnp.asarray(w_plus)
    direction = jnp.asarray(direction, w_plus.dtype)
    strength = jnp.asarray(strength, w_plus.dtype)
    if w_plus.ndim != 3:
        raise ValueError(f"w_plus: expected [B, L, D], found {w_plus.shape}")
    batch, layers, size = w_plus.shape
    if direction.shape not in ((size,), (layers, size)):
        raise ValueError(
            f"direction: expected ({size},) or ({layers}, {size}), found {direction.shape}"
        )
    if strength.shape not in ((), (batch,)):
        raise ValueError(f"strength: expected a scalar or ({batch},), found {strength.shape}")
    return w_plus + strength.reshape(-1, 1, 1) * direction


def set_component(
    w_plus: ArrayLike, step: ArrayLike, mean: ArrayLike, value: ArrayLike, first: int, last: int
) -> jax.Array:
    """Moves codes to a coordinate along a component, whatever it was before.

    This is the edit (component, first, last + 1, value) of the published e4e: the coordinate is
    that of the first layer's code, and the layers asked for move by what is missing of `value`.

    Args:
      w_plus: [B, L, D].
      step: [D], the component times its standard deviation.
      mean: [D], of w, where the coordinate is 0.
      value: scalar, in standard deviations.
      first, last: the layers that move, both included.

    Returns:
      [B, L, D].

    Raises:
      ValueError: the shapes do not fit, or there are no such layers.
    """
    w_plus, step, mean = jnp.asarray(w_plus), jnp.asarray(step), jnp.asarray(mean)
    if w_plus.ndim != 3 or not w_plus.shape[-1:] == step.shape == mean.shape:
        raise ValueError(
            f"w_plus, step and mean have shapes {list(w_plus.shape)}, {list(step.shape)} and "
            f"{list(mean.shape)}; expected [B, L, D], [D] and [D]."
        )
    layers = w_plus.shape[1]
    if not 0 <= first <= last < layers:
        raise ValueError(
            f"the layers are {first} to {last}; expected layers in order, 0 to {layers - 1}."
        )
    coordinates = (w_plus[:, 0] - mean) @ step / (step @ step)  # [B]
    moved = (value - coordinates)[:, None] * step  # [B, D]
    return w_plus.at[:, first : last + 1].add(moved[:, None])


def _codes(latents):
    return jnp.asarray(latents.w_plus if isinstance(latents, StyleCodes) else latents)


def _with_codes(generator, latents, codes):
    """The latents with other codes; styles of their own move as those of the codes do."""
    if not isinstance(latents, StyleCodes):
        return codes
    before, after = map(generator.synthesis.styles, (latents.w_plus, codes))
    moved = zip(latents.styles, before, after, strict=True)
    return StyleCodes(codes, tuple(style + (a - b) for style, b, a in moved))
