"""What a training run is to the loop, and how its common parts are built from a config.

Each kind of run (`encoder_run`, `generator_run`, `features_run`) turns a config into a `Run`; the
loop knows nothing else about them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from e4e_jax.data.images import ImageError, resize_image, to_float
from e4e_jax.data.pipeline import Pipeline, make_pipeline
from e4e_jax.data.registry import Source, build_source
from e4e_jax.data.same_on_hosts import check_same_on_hosts
from e4e_jax.data.sources import LoadedImages
from e4e_jax.runtime import tuning
from e4e_jax.runtime.registry import call, takes
from e4e_jax.training.registry import OPTIMIZERS
from e4e_jax.training.schedules import make_schedule


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run, ready for the loop.

    Attributes:
      state: the first state, placed on the mesh; has a `step` counter.
      step: (state, batch) -> (state, metrics), compiled over the mesh.
      batches: endless training batches of this host.
      validate: state -> metrics of the held-out images.
      best: name of the validation metric by which the best checkpoint is chosen; less is better.
      picture: state -> uint8 [H, W, 3], a grid of images that shows where training is.
      finish: (state, workdir) -> files written, as {what it is: path}: the bundle, then a table,
        which it prints, and pictures.
      deal: what becomes of the devices' own parts of the state, see `Checkpoints.restore`.
      about: what the run's bundles note of it, JSON; it lies in the work directory from the start.
      warm_up: compiles what `picture` and `validate` need, in a thread beside the first step: its
        compilation leaves cores idle. None where they are left until they are needed.
    """

    state: Any
    step: Callable[[Any, Mapping[str, Any]], tuple[Any, dict[str, jax.Array]]]
    batches: Pipeline
    validate: Callable[[Any], dict[str, float]]
    best: str
    picture: Callable[[Any], np.ndarray]
    finish: Callable[[Any, str], dict[str, str]]
    deal: Mapping[str, Callable[[dict[str, np.ndarray], int], dict[str, np.ndarray]]] | None = None
    warm_up: Callable[[], None] | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def first_weights(make: Callable[[], Any], given: Callable[[tuple], bool]) -> Any:
    """A new network whose weights are drawn by one program, where each would be one of its own.

    Args:
      make: builds the network; it may be called more than once.
      given: whether the weights at a path need not be drawn, since others will replace them.
    """
    network = nnx.eval_shape(make)
    graph, replaced, drawn = nnx.split(network, lambda path, _: given(path), ...)
    draw = jax.jit(
        lambda: nnx.split(make(), lambda path, _: given(path), ...)[2],
        compiler_options=tuning.quick_compilation(),
    )
    replaced = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), replaced)
    return nnx.merge(graph, replaced, draw())


def describe_images(config: ConfigDict) -> dict[str, Any]:
    """What a run trains on, as its bundle notes it: {"images": in words, "size", "count"}."""
    data = config.data
    source = build_source(data, held_out=False)
    images = getattr(source, "description", f"images of {data.source}")
    return {"images": images, "size": list(data.image_size), "count": len(source)}


def training_batches(config: ConfigDict, *, with_factors: bool = False) -> Pipeline:
    """Endless shuffled batches of this host.

    Raises:
      ValueError: factors are asked for, and the source does not know them.
    """
    data = config.data
    source = build_source(data, held_out=False)
    if with_factors:
        check_factors(source, config)
    check_same_on_hosts(source, "training images")
    return make_pipeline(
        source,
        batch_size=config.batch_size,
        image_size=tuple(data.image_size),
        seed=config.seed,
        flip=data.flip,
        workers=data.workers,
        max_bad_images=data.max_bad_images,
        with_factors=with_factors,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def check_factors(source: Source, config: ConfigDict) -> None:
    """Raises ValueError where a run learns factors, and its source does not know any."""
    if not hasattr(source, "factors"):
        raise ValueError(
            f"config.task is {config.task!r} and learns from what the images show, which "
            f"config.data.source {config.data.source!r} does not know; expected a source with "
            "factors and factor_names."
        )


def held_out_images(config: ConfigDict) -> LoadedImages:
    """The first `num_validation` held-out images, of the config's size.

    They are few and read once; every host holds all of them.

    Raises:
      ValueError: none of them can be used.
    """
    data = config.data
    if data.num_validation < 1:
        raise ValueError(
            f"config.data.num_validation is {data.num_validation}; expected at least 1 image."
        )
    source = build_source(data, held_out=True)
    check_same_on_hosts(source, "held-out images")
    with_factors = hasattr(source, "factors")
    batches = make_pipeline(
        source,
        batch_size=64,
        image_size=tuple(data.image_size),
        seed=0,
        shuffle=False,
        repeat=False,
        max_bad_images=data.max_bad_images,
        with_factors=with_factors,
    )
    kept, names, first = [], [], 0
    for batch in batches:
        mask = batch.pop("mask")
        kept.append({name: rows[mask] for name, rows in batch.items()})
        names += [source.names[first + int(row)] for row in np.flatnonzero(mask)]
        first += len(mask)
        if len(names) >= data.num_validation:
            break
    batches.close()
    if not names:
        bad = list(batches.bad_images.values())
        raise ValueError(
            "there is no held-out image that can be used"
            + (f": {bad[0].rstrip('.')}" if bad else "")
            + (f", and {len(bad) - 1} others" if len(bad) > 1 else "")
            + "; expected at least 1, to validate on."
        )
    count = data.num_validation
    arrays = {name: np.concatenate([batch[name] for batch in kept])[:count] for name in kept[0]}
    return LoadedImages(
        arrays["image"],
        names[:count],
        factors=arrays.get("factors"),
        factor_names=getattr(source, "factor_names", ()) if with_factors else (),
        targets=arrays.get("target"),
    )


def mean_training_image(config: ConfigDict, count: int = 2048) -> np.ndarray:
    """The mean [H, W, 3] in [-1, 1] of the first training images, a baseline of inversion.

    Images that cannot be decoded are left out, as in training.
    """
    source = build_source(config.data, held_out=False)
    total, found = np.zeros((*config.data.image_size, 3)), 0
    for image in _readable(source, min(count, len(source))):
        total += resize_image(image, tuple(config.data.image_size))
        found += 1
    return to_float(total / max(found, 1))


def _readable(source, count):
    """Yields the first `count` images, but for those that cannot be decoded."""
    if hasattr(source, "read_many"):
        yield from source.read_many(range(count))
        return
    for i in range(count):
        try:
            yield source[i]
        except ImageError:
            continue


def build_optimizer(
    section: ConfigDict, total_steps: int, *, stacked_axes: Any = None
) -> optax.GradientTransformation:
    """The optimiser that a config section describes.

    Args:
      section: `name` of `OPTIMIZERS` or an import path, and its own arguments `options`;
        `learning_rate`, `schedule` and `schedule_options` as `make_schedule` takes them.
      total_steps: length of the training.
      stacked_axes: for an optimiser that asks, see `ranger`.

    Raises:
      ValueError: unknown names or options, or they make no optimiser; in one sentence.
    """
    given = {key: v for key, v in section.schedule_options.items() if v is not None}
    schedule = make_schedule(section.schedule, section.learning_rate, total_steps, **given)
    make = OPTIMIZERS.find(section.name)
    options = dict(section.get("options", {}))
    if stacked_axes and takes(make, "stacked_axes"):
        options["stacked_axes"] = stacked_axes
    what = f"the optimiser {section.name}"
    try:
        optimizer = call(what, make, schedule, **options)
        if section.name in OPTIMIZERS:  # an option of another type may be noticed only in use
            jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), jnp.zeros((2, 2)))
    except TypeError as error:
        reason = " ".join(str(error).split(".\n")[0].split())
        raise ValueError(f"{what} does not take {options}: {reason:.200}.") from error
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ValueError(
            f"{what} gives {type(optimizer).__name__}; expected an optax.GradientTransformation."
        )
    return optimizer


def float_images(step: Callable) -> Callable:
    """Lets a per-device step take uint8 images: a quarter of the bytes travels to the device."""

    def with_floats(state, batch, *rest):
        images = {k: to_float(batch[k]) for k in ("image", "target") if k in batch}
        return step(state, {**batch, **images}, *rest)

    return with_floats


def on_this_host(tree: Any) -> Any:
    """A replicated tree as arrays of this host's first device, for work outside the mesh."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def step_of(state: Any) -> int:
    """How many steps a placed state has behind it."""
    return int(on_this_host(state.step))
