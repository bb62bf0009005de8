"""How well predicted quantities agree with the true ones."""

import numpy as np


def r2_score(true, predicted) -> np.ndarray:
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
