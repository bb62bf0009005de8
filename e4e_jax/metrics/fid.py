"""Fréchet distance between two sets of feature vectors (FID), in float64 NumPy.

The feature network is the caller's: with Inception's pool3 features the distance is the FID of
Heusel et al. 2017 (arXiv 1706.08500); with others it must be named after them.
"""

import numpy as np


class FeatureStatistics:
    """Mean and covariance of feature vectors that arrive batch by batch, accumulated in float64.

    Attributes:
      count: number of feature vectors seen.
      sum: [D], their sum.
      outer_sum: [D, D], the sum of their outer products.
    """

    def __init__(self, num_features: int):
        self.count = 0
        self.sum = np.zeros(num_features, np.float64)
        self.outer_sum = np.zeros((num_features, num_features), np.float64)

    def update(self, features) -> None:
        """Adds a batch of features [N, D]; ValueError for another shape or values not finite."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != self.sum.size:
            raise ValueError(f"features: expected [N, {self.sum.size}], found {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError("features: expected finite values, found NaN or infinity")
        self.count += len(features)
        self.sum += features.sum(axis=0)
        self.outer_sum += features.T @ features

    def merge(self, other: "FeatureStatistics") -> None:
        """Adds what `other` has seen, for example on another host."""
        if other.sum.size != self.sum.size:
            raise ValueError(
                f"statistics to merge: expected {self.sum.size} features, found {other.sum.size}"
            )
        self.count += other.count
        self.sum += other.sum
        self.outer_sum += other.outer_sum

    @property
    def mean(self) -> np.ndarray:
        """[D]; ValueError before the first vector."""
        if self.count < 1:
            raise ValueError("mean of features: expected at least 1 vector, found none")
        return self.sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], unbiased (divided by count − 1); ValueError below two vectors."""
        if self.count < 2:
            raise ValueError(
                f"covariance of features: expected at least 2 vectors, found {self.count}"
            )
        mean = self.mean
        return (self.outer_sum - self.count * np.outer(mean, mean)) / (self.count - 1)


def frechet_distance(mean1, cov1, mean2, cov2) -> float:
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
