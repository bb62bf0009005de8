"""How well predicted quantities agree with the true ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from e4e_jax.metrics.columns import Column, Rows
from e4e_jax.metrics.metric import Metric, Subject


def r2_score(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Coefficient of determination of each column: 1 − Σ(true − predicted)² / Σ(true − mean)².

    Args:
      true: [N, K].
      predicted: [N, K].

    Returns:
      [K] float64: 1 for exact prediction, 0 for predicting the mean, below 0 for worse; NaN where
      the true column is constant and the score undefined.

    Raises:
      ValueError: shapes differ or are not [N, K].
    """
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if true.ndim != 2 or true.shape != predicted.shape:
        raise ValueError(
            f"true and predicted: expected one shape [N, K], found {true.shape} and "
            f"{predicted.shape}"
        )
    residual = np.square(true - predicted).sum(axis=0)
    total = np.square(true - true.mean(axis=0)).sum(axis=0)
    constant = np.ptp(true, axis=0) == 0
    return np.where(constant, np.nan, 1 - residual / np.where(constant, 1, total))


class FactorsReadBack(Metric):
    """How well known factors of the images can be read from their counterparts: R² of each.

    The network maps images to the factors [B, K] of the source. Of each image it tells the mean
    squared error.
    """

    method = "__call__"
    least = 2

    def columns(self, subject: Subject) -> dict[str, Column]:
        count = len(subject.factor_names)

        def read(network, images):
            factors = network(images["measured"])
            if factors.shape[1:] != (count,):
                raise ValueError(
                    f"factors: the network gives {list(factors.shape[1:])} numbers of an image; "
                    f"expected the {count} factors of the source."
                )
            return factors

        return {
            "factors": Column("factors", lambda _, images: images["factors"], Rows, key="true"),
            "measured": Column("measured", read, Rows, key="read"),
        }

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        scores = r2_score(kept["factors"], kept["measured"])
        return {name: float(s) for name, s in zip(subject.factor_names, scores, strict=True)}

    def per_image(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, np.ndarray]:
        del subject
        return {"error": np.mean(np.square(kept["measured"] - kept["factors"]), axis=1)}


FACTORS = FactorsReadBack()
