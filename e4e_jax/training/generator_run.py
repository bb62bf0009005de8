"""A run that trains a StyleGAN2 generator, built from a config."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from e4e_jax import api, bundle
from e4e_jax.data.images import save_png, to_uint8
from e4e_jax.data.registry import build_source
from e4e_jax.data.sheets import sheet
from e4e_jax.data.sources import LoadedImages
from e4e_jax.editing.directions import regress_directions
from e4e_jax.editing.files import save_directions
from e4e_jax.inversion.domain import STEP, TRAINED_ON
from e4e_jax.metrics.metric import Request, Subject, find_metric
from e4e_jax.metrics.prepare import prepare
from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.feature_discriminator import FeatureDiscriminator
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig, mean_latent
from e4e_jax.runtime import parallel
from e4e_jax.runtime.hosts import ALL_OF_IT
from e4e_jax.training.generator_step import (
    GeneratorOptions,
    Supervision,
    make_generator_step,
)
from e4e_jax.training.run import (
    Run,
    build_optimizer,
    check_factors,
    describe_images,
    float_images,
    held_out_images,
    on_this_host,
    step_of,
    training_batches,
)
from e4e_jax.training.tables import format_table

_DIRECTION_SAMPLES = 20_000
_KEPT = ("generator", "generator_average", "discriminator")  # parts of the state, in bundles


def build_generator_run(config: ConfigDict, mesh: Mesh) -> Run:
    """Builds the run that `config` describes (see configs/toy_generator.py).

    Raises:
      ValueError, FileNotFoundError: the config does not fit together, or names a file that is
        not there; in one sentence.
    """
    rngs = nnx.Rngs(config.seed)
    networks = _first_networks(config, rngs, jnp.dtype(config.dtype))
    generator, discriminator = networks["generator_raw"], networks["discriminator"]
    if config.discriminator_features:
        network = bundle.load_network(config.discriminator_features)
        discriminator = FeatureDiscriminator(discriminator, network.features, rngs=rngs)
    supervision = None
    if any(config.supervision.values()):
        network = bundle.load_network(config.features)
        latents = _latents(config)
        supervision = Supervision(**config.supervision, latents=latents, network=network)
    init, step = make_generator_step(
        generator,
        discriminator,
        build_optimizer(config.optimizer, config.total_steps),
        build_optimizer(config.discriminator_optimizer, config.total_steps),
        GeneratorOptions(**config.objective),
        average=networks["generator"] if config.start else None,
        supervision=supervision,
        global_batch=config.batch_size,
    )
    evaluation = _GeneratorEvaluation(config, generator)

    about = {TRAINED_ON: describe_images(config)}  # before any step: later they may be gone

    def finish(state, workdir):
        params = on_this_host(state.generator_average)
        kept = _bundled(generator, discriminator, {
            name: on_this_host(getattr(state, name)) for name in _KEPT
        })  # fmt: skip
        trained = kept["generator"]
        written = {
            "bundle": os.path.join(workdir, "bundle"),
            "picture (samples)": os.path.join(workdir, "samples.png"),
        }
        bundle.save_bundle(
            written["bundle"],
            "generator",
            kept,
            about | {STEP: step_of(state)},
            overwrite=True,
        )
        print("\n" + evaluation.table(trained))
        save_png(written["picture (samples)"], evaluation.picture(params))
        if evaluation.reads_factors:
            try:
                directions = evaluation.directions(trained)
            except ValueError as error:  # factors that this generator has not learned to vary
                print(f"no directions: {error}")
            else:
                written["directions"] = os.path.join(workdir, "directions.npz")
                save_directions(written["directions"], directions)
        return written

    compiled = parallel.parallelize(float_images(step), mesh)
    frozen = parallel.replicate(supervision.split()[1], mesh) if supervision else ()
    return Run(
        state=parallel.replicate(init(jax.random.key(config.seed)), mesh),
        step=lambda state, batch: compiled(state, batch, frozen),
        batches=training_batches(config, with_factors=supervision is not None),
        validate=lambda state: evaluation.figures(
            evaluation.generator(on_this_host(state.generator_average))
        ),
        best=evaluation.best,
        picture=lambda state: evaluation.picture(on_this_host(state.generator_average)),
        finish=finish,
        about=about,
    )


def generator_bundle(
    config: ConfigDict, about: Mapping[str, Any], read: Callable[[Any], Any]
) -> bundle.Bundle:
    """What a bundle of such a run holds, from a checkpoint; see `registry.BundleOfTask`."""
    networks = _first_networks(config, nnx.Rngs(config.seed))
    generator, discriminator = networks["generator_raw"], networks["discriminator"]
    params = nnx.state(generator, nnx.Param)
    judging = nnx.state(discriminator)
    weights = read({
        "generator": params,
        "generator_average": params,
        "discriminator": {"pixels": judging} if config.discriminator_features else judging,
    })  # fmt: skip
    if config.discriminator_features:
        weights["discriminator"] = weights["discriminator"]["pixels"]
    return bundle.Bundle("generator", _bundled(generator, discriminator, weights), {})


def _first_networks(config, rngs, dtype=jnp.float32) -> dict[str, Any]:
    """What a run starts from: the trained generator, its average and the discriminator."""
    width = config.data.image_size[1]
    if config.start:
        networks = _networks_to_go_on_from(config.start, width, dtype)
    else:
        shape = GeneratorConfig(width, **config.generator)
        networks = {"generator": Generator(shape, dtype=dtype, rngs=rngs)}
    networks.setdefault("generator_raw", networks["generator"])
    if "discriminator" not in networks:
        shape = networks["generator"].config
        networks["discriminator"] = Discriminator(shape, dtype=dtype, rngs=rngs)
    return networks


def _bundled(generator, discriminator, weights) -> dict[str, Any]:
    """The networks of a bundle, the average first.

    Args:
      generator, discriminator: of the run, with the constants of the one.
      weights: those of `_KEPT`.
    """
    graph, _, constants = nnx.split(generator, nnx.Param, ...)
    networks = {
        name: nnx.merge(graph, weights[part], constants, copy=True)
        for name, part in (("generator", "generator_average"), ("generator_raw", "generator"))
    }
    for network in networks.values():
        network.latent_avg[...] = mean_latent(network, jax.random.key(0))
    judging = nnx.merge(nnx.graphdef(discriminator), weights["discriminator"])
    if isinstance(judging, FeatureDiscriminator):  # whose heads belong to the features of this run
        judging = judging.pixels
    return networks | {"discriminator": judging}


def _latents(config):
    """How the source ties a code to what an image shows."""
    source = build_source(config.data, held_out=False)
    check_factors(source, config)
    if not hasattr(source, "latents"):
        raise ValueError(
            f"config.supervision is on and config.data.source {config.data.source!r} has no "
            "latents; expected a source that ties a code to what an image shows."
        )
    return source.latents


def _networks_to_go_on_from(name, resolution, dtype) -> dict[str, Any]:
    """Those of a generator bundle: the average, the trained one and its discriminator, or fewer."""
    opened = bundle.load_bundle(name, dtype=dtype)
    if opened.kind != "generator":
        raise ValueError(
            f"config.start is {name}, a bundle of kind {opened.kind!r}; expected a generator."
        )
    shape = opened.networks["generator"].config
    if shape.num_classes:
        raise ValueError(
            f"config.start is {name}, a generator of {shape.num_classes} classes; expected one "
            "without classes, as nothing here trains with labels."
        )
    found = shape.resolution
    if found != resolution:
        raise ValueError(
            f"config.start is {name}, which draws {found}x{found}; "
            f"expected config.data.image_size, {resolution}x{resolution}."
        )
    return opened.networks


class _GeneratorEvaluation:
    """Metrics and pictures of a generator's weights, each host by itself."""

    def __init__(self, config, generator: Generator):
        split: Any = nnx.split(generator, nnx.Param, ...)
        self._graph, _, self._constants = split
        self._untrained = generator
        self._held_out = held_out_images(config)
        self._features: Any = bundle.load_network(config.features) if config.features else None
        if self._features is not None and len(self._held_out) < 2:
            raise ValueError(
                f"config.features is {config.features!r} and there is 1 held-out image that can be "
                "used; FID needs at least 2 (config.data.num_validation; '' for no FID)."
            )
        fid = [f"fid{config.fid_samples}_full@{config.features}"] if config.features else []
        self._metrics = [*(config.evaluation.get("validation") or fid)]
        self._options = {
            "networks": {config.features: self._features} if config.features else {},
            "batch_size": config.validation_batch_size, "share": ALL_OF_IT, "cache": "",
            "progress": None,
        }  # fmt: skip
        self._evaluation = None
        if self._metrics:
            model = api.GeneratorModel(generator)
            self._evaluation = prepare(model, self._held_out, self._metrics, **self._options)
        read = getattr(self._features, "factor_names", ())
        self.reads_factors = bool(read) and read == self._held_out.factor_names

    @property
    def best(self) -> str:
        """The name of the first figure, by which the best checkpoint is chosen."""
        return self._metrics[0] if self._metrics else "fid"

    def generator(self, params) -> Generator:
        return nnx.merge(self._graph, params, self._constants, copy=True)

    def figures(self, generator: Generator) -> dict[str, float]:
        """What validation measures, if there is anything."""
        if self._evaluation is None:
            return {}
        return dict(self._evaluation.measure({"generator": generator}))

    def picture(self, params) -> np.ndarray:
        """Sheet of 8 x 12 samples of fixed z."""
        return sheet(to_uint8(next(self._samples(self.generator(params), 96, 96))[1]), 12)

    def table(self, trained: Generator) -> str:
        """Figures of the trained and the untrained generator beside those of real images."""
        found = self.figures(trained)
        if not found:
            return "no FID: config.features names no feature network"
        untrained = self.figures(self._untrained)
        rows = {"trained generator": found, "untrained generator": untrained}
        count = len(self._held_out)
        if halves := self._between_halves():
            rows[f"two disjoint sets of {count // 2} real images"] = halves
        values = {row: [*figures.values()] for row, figures in rows.items()}
        return format_table(f"against {count} real images", [*found], values)

    def _between_halves(self) -> dict[str, float]:
        """The same between two halves of the held-out images; where each has enough."""
        requests = [find_metric(name) for name in self._metrics]
        half = len(self._held_out) // 2
        if half < 2 or any(_roles(request) != {"reference", "measured"} for request in requests):
            return {}
        first, second = (
            LoadedImages(self._held_out.images[part], self._held_out.names[part])
            for part in (slice(half), slice(half, 2 * half))
        )
        return dict(
            prepare(
                None,
                second,
                [f"{request.written.row}@{request.network}" for request in requests],
                reference=first,
                image_size=self._held_out.images.shape[1:3],
                **self._options,
            ).measure()
        )

    def directions(self, generator: Generator) -> dict[str, np.ndarray]:
        """Directions of w for the factors of the source, as the features read them."""
        codes, factors = [], []
        read = nnx.jit(self._features)
        for w, images in self._samples(generator, _DIRECTION_SAMPLES, 100):
            codes.append(w)
            factors.append(np.asarray(read(images)))
        found = regress_directions(np.concatenate(codes), np.concatenate(factors))
        return dict(zip(self._held_out.factor_names, found.astype(np.float32), strict=True))

    def _samples(self, generator, count, batch_size):
        """Yields (w, images) of `count` fixed draws of z."""

        @nnx.jit
        def sample(generator, key):
            w = generator.mapping(jax.random.normal(key, (batch_size, generator.config.z_dim)))
            return w, generator.synthesis(generator.broadcast(w))

        for i in range(-(-count // batch_size)):
            keep = min(batch_size, count - i * batch_size)
            w, images = sample(generator, jax.random.fold_in(jax.random.key(1), i))
            yield np.asarray(w)[:keep], np.asarray(images)[:keep]


def _roles(request: Request) -> set[str]:
    return {column.role for column in request.metric.columns(Subject()).values()}
