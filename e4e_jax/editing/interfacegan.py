"""Boundaries between codes with and without an attribute (InterFaceGAN).

Shen et al. 2020, arXiv 2005.09635: a linear SVM separates the codes of images with the highest and
the lowest scores, and the normal of its boundary is the direction.
"""

from collections.abc import Sequence

import numpy as np


def boundary(
    codes: np.ndarray,
    scores: np.ndarray,
    *,
    share: float = 0.02,
    held_out: float = 0.3,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """The unit normal of the plane between high and low scores.

    Args:
      codes: [N, D].
      scores: [N], of one attribute; any scale.
      share: of all codes at either end, that are kept; at least 10 of them.
      held_out: of these, to measure how well the boundary separates.
      seed: of their choice.

    Returns:
      A unit vector [D] float32 that points to higher scores, and the accuracy on what was held
      out, 0.5 to 1.

    Raises:
      ValueError: shapes do not fit, too few codes, or scores that do not differ.
    """
    from sklearn.svm import LinearSVC

    codes, scores = np.asarray(codes, np.float64), np.asarray(scores, np.float64)
    if codes.ndim != 2 or scores.shape != codes.shape[:1]:
        raise ValueError(
            f"codes and scores have shapes {list(codes.shape)} and {list(scores.shape)}; expected "
            "[N, D] and [N]."
        )
    if not (np.isfinite(codes).all() and np.isfinite(scores).all()):
        raise ValueError("codes and scores hold NaN or infinity; expected finite numbers.")
    number = max(10, int(share * len(codes)))
    if len(codes) < 2 * number:
        raise ValueError(f"there are {len(codes)} codes; expected at least {2 * number}.")
    order = np.argsort(scores, kind="stable")
    low, high = order[:number], order[-number:]
    if scores[high[0]] <= scores[low[-1]]:
        raise ValueError(
            f"the {number} highest and the {number} lowest of {len(codes)} scores meet at "
            f"{scores[low[-1]]:g}; expected an attribute that some have and some have not."
        )
    rng = np.random.default_rng(seed)
    test, train = [], []
    for indices in (low, high):
        indices = rng.permutation(indices)
        cut = max(1, int(held_out * number))
        test.append(indices[:cut])
        train.append(indices[cut:])
    origin, spread = codes.mean(axis=0), codes.std()
    if spread == 0:
        raise ValueError("the codes are all the same; expected those of different images.")
    scaled = (codes - origin) / spread  # the SVM's margin has a scale
    machine = LinearSVC(dual="auto", random_state=seed, max_iter=20_000)
    machine.fit(scaled[np.concatenate(train)], np.repeat([0, 1], [len(t) for t in train]))
    labels = np.repeat([0, 1], [len(t) for t in test])
    accuracy = float(np.mean(machine.predict(scaled[np.concatenate(test)]) == labels))
    normal = machine.coef_[0] / np.linalg.norm(machine.coef_[0])
    return normal.astype(np.float32), accuracy


def condition(direction: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """A direction without what it shares with others (conditional manipulation, section 3.2).

    Args:
      direction: [D].
      others: [K, D], directions whose attributes are to stay.

    Returns:
      A unit vector [D] float32 at right angles to all of the others.

    Raises:
      ValueError: nothing of it is left.
    """
    direction = np.asarray(direction, np.float64)
    basis, _ = np.linalg.qr(np.asarray(others, np.float64).reshape(-1, direction.size).T)
    rest = direction - basis @ (basis.T @ direction)
    length = np.linalg.norm(rest)
    if length < 1e-6 * np.linalg.norm(direction):
        raise ValueError("the direction is a combination of those that are to stay.")
    return (rest / length).astype(np.float32)
