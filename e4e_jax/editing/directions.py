"""Linear editing directions from scored codes, by regression."""

import numpy as np


def regress_directions(codes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Conditional directions from a linear regression of scores on codes.

    Least squares gives weights B [D, K] such that scores ≈ Bᵀ code + constant. A step d changes
    the predicted scores by Bᵀ d; many steps change score k by one and no other score. Of these
    the direction is the one most probable under the codes' covariance Σ, that is, with the least
    Mahalanobis length dᵀ Σ⁺ d, so that the edited code stays among the codes that the generator
    knows:

        direction_k = Σ B (Bᵀ Σ B)⁻¹ e_k

    Directions along which the codes do not vary are never used: Σ may be singular. The scores
    are held fixed by design, where InterFaceGAN (Shen et al. 2020, arXiv 1907.10786, section 3.3,
    conditional manipulation) projects each classifier's normal off the others.

    Args:
      codes: [N, D], one row per image, for example w; N > D.
      scores: [N, K], the quantities to edit, in any units.

    Returns:
      [K, D] float64: adding `strength` times row k changes score k by `strength` and leaves the
      other scores, as far as they are linear in the codes.

    Raises:
      ValueError: shapes do not fit, values are not finite, N ≤ D, or a score cannot be changed
        apart from the others (constant, not linear in the codes at all, or a combination of the
        others).
    """
    codes, scores = np.asarray(codes, np.float64), np.asarray(scores, np.float64)
    if codes.ndim != 2 or scores.ndim != 2 or len(codes) != len(scores):
        raise ValueError(
            f"codes and scores: expected [N, D] and [N, K], found {codes.shape} and {scores.shape}"
        )
    if len(codes) <= codes.shape[1]:
        raise ValueError(
            f"codes: expected more codes than their {codes.shape[1]} dimensions, found {len(codes)}"
        )
    for name, array in (("codes", codes), ("scores", scores)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite values, found NaN or infinity")

    codes = codes - codes.mean(axis=0)
    deviation = scores.std(axis=0)
    # Rounding of the mean leaves a constant column a deviation of about its value times epsilon.
    constant = deviation <= 1e-12 * np.abs(scores).max(axis=0)
    if constant.any():
        raise ValueError(
            f"scores: expected varying columns, found column {int(constant.argmax())} constant"
        )
    scores = (scores - scores.mean(axis=0)) / deviation

    weights = np.linalg.lstsq(codes, scores)[0]  # B, [D, K], minimum norm
    predicted = codes @ weights  # [N, K]
    gram = predicted.T @ predicted / len(codes)  # Bᵀ Σ B, [K, K]
    values, vectors = np.linalg.eigh(gram)
    if values[0] < 1e-10:  # of scores of unit variance
        column = int(np.abs(vectors[:, 0]).argmax())
        raise ValueError(
            f"scores: expected columns that the codes predict independently of each other, found "
            f"column {column} not predicted or a combination of the others"
        )
    spread = codes.T @ predicted / len(codes)  # Σ B, [D, K]
    return np.linalg.solve(gram, spread.T) / deviation[:, None]  # back to the scores' own units
