"""Principal components of w (GANSpace; Härkönen et al. 2020, arXiv 2004.02546)."""

import jax
import jax.numpy as jnp
import numpy as np

from e4e_jax.models.stylegan2 import Generator


def ganspace_directions(
    generator: Generator, count: int, *, samples: int = 1_000_000, batch_size: int = 10_000, seed=0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The directions in which the mapping network spreads its codes most.

    The covariance of w is summed batch by batch in float64, so that the samples are never held:
    the result is that of a PCA of all of them at once.

    Args:
      generator: any StyleGAN2 generator.
      count: how many components, at most D.
      samples: draws of z, rounded up to whole batches.
      batch_size: draws at a time.
      seed: of the draws.

    Returns:
      The mean [D], unit vectors [count, D] with the largest deviation first (the entry of the
      largest absolute value is positive), and their standard deviations [count]; all float32.

    Raises:
      ValueError: more components than dimensions, or fewer samples than dimensions.
    """
    size = generator.config.w_dim
    if not 0 < count <= size or samples < size:
        raise ValueError(
            f"count is {count} and samples {samples}; expected 1 to {size} components "
            f"and at least {size} samples."
        )

    @jax.jit
    def draw(key):
        return generator.mapping(jax.random.normal(key, (batch_size, generator.config.z_dim)))

    batches = -(-samples // batch_size)
    # Sums around a first mean: those of squares around zero would cancel.
    origin = np.asarray(draw(jax.random.key(seed)), np.float64).mean(axis=0)
    total, products = np.zeros(size), np.zeros((size, size))
    for i in range(batches):
        w = np.asarray(draw(jax.random.fold_in(jax.random.key(seed), i)), np.float64) - origin
        total += w.sum(axis=0)
        products += w.T @ w
    number = batches * batch_size
    covariance = products / number - np.outer(total, total) / number**2
    values, vectors = np.linalg.eigh(covariance)  # ascending, in columns
    components = vectors[:, ::-1].T[:count]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    deviations = np.sqrt(np.maximum(values[::-1][:count], 0))
    mean = origin + total / number
    return tuple(
        np.asarray(array, np.float32) for array in (mean, components * np.sign(largest), deviations)
    )


def set_component(w_plus, step, mean, value, first: int, last: int) -> jax.Array:
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
