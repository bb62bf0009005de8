"""Kernel Inception Distance (Bińkowski et al. 2018, arXiv 1801.01401), in float64 NumPy."""

import numpy as np

from e4e_jax.metrics.columns import Rows
from e4e_jax.metrics.fid import pooled_features
from e4e_jax.metrics.metric import SetMetric


def kernel_distance(
    reference: np.ndarray,
    measured: np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> float:
    """KID: the unbiased squared MMD with the kernel (x·y/D + 1)³, mean over random subsets.

    Subsets as in NVIDIA's `kid50k`: of both sets, without replacement, of one size that is at most
    the smaller set's. The estimate is unbiased, so it can fall below 0. No factor of 1,000.

    Args:
      reference: features [N, D], N at least 2.
      measured: features [M, D], M at least 2.
      subsets: how many.
      subset_size: their size at most.
      seed: of their choice.

    Raises:
      ValueError: shapes do not fit.
    """
    reference, measured = np.asarray(reference, np.float64), np.asarray(measured, np.float64)
    if reference.ndim != 2 or measured.ndim != 2 or reference.shape[1] != measured.shape[1]:
        raise ValueError(
            f"features: expected [N, D] and [M, D], found {reference.shape} and {measured.shape}"
        )
    size = min(len(reference), len(measured), subset_size)
    if size < 2:
        raise ValueError(f"KID: expected at least 2 images in each set, found {size}")
    if size == len(reference) == len(measured):
        subsets = 1  # all would be the same
    rng = np.random.default_rng(seed)
    total = 0.0
    for _ in range(subsets):
        x = reference[rng.choice(len(reference), size, replace=False)]
        y = measured[rng.choice(len(measured), size, replace=False)]
        within = sum(_off_diagonal_sum(_kernel(a, a)) for a in (x, y)) / (size * (size - 1))
        total += within - 2 * _kernel(x, y).mean()
    return total / subsets


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal_sum(matrix):
    return matrix.sum() - np.trace(matrix)


KID = SetMetric(
    pooled_features, Rows, lambda a, b: {"": kernel_distance(a, b)}, "inception", "pooled"
)
