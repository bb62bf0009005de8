"""Principal components of w (GANSpace; Härkönen et al. 2020, arXiv 2004.02546)."""

import jax
import numpy as np

from e4e_jax.models.stylegan2 import Generator


def ganspace_directions(
    generator: Generator,
    count: int,
    *,
    samples: int = 1_000_000,
    batch_size: int = 10_000,
    seed: int = 0,
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
    components = components * np.sign(largest)
    return mean.astype(np.float32), components.astype(np.float32), deviations.astype(np.float32)
