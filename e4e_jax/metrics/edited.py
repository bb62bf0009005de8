"""FID of edited images: what edits do to how real images look."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from e4e_jax.metrics.columns import Column, MomentsOfEach
from e4e_jax.metrics.edits import keys
from e4e_jax.metrics.fid import FID, compare_moments
from e4e_jax.metrics.metric import Metric, Subject


class EditedFID(Metric):
    """FID of edited inversions beside the reference images, for each of the edits.

    The images are clipped to [-1, 1]. Edits of every kind can be measured, those of StyleSpace too.
    """

    network = FID.network
    method = FID.method
    counted = True
    least = 2

    def columns(self, subject: Subject) -> dict[str, Column]:
        if not hasattr(subject.model, "encode"):
            raise ValueError("fid_edited needs an encoder and its generator (an inverter).")
        if not subject.edits:
            raise ValueError(
                "fid_edited needs edits, and there are none; expected some as in smile=1."
            )

        def describe(network, images):
            latents = [e.apply(images["generator"], images["codes"]) for e in subject.edits]

            def features(latents):
                return network.pooled(jnp.clip(images["synthesize"](latents), -1, 1))

            return jnp.stack(_map_alike(features, latents), axis=1)  # [B, edits, D]

        reference = FID.columns(subject)["reference"]
        return {
            "reference": reference,
            "measured": Column("codes", describe, MomentsOfEach, key=keys(subject.edits)),
        }

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        return {
            edit.name: compare_moments(kept["reference"], measured)[""]
            for edit, measured in zip(subject.edits, kept["measured"], strict=True)
        }


def _map_alike(function, trees: list) -> list:
    """[function(tree) for each], compiled once for all trees of one structure."""
    groups: dict[Any, list[int]] = {}
    for i, tree in enumerate(trees):
        groups.setdefault(jax.tree.structure(tree), []).append(i)
    found = {}
    for indices in groups.values():
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(trees[i] for i in indices))
        found |= dict(zip(indices, jax.lax.map(function, stacked), strict=True))
    return [found[i] for i in range(len(trees))]


FID_EDITED = EditedFID()
