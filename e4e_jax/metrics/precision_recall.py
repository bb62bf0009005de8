"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), in NumPy."""

import numpy as np

from e4e_jax.metrics.columns import Rows
from e4e_jax.metrics.fid import pooled_features
from e4e_jax.metrics.metric import SetMetric

_ROWS = 1024  # of the matrix of distances at a time


def precision_recall(
    reference: np.ndarray, measured: np.ndarray, *, neighbours: int = 3
) -> tuple[float, float]:
    """How much of the measured set lies among the reference, and the reverse.

    Each set's manifold is the union of balls around its vectors, with the distance to the k-th
    nearest other one as radius. (The paper uses features of VGG16.)

    Args:
      reference: features [N, D].
      measured: features [M, D].
      neighbours: k.

    Returns:
      precision: fraction of measured vectors within the reference's manifold.
      recall: fraction of reference vectors within the measured ones' manifold.

    Raises:
      ValueError: shapes do not fit, or a set has no more than k vectors.
    """
    reference, measured = np.asarray(reference, np.float64), np.asarray(measured, np.float64)
    if reference.ndim != 2 or measured.ndim != 2 or reference.shape[1] != measured.shape[1]:
        raise ValueError(
            f"features: expected [N, D] and [M, D], found {reference.shape} and {measured.shape}"
        )
    fewest = min(len(reference), len(measured))
    if fewest <= neighbours:
        raise ValueError(
            f"precision and recall: expected more than {neighbours} images in each set, "
            f"found {fewest}"
        )
    return (
        _covered(measured, reference, _radii(reference, neighbours)),
        _covered(reference, measured, _radii(measured, neighbours)),
    )


def _radii(vectors, neighbours):
    """Squared distance of each vector to its k-th nearest other one."""
    radii = []
    for start in range(0, len(vectors), _ROWS):
        squares = _squared_distances(vectors[start : start + _ROWS], vectors)
        rows = np.arange(len(squares))
        squares[rows, start + rows] = -1.0  # itself, first whatever rounding does
        radii.append(np.partition(squares, neighbours, axis=1)[:, neighbours])
    return np.concatenate(radii)


def _covered(vectors, centres, radii) -> float:
    inside = [
        np.any(_squared_distances(vectors[start : start + _ROWS], centres) <= radii, axis=1)
        for start in range(0, len(vectors), _ROWS)
    ]
    return float(np.concatenate(inside).mean())


def _squared_distances(a, b):
    """[N, D], [M, D] -> [N, M]."""
    squares = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1) - 2 * (a @ b.T)
    return np.maximum(squares, 0.0)


def _compare(reference, measured) -> dict[str, float]:
    return dict(zip(("precision", "recall"), precision_recall(reference, measured), strict=True))


PR = SetMetric(pooled_features, Rows, _compare, "inception", "pooled", least=4)
