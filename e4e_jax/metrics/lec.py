"""Latent editing consistency (LEC; Tov et al. 2021, arXiv 2102.02766, section 5.2)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e4e_jax.metrics.columns import Column, Rows
from e4e_jax.metrics.edits import keys
from e4e_jax.metrics.metric import Metric, Subject


class EditingConsistency(Metric):
    """How far codes are from themselves after an edit, synthesis, encoding and the edit undone.

    The Euclidean length of the difference of all layers, for each of the edits; less is better.
    """

    features = "codes w_plus"

    def columns(self, subject: Subject) -> dict[str, Column]:
        model = subject.model
        if model is None or not hasattr(model, "encode"):
            raise ValueError("lec needs an encoder and its generator (an inverter).")
        if not subject.edits:
            raise ValueError("lec needs edits, and there are none; expected some as in smile=1.")
        edits = subject.edits
        for edit in edits:
            if not edit.can_be_undone(model):
                raise ValueError(
                    f"lec undoes edits, and {edit.name} has no way back; expected steps along "
                    "directions of codes."
                )

        def compute(network, images):
            del network
            codes, generator = images["codes"], images["generator"]
            edited = jnp.stack([jnp.asarray(edit.apply(generator, codes)) for edit in edits])
            # One after the other: the networks are compiled once for all edits.
            returned = jax.lax.map(lambda c: images["encode"](images["synthesize"](c)), edited)
            pairs = zip(edits, returned, strict=True)
            undone = [jnp.asarray(edit.undo(generator, c)) for edit, c in pairs]
            squares = jnp.square(jnp.stack(undone, axis=1) - codes[:, None])
            return jnp.sqrt(jnp.sum(squares, axis=(2, 3)))  # [B, edits]

        return {"codes": Column("codes", compute, Rows, key=keys(edits))}

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        return {name: mean_without_outliers(d) for name, d in self.per_image(kept, subject).items()}

    def per_image(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, np.ndarray]:
        return {edit.name: kept["codes"][:, i] for i, edit in enumerate(subject.edits)}


def mean_without_outliers(distances: np.ndarray) -> float:
    """The mean of the distances from the 1st to the 99th percentile, both included.

    As in the published code, where however it is means of batches that are sorted out.
    """
    distances = np.asarray(distances, np.float64)
    low = np.percentile(distances, 1, method="lower")
    high = np.percentile(distances, 99, method="higher")
    return float(distances[(distances >= low) & (distances <= high)].mean())


LEC = EditingConsistency()
