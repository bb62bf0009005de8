"""From a model or images, and what is asked of them, to metrics that are ready to be measured."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from e4e_jax import api
from e4e_jax.data.same_on_hosts import check_same_on_hosts
from e4e_jax.data.sources import open_images
from e4e_jax.editing.written import parse_edit
from e4e_jax.metrics import passes
from e4e_jax.metrics.cache import Cache, default_folder, identify_network
from e4e_jax.metrics.columns import Pass
from e4e_jax.metrics.edits import name_edits
from e4e_jax.metrics.evaluation import Evaluation
from e4e_jax.metrics.metric import Request, Subject, find_metric
from e4e_jax.metrics.networks import find_networks, load_networks
from e4e_jax.runtime.hosts import Share
from e4e_jax.runtime.progress import ProgressBar

METRICS_OF_THE_PAPER = ("l2", "lpips", "id", "fid", "swd")


def prepare(
    model: api.GeneratorModel | api.FeatureModel | str | None,
    source: Any = None,
    metrics: Sequence[str | Request] | None = None,
    *,
    edits: Sequence[str] = (),
    directions: Mapping[str, np.ndarray] | Sequence[str] = (),
    reference: Any = None,
    label: int | None = None,
    networks: Mapping[str, nnx.Module] | None = None,
    bundles: str = "bundles",
    image_size: Sequence[int] | None = None,
    allow_unmatched: bool = False,
    batch_size: int = 16,
    share: Share | None = None,
    cache: str | None = None,
    progress: Callable | None = ProgressBar,
) -> Evaluation:
    """Metrics of a model or of images, ready to be measured.

    With an encoder, images are inverted and compared with their inversions, which are clipped to
    [-1, 1]. With a generator alone, its samples are compared with the images. Without a model,
    images are compared with `reference`: sets with sets, and pairs by their names; metrics of
    images alone, as factors, need none.

    Args:
      model: an `api.Inverter` or `api.GeneratorModel`, or the name of its bundle; None for none.
      source: images to measure with, see `data.sources`, or a folder, file or pattern of them. A
        generator needs none for metrics of its samples alone, as ppl_w10k.
      metrics: by name: of `registry.METRICS`, NAME@NETWORK for another network than its own, or
        the import path of one of others (`package.module:object`); counts as in fid10k. A Request
        is one, too. None for `METRICS_OF_THE_PAPER`.
      edits: that metrics such as lec make, as on the command line: "smile=1".
      directions: of the edits: by name, or files of them; by default the model's own.
      reference: the set that images are compared with, if it is not `source`; as `source`.
      label: of a class-conditional generator: the class that it draws, from 0.
      networks: name as in `metrics` -> a network at hand, which need not be loaded.
      bundles: folder of the bundles of published networks, see `networks.NETWORKS`.
      image_size: without a model: (height, width) to which images are resized; None where all have
        the size of the first reference image.
      allow_unmatched: without a model: whether images without a counterpart are left out.
      batch_size: images at a time, of all devices together; rounded up to a multiple of these.
      share: which part of the images this host sees to; None: all hosts divide them, and make
        the same calls. With `hosts.ALL_OF_IT` each does the whole, and none waits for others.
      cache: folder of results that need not be computed again; None for ~/.cache/e4e_jax, "" for
        no cache.
      progress: (batches to come, images of each) -> a progress bar, as `progress.ProgressBar`;
        None for none.

    Raises:
      ValueError, FileNotFoundError: what is asked for does not fit together, or is not there; in
        one sentence, and before any work.
    """
    requests = [
        find_metric(metric) if isinstance(metric, str) else metric
        for metric in dict.fromkeys(metrics or METRICS_OF_THE_PAPER)
    ]
    share = share or Share.of_this_host()
    written = [parse_edit(text) for text in edits]
    at_hand = dict(networks or {})
    asked = {request.network for request in requests if request.network is not None}
    paths = find_networks(asked - set(at_hand), bundles)
    model = _opened_model(model, label)
    source, reference = _opened_images(source), _opened_images(reference)
    for images, what in ((source, "images"), (reference, "reference images")):
        if images is not None and share.hosts > 1:
            check_same_on_hosts(images, what)
    subject = Subject(
        model,
        tuple(getattr(source, "factor_names", ())),
        lambda: () if model is None else name_edits(written, directions, model),
    )
    for request in requests:
        request.metric.columns(subject)  # says what it lacks, before anything is loaded
    at_hand |= load_networks(paths)
    for request in requests:
        _check_network(request, at_hand)
    measuring = {f"@{name}": at_hand[name] for name in asked}

    folder = default_folder() if cache is None else os.path.expanduser(cache)
    identify = identify_network if folder else lambda network: None
    devices = jax.local_device_count() * share.hosts
    common: dict[str, Any] = {"batch_size": -(-batch_size // devices) * devices, "share": share}
    if model is None:
        own: dict[str, nnx.Module] = {}
        columns = [c for r in requests for c in r.metric.columns(subject).values()]
        roles = {column.role for column in columns}
        ways = _image_passes(source, reference, roles, image_size, allow_unmatched, common)
    else:
        own = passes.networks_of(model)
        key = [getattr(model, "iterations", 1), *map(identify, own.values())] if folder else None
        ways = _model_passes(model, source, reference, requests, key, common)
    return Evaluation(
        requests,
        subject,
        ways,
        measuring | own,
        network_keys={name: identify(network) for name, network in measuring.items()},
        cache=Cache(folder or None),
        progress=progress,
    )


def _opened_model(model, label: int | None) -> api.GeneratorModel | None:
    if isinstance(model, str | os.PathLike):
        model = api.load(model)
    if isinstance(model, api.FeatureModel):
        raise ValueError("the model is a feature network; expected an inverter or a generator.")
    if label is not None and model is not None:
        model = model.for_class(label)
    if model is not None and model.num_classes:
        raise ValueError(
            f"the generator draws one of {model.num_classes} classes; expected the number of one, "
            f"0 to {model.num_classes - 1}, as label (--class)."
        )
    return model


def _opened_images(images):
    return open_images(images) if isinstance(images, str | os.PathLike) else images


def _check_network(request: Request, networks: Mapping[str, nnx.Module]) -> None:
    method = request.metric.method
    if method is None or request.network is None:
        return
    if not hasattr(networks[request.network], method):
        raise ValueError(
            f"{request.name} needs a network with a method {method}; {request.network} has none."
        )


def _model_passes(model, source, reference, requests, model_key, common) -> list[Pass]:
    """The ways through the images of an inverter or a generator, those that are asked for first."""
    inverts = hasattr(model, "encode")
    reference = source if reference is None and not inverts else reference
    square = (model.resolution, model.resolution)
    size: dict[str, Any] = {"image_size": model.image_size if inverts else square}
    found = []
    if reference is not None:
        found.append(passes.image_pass(reference, "reference", **size, **common))
    if inverts and source is not None:
        encode, synthesize = passes.inversion_functions(model)
        found.append(
            passes.inversion_pass(source, encode, synthesize, model_key=model_key, **size, **common)
        )
    samples = passes.sample_pass(
        *passes.sampling_functions(),
        max((request.written.count or len(source or ()) for request in requests), default=0),
        z_dim=model.generator.config.z_dim,
        image_size=square,
        model_key=model_key,
        **common,
    )
    return [*found, samples]


def _image_passes(source, reference, roles, image_size, allow_unmatched, common) -> list[Pass]:
    """The ways through two sets of images: each by itself, and in pairs if need be."""
    if source is None or (reference is None and roles & {"pairs", "reference"}):
        raise ValueError(
            "there is no model, and not both of images and a reference to compare them with."
        )
    reference = source if reference is None else reference
    if image_size is None:
        image_size = reference[0].shape[:2]
        source, reference = (passes.SameSize(s, image_size) for s in (source, reference))
    common = {"image_size": tuple(image_size), **common}
    found = [
        passes.image_pass(reference, "reference", **common),
        passes.image_pass(source, "measured", **common),
    ]
    if "pairs" in roles:
        found.append(passes.pair_pass(reference, source, allow_unmatched=allow_unmatched, **common))
    return found
