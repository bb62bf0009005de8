"""Mean and covariance of feature vectors, summed up batch by batch."""

import jax
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

    def update(self, features: np.ndarray | jax.Array) -> None:
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
