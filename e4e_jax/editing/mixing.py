"""Codes made of two codes: style mixing and interpolation.

Karras et al. 2019, arXiv 1812.04948.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def mix_styles(source: ArrayLike, destination: ArrayLike, first: int, last: int) -> jax.Array:
    """The destination's codes with some of the source's styles (section 3.1, figure 3).

    The layers of coarse resolutions carry pose and shape, those of fine ones colours.

    Args:
      source, destination: w_plus [B, L, D] or [L, D].
      first, last: the layers that are taken from the source, both included.

    Returns:
      w_plus of the same shape.

    Raises:
      ValueError: the shapes differ, or there are no such layers.
    """
    source, destination = jnp.asarray(source), jnp.asarray(destination)
    if source.shape != destination.shape or source.ndim not in (2, 3):
        raise ValueError(
            f"source and destination have shapes {list(source.shape)} and "
            f"{list(destination.shape)}; expected both [B, L, D] or [L, D]."
        )
    layers = source.shape[-2]
    if not 0 <= first <= last < layers:
        raise ValueError(
            f"the layers are {first} to {last}; expected layers in order, 0 to {layers - 1}."
        )
    taken = (jnp.arange(layers) >= first) & (jnp.arange(layers) <= last)
    return jnp.where(taken[:, None], source, destination)


def interpolate_codes(start: ArrayLike, end: ArrayLike, count: int) -> jax.Array:
    """Codes at equal steps on the line from one code to another, both included.

    Args:
      start, end: w_plus [L, D].
      count: N, 2 or more.

    Returns:
      w_plus [N, L, D].

    Raises:
      ValueError: the shapes differ, or fewer than two codes are asked for.
    """
    start, end = jnp.asarray(start), jnp.asarray(end)
    if start.shape != end.shape or start.ndim != 2:
        raise ValueError(
            f"start and end have shapes {list(start.shape)} and {list(end.shape)}; expected both "
            "[L, D]."
        )
    if count < 2:
        raise ValueError(f"count is {count}; expected 2 or more.")
    share = jnp.linspace(0.0, 1.0, count)[:, None, None]
    return (1 - share) * start + share * end
