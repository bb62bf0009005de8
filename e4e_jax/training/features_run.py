"""A run that trains a network to read the factors that a source knows of its images."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from e4e_jax import bundle
from e4e_jax.bundle_json import decode_config
from e4e_jax.data.sheets import sheet
from e4e_jax.inversion.domain import STEP
from e4e_jax.metrics.prepare import prepare
from e4e_jax.models.registry import KINDS, NETWORKS
from e4e_jax.runtime import parallel
from e4e_jax.runtime.hosts import ALL_OF_IT
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

_FACTORS = "factors"  # of the run's notes: the names of what it reads


def build_features_run(config: ConfigDict, mesh: Mesh) -> Run:
    """Builds the run that `config` describes (see configs/toy_features.py).

    Raises:
      ValueError: the source knows no factors, or the config does not fit together; in one sentence.
    """
    held_out = held_out_images(config)
    check_factors(held_out, config)
    images = held_out.images
    names = list(held_out.factor_names)
    about = {_FACTORS: names}
    make, architecture = _network(config, names)
    network = make(architecture, axis_name=parallel.AXIS, rngs=nnx.Rngs(config.seed))
    init, step = make_features_step(network, build_optimizer(config.optimizer, config.total_steps))
    compiled = parallel.parallelize(float_images(step), mesh)
    graph, _, _ = nnx.split(network, nnx.Param, nnx.BatchStat)
    kind = config.features.network
    metric = f"factors@{kind}"

    def trained_network(state):
        trained = nnx.merge(graph, *on_this_host((state.params, state.batch_stats)))
        trained.eval()
        return trained

    evaluation = prepare(
        None,
        held_out,
        [metric],
        networks={kind: trained_network(init(jax.random.key(config.seed)))},
        image_size=images.shape[1:3],
        batch_size=config.validation_batch_size,
        share=ALL_OF_IT,
        cache="",
        progress=None,
    )

    def scores(state) -> dict[str, float]:
        report = evaluation.measure({f"@{kind}": trained_network(state)})
        error = np.mean(report.per_image[f"{metric} error"], dtype=np.float64)
        return {"error": float(error), **report}

    def finish(state, workdir):
        trained = trained_network(state)
        path = os.path.join(workdir, "bundle")
        notes = about | {STEP: step_of(state)}
        bundle.save_bundle(path, kind, {kind: trained}, notes, overwrite=True)
        found = scores(state)
        rows = {"feature network": [found[f"{metric} {n}"] for n in names]}
        print("\n" + format_table(f"R2 on {len(images)} held-out images", names, rows))
        return {"bundle": path}

    return Run(
        state=parallel.replicate(init(jax.random.key(config.seed)), mesh),
        step=lambda state, batch: compiled(state, batch, ()),
        batches=training_batches(config, with_factors=True),
        validate=scores,
        best="error",
        picture=lambda state: sheet(images[:48], 12),
        finish=finish,
        about=about,
    )


def features_bundle(
    config: ConfigDict, about: Mapping[str, Any], read: Callable[[Any], Any]
) -> bundle.Bundle:
    """What a bundle of such a run holds, from a checkpoint; see `registry.BundleOfTask`."""
    make, architecture = _network(config, about.get(_FACTORS))
    network = nnx.eval_shape(lambda: make(architecture, rngs=nnx.Rngs(0)))
    graph, params, batch_stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    weights = read({"params": params, "batch_stats": batch_stats})
    trained = nnx.merge(graph, weights["params"], weights["batch_stats"])
    kind = config.features.network
    return bundle.Bundle(kind, {kind: trained}, {})


def _network(config, names) -> tuple[Any, Any]:
    """The class of the network that the config names, and the config that it is built from."""
    kind = config.features.network
    if kind not in KINDS or KINDS[kind] != (kind,):
        raise ValueError(
            f"config.features.network is {kind!r:.80}; expected a kind of bundle whose network "
            "reads factors."
        )
    make = NETWORKS[kind]
    described = {
        "num_factors": len(names) if isinstance(names, list) else None,
        "factor_names": names,
        "embedding_dim": config.features.embedding_dim,
        "image_size": config.data.image_size[0],
        "backbone": {name: list(config.features[name]) for name in ("widths", "depths")},
    }
    try:
        return make, decode_config(make, described)
    except ValueError as error:
        raise ValueError(f"config.features.network {kind} cannot be built: {error}.") from None
