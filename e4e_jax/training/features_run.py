"""A run that trains the toy feature network to read the factors of faces."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from e4e_jax import bundle
from e4e_jax.data.batches import in_batches
from e4e_jax.data.images import to_float
from e4e_jax.data.sheets import sheet
from e4e_jax.inversion.domain import STEP
from e4e_jax.metrics.regression import r2_score
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.runtime import parallel
from e4e_jax.toy.faces import FACTORS
from e4e_jax.toy.features import ToyFeatures, ToyFeaturesConfig
from e4e_jax.training.features_step import make_features_step
from e4e_jax.training.run import (
    Run,
    build_optimizer,
    check_factors,
    float_images,
    held_out_images,
    on_this_host,
    step_of,
    training_batches,
)
from e4e_jax.training.tables import format_table


def build_features_run(config, mesh) -> Run:
    """Builds the run that `config` describes (see configs/toy_features.py)."""
    held_out = held_out_images(config)
    check_factors(held_out, config)
    images, factors = held_out.images, held_out.factors(slice(None))
    network = ToyFeatures(
        _features_config(config), axis_name=parallel.AXIS, rngs=nnx.Rngs(config.seed)
    )
    state, step = make_features_step(network, build_optimizer(config.optimizer, config.total_steps))
    graph, _, _ = nnx.split(network, nnx.Param, nnx.BatchStat)

    @jax.jit
    def read(params, batch_stats, images):
        trained = nnx.merge(graph, params, batch_stats)
        trained.eval()
        return trained(to_float(images))

    def scores(state) -> dict[str, float]:
        weights = on_this_host((state.params, state.batch_stats))
        predicted = in_batches(lambda x: read(*weights, x), (images,), config.validation_batch_size)
        r2 = dict(zip([f"R2 {n}" for n in FACTORS], r2_score(factors, predicted), strict=True))
        return {"error": float(np.mean(np.square(predicted - factors))), **r2}

    def finish(state, workdir):
        trained = nnx.merge(graph, *on_this_host((state.params, state.batch_stats)))
        path = os.path.join(workdir, "bundle")
        networks = {"toy_features": trained}
        bundle.save_bundle(path, "toy_features", networks, {STEP: step_of(state)}, overwrite=True)
        found = scores(state)
        rows = {"feature network": [found[f"R2 {n}"] for n in FACTORS]}
        print("\n" + format_table(f"R2 on {len(images)} held-out images", list(FACTORS), rows))
        return {"bundle": path}

    return Run(
        state=parallel.replicate(state, mesh),
        step=parallel.parallelize(float_images(step), mesh),
        batches=training_batches(config, with_factors=True),
        validate=scores,
        best="error",
        picture=lambda state: sheet(images[:48], 12),
        finish=finish,
    )


def features_bundle(config, read: Callable[[Any], Any]) -> bundle.Bundle:
    """What a bundle of such a run holds, from a checkpoint; see `registry.BundleOfTask`."""
    architecture = _features_config(config)
    network = nnx.eval_shape(lambda: ToyFeatures(architecture, rngs=nnx.Rngs(0)))
    graph, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    weights = read({"params": params, "batch_stats": batch_stats})
    trained = nnx.merge(graph, weights["params"], weights["batch_stats"])
    return bundle.Bundle("toy_features", {"toy_features": trained}, {})


def _features_config(config) -> ToyFeaturesConfig:
    return ToyFeaturesConfig(
        num_factors=len(FACTORS),
        embedding_dim=config.features.embedding_dim,
        image_size=config.data.image_size[0],
        backbone=IRSEConfig(
            widths=tuple(config.features.widths), depths=tuple(config.features.depths)
        ),
    )
