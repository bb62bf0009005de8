"""Fréchet distance between two sets of feature vectors (FID), in float64 NumPy.

The feature network is the caller's: with Inception's pool3 features the distance is the FID of
Heusel et al. 2017 (arXiv 1706.08500); with others it must be named after them.
"""

from typing import Any

import jax
import numpy as np

from e4e_jax.metrics.columns import Moments
from e4e_jax.metrics.metric import SetMetric
from e4e_jax.metrics.moments import FeatureStatistics


def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """Squared Fréchet distance between two Gaussians, as FID reports it.

    |m1 − m2|² + Tr(C1 + C2 − 2 (C1^½ C2 C1^½)^½) (Dowson & Landau 1982). The trace of the last
    root is the sum of the singular values of C1^½ C2^½. Taken so, no eigenvalue of a product is
    rooted, where rounding would come back as its square root: singular covariances (fewer vectors
    than features) are exact to rounding too.

    Args:
      mean1, mean2: [D].
      cov1, cov2: [D, D], symmetric and positive semidefinite up to rounding.

    Returns:
      The distance, at least 0.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(x, np.float64) for x in (mean1, cov1, mean2, cov2))
    size = mean1.size
    for name, array, shape in (
        ("mean1", mean1, (size,)),
        ("cov1", cov1, (size, size)),
        ("mean2", mean2, (size,)),
        ("cov2", cov2, (size, size)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {array.shape}")
    cross = np.linalg.svd(_factor(cov1).T @ _factor(cov2), compute_uv=False).sum()
    difference = mean1 - mean2
    return max(float(difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * cross), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """[D, rank] F with F Fᵀ = covariance, eigenvalues that are only rounding left out."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def pooled_features(network: Any, images: jax.Array, index: jax.Array) -> jax.Array:
    """The vectors behind FID of images [B, H, W, 3] in [-1, 1] -> [B, D]."""
    del index
    return network.pooled(images)


def compare_moments(reference: FeatureStatistics, measured: FeatureStatistics) -> dict[str, float]:
    """{"": the Fréchet distance} of two sets of vectors."""
    parts = (reference.mean, reference.covariance, measured.mean, measured.covariance)
    return {"": frechet_distance(*parts)}


FID = SetMetric(pooled_features, Moments, compare_moments, "inception", "pooled")
