"""Inception score (Salimans et al. 2016, arXiv 1606.03498), in float64 NumPy."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from e4e_jax.metrics.columns import Column, Rows
from e4e_jax.metrics.metric import Metric, Subject


def inception_score(probabilities: np.ndarray, *, splits: int = 10) -> tuple[float, float]:
    """How sure a classifier is of each image, and how different its answers are.

    exp of the mean over images of KL(p(class | image) ‖ p(class)), where p(class) is the mean over
    the images of a split; 1 to the number of classes, more is better.

    Args:
      probabilities: [N, C], rows that sum to 1, in a random order.
      splits: parts, one after the other, of which each has a score; at most N.

    Returns:
      Mean and standard deviation of the scores, as the published code reports them.

    Raises:
      ValueError: another shape, or no images.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or not len(probabilities):
        raise ValueError(f"probabilities: expected [N, C], found {probabilities.shape}")
    scores = []
    for part in np.array_split(probabilities, min(splits, len(probabilities))):
        part = np.maximum(part, 1e-300)  # p log p of 0 is 0
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(axis=0)))).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


class InceptionScore(Metric):
    """The inception score of the measured set, ten splits: their mean and their deviation.

    The network gives `class_logits(images) -> [B, C]`; Inception's are those of the published
    scores, without a bias. It knows no reference set, but fid50k's way of counting images.
    """

    network = "inception"
    method = "class_logits"
    counted = True

    def columns(self, subject: Subject) -> dict[str, Column]:
        del subject

        def compute(network, images):
            return jax.nn.softmax(network.class_logits(images["measured"]))

        return {"measured": Column("measured", compute, Rows, key=())}

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        del subject
        mean, deviation = inception_score(kept["measured"])
        return {"": mean, "deviation": deviation}


IS = InceptionScore()
