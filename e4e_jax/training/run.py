"""What a training run is to the loop, and how its common parts are built from a config.

Each kind of run (`encoder_run`, `generator_run`, `features_run`) turns a config into a `Run`; the
loop knows nothing else about them.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from e4e_jax.data.images import ImageError, resize_image, to_float
from e4e_jax.data.pipeline import Pipeline, make_pipeline
from e4e_jax.data.same_on_hosts import check_same_on_hosts
from e4e_jax.data.sources import ImageFolder, tfds_source
from e4e_jax.runtime import tuning
from e4e_jax.toy.faces import ToyFaces
from e4e_jax.training.config_table import check_source
from e4e_jax.training.ranger import ranger
from e4e_jax.training.schedules import make_schedule

# Index ranges of the endless toy set: what is trained on is never validated on.
TOY_HELD_OUT = 1_000_000_000


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


def build_source(data, *, held_out: bool):
    """The images that a config's `data` section names, for training or held out.

    Args:
      data: section with `source` ("toy", "folder" or "tfds") and that source's fields.
      held_out: the validation images instead of the training images.

    Raises:
      ValueError: unknown source, or a field that it needs is empty.
    """
    check_source(data, held_out=held_out)
    if data.source == "toy":
        size = data.num_validation if held_out else data.num_images
        return ToyFaces(size, seed=data.seed, start=TOY_HELD_OUT if held_out else 0)
    if data.source == "folder":
        path = data.validation_path if held_out else data.path
        return ImageFolder(os.path.expanduser(path))
    if data.source == "tfds":
        split = data.validation_split if held_out else data.split
        return tfds_source(data.name, split, data_dir=data.data_dir or None)
    raise ValueError(f"config.data.source is {data.source!r}; expected 'toy', 'folder' or 'tfds'.")


def first_weights(make: Callable[[], nnx.Module], given: Callable[[tuple], bool]) -> nnx.Module:
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


def describe_images(config) -> dict[str, Any]:
    """What a run trains on, as its bundle notes it: {"images": in words, "size", "count"}."""
    data = config.data
    images = {
        "toy": "built-in toy faces",
        "folder": f"images of the folder {os.path.basename(os.path.abspath(data.path))}",
        "tfds": f"{data.name}, split {data.split}",
    }
    count = len(build_source(data, held_out=False))
    return {"images": images[data.source], "size": list(data.image_size), "count": count}


def training_batches(config, *, with_factors=False) -> Pipeline:
    """Endless shuffled batches of this host."""
    data = config.data
    source = build_source(data, held_out=False)
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


def held_out_images(config) -> tuple[np.ndarray, np.ndarray | None]:
    """The first `num_validation` held-out images, uint8 [N, H, W, 3], and their factors if known.

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
    images, factors, found = [], [], 0
    for batch in batches:
        mask = batch["mask"]
        images.append(batch["image"][mask])
        if with_factors:
            factors.append(batch["factors"][mask])
        found += int(mask.sum())
        if found >= data.num_validation:
            break
    batches.close()
    if not found:
        bad = list(batches.bad_images.values())
        raise ValueError(
            "there is no held-out image that can be used"
            + (f": {bad[0].rstrip('.')}" if bad else "")
            + (f", and {len(bad) - 1} others" if len(bad) > 1 else "")
            + "; expected at least 1, to validate on."
        )
    images = np.concatenate(images)[: data.num_validation]
    return images, np.concatenate(factors)[: len(images)] if with_factors else None


def mean_training_image(config, count: int = 2048) -> np.ndarray:
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
    section, total_steps: int, *, stacked_axes=None
) -> optax.GradientTransformation:
    """The optimiser that a config section describes: name, learning_rate, schedule, and options.

    Raises:
      ValueError: unknown name.
    """
    options = {key: v for key, v in section.schedule_options.items() if v is not None}
    schedule = make_schedule(section.schedule, section.learning_rate, total_steps, **options)
    if section.name == "ranger":
        return ranger(schedule, stacked_axes=stacked_axes)
    if section.name == "adam":
        return optax.adam(schedule, b1=section.b1, b2=section.b2)
    raise ValueError(f"optimizer name is {section.name!r}; expected 'ranger' or 'adam'.")


def float_images(step: Callable) -> Callable:
    """Lets a per-device step take uint8 images: a quarter of the bytes travels to the device."""

    def with_floats(state, batch, *rest):
        images = to_float(batch["image"])
        return step(state, {**batch, "image": images}, *rest)

    return with_floats


def on_this_host(tree):
    """A replicated tree as arrays of this host's first device, for work outside the mesh."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
